//! How far a job is, and whether it is still wanted: written by the job's thread, read by the device loop.

use std::collections::VecDeque;
use std::num::{NonZeroU32, NonZeroU64};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How far a snapshot, a hand-over or a move is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Rounds begun while the guest runs; 0 for a guest that is paused.
    pub rounds: u32,
    /// Pages dealt with, counting each time.
    pub pages_done: u64,
    /// Pages still to be dealt with in this round.
    pub pages_owed: u64,
    /// What else there is to say of a move to another host.
    pub moving: Option<MoveProgress>,
}

/// How far a move to another host is, besides its pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MoveProgress {
    /// Its phase.
    pub phase: MovePhase,
    /// Bytes of payload that were sent.
    pub bytes_sent: u64,
    /// What the link is seen to take.
    pub bytes_per_second: Option<f64>,
    /// Of the link.
    pub round_trip: Option<Duration>,
    /// How long the guest would stand still if it were stopped now.
    pub forecast: Option<Duration>,
    /// Data streams that are wanted.
    pub streams: u32,
    /// For how long the other host has been out of reach.
    pub waiting: Option<Duration>,
    /// Hundredths of its time for which the guest is held now.
    pub throttle: u8,
    /// By which limits it goes on.
    pub limits: LiveLimits,
}

/// The limits of a move that can be changed while it is under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveLimits {
    /// How long the guest may stand still.
    pub max_downtime: Duration,
    /// How long the destination may be out of reach before the move is given up.
    pub patience: Duration,
    /// Bytes a second that pages may take while the guest runs.
    pub bandwidth: Option<NonZeroU64>,
    /// Hundredths of its time for which a guest may be held that writes too fast; 0 is not at all.
    pub throttle: u8,
    /// Thousandths of a processor that the streams may take while the guest runs.
    pub cpu_permille: Option<NonZeroU32>,
}

/// Other limits for a move that is under way: those that are named.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitChange {
    /// How long the guest may stand still.
    pub max_downtime: Option<Duration>,
    /// How long the destination may be out of reach before the move is given up.
    pub patience: Option<Duration>,
    /// Bytes a second that pages may take while the guest runs; a limit of none takes it away.
    pub bandwidth: Option<Option<NonZeroU64>>,
    /// Hundredths of its time for which the guest may be held; 0 lets it go.
    pub throttle: Option<u8>,
    /// Thousandths of a processor that the streams may take; a limit of none takes it away.
    pub cpu_permille: Option<Option<NonZeroU32>>,
}

/// The phases of a move, as its source goes through them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum MovePhase {
    /// The guest runs.
    #[default]
    Live,
    /// It stands still, and the rest of it is sent.
    Switch,
    /// The permit frame is out, and nobody has answered.
    InDoubt,
    /// It runs at the destination, and what is left of it is looked at.
    Settle,
}

/// What a keeper has learned for a move, or was told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Word {
    /// The destination's keeper has answered, by its record.
    Answered(PeerWord),
    /// A person says that no other copy is alive. No host that the person knows of has a newer generation.
    Resolved {
        /// Resolutions and moves of the newest generation that is known.
        above: (u32, u32),
    },
    /// A person wants other limits.
    Limits(LimitChange),
}

/// What the destination's keeper says of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PeerWord {
    /// It ran there.
    Ran,
    /// It never ran there, and never will.
    NeverRan,
    /// Nothing is known of it there. That is no refusal.
    Unknown,
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
    moving: Mutex<Option<MoveProgress>>,
    words: Mutex<VecDeque<Word>>,
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
            moving: *self.moving.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }

    /// Notes how far a move is.
    pub(crate) fn moves(&self, progress: MoveProgress) {
        *self.moving.lock().unwrap_or_else(PoisonError::into_inner) = Some(progress);
    }

    /// Leaves a word for the job.
    pub(crate) fn tell(&self, word: Word) {
        self.words.lock().unwrap_or_else(PoisonError::into_inner).push_back(word);
    }

    /// The next other limits that were left. Whatever else was is for a job in doubt.
    pub(crate) fn take_limits(&self) -> Option<LimitChange> {
        let mut words = self.words.lock().unwrap_or_else(PoisonError::into_inner);
        let place = words.iter().position(|word| matches!(word, Word::Limits(_)))?;
        match words.remove(place) {
            Some(Word::Limits(change)) => Some(change),
            _ => None,
        }
    }

    /// The next word that was left: what the other host has answered comes before what a person said after that.
    pub(crate) fn take_word(&self) -> Option<Word> {
        self.words.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }
}
