//! A console over a connection that HTTP has given up.

use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::answer::Answer;
use crate::api::{ApiError, ErrorCode};
use crate::console::{Output, Reader};

/// The protocol that a connection is upgraded to: bytes in both directions.
pub(crate) const PROTOCOL: &str = "novacron-console";

/// Whether a client asks for the upgrade.
pub(super) fn check(headers: &HeaderMap) -> Result<(), ApiError> {
    let asks = headers.get(header::UPGRADE).is_some_and(|protocol| protocol == PROTOCOL);
    if asks {
        return Ok(());
    }
    Err(ApiError::new(ErrorCode::BadRequest, "a console needs a connection of its own").with_hint(
        format!("send `Connection: Upgrade` and `Upgrade: {PROTOCOL}`; or read …/log"),
    ))
}

/// Answers that the connection becomes a console, and makes it one.
pub(super) fn upgrade(upgrade: OnUpgrade, reader: Reader) -> Answer {
    tokio::spawn(async move {
        match upgrade.await {
            Ok(upgraded) => bridge(TokioIo::new(upgraded), reader).await,
            Err(error) => tracing::debug!(%error, "a console was not attached"),
        }
    });
    let headers = [(header::CONNECTION, "upgrade"), (header::UPGRADE, PROTOCOL)];
    let response: Response = (StatusCode::SWITCHING_PROTOCOLS, headers).into_response();
    Ok(response)
}

async fn bridge(stream: TokioIo<hyper::upgrade::Upgraded>, mut reader: Reader) {
    let (mut from_client, mut to_client) = tokio::io::split(stream);
    let mut typed = vec![0; 4096];
    loop {
        tokio::select! {
            output = reader.next() => {
                let Output { lost, bytes } = output;
                if lost > 0 {
                    let note = format!("\r\n[{lost} bytes were printed too fast for this connection]\r\n");
                    if to_client.write_all(note.as_bytes()).await.is_err() {
                        return;
                    }
                }
                if to_client.write_all(&bytes).await.is_err() {
                    return;
                }
            }
            count = from_client.read(&mut typed) => {
                let Ok(count @ 1..) = count else { return };
                // A guest that is not there hears nothing; its last words can be read on.
                reader.console().type_in(typed[..count].to_vec()).await;
            }
        }
    }
}
