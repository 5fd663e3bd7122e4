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
        let refused = |why: String| {
            ApiError::new(ErrorCode::BadRequest, format!("the body cannot be used: {why}"))
                .with_hint("GET /v1/openapi.json has the fields of every call")
        };
        let sent = serde_json::from_slice(text).map_err(|error| refused(error.to_string()))?;
        if has_array(text) {
            return Err(refused("it has an array where an object belongs".to_owned()));
        }
        Ok(Self(sent))
    }
}

/// Whether a JSON text has an array anywhere. No call takes one, but serde takes one for a struct, by the order of its
/// fields: `[]` would shut the daemon down.
fn has_array(text: &[u8]) -> bool {
    let (mut is_text, mut is_escaped) = (false, false);
    text.iter().any(|&byte| {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if is_text => is_escaped = true,
            b'"' => is_text = !is_text,
            _ => {}
        }
        byte == b'[' && !is_text
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_array_is_found_and_a_bracket_in_a_text_is_none() {
        for (text, expected) in [
            ("[]", true),
            (" {\"spec\": []}", true),
            (r#"{"a\"b":"c[","boot":["oracle"]}"#, true),
            ("{}", false),
            (r#"{"a[":"[]"}"#, false),
            (r#"{"a":"\"[\\"}"#, false),
            (r#"{"a":"\\","b":[1]}"#, true),
        ] {
            assert_eq!(has_array(text.as_bytes()), expected, "{text}");
        }
    }
}
