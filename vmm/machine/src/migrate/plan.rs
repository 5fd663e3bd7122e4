//! By what a move was carried, from when on: what its report shows of it.

use std::time::{Duration, Instant};

use dwcp::hde::Ladder;
use serde::{Deserialize, Serialize};

/// Entries that are kept. A link that changes more often than this is shown more coarsely.
const ENTRIES_MAX: usize = 64;
/// A link that has changed by no more than this factor is the same.
const SAME_RATE: f64 = 1.25;

/// By what a move was carried from one moment on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanEntry {
    /// Since the order.
    pub at: Duration,
    /// What the link was believed to carry.
    pub bytes_per_second: u64,
    /// The level of zstd for pages that travel whole; none if they went as they are.
    pub level: Option<i32>,
    /// Pages of a batch, at most.
    pub batch_pages: u64,
    /// Data streams beside the control stream.
    pub streams: u32,
}

/// What was decided so far.
#[derive(Debug)]
pub(super) struct PlanLog {
    began: Instant,
    entries: Vec<PlanEntry>,
}

impl PlanLog {
    pub(super) fn new() -> Self {
        Self { began: Instant::now(), entries: Vec::new() }
    }

    /// From now on it is like this: remembered if it is something else than before.
    pub(super) fn decided(&mut self, rate: f64, step: usize, batch_pages: u64, streams: usize) {
        let ladder = Ladder::step(step);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate")]
        let bytes_per_second = rate as u64;
        self.add(PlanEntry {
            at: self.began.elapsed(),
            bytes_per_second,
            level: ladder.tiers.zstd.then_some(ladder.level),
            batch_pages,
            streams: u32::try_from(streams).unwrap_or(u32::MAX),
        });
    }

    fn add(&mut self, entry: PlanEntry) {
        if self.entries.last().is_some_and(|last| is_same(last, &entry)) {
            return;
        }
        if self.entries.len() == ENTRIES_MAX {
            // Every second one: what is left is as even over the time as before.
            let mut place = 0;
            self.entries.retain(|_| {
                place += 1;
                place % 2 == 1
            });
        }
        self.entries.push(entry);
    }

    pub(super) fn entries(&self) -> Vec<PlanEntry> {
        self.entries.clone()
    }
}

/// Whether nobody would tell them apart. How large batches are follows from the rest.
fn is_same(one: &PlanEntry, other: &PlanEntry) -> bool {
    let ratio = one.bytes_per_second.max(1) as f64 / other.bytes_per_second.max(1) as f64;
    (one.level, one.streams) == (other.level, other.streams)
        && (1.0 / SAME_RATE..=SAME_RATE).contains(&ratio)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(second: u64, bytes_per_second: u64, level: Option<i32>) -> PlanEntry {
        PlanEntry {
            at: Duration::from_secs(second),
            bytes_per_second,
            level,
            batch_pages: 64,
            streams: 1,
        }
    }

    #[test]
    fn only_what_has_changed_is_remembered() {
        let mut log = PlanLog::new();
        for (second, rate, level) in [
            (0, 1000, None),
            (1, 1200, None),
            (2, 900, None),
            (3, 900, Some(1)),
            (4, 500, Some(1)),
            (5, 450, Some(1)),
        ] {
            log.add(entry(second, rate, level));
        }
        let seconds: Vec<_> = log.entries().iter().map(|entry| entry.at.as_secs()).collect();
        assert_eq!(seconds, [0, 3, 4]);
    }

    #[test]
    fn a_restless_link_is_shown_more_coarsely_and_as_it_was_at_first_and_at_last() {
        let mut log = PlanLog::new();
        for second in 0..10_000 {
            log.add(entry(second, if second % 2 == 0 { 1000 } else { 2000 }, None));
        }
        let entries = log.entries();
        assert!((ENTRIES_MAX / 2..=ENTRIES_MAX).contains(&entries.len()), "{}", entries.len());
        assert_eq!((entries[0].at.as_secs(), entries.last().unwrap().at.as_secs()), (0, 9_999));
        assert!(entries.is_sorted_by(|one, other| one.at < other.at));
    }
}
