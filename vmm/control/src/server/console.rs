//! A console over a connection that HTTP has given up.

use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::answer::Answer;
use super::router::State;
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
    Err(ApiError::new(ErrorCode::BadRequest, "a console needs a connection of its own")
        .with_hint(format!("send `Connection: Upgrade` and `Upgrade: {PROTOCOL}`; or read …/log")))
}

/// Answers that the connection becomes a console, and makes it one.
pub(super) fn upgrade(upgrade: OnUpgrade, reader: Reader, state: State) -> Answer {
    tokio::spawn(async move {
        match upgrade.await {
            Ok(upgraded) => tokio::select! {
                () = bridge(TokioIo::new(upgraded), reader) => {}
                () = state.ends() => {}
            },
            Err(error) => tracing::debug!(%error, "a console was not attached"),
        }
    });
    let headers = [(header::CONNECTION, "upgrade"), (header::UPGRADE, PROTOCOL)];
    let response: Response = (StatusCode::SWITCHING_PROTOCOLS, headers).into_response();
    Ok(response)
}

/// Ends when either direction does. Output does not wait for a guest that does not read what is typed.
async fn bridge(stream: TokioIo<hyper::upgrade::Upgraded>, mut reader: Reader) {
    let (mut from_client, mut to_client) = tokio::io::split(stream);
    let console = reader.console();
    let output = async move {
        while let Some(Output { lost, bytes }) = reader.next().await {
            if lost > 0 {
                let note =
                    format!("\r\n[{lost} bytes were printed too fast for this connection]\r\n");
                to_client.write_all(note.as_bytes()).await?;
            }
            to_client.write_all(&bytes).await?;
        }
        to_client.shutdown().await
    };
    let input = async move {
        let mut typed = vec![0; 4096];
        while let count @ 1.. = from_client.read(&mut typed).await? {
            // A guest that is not there hears nothing; its last words can be read on.
            console.type_in(typed[..count].to_vec()).await;
        }
        std::io::Result::Ok(())
    };
    let ended: std::io::Result<()> = tokio::select! {
        ended = output => ended,
        ended = input => ended,
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a console was detached");
    }
}
