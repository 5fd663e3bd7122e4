//! [`Bottleneck`]: whether the link limits a move, or this host's processors.

use std::time::Duration;

use super::LinkEstimate;

/// Streams that wait for their sockets for less than this part of the time are not held up by the link.
const HELD_UP: f64 = 0.2;
/// By how much more a link is hoped to carry than it was seen to, as long as it was never what limits. Less than what
/// compressing saves, and nobody would ever find out that a link is too fast for it.
const HOPE: f64 = 4.0;
/// How long it counts what the link carried when it was the limit; and how much the streams' threads did when they were.
const KEPT: Duration = Duration::from_secs(5);
/// Each stream must have been busy for so long, or nothing is said: threads account for a batch when it is done.
const LOOK_LEAST: Duration = Duration::from_millis(20);
/// How much a new look changes what is known of the processors.
const WEIGHT: f64 = 0.4;
/// TCP begins slowly, and doubles what it sends in every round trip. A link is fully used once it has not carried more by
/// this part for so many of them, and for so long at least: as BBR finds it.
const GROWTH: f64 = 1.25;
const FULL_ROUND_TRIPS: u32 = 3;
const FULL_LEAST: Duration = Duration::from_millis(100);

/// What the threads of all streams have done since the beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Time in which they had something to do.
    pub busy: Duration,
    /// Of that, what they got of a processor.
    pub processor: Duration,
    /// Of that, time in which they had something to write, and their sockets took nothing.
    pub stalled: Duration,
    /// How many they are now.
    pub streams: usize,
}

/// What was there at a look.
#[derive(Clone, Copy, Debug, Default)]
struct Look {
    work: Work,
    delivered: u64,
}

/// Tells what a move is limited by. A rate of delivery alone cannot: pages that are compressed slowly arrive slowly over the
/// fastest link, and so a link that was never full always seems to be.
#[derive(Clone, Debug, Default)]
pub struct Bottleneck {
    before: Look,
    is_link: bool,
    /// What the link carried when it was the limit.
    ceiling: Option<(Duration, f64)>,
    /// Processors that the threads got when nothing else held them up.
    processors: Option<(Duration, f64)>,
    /// When the link last carried clearly more than before, and what.
    grown: Option<(Duration, f64)>,
    is_growing: bool,
}

impl Bottleneck {
    /// Nothing is known.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Looks at what was done: so many bytes are acknowledged since the beginning, and this is believed of the link.
    pub fn observe(&mut self, now: Duration, work: Work, delivered: u64, link: &LinkEstimate) {
        self.observe_growth(now, link);
        let is_fresh = |(at, _): &(Duration, f64)| *at + KEPT >= now;
        self.ceiling = self.ceiling.filter(is_fresh);
        self.processors = self.processors.filter(is_fresh);
        let since = |new: Duration, old: Duration| new.saturating_sub(old).as_secs_f64();
        let (before, streams) = (self.before, work.streams.max(1) as f64);
        let busy = since(work.busy, before.work.busy) / streams;
        if busy < LOOK_LEAST.as_secs_f64() {
            return;
        }
        let stalled = since(work.stalled, before.work.stalled) / streams / busy;
        let got = since(work.processor, before.work.processor) / busy;
        // While there was something to send: a link that nobody uses is not a slow one.
        let carried = delivered.saturating_sub(before.delivered) as f64 / busy;
        self.before = Look { work, delivered };
        self.is_link = stalled >= HELD_UP;
        let (into, new) = match self.is_link {
            true => (&mut self.ceiling, carried),
            false => (&mut self.processors, got),
        };
        *into = Some((now, into.map_or(new, |(_, known)| known + WEIGHT * (new - known))));
    }

    fn observe_growth(&mut self, now: Duration, link: &LinkEstimate) {
        let rate = link.bytes_per_second;
        let (at, before) = *self.grown.get_or_insert((now, rate));
        if rate >= before * GROWTH {
            self.grown = Some((now, rate));
        }
        let full = (link.round_trip * FULL_ROUND_TRIPS).max(FULL_LEAST);
        self.is_growing = rate >= before * GROWTH || now.saturating_sub(at) < full;
    }

    /// Whether the streams have just begun, and nobody knows yet what the link carries: a link that has become faster
    /// looks the same.
    #[must_use]
    pub fn is_growing(&self) -> bool {
        self.is_growing
    }

    /// What the link may carry that is believed to carry so much.
    #[must_use]
    pub fn may_carry(&self, bytes_per_second: f64) -> f64 {
        let ceiling = self.ceiling.map_or(f64::INFINITY, |(_, rate)| rate);
        if self.is_link {
            // What is believed may be the best of some time, in which a buffer took more than the link.
            return bytes_per_second.min(ceiling);
        }
        if self.before.work.busy.is_zero() {
            return bytes_per_second;
        }
        (bytes_per_second * HOPE).min(ceiling).max(bytes_per_second)
    }

    /// How many of so many processors there are for the streams.
    #[must_use]
    pub fn processors(&self, there_are: f64) -> f64 {
        /// However little they got, they get something.
        const LEAST: f64 = 0.1;
        self.processors.map_or(there_are, |(_, got)| got.clamp(LEAST, there_are.max(LEAST)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn link(bytes_per_second: f64) -> LinkEstimate {
        LinkEstimate { bytes_per_second, round_trip: 80 * MS }
    }

    struct Streams {
        bottleneck: Bottleneck,
        now: Duration,
        work: Work,
        delivered: u64,
    }

    impl Streams {
        fn new() -> Self {
            let work = Work { streams: 4, ..Work::default() };
            Self { bottleneck: Bottleneck::new(), now: Duration::ZERO, work, delivered: 0 }
        }

        /// Each of four streams is busy for 50 ms each time, and gets so many of a processor, and stalls for so many.
        fn run(&mut self, looks: u32, got: u32, stalls: u32, rate: f64) {
            for _ in 0..looks {
                self.now += 50 * MS;
                self.work.busy += 4 * 50 * MS;
                self.work.processor += 4 * got * MS;
                self.work.stalled += 4 * stalls * MS;
                self.deliver(rate);
                self.bottleneck.observe(self.now, self.work, self.delivered, &link(rate));
            }
        }

        /// What a link carries in 50 ms.
        fn deliver(&mut self, rate: f64) {
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate")]
            let bytes = (rate / 20.0) as u64;
            self.delivered += bytes;
        }

        fn may_carry(&self, rate: f64) -> u64 {
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate")]
            let rate = self.bottleneck.may_carry(rate).round() as u64;
            rate
        }

        fn has(&self, processors: f64) -> bool {
            (self.bottleneck.processors(8.0) - processors).abs() < 0.01
        }
    }

    #[test]
    fn a_link_that_holds_nobody_up_is_hoped_to_carry_more() {
        let mut streams = Streams::new();
        assert_eq!(streams.may_carry(1e8), 100_000_000);
        streams.run(3, 12, 1, 1e8);
        assert_eq!(streams.may_carry(1e8), 400_000_000);
        streams.run(1, 3, 40, 1e8);
        assert_eq!(streams.may_carry(1e8), 100_000_000);
    }

    #[test]
    fn what_a_buffer_took_at_once_is_not_what_a_link_carries() {
        let mut streams = Streams::new();
        streams.run(1, 3, 40, 1e8);
        assert_eq!(streams.may_carry(3e8), 100_000_000);
    }

    #[test]
    fn a_link_that_is_hardly_used_is_not_a_slow_one() {
        let mut streams = Streams::new();
        streams.run(5, 3, 40, 1e8);
        // A burst of 25 ms in each second, in which the link is what limits.
        for _ in 0..10 {
            streams.now += 1000 * MS;
            streams.work.busy += 4 * 25 * MS;
            streams.work.stalled += 4 * 20 * MS;
            streams.delivered += 2_500_000;
            let Streams { bottleneck, now, work, delivered } = &mut streams;
            bottleneck.observe(*now, *work, *delivered, &link(1e8));
            assert_eq!(streams.may_carry(1e8), 100_000_000);
        }
    }

    #[test]
    fn what_a_link_carried_when_it_was_the_limit_counts_for_some_time() {
        let mut streams = Streams::new();
        streams.run(1, 3, 40, 1.5e8);
        streams.run(20, 12, 1, 1e8);
        assert_eq!(streams.may_carry(1e8), 150_000_000);
        // What it does carry is never too much for it.
        assert_eq!(streams.may_carry(2e8), 200_000_000);
        streams.run(100, 12, 1, 1e8);
        assert_eq!(streams.may_carry(1e8), 400_000_000);
    }

    #[test]
    fn processors_are_those_that_the_streams_got_when_nothing_else_held_them_up() {
        let mut streams = Streams::new();
        assert!(streams.has(8.0));
        // While the link is the limit, nobody knows what they could have.
        streams.run(10, 1, 40, 1e8);
        assert!(streams.has(8.0));
        streams.run(20, 15, 1, 1e8);
        assert!(streams.has(1.2));
        streams.run(10, 1, 40, 1e8);
        assert!(streams.has(1.2));
        assert!((streams.bottleneck.processors(1.0) - 1.0).abs() < 0.01);
        // Others may have gone since.
        streams.run(100, 1, 40, 1e8);
        assert!(streams.has(8.0));
    }

    #[test]
    fn a_moment_says_nothing_and_moments_add_up() {
        let mut streams = Streams::new();
        streams.run(5, 15, 1, 1e8);
        for moment in 1..=20 {
            streams.now += 50 * MS;
            streams.work.busy += 4 * MS;
            streams.work.stalled += 4 * MS;
            streams.deliver(1e8);
            let Streams { bottleneck, now, work, delivered } = &mut streams;
            bottleneck.observe(*now, *work, *delivered, &link(1e8));
            // Four streams for a millisecond each: after twenty of them it is known that they wait for the link.
            let may = if moment < 20 { 400_000_000 } else { 100_000_000 };
            assert_eq!(streams.may_carry(1e8), may, "{moment}");
            assert!(streams.has(1.2));
        }
    }

    #[test]
    fn a_link_is_known_once_it_has_not_carried_more_for_three_round_trips() {
        let mut bottleneck = Bottleneck::new();
        let mut look = |ms: u32, rate| {
            bottleneck.observe(ms * MS, Work::default(), 0, &link(rate));
            bottleneck.is_growing()
        };
        for (ms, rate) in [(0, 1e6), (80, 2e6), (160, 4e6), (240, 8e6), (400, 8.1e6), (470, 9e6)] {
            assert!(look(ms, rate), "{ms}");
        }
        assert!(!look(480, 9.5e6) && !look(1000, 9e6) && !look(2000, 3e6));
        // It has become faster.
        assert!(look(2050, 2e7) && look(2250, 2e7) && !look(2300, 2e7));
    }
}
