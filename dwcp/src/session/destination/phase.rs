//! [`Phase`]: how far an attempt has come, as the destination sees it. See `SPEC.md`, 3.

use crate::wire::{Permit, Text};

/// How far an attempt has come.
///
/// ```text
///               permit frame, and the root agrees             Taken is written
///   Receiving ────────────────────────────────────► Ready ─────────────────────► Running
///       │                                             │
///       │ asked to, out of patience,                  │ it cannot be restored
///       │ peer at fault, cannot write                 ▼
///       └─────────────────────────────────────────► Refused     (Refused is written)
/// ```
#[derive(Debug)]
pub(super) enum Phase {
    Receiving(Receiving),
    /// The caller has everything, and decides.
    Ready,
    Running,
    Refused(Text),
}

/// Pages and states arrive.
#[derive(Debug, Default)]
pub(super) struct Receiving {
    /// The permit frame. It may overtake pages on other streams.
    pub(super) permit: Option<Permit>,
    /// The caller is writing `Refused`: nothing can become ready any more.
    pub(super) is_refusing: bool,
}
