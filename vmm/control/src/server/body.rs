//! What comes with a request.

use std::time::Duration;

use axum::body::Body;
use axum::extract::FromRequest;
use axum::http::{Request, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;

use super::router::State;
use crate::api::{ApiError, ErrorCode};

/// A request's body, which must be a JSON value of this type. Where every field has a default, nothing at all will do.
#[derive(Debug)]
pub(super) struct Sent<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequest<State> for Sent<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request<Body>, state: &State) -> Result<Self, ApiError> {
        let kind = request.headers().get(header::CONTENT_TYPE);
        if let Some(kind) = kind
            && !kind.to_str().is_ok_and(is_json)
        {
            // Else a form in somebody's browser could be a call.
            return Err(ApiError::new(ErrorCode::BadRequest, "the body is no JSON")
                .with_hint("send it with `content-type: application/json`"));
        }
        let bytes =
            read(request.into_body(), state.request_bytes(), state.request_timeout()).await?;
        let text: &[u8] = if bytes.is_empty() { b"{}" } else { &bytes };
        serde_json::from_slice(text).map(Self).map_err(|error| {
            ApiError::new(ErrorCode::BadRequest, format!("the body cannot be used: {error}"))
                .with_hint("GET /v1/openapi.json has the fields of every call")
        })
    }
}

fn is_json(kind: &str) -> bool {
    let kind = kind.split(';').next().unwrap_or_default().trim();
    kind.eq_ignore_ascii_case("application/json")
}

async fn read(body: Body, most: usize, limit: Duration) -> Result<Vec<u8>, ApiError> {
    let collected = tokio::time::timeout(limit, Limited::new(body, most).collect()).await;
    let collected = collected.map_err(|_| {
        ApiError::new(ErrorCode::TimedOut, format!("the body did not arrive within {limit:?}"))
    })?;
    collected.map(|body| body.to_bytes().to_vec()).map_err(|error| {
        if error.downcast_ref::<LengthLimitError>().is_some() {
            ApiError::new(ErrorCode::TooLarge, format!("the body has more than {most} bytes"))
                .with_hint("limits.request_bytes is the limit; files are named, not sent")
        } else {
            ApiError::new(ErrorCode::BadRequest, format!("the body did not arrive: {error}"))
        }
    })
}
