//! Adaptive Multi-Stream Transport: how many streams there are, what goes on each, and how fast.

use std::num::NonZeroU64;

use crate::hde::Ladder;

/// Pages of a batch of the last burst, of which `owed` pages are left for so many streams: each stream
/// gets its share at once, instead of the first few all of it. A stream sends what its congestion
/// window allows and then waits for a round trip, so a burst that lies on one stream takes more of
/// them; and no batch is so small that its head would count.
pub(crate) fn burst_batch(owed: u64, streams: NonZeroU64, batch_pages: NonZeroU64) -> NonZeroU64 {
    let share = NonZeroU64::new(owed.div_ceil(streams.get())).unwrap_or(NonZeroU64::MIN);
    share.max(Ladder::LOW_LATENCY_PAGES).min(batch_pages)
}
