//! What is measured of a move.

use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use crate::flow::Flowed;

/// How an attempt ended.
#[derive(Clone, Debug)]
pub(crate) enum Ended {
    /// The guest runs at the destination.
    Moved(Moved),
    /// The time was over, and the guest still at the source.
    Late,
    /// The VMM gave up.
    Failed(String),
}

/// One move.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Moved {
    /// How long it took, and what the link and the processors did meanwhile.
    pub(crate) flow: Flowed,
    /// The guest stopped at the source to the guest running at the destination.
    pub(crate) pause_ns: u64,
    /// The same as the VMM has it, where somebody else measured it.
    pub(crate) reported_pause_ns: Option<u64>,
    /// The longest jump of the guest's own clock around the move.
    pub(crate) gap_ns: u64,
    /// Processor time of the source and of the destination, the guest's own left out.
    pub(crate) cpu_ns: [u64; 2],
    /// That of the guest, at the source.
    pub(crate) guest_ns: u64,
    /// What the pause went into, as far as the VMM says.
    pub(crate) causes: Vec<(String, u64)>,
    /// The VMM's own account of the move, as it gives it.
    pub(crate) account: Value,
}

pub(crate) fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
