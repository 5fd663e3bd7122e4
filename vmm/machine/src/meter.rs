//! How far a job is, and whether it is still wanted: written by the job's thread, read by the device loop.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};

use serde::{Deserialize, Serialize};

/// How far a snapshot or a hand-over is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Rounds begun while the guest runs; 0 for a guest that is paused.
    pub rounds: u32,
    /// Pages dealt with, counting each time.
    pub pages_done: u64,
    /// Pages still to be dealt with in this round.
    pub pages_owed: u64,
}

/// The job is not wanted any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cancelled;

/// What a job and the loop share. Its counters are for people: nothing is decided by them, and they may be read between
/// two of their changes.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    rounds: AtomicU32,
    pages_done: AtomicU64,
    pages_owed: AtomicU64,
    is_cancelled: AtomicBool,
}

impl Meter {
    pub(crate) fn begin_round(&self, rounds: u32) {
        self.rounds.store(rounds, Relaxed);
    }

    /// Notes `pages` more, and what is left. Asked between batches, so that a job ends soon after it is cancelled.
    pub(crate) fn advance(&self, pages: u64, owed: u64) -> Result<(), Cancelled> {
        self.pages_done.fetch_add(pages, Relaxed);
        self.pages_owed.store(owed, Relaxed);
        if self.is_cancelled.load(Relaxed) { Err(Cancelled) } else { Ok(()) }
    }

    pub(crate) fn cancel(&self) {
        self.is_cancelled.store(true, Relaxed);
    }

    pub(crate) fn progress(&self) -> Progress {
        Progress {
            rounds: self.rounds.load(Relaxed),
            pages_done: self.pages_done.load(Relaxed),
            pages_owed: self.pages_owed.load(Relaxed),
        }
    }
}
