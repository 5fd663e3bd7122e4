//! The one shape of an error.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What kind of error it is: stable, for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The request cannot be understood, or asks for what makes no sense.
    BadRequest,
    /// The caller has no role, or one that may not do this.
    Forbidden,
    /// There is nothing of that name.
    NotFound,
    /// The path exists, and not for this verb.
    MethodNotAllowed,
    /// The state of the machine does not allow this now.
    Conflict,
    /// There is one of that name already.
    AlreadyExists,
    /// A file that was named cannot be used.
    File,
    /// The request is larger than the daemon takes.
    TooLarge,
    /// The request did not arrive in time.
    TimedOut,
    /// A limit of the daemon is reached.
    Limit,
    /// The guest or its process ended, or did not do what it was told.
    MachineFailed,
    /// It was cancelled.
    Cancelled,
    /// The audit log cannot be written, and without it nothing is changed.
    AuditUnavailable,
    /// The daemon is at fault, or its host.
    Internal,
    /// The daemon is ending.
    ShuttingDown,
    /// Another host does not answer, or does not know this one.
    PeerUnreachable,
    /// The machine cannot move to that host.
    Blocked,
}

impl ErrorCode {
    /// The HTTP status that goes with it.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::BadRequest | Self::File => 400,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::TimedOut => 408,
            Self::Conflict | Self::AlreadyExists | Self::Cancelled | Self::Blocked => 409,
            Self::TooLarge => 413,
            Self::Limit => 429,
            Self::MachineFailed | Self::Internal => 500,
            Self::AuditUnavailable | Self::ShuttingDown => 503,
            Self::PeerUnreachable => 502,
        }
    }

    /// Its word in JSON and in the audit log.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::BadRequest => "bad_request",
            Self::Forbidden => "forbidden",
            Self::NotFound => "not_found",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::Conflict => "conflict",
            Self::AlreadyExists => "already_exists",
            Self::File => "file",
            Self::TooLarge => "too_large",
            Self::TimedOut => "timed_out",
            Self::Limit => "limit",
            Self::MachineFailed => "machine_failed",
            Self::Cancelled => "cancelled",
            Self::AuditUnavailable => "audit_unavailable",
            Self::Internal => "internal",
            Self::ShuttingDown => "shutting_down",
            Self::PeerUnreachable => "peer_unreachable",
            Self::Blocked => "blocked",
        }
    }
}

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ApiError {
    /// For programs.
    pub code: ErrorCode,
    /// For people: what failed, with which values.
    pub message: String,
    /// What to do next, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The operation that failed, if it was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<String>,
}

impl ApiError {
    /// An error without a hint.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: None, operation: None }
    }

    /// The same with what to do next.
    #[must_use]
    pub fn with_hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// Something that went wrong in the daemon or its host.
    #[must_use]
    pub fn internal(error: impl fmt::Display) -> Self {
        Self::new(ErrorCode::Internal, error.to_string())
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "; {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for ApiError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_codes_name_is_its_word_in_json() {
        for code in [ErrorCode::BadRequest, ErrorCode::AuditUnavailable, ErrorCode::File] {
            assert_eq!(serde_json::to_value(code).unwrap(), code.name());
        }
    }
}
