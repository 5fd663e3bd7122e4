//! What comes with a request.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::FromRequest;
use axum::http::{Request, header};
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout_at};

use super::router::State;
use crate::api::{ApiError, ErrorCode};

/// What is read of a body that is too long, so that whoever sent it hears why it is refused.
const PASSED_OVER: usize = 16 << 20;

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
        let bytes = read(request.into_body(), state.request_bytes(), state.request_timeout()).await;
        let bytes = bytes.map_err(|error| match error.code {
            ErrorCode::TooLarge => {
                error.with_hint("limits.request_bytes is the limit; files are named, not sent")
            }
            _ => error,
        })?;
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

/// A body of at most `most` bytes, which has `limit` to arrive.
pub(crate) async fn read(
    mut body: Body,
    most: usize,
    limit: Duration,
) -> Result<Vec<u8>, ApiError> {
    let end = Instant::now() + limit;
    let collected = timeout_at(end, collect(&mut body, most)).await.map_err(|_| {
        ApiError::new(ErrorCode::TimedOut, format!("the body did not arrive within {limit:?}"))
    })?;
    match collected {
        Ok(Some(bytes)) => Ok(bytes),
        Ok(None) => {
            // A connection that closes with bytes unread takes the answer with it.
            let _ = timeout_at(end, pass_over(&mut body, PASSED_OVER)).await;
            Err(ApiError::new(ErrorCode::TooLarge, format!("the body has more than {most} bytes")))
        }
        Err(error) => {
            let message = format!("the body did not arrive: {error}");
            Err(ApiError::new(ErrorCode::BadRequest, message))
        }
    }
}

/// All of a body; nothing if it is longer than `most`.
async fn collect(body: &mut Body, most: usize) -> Result<Option<Vec<u8>>, axum::Error> {
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await.transpose()? {
        let Ok(data) = frame.into_data() else { continue };
        if data.len() > most - bytes.len() {
            return Ok(None);
        }
        bytes.extend_from_slice(&data);
    }
    Ok(Some(bytes))
}

/// Reads on, up to the body's end or so many bytes.
async fn pass_over(body: &mut Body, mut most: usize) {
    while let Some(Ok(frame)) = body.frame().await {
        let Some(left) = most.checked_sub(frame.data_ref().map_or(0, Bytes::len)) else { return };
        most = left;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::channel::Channel;

    #[tokio::test(flavor = "current_thread")]
    async fn what_is_too_long_is_passed_over_and_not_without_end() {
        let limit = Duration::from_secs(10);
        let mebibyte = Bytes::from(vec![7; 1 << 20]);
        for (pieces, expected) in [(2, None), (3, Some(3)), (16, Some(16)), (64, Some(19))] {
            let (mut sender, body) = Channel::<Bytes>::new(1);
            let mebibyte = mebibyte.clone();
            let sent = tokio::spawn(async move {
                for piece in 0..pieces {
                    if sender.send_data(mebibyte.clone()).await.is_err() {
                        // The one before was taken, and was too much.
                        return piece - 1;
                    }
                }
                pieces
            });
            let outcome = read(Body::new(body), 2 << 20, limit).await;
            let sent = sent.await.unwrap();
            assert_eq!(
                outcome.err().map(|error| (error.code, sent)),
                expected.map(|expected| (ErrorCode::TooLarge, expected))
            );
        }
        let limit = Duration::from_millis(200);
        // One that stops when it is too long is answered, as one that stops before is.
        for (pieces, code) in [(3, ErrorCode::TooLarge), (1, ErrorCode::TimedOut)] {
            let (mut sender, body) = Channel::<Bytes>::new(pieces);
            for _ in 0..pieces {
                sender.send_data(mebibyte.clone()).await.unwrap();
            }
            assert_eq!(read(Body::new(body), 2 << 20, limit).await.unwrap_err().code, code);
        }
    }

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
