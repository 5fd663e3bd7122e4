//! Adaptive Multi-Stream Transport: how many streams there are, what goes on each, and how fast.
//!
//! A stream takes a batch whenever its socket takes bytes, and the batch is chosen at that moment
//! ([`Source::poll_transmit`](crate::session::Source::poll_transmit)): the pages follow whichever stream is
//! fast. What is decided here is the rest:
//!
//! | | decides |
//! |---|---|
//! | [`StreamCount`] | how many streams are worth having, by what is delivered |
//! | [`Pacer`] | when the next batch may go out under a limit of bytes a second |
//! | [`Background`] | that limit, for a move that gives way to everything else |
//! | [`burst_batch`] | how the last burst is spread over the streams |

mod background;
mod pacer;
mod stream_count;

pub use background::Background;
pub use pacer::Pacer;
pub use stream_count::StreamCount;

use std::num::NonZeroU64;

use crate::hde::Ladder;

/// Pages of a batch of the last burst, of which `owed` pages are left for so many streams: each stream
/// gets its share at once, instead of the first few all of it. A stream sends what its congestion
/// window allows and then waits for a round trip, so a burst that lies on one stream takes more of
/// them; and no batch is so small that its head would count.
#[must_use]
pub fn burst_batch(owed: u64, streams: NonZeroU64, batch_pages: NonZeroU64) -> NonZeroU64 {
    let share = NonZeroU64::new(owed.div_ceil(streams.get())).unwrap_or(NonZeroU64::MIN);
    share.max(Ladder::LOW_LATENCY_PAGES).min(batch_pages)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_shared_and_its_batches_are_neither_tiny_nor_beyond_the_limit() {
        let of = |owed, streams, most| {
            let [streams, most] = [streams, most].map(|count| NonZeroU64::new(count).unwrap());
            burst_batch(owed, streams, most).get()
        };
        assert_eq!(of(100, 5, 64), 20);
        assert_eq!(of(101, 5, 64), 21);
        assert_eq!(of(1, 5, 64), 4);
        assert_eq!(of(0, 5, 64), 4);
        assert_eq!(of(1_000_000, 5, 64), 64);
        assert_eq!(of(1_000_000, 5, 2), 2);
    }
}
