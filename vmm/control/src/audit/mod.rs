//! The audit log: who asked for which change, and what came of it.
//!
//! A folder with files of JSON lines, the segments, `00000001.jsonl` and so on. Each line is a [`Record`] that holds the
//! hash of the line before it and its own, so that a line that is altered, taken out, put in or moved breaks the chain.
//! The file `head` holds the number and hash of the last record, replaced as a whole after each append, so that lines that
//! are missing at the end are found, too.
//!
//! ```text
//!   00000001.jsonl               00000002.jsonl                  head
//!   ┌ segment 1, oldest 1   ┐    ┌ segment 2, oldest 1   ┐       ┌───────────┐
//!   │ call: asked           │ ┌─►│ call: done            │   ┌──►│ seq, hash │
//!   │ call: done            │ │  │ torn: 117 bytes       │   │   └───────────┘
//!   └ …                     ┘─┘  └ …                     ┘───┘
//! ```
//!
//! **What it proves.** The chain has no key: whoever may write to the folder can write all of it anew. What was noted
//! elsewhere of it, the hash that [`verify()`] returns, shows that. Against everybody else, and against accidents, the chain
//! is enough.
//!
//! **What survives.** [`AuditLog::append`] returns once a record and the head are on storage. A process that is killed
//! while it writes leaves a last line that is cut short: the next one cuts it off, and says so in a record. It was never
//! acknowledged, for the head does not know it. Nothing else is ever repaired: a log that is wrong is not opened.
//!
//! **How long it gets.** A segment that is full is followed by another, whose first record names the oldest one that is
//! kept; those before it are deleted. A segment that is missing and was not deleted so is found.

mod chain;
#[cfg(test)]
mod fixture;
mod folder;
mod hash;
mod head;
mod lines;
mod log;
mod problem;
mod recent;
mod record;
mod segment;
mod verify;
mod writer;

pub use hash::RecordHash;
pub use log::{AuditError, AuditLog, Receipt};
pub use problem::{AuditProblem, Damage, VerifyError};
pub use recent::{Recent, Wanted, recent};
pub use record::{Call, Event, Outcome, Phase, Record, SegmentStart, Torn, Who};
pub use verify::{Summary, verify, verify_bytes};
