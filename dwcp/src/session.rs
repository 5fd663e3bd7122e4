//! One attempt to move a machine: the [`Source`] and the [`Destination`] as state machines. See `SPEC.md`, 3 and 8.
//!
//! Neither opens a socket, reads a clock or touches a record. Both follow one contract, whose method
//! names tell what a call is:
//!
//! | name | what it does |
//! |---|---|
//! | `handle_…` | takes what happened: a frame, a stream that opened or closed, a time that was reached |
//! | a verb | takes what the machine wants: pages owed, the switch, the end of the attempt |
//! | `poll_…` | yields what to do: a stream to connect, bytes to send, an event, when to call again |
//!
//! After any call of the first two kinds the caller polls until nothing comes. Time is an argument: a
//! [`Duration`](std::time::Duration) since any one moment, never going back.
//!
//! **The permit.** What these machines decide is made durable by their callers, in the order of
//! `SPEC.md`, "The permit": a source is told that the offer is written ([`Source::offered`]) before it
//! can switch; the destination's caller writes `Taken` or `Refused` before it says so
//! ([`Destination::taken`], [`Destination::refused`]).
//!
//! **Streams.** A *connection* is one control stream, and the data streams that the source opened
//! beside it. A data stream may die and be replaced; a connection ends with its control stream. The
//! session survives the end of any number of connections ([`Source::poll_connect`]).

mod destination;
mod fault;
mod outgoing;
mod source;
mod timers;

pub use destination::{
    Counts as DestinationCounts, DecodedPages, Destination, DestinationEvent, GuestPages, KeptImage,
};
pub use fault::Fault;
pub use source::{Counts as SourceCounts, Draft, Source, SourceEnd, SourceError, SourceEvent};
pub use timers::{DestinationTimers, SourceTimers};

use crate::acp::SessionId;
use crate::digest::DigestKey;
use crate::page::{Gfn, PageRun};

/// What both sides agreed on before the first frame, in `Negotiate`.
#[derive(Clone, Debug)]
pub struct Agreement {
    /// The attempt.
    pub session: SessionId,
    /// The machine's secret, under which its pages are hashed.
    pub key: DigestKey,
    /// The guest's memory: runs that neither touch nor overlap, ascending; at least one.
    pub memory: Vec<PageRun>,
}

impl Agreement {
    /// The first frame beyond the guest's memory.
    fn limit(&self) -> Gfn {
        self.memory.last().map_or(Gfn(0), |run| run.end())
    }
}

/// Whether memory, as an agreement has it, has all pages of a run.
fn contains(memory: &[PageRun], run: PageRun) -> bool {
    let after = memory.partition_point(|memory| memory.first() <= run.first());
    let memory = after.checked_sub(1).map(|index| memory[index]);
    memory.is_some_and(|memory| run.end() <= memory.end())
}

/// Something to put on a stream.
#[derive(Debug)]
pub enum Transmit {
    /// A whole frame.
    Frame(Vec<u8>),
    /// Pages to be read from the guest's memory now and encoded. See [`Source::handle_encoded`].
    Pages(Draft),
}

#[cfg(test)]
mod tests;
