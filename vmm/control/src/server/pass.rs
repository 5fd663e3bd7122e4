//! Files passed as descriptors, over a connection that HTTP has given up.

use std::os::fd::OwnedFd;
use std::time::Duration;

use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use machine::Channel;

use super::answer::Answer;
use super::patient::Patient;
use super::router::State;
use crate::api::{ApiError, ErrorCode};
use crate::audit_trail::Sender;

/// The protocol that a connection is upgraded to: messages of the crate machine, each way one a file.
pub(crate) const PROTOCOL: &str = "novacron-files";

/// A caller says the next file within this.
const PATIENCE: Duration = Duration::from_secs(10);
/// Files of one connection: a machine has a kernel, an initrd and a key.
const MOST: usize = 16;

/// The answer to a file.
pub(crate) type Given = Result<String, String>;

pub(super) fn check(headers: &HeaderMap) -> Result<(), ApiError> {
    if headers.get(header::UPGRADE).is_some_and(|protocol| protocol == PROTOCOL) {
        return Ok(());
    }
    Err(ApiError::new(ErrorCode::BadRequest, "files are passed over a connection of its own")
        .with_hint(
            "novacron's own command line does it; others name files in the daemon's folders",
        ))
}

/// Answers that the connection takes files, and takes them.
pub(super) fn upgrade(upgrade: OnUpgrade, state: State, sender: Sender) -> Answer {
    tokio::spawn(async move {
        let Ok(upgraded) = upgrade.await else { return };
        let Some(channel) = channel(upgraded) else { return };
        // Receiving descriptors blocks; there are few who do it, for moments.
        let taken = tokio::task::spawn_blocking(move || take(&channel, &state, &sender)).await;
        if let Ok(Err(error)) = taken {
            tracing::debug!(%error, "a connection for files");
        }
    });
    let headers = [(header::CONNECTION, "upgrade"), (header::UPGRADE, PROTOCOL)];
    Ok((StatusCode::SWITCHING_PROTOCOLS, headers).into_response())
}

/// The socket itself. Whatever a caller sent before it was answered is lost, with its descriptors.
fn channel(upgraded: Upgraded) -> Option<Channel> {
    let parts = upgraded.downcast::<TokioIo<Patient>>().ok()?;
    let stream = parts.io.into_inner().into_inner().into_std().ok()?;
    stream.set_nonblocking(false).ok()?;
    Some(Channel::from(OwnedFd::from(stream)))
}

fn take(channel: &Channel, state: &State, sender: &Sender) -> Result<(), machine::ChannelError> {
    channel.set_time_limit(Some(PATIENCE))?;
    for _ in 0..MOST {
        let (_, descriptors) = channel.receive::<()>()?;
        let given: Given = match <[OwnedFd; 1]>::try_from(descriptors) {
            Ok([descriptor]) => {
                let named = state.registry().files_named();
                let files = &state.registry().shared().files;
                files.pass(descriptor, &sender.caller, &named).map_err(|error| error.to_string())
            }
            Err(_) => Err("one descriptor comes with each message".to_owned()),
        };
        channel.send(&given, &[])?;
    }
    Ok(())
}
