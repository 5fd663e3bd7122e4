//! Answers.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::api::{ApiError, ErrorCode, MachineName};

/// What a handler comes to.
pub(super) type Answer = Result<Response, ApiError>;

/// The error code of an answer, for the audit log: a mark on the response.
#[derive(Clone, Copy, Debug)]
pub(super) struct FailedAs(pub(super) ErrorCode);

/// An answer that says that an operation has begun.
#[derive(Clone, Copy, Debug)]
pub(super) struct Began;

/// What a call has made, whose path could not name it yet: for the audit log.
#[derive(Clone, Debug)]
pub(super) struct Made(pub(super) MachineName);

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.code.status());
        let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let code = self.code;
        let mut response = (status, Json(self)).into_response();
        response.extensions_mut().insert(FailedAs(code));
        response
    }
}

/// A value, as JSON.
pub(super) fn ok(value: impl serde::Serialize) -> Answer {
    Ok(Json(value).into_response())
}

/// Values, as JSON; there may be thousands of them, and a buffer that doubles would be copied again and again.
pub(super) fn many<T: serde::Serialize>(values: &[T]) -> Answer {
    /// Of a machine that has nothing unusual.
    const USUAL_BYTES: usize = 512;
    let mut bytes = Vec::with_capacity(2 + values.len() * USUAL_BYTES);
    serde_json::to_writer(&mut bytes, values).map_err(ApiError::internal)?;
    let kind = (header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(([kind], bytes).into_response())
}

/// An operation that has begun.
pub(super) fn accepted(operation: &crate::api::Operation) -> Answer {
    let location = format!("/v1/operations/{}", operation.id);
    let mut response = (StatusCode::ACCEPTED, Json(operation)).into_response();
    if let Ok(location) = HeaderValue::from_str(&location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response.extensions_mut().insert(Began);
    Ok(response)
}
