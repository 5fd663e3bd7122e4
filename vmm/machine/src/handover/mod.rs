//! Handing a running guest to a new process on the same host.
//!
//! Two forms. *Shared*: the successor maps the same memory file; only state travels. *Copying*: the
//! successor has memory of its own, and pages travel through harvest, ledger and runs in rounds
//! while the guest runs, as in a migration.
//!
//! ```text
//!  predecessor (source.rs)                     successor (destination.rs)
//!  greet ───────── hello, descriptors ───────► build the machine
//!        ◄──────── ready ─────────────────────
//!  copy in rounds ─ pages ───────────────────► write, check digests     (copying only)
//!        ◄──────── applied through number n ──
//!  offer: record Held → Offered
//!  pause, drain, save, last harvest
//!        ───────── last pages, then permit ──► check root, restore
//!                                              take: record Offered → Taken
//!        ◄──────── running ─────────────────── resume
//!  end                                         settle: record Taken → Held
//! ```
//!
//! Until the permit frame is written, any failure makes the predecessor withdraw its offer and
//! resume. After it, the record decides: each transition is a compare-and-swap under a lock, so that
//! either the predecessor withdraws, or the successor takes; never both.

mod blackout;
mod copy;
mod destination;
pub mod fuzz;
mod limits;
mod message;
mod source;

pub use blackout::{Blackout, Cause};
pub(crate) use destination::receive;
pub use limits::Limits;
pub use message::Form;
#[cfg(feature = "fault-injection")]
pub(crate) use message::reference_message;
pub(crate) use source::{Departure, Outcome, Resident};

use dwcp::digest::ManifestError;
use dwcp::ledger::LedgerError;

use crate::dirty::DirtyLogError;
use crate::ipc::ChannelError;
use crate::memory::RamError;
use crate::meter::Cancelled;
use crate::permit::PermitFileError;
use crate::vm::VmError;
use serde::{Deserialize, Serialize};

/// What a hand-over did, as both processes saw it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HandOverReport {
    /// Which form.
    pub form: Form,
    /// How long the guest stood still, by cause.
    pub blackout: Blackout,
    /// Rounds while the guest ran (copying only).
    pub rounds: u32,
    /// Pages sent, counting each time (copying only).
    pub pages_sent: u64,
    /// Of those, pages sent inside the blackout.
    pub pages_sent_paused: u64,
    /// Nanoseconds from the first message to the guest running in its new process.
    pub total_ns: u64,
}

/// Why a hand-over failed.
#[derive(Debug, thiserror::Error)]
pub enum HandOverError {
    /// The other process
    #[error("hand-over: {0}")]
    Channel(#[from] ChannelError),
    /// The machine
    #[error("hand-over: {0}")]
    Vm(#[from] VmError),
    /// The permit record
    #[error("hand-over: {0}")]
    Permit(#[from] PermitFileError),
    /// Guest memory
    #[error("hand-over: {0}")]
    Ram(#[from] RamError),
    /// The dirty log
    #[error("hand-over: {0}")]
    DirtyLog(#[from] DirtyLogError),
    /// The pages owed
    #[error("hand-over: {0}")]
    Ledger(#[from] LedgerError),
    /// The pages' digests
    #[error("hand-over: {0}")]
    Manifest(#[from] ManifestError),
    /// The other process said no
    #[error("hand-over: the other process refused: {0}")]
    Refused(String),
    /// A message out of turn
    #[error("hand-over: the other process sent {found} where {expected} was due")]
    OutOfTurn {
        /// What came.
        found: String,
        /// What was due.
        expected: &'static str,
    },
    /// Memory at the successor is not what the predecessor sent
    #[error("hand-over: {what} differs from what was sent; the guest goes on in its old process")]
    Differs {
        /// Pages, or the state, or the root.
        what: &'static str,
    },
    /// The guest writes faster than its memory can be copied
    #[error(
        "hand-over: the guest still dirties {dirty} pages a round after {rounds} rounds; use the shared form, or slow the guest down"
    )]
    DoesNotConverge {
        /// Pages owed after the last round.
        dirty: u64,
        /// Rounds made.
        rounds: u32,
    },
    /// An id of zeros, which names nobody
    #[error("hand-over: the other process sent an id of zeros")]
    NoId,
    /// Somebody has cancelled it
    #[error("hand-over: it was cancelled; the guest goes on in its old process")]
    Cancelled,
    /// The guest ended meanwhile
    #[error("hand-over: the guest ended meanwhile")]
    GuestEnded,
}

impl From<Cancelled> for HandOverError {
    fn from(Cancelled: Cancelled) -> Self {
        Self::Cancelled
    }
}
