//! [`Phase`]: how far an attempt has come, as the source sees it. See `SPEC.md`, 3.

use std::time::Duration;

use crate::page_set::PageSet;
use crate::session::timers::ASK_EVERY;
use crate::wire::{Permit, Text};

/// How far an attempt has come.
///
/// ```text
///            offered, switch                  the permit frame is handed out
///   Live ───────────────────► Switch ─────────────────────────────────────► Parted
///    ▲ │                       │  │                                        │     │
///    │ │  cut, or too slow     │  │ abort, refused          never ran there │     │ ran there
///    └─┼───────────────────────┘  │                                        │     │
///      │ abort, refused           ▼                                        ▼     ▼
///      └───────────────────────► Over ◄────────────────────────────────────┴─────┘
/// ```
///
/// The guest runs in `Live`, and stands still in `Switch` and `Parted`. `Parted` is doubt: only an
/// answer ends it.
#[derive(Debug)]
pub(super) enum Phase {
    Live(Live),
    Switch(Switch),
    Parted(Parted),
    Over,
}

/// The guest runs, pages and speculative states go out.
#[derive(Debug, Default)]
pub(super) struct Live {
    /// `Offered` is durable: a switch may begin.
    pub(super) is_offered: bool,
    /// Shortly before the guest stops: only these pages wait for an acknowledgement.
    pub(super) hot: Option<PageSet>,
    /// No new batch is begun, so that the streams run empty before the guest stops.
    pub(super) is_draining: bool,
}

impl Live {
    /// The guest does not stop now after all: pages go out as they did before.
    pub(super) fn go_on(&mut self) {
        *self = Self { is_offered: self.is_offered, ..Self::default() };
    }

    /// The guest has stopped. `Offered` was durable before.
    pub(super) fn switch(self, now: Duration) -> Switch {
        debug_assert!(self.is_offered);
        Switch { since: now }
    }
}

/// The guest stands still, the last pages and the final state go out.
#[derive(Debug)]
pub(super) struct Switch {
    pub(super) since: Duration,
}

impl Switch {
    /// The guest runs on; the offer stays.
    pub(super) fn cancel(self) -> Live {
        Live { is_offered: true, ..Live::default() }
    }

    /// The permit frame is in the caller's hands: from here on, only an answer tells who runs.
    pub(super) fn part(self, now: Duration, connection: u16, permit: Permit) -> Parted {
        Parted {
            since: now,
            permit,
            permit_on: Some(connection),
            ask_at: now + ASK_EVERY,
            asked_complete_on: None,
        }
    }
}

/// The permit may be elsewhere.
#[derive(Debug)]
pub(super) struct Parted {
    pub(super) since: Duration,
    pub(super) permit: Permit,
    /// The connection on which the permit frame was sent last; it is sent once on each.
    pub(super) permit_on: Option<u16>,
    pub(super) ask_at: Duration,
    /// The connection on which the destination was told that everything is acknowledged.
    pub(super) asked_complete_on: Option<u16>,
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceEnd {
    /// The destination took the permit. The record is to say so, then memory may be let go.
    Ran,
    /// It never ran there and never will. The record is to say so, then the guest may run here, if
    /// it does not already.
    Refused(Text),
    /// Given up here, before the permit frame. An offer is to be withdrawn; the guest may run here.
    Aborted(Text),
}
