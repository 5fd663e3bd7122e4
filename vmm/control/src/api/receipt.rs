//! Receipts of moves to other hosts.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Timestamp;

/// What both hosts of a move have signed with their keys when it had ended: whoever knows the two keys can check it,
/// and needs neither host for that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Receipt {
    /// The form of what is signed: 1.
    pub version: u32,
    /// What is signed.
    pub statement: ReceiptStatement,
    /// The Ed25519 signature of the host that the machine left: 128 hexadecimal digits in lower case.
    pub signature_from: String,
    /// The Ed25519 signature of the host that it went to: 128 hexadecimal digits in lower case.
    pub signature_to: String,
}

/// What a receipt says of a move.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReceiptStatement {
    /// The move's session: 32 hexadecimal digits in lower case.
    pub session: String,
    /// The machine's id, which it keeps on every host: 32 hexadecimal digits in lower case.
    pub machine: String,
    /// The public key of the host that the machine left: 64 hexadecimal digits in lower case.
    pub from: String,
    /// The public key of the host that it went to: 64 hexadecimal digits in lower case.
    pub to: String,
    /// How often it has been resolved, and moved since then, this move counted: `RESOLUTIONS.MOVES`.
    pub generation: String,
    /// The digest of memory and state on which both hosts agreed before the guest ran again: 128 hexadecimal digits in
    /// lower case.
    pub root: String,
    /// Nanoseconds that the guest stood still.
    pub blackout_ns: u64,
    /// How much of the memory was looked at again after the move.
    pub audit: ReceiptAudit,
    /// When the move ended, as the clock of the host has it that the machine left.
    pub ended_at: Timestamp,
}

/// How much of the memory was hashed again after a move, and found equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReceiptAudit {
    /// Nothing: what was sent has had its digests checked on arrival, as always.
    None,
    /// Some pages, which were drawn.
    Sampled,
    /// Every page.
    Whole,
}

impl ReceiptAudit {
    /// Its word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Sampled => "sampled",
            Self::Whole => "whole",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_audits_name_is_its_word_in_json() {
        for audit in [ReceiptAudit::None, ReceiptAudit::Sampled, ReceiptAudit::Whole] {
            assert_eq!(serde_json::to_value(audit).unwrap(), audit.name());
        }
    }
}
