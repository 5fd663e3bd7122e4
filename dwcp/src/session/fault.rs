//! [`Fault`]: what a peer did that no correct peer does. See `SPEC.md`, 8.4.

use crate::ass::StateError;
use crate::ledger::LedgerError;
use crate::page::PageRun;
use crate::wire::{HeaderError, Kind, PayloadError, StreamId};

/// The peer is at fault: it has a bug, or means harm. The session has drawn its conclusions; the
/// value is for the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Bytes that are no header, or not the stream's next one
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// A payload that is none of its kind
    #[error(transparent)]
    Payload(#[from] PayloadError),
    /// A state that cannot be put together
    #[error(transparent)]
    State(#[from] StateError),
    /// A send was acknowledged or wanted that never was
    #[error("the peer is wrong about what was sent: {0}")]
    Ledger(#[from] LedgerError),
    /// A frame that has no place here and now
    #[error("the peer sent {0:?} when it had no meaning")]
    Unexpected(Kind),
    /// A frame on a stream that is not open
    #[error("the peer sent a frame on {0}, which is not open")]
    NotOpen(StreamId),
    /// A stream of a connection that is over
    #[error("the peer opened {0}, whose connection is over, or which was there before")]
    Stale(StreamId),
    /// Pages that the guest does not have
    #[error("the peer sent pages {first:#x} to {end:#x}, which the guest does not have", first = .0.first().0, end = .0.end().0)]
    NoMemory(PageRun),
    /// Send numbers in more pieces than streams and batches explain
    #[error("the peer has left {0} gaps between its send numbers")]
    TooManyGaps(usize),
    /// A state out of order
    #[error("the peer sent a part of state {0} that does not follow what it sent before")]
    StateOrder(u64),
    /// Kept pages that were told of before, or are out of order
    #[error("the peer told of kept pages {first:#x} to {end:#x}, which do not follow what it told before", first = .0.first().0, end = .0.end().0)]
    Kept(PageRun),
    /// A payload that does not decode
    #[error("the peer sent pages that cannot be decoded: {0}")]
    Pages(String),
}
