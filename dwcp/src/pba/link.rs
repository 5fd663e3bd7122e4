//! [`LinkEstimator`]: what the link carries, from what is acknowledged.

use std::collections::VecDeque;
use std::time::Duration;

/// How long the best sample of a rate counts, in round trips.
const RATE_ROUND_TRIPS: u32 = 10;
/// The shortest time for which one counts, where round trips are short.
const RATE_LEAST: Duration = Duration::from_secs(1);
/// How long the shortest round trip counts. A path that changes to a longer one is believed after
/// this.
const ROUND_TRIP_KEPT: Duration = Duration::from_secs(10);
/// Samples that a window keeps at most: it is cut into so many parts.
const PARTS: u32 = 32;

/// Estimates a link's rate and round trip by [delivery rates][draft]: each send remembers how much had
/// been delivered when it left, so that its acknowledgement tells what was delivered meanwhile. The
/// estimate is the best of the recent samples, since every disturbance makes a sample smaller; a sample
/// that was taken while there was too little to send counts only if it is larger.
///
/// Many streams are one link here: what is asked is how fast a debt goes away.
///
/// [draft]: https://datatracker.ietf.org/doc/html/draft-cheng-iccrg-delivery-rate-estimation
#[derive(Clone, Debug, Default)]
pub struct LinkEstimator {
    delivered: u64,
    delivered_at: Duration,
    /// When the send left whose acknowledgement came last: acknowledgements that were held up and come
    /// at once must not make a rate that nothing was sent at.
    first_sent_at: Duration,
    unacknowledged: u64,
    /// Until so much has been delivered, sends are of a time in which there was too little to send.
    limited_until: u64,
    rates: Best,
    round_trips: Best,
}

/// A send that is not acknowledged.
#[derive(Clone, Copy, Debug)]
pub struct Sent {
    bytes: u64,
    at: Duration,
    delivered: u64,
    delivered_at: Duration,
    first_sent_at: Duration,
    is_limited: bool,
}

/// What is believed of a link.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LinkEstimate {
    /// What it carries.
    pub bytes_per_second: f64,
    /// The way there and back, without queues.
    pub round_trip: Duration,
}

impl LinkEstimator {
    /// Nothing is known.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What is believed, once a batch was acknowledged.
    #[must_use]
    pub fn estimate(&self) -> Option<LinkEstimate> {
        let bytes_per_second = self.rates.best()?;
        let round_trip = Duration::from_secs_f64(-self.round_trips.best()?);
        Some(LinkEstimate { bytes_per_second, round_trip })
    }

    /// Bytes that were sent and are not acknowledged.
    #[must_use]
    pub fn unacknowledged(&self) -> u64 {
        self.unacknowledged
    }

    /// Bytes that were acknowledged.
    #[must_use]
    pub fn delivered(&self) -> u64 {
        self.delivered
    }

    /// Whether there was too little to send: what was sent meanwhile is still on its way.
    #[must_use]
    pub fn is_limited(&self) -> bool {
        self.delivered < self.limited_until
    }

    /// A batch begins to go out.
    pub fn sent(&mut self, now: Duration, bytes: u64) -> Sent {
        if self.unacknowledged == 0 {
            // What lies before was a pause of ours, not the link's.
            (self.delivered_at, self.first_sent_at) = (now, now);
        }
        self.unacknowledged += bytes;
        Sent {
            bytes,
            at: now,
            delivered: self.delivered,
            delivered_at: self.delivered_at,
            first_sent_at: self.first_sent_at,
            is_limited: self.is_limited(),
        }
    }

    /// There is nothing to send now: what is on its way says less than the link could do.
    pub fn idle(&mut self) {
        self.limited_until = self.delivered + self.unacknowledged + 1;
    }

    /// A batch is acknowledged.
    pub fn acknowledged(&mut self, now: Duration, sent: &Sent) {
        self.unacknowledged = self.unacknowledged.saturating_sub(sent.bytes);
        self.delivered += sent.bytes;
        let arriving = now.saturating_sub(sent.delivered_at);
        let leaving = sent.at.saturating_sub(sent.first_sent_at);
        (self.delivered_at, self.first_sent_at) = (now, sent.at);
        let span = arriving.max(leaving);
        if span.is_zero() {
            return;
        }
        let rate = (self.delivered - sent.delivered) as f64 / span.as_secs_f64();
        if sent.is_limited && self.rates.best().is_some_and(|best| rate < best) {
            return;
        }
        let kept = self.round_trips.best().map_or(0.0, |best| -best);
        let kept = (Duration::from_secs_f64(kept) * RATE_ROUND_TRIPS).max(RATE_LEAST);
        self.rates.add(now, kept, rate);
    }

    /// A batch will never be acknowledged: its stream has died.
    pub fn lost(&mut self, sent: &Sent) {
        self.unacknowledged = self.unacknowledged.saturating_sub(sent.bytes);
    }

    /// Something came back so long after it had left us.
    pub fn came_back(&mut self, now: Duration, after: Duration) {
        // The largest of the negated times is the shortest.
        self.round_trips.add(now, ROUND_TRIP_KEPT, -after.as_secs_f64());
    }
}

/// The largest of the samples of some time, each with when it was taken: descending, so that the front is
/// the largest and its successors are those that will be once it is too old.
#[derive(Clone, Debug, Default)]
struct Best {
    samples: VecDeque<(Duration, f64)>,
}

impl Best {
    fn best(&self) -> Option<f64> {
        self.samples.front().map(|(_, value)| *value)
    }

    fn add(&mut self, now: Duration, kept: Duration, value: f64) {
        // The last one stays, however old: an old belief is better than none.
        while self.samples.len() > 1 && self.samples[0].0 + kept < now {
            self.samples.pop_front();
        }
        if self
            .samples
            .front()
            .is_some_and(|(at, best)| at.saturating_add(kept) < now || value >= *best)
        {
            self.samples.clear();
        }
        while self.samples.pop_back_if(|(_, other)| *other <= value).is_some() {}
        let is_apart = |(at, _): &(Duration, f64)| *at + kept / PARTS <= now;
        if self.samples.back().is_none_or(is_apart) {
            self.samples.push_back((now, value));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Sends batches of 10 kB over a link: one batch leaves each time the link has carried the one
    /// before, and comes back after the round trip.
    fn run(
        estimator: &mut LinkEstimator,
        from: Duration,
        bytes_per_ms: u32,
        round_trip: Duration,
        batches: u32,
    ) -> Duration {
        let took = MS * 10_000 / bytes_per_ms;
        let mut way: VecDeque<(Duration, Sent)> = VecDeque::new();
        let mut now = from;
        for _ in 0..batches {
            way.push_back((now + took + round_trip, estimator.sent(now, 10_000)));
            now += took;
            while let Some((at, sent)) = way.pop_front_if(|(at, _)| *at <= now) {
                estimator.acknowledged(at, &sent);
                estimator.came_back(at, round_trip);
            }
        }
        while let Some((at, sent)) = way.pop_front() {
            now = at;
            estimator.acknowledged(at, &sent);
        }
        now
    }

    fn near(value: f64, expected: f64) -> bool {
        (value / expected - 1.0).abs() < 0.02
    }

    #[test]
    fn nothing_is_believed_before_something_came_back() {
        let mut estimator = LinkEstimator::new();
        estimator.sent(MS, 10_000);
        assert_eq!((estimator.estimate(), estimator.unacknowledged()), (None, 10_000));
    }

    #[test]
    fn the_rate_is_the_links_whatever_the_round_trip() {
        for round_trip in [MS, 80 * MS, 200 * MS] {
            let mut estimator = LinkEstimator::new();
            run(&mut estimator, MS, 12_500, round_trip, 2000);
            let estimate = estimator.estimate().unwrap();
            assert!(near(estimate.bytes_per_second, 12_500_000.0), "{estimate:?}");
            assert_eq!((estimate.round_trip, estimator.unacknowledged()), (round_trip, 0));
        }
    }

    #[test]
    fn a_slower_link_is_believed_after_ten_round_trips() {
        let mut estimator = LinkEstimator::new();
        let now = run(&mut estimator, MS, 12_500, 80 * MS, 2000);
        let end = run(&mut estimator, now, 1_000, 80 * MS, 300);
        assert!(end - now > RATE_LEAST);
        assert!(near(estimator.estimate().unwrap().bytes_per_second, 1_000_000.0), "{estimator:?}");
    }

    #[test]
    fn a_pause_of_ours_does_not_make_the_link_slow() {
        let mut estimator = LinkEstimator::new();
        let now = run(&mut estimator, MS, 12_500, 80 * MS, 2000);
        for later in 1..100 {
            estimator.idle();
            let at = now + later * 1000 * MS;
            let sent = estimator.sent(at, 100);
            estimator.acknowledged(at + 80 * MS, &sent);
        }
        assert!(near(estimator.estimate().unwrap().bytes_per_second, 12_500_000.0));
    }

    #[test]
    fn acknowledgements_that_were_held_up_and_come_at_once_make_no_faster_link() {
        let mut estimator = LinkEstimator::new();
        let sent: Vec<Sent> = (0..100).map(|n| estimator.sent(n * MS, 1_000)).collect();
        for sent in &sent {
            estimator.acknowledged(150 * MS, sent);
        }
        estimator.came_back(150 * MS, 50 * MS);
        let rate = estimator.estimate().unwrap().bytes_per_second;
        assert!(rate <= 1_020_000.0, "{rate}");
    }

    #[test]
    fn what_was_lost_is_not_on_its_way() {
        let mut estimator = LinkEstimator::new();
        let sent = estimator.sent(MS, 10_000);
        estimator.lost(&sent);
        assert_eq!(estimator.unacknowledged(), 0);
    }

    #[test]
    fn samples_are_few_however_many_come() {
        let mut best = Best::default();
        for n in 0..100_000u32 {
            best.add(n * Duration::from_micros(1), MS * 10, -f64::from(n));
        }
        assert!(best.samples.len() <= PARTS as usize + 2, "{}", best.samples.len());
        assert!(best.best().unwrap() >= -100_000.0 && best.samples[0].0 >= 89 * MS, "{best:?}");
    }
}
