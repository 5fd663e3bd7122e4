//! How long the guest stood still, and what for.

use serde::{Deserialize, Serialize};

use crate::clock::monotonic_ns;

/// A part of a blackout. The order is that of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Cause {
    /// From the first kick until every vCPU stood still.
    Pause,
    /// Until the devices were quiet.
    Drain,
    /// Reading and encoding the machine's state.
    State,
    /// The last harvest of the dirty log.
    Harvest,
    /// Reading, hashing and sending the last pages (copying only).
    Copy,
    /// From the permit frame's start until the successor had read it.
    Wire,
    /// Comparing digests at the successor.
    Digest,
    /// Setting the successor's vCPUs and devices.
    Restore,
    /// Writing the permit record.
    Record,
    /// Until every vCPU had been started.
    Resume,
}

impl Cause {
    /// Its name, in lower case.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Drain => "drain",
            Self::State => "state",
            Self::Harvest => "harvest",
            Self::Copy => "copy",
            Self::Wire => "wire",
            Self::Digest => "digest",
            Self::Restore => "restore",
            Self::Record => "record",
            Self::Resume => "resume",
        }
    }
}

/// A blackout as consecutive parts: each ends where the next begins, so that nothing is unnamed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blackout {
    start_ns: u64,
    /// (what for, when it ended).
    ends: Vec<(Cause, u64)>,
}

impl Blackout {
    /// A blackout that begins now.
    pub(crate) fn begin() -> Self {
        Self { start_ns: monotonic_ns(), ends: Vec::new() }
    }

    /// Everything since the last mark was for `cause`.
    pub(crate) fn mark(&mut self, cause: Cause) {
        self.ends.push((cause, monotonic_ns()));
    }

    /// Nanoseconds from the first kick to the last vCPU's start.
    #[must_use]
    pub fn total_ns(&self) -> u64 {
        self.ends.last().map_or(0, |(_, end)| end.saturating_sub(self.start_ns))
    }

    /// The parts with their lengths in nanoseconds, in the order of time.
    pub fn parts(&self) -> impl Iterator<Item = (Cause, u64)> + '_ {
        let starts = std::iter::once(self.start_ns).chain(self.ends.iter().map(|(_, end)| *end));
        self.ends
            .iter()
            .zip(starts)
            .map(|((cause, end), start)| (*cause, end.saturating_sub(start)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_add_up_to_the_whole() {
        let blackout = Blackout {
            start_ns: 100,
            ends: vec![(Cause::Pause, 150), (Cause::State, 150), (Cause::Resume, 400)],
        };
        let parts: Vec<_> = blackout.parts().collect();
        assert_eq!(parts, [(Cause::Pause, 50), (Cause::State, 0), (Cause::Resume, 250)]);
        assert_eq!(blackout.total_ns(), parts.iter().map(|(_, ns)| ns).sum::<u64>());
    }
}
