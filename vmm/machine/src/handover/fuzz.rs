//! Doors for fuzz targets: what a process at the other end of a hand-over can send, and how far it
//! gets here. Nothing else uses them.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use dwcp::acp::{Nonce, SessionId, VmId};
use dwcp::digest::DigestKey;
use rustix::net::Shutdown;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::HandOverError;
use super::copy::Applier;
use super::message::{ToPredecessor, ToSuccessor};
use crate::ipc::{Channel, ChannelError, decode};
use crate::memory::GuestRam;
use crate::permit::PermitFile;

/// The machine whose permit is taken, so that a seed can be made for it.
pub const VM: [u8; 16] = [1; 16];
/// The process that takes it.
pub const SUCCESSOR: [u8; 16] = [2; 16];
/// The attempt in which it does.
pub const SESSION: [u8; 16] = [3; 16];
/// The secret of page digests.
pub const DIGEST_KEY: [u8; 32] = [4; 32];

/// Reads a message of any kind as it comes over a channel, and returns it written again.
///
/// # Errors
/// When it is no such message.
pub fn read_again<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Result<Vec<u8>, ChannelError> {
    Ok(postcard::to_stdvec(&decode::<T>(bytes)?)?)
}

/// The same for a message from the predecessor.
///
/// # Errors
/// When it is no such message.
pub fn read_again_to_successor(bytes: &[u8]) -> Result<Vec<u8>, ChannelError> {
    read_again::<ToSuccessor>(bytes)
}

/// The same for a message from the successor.
///
/// # Errors
/// When it is no such message.
pub fn read_again_to_predecessor(bytes: &[u8]) -> Result<Vec<u8>, ChannelError> {
    read_again::<ToPredecessor>(bytes)
}

/// Takes page runs from what a predecessor writes to its socket, until one is wrong or the stream
/// ends. Returns how many were right, and what ended it.
///
/// The stream must fit into a socket's buffer: 8 KiB do.
pub fn apply_stream(ram: &Arc<GuestRam>, stream: &[u8]) -> (u64, HandOverError) {
    let mut runs = 0;
    let error = match apply_all(ram, stream, &mut runs) {
        Err(error) => error,
        Ok(found) => HandOverError::OutOfTurn { found: found.to_owned(), expected: "pages" },
    };
    (runs, error)
}

/// Returns the name of the first message that brings no pages.
fn apply_all(
    ram: &Arc<GuestRam>,
    stream: &[u8],
    runs: &mut u64,
) -> Result<&'static str, HandOverError> {
    let (here, there) = Channel::pair().map_err(ChannelError::from)?;
    // Nobody reads the answers: better an error than a target that hangs.
    here.set_time_limit(Some(Duration::from_millis(500))).map_err(ChannelError::from)?;
    there.send_bytes(stream)?;
    let there = OwnedFd::from(there);
    rustix::net::shutdown(&there, Shutdown::Write)
        .map_err(|error| ChannelError::from(io::Error::from(error)))?;
    let key = DigestKey::new(DIGEST_KEY);
    let mut applier = Applier::new(Arc::clone(ram), &key);
    loop {
        match here.receive::<ToSuccessor>()?.0 {
            ToSuccessor::Pages(frame) => applier.apply(&here, &frame)?,
            other => return Ok(other.name()),
        }
        *runs += 1;
    }
}

/// Takes the permit that the record in `record` offers, and settles it, as a successor does.
///
/// # Errors
/// When the record cannot be read, or does not offer it.
pub fn take_permit(record: OwnedFd) -> Result<(), HandOverError> {
    let vm = VmId::new(VM).ok_or(HandOverError::NoId)?;
    let successor = Nonce::new(SUCCESSOR).ok_or(HandOverError::NoId)?;
    let session = SessionId::new(SESSION).ok_or(HandOverError::NoId)?;
    let mut permit = PermitFile::from_descriptor(record, vm, successor)?;
    permit.take(session)?;
    permit.settle(session)?;
    Ok(permit.check_held()?)
}
