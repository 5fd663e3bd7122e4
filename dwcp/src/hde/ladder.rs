//! [`LadderStep`]: how hard a batch is worked on.

use std::num::NonZeroU64;

use super::{BATCH_PAGES_MAX, Tiers};

/// How a batch is encoded. Every payload is decoded in the same way, so the step may change from
/// one batch to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LadderStep {
    /// The level of zstd for pages that travel whole. Deltas have one of their own.
    pub level: i32,
    /// Pages of a batch, at most [`BATCH_PAGES_MAX`]. Grouping pages saves bytes, and the first of
    /// them waits for the last.
    pub batch_pages: NonZeroU64,
    /// The tiers that may be used.
    pub tiers: Tiers,
}

/// The steps from the fastest to the strongest.
///
/// ```
/// use dwcp::hde::{Ladder, LadderStep, Tiers};
///
/// let step = Ladder::step(3);
/// assert!(Ladder::step(2).level < step.level);
/// assert_eq!(Ladder::step(99), Ladder::step(Ladder::STEPS.len() - 1));
/// // A row of an ablation, and a batch that waits for nothing:
/// let without = LadderStep { tiers: Tiers { delta: false, ..Tiers::ALL }, ..step };
/// let quick = LadderStep { batch_pages: Ladder::LOW_LATENCY_PAGES, ..step };
/// # assert!(without != step && quick != step);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Ladder;

impl Ladder {
    /// Pages of a batch where its delay counts: 16 KiB.
    pub const LOW_LATENCY_PAGES: NonZeroU64 = pages(4);

    /// Every step. The first compresses no page that travels whole.
    pub const STEPS: [LadderStep; 6] = [
        LadderStep { level: 1, batch_pages: pages(64), tiers: Tiers { zstd: false, ..Tiers::ALL } },
        step(-3, 64),
        step(1, 64),
        step(3, 256),
        step(6, BATCH_PAGES_MAX as u64),
        step(9, BATCH_PAGES_MAX as u64),
    ];

    /// The step at this place from the fastest on; the strongest beyond the end.
    #[must_use]
    pub fn step(index: usize) -> LadderStep {
        Self::STEPS[index.min(Self::STEPS.len() - 1)]
    }
}

const fn step(level: i32, batch_pages: u64) -> LadderStep {
    LadderStep { level, batch_pages: pages(batch_pages), tiers: Tiers::ALL }
}

const fn pages(count: u64) -> NonZeroU64 {
    assert!(count <= BATCH_PAGES_MAX as u64);
    NonZeroU64::new(count).expect("a batch has pages")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_grow_in_level_and_in_pages() {
        assert!(Ladder::STEPS[1..].is_sorted_by(|a, b| a.level < b.level));
        assert!(Ladder::STEPS.is_sorted_by_key(|step| step.batch_pages));
        assert!(Ladder::STEPS.iter().all(|step| step.batch_pages >= Ladder::LOW_LATENCY_PAGES));
        assert_eq!(Ladder::STEPS.iter().filter(|step| !step.tiers.zstd).count(), 1);
    }
}
