//! What must be true at every moment of a run.

use std::fmt;

use super::guest::Memory;
use crate::session::SourceCounts;

/// A promise was broken. The text is for a person who has the seed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation(pub(super) String);

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Violation {}

/// The machine as it stood when it was last stopped for a switch.
pub(super) struct Frozen {
    pub(super) memory: Memory,
    pub(super) state: Vec<u8>,
    /// What had been sent by then.
    pub(super) payload_bytes: u64,
}

/// Who has what of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Census {
    pub(super) source_runs: bool,
    pub(super) destination_runs: bool,
    /// Started anew after its process was killed, since its record allowed it.
    pub(super) restarted: bool,
    /// A living process has the whole of the guest's memory.
    pub(super) is_somewhere: bool,
    /// A process that had it was killed.
    pub(super) was_killed: bool,
}

impl Census {
    pub(super) fn check(self) -> Result<(), Violation> {
        let runners = [self.source_runs, self.destination_runs, self.restarted];
        if runners.into_iter().filter(|runs| *runs).count() > 1 {
            return Err(Violation(format!("two copies run: {self:?}")));
        }
        if !self.is_somewhere && !self.was_killed {
            return Err(Violation(format!("no process has the guest any more: {self:?}")));
        }
        Ok(())
    }
}

/// The destination is about to run this; it must be what the source had when it stopped.
pub(super) fn check_identity(
    frozen: Option<&Frozen>,
    memory: &Memory,
    state: Option<&[u8]>,
) -> Result<(), Violation> {
    let Some(frozen) = frozen else {
        return Err(Violation("the destination runs a guest that was never stopped".to_owned()));
    };
    if let Some(gfn) = frozen.memory.first_difference(memory) {
        return Err(Violation(format!("the destination runs a guest whose page {gfn} differs")));
    }
    if state != Some(&frozen.state) {
        return Err(Violation("the destination runs a guest whose state differs".to_owned()));
    }
    Ok(())
}

/// Between two correct sides nobody is at fault, and what everybody has acknowledged agrees.
pub(super) fn check_reason(reason: Option<&str>) -> Result<(), Violation> {
    let is_wrong = |reason: &&str| reason.contains("at fault") || reason.contains("differ");
    match reason.filter(is_wrong) {
        Some(reason) => Err(Violation(format!("an attempt has failed: {reason}"))),
        None => Ok(()),
    }
}

/// What was sent again is what was lost or newly dirtied, and nothing more.
pub(super) fn check_resent(counts: &SourceCounts) -> Result<(), Violation> {
    if counts.pages_sent > counts.pages_owed + counts.pages_lost + counts.pages_wanted {
        return Err(Violation(format!("more was sent than was owed: {counts:?}")));
    }
    Ok(())
}
