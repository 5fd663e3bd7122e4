//! [`LinkEstimator`]: what the link carries, from what is acknowledged.

use std::collections::VecDeque;
use std::time::Duration;

use super::trace::{LinkEvent, LinkTrace};

/// How much of the time in which there was enough to send counts, in round trips.
const RATE_ROUND_TRIPS: u32 = 10;
/// How much of it counts at least, where round trips are short.
const RATE_LEAST: Duration = Duration::from_secs(1);
/// TCP begins slowly. That is over once the best delivery rate has not grown by this factor for so many round trips in which
/// there was enough to send, and for so long at least: as BBR finds it.
const GROWTH: f64 = 1.25;
const FULL_ROUND_TRIPS: u32 = 3;
const FULL_LEAST: Duration = Duration::from_millis(100);
/// How long the shortest round trip counts. A path that changes to a longer one is believed after
/// this.
const ROUND_TRIP_KEPT: Duration = Duration::from_secs(10);
/// Samples that a window keeps at most: it is cut into so many parts.
const PARTS: u32 = 32;

/// Estimates a link's rate and round trip.
///
/// The rate is a moving average: what was acknowledged by the time that it took. Only the time counts in which there was
/// enough to send, as [delivery rates][draft] have it: a send says of itself whether it left in such a time, and the first
/// ones after a pause did not, whose acknowledgements come a round trip later. So a pause of ours makes no link slow, and
/// after it the link is believed to be as it was. As long as TCP begins, and gives more with every round trip, an average
/// would be of what is over: the rate is the best of the recent delivery rates then, for which each send remembers how much
/// had been delivered when it left.
///
/// On recordings of moves that is better than what is simpler, and than what is cleverer. The moving average of all time is
/// nearly as good while there is always enough to send, and after a pause wrong by most of what the link carries; the last
/// delivery rate is worse but where the link itself changes; and the best one at all times, as BBR takes it, is too high by
/// what a link does in its best moments (`the_forecast_beats_the_others`). That TCP begins is where it is needed: the
/// simulated moves of small guests over long links are over before it has.
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
    /// Delivery rates, until TCP has begun.
    best: Best,
    /// The best one when it had last grown.
    grown: f64,
    /// While there was enough to send, since then.
    plenty: Rate,
    /// Whether that is what is believed.
    has_begun: bool,
    round_trips: Best,
    /// For whoever judges the estimates; a move has none.
    recorder: Option<Box<Recorder>>,
}

/// What the estimator was told, and which batches are on their way.
#[derive(Clone, Debug, Default)]
struct Recorder {
    trace: LinkTrace,
    now: Duration,
    on_their_way: Vec<(Duration, u64)>,
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
        let bytes_per_second = if self.has_begun { self.plenty.mean() } else { self.best.best() }?;
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

    /// Keeps whatever it is told from now on, without bound.
    pub fn record(&mut self) {
        self.recorder = Some(Box::default());
    }

    /// What it was told since it was asked to keep it.
    #[must_use]
    pub fn recorded(&self) -> Option<&LinkTrace> {
        self.recorder.as_ref().map(|recorder| &recorder.trace)
    }

    /// A batch begins to go out.
    pub fn sent(&mut self, now: Duration, bytes: u64) -> Sent {
        if let Some(recorder) = &mut self.recorder {
            recorder.add(Some(now), LinkEvent::Sent(bytes));
            recorder.on_their_way.push((now, bytes));
        }
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
        let until = self.delivered + self.unacknowledged + 1;
        if let Some(recorder) = self.recorder.as_mut().filter(|_| until != self.limited_until) {
            recorder.add(None, LinkEvent::Idle);
        }
        self.limited_until = until;
    }

    /// A batch is acknowledged.
    pub fn acknowledged(&mut self, now: Duration, sent: &Sent) {
        if let Some(recorder) = &mut self.recorder {
            recorder.end(Some(now), sent, LinkEvent::Acknowledged);
        }
        self.unacknowledged = self.unacknowledged.saturating_sub(sent.bytes);
        self.delivered += sent.bytes;
        let span = now.saturating_sub(self.delivered_at);
        let arriving = now.saturating_sub(sent.delivered_at);
        let leaving = sent.at.saturating_sub(sent.first_sent_at);
        (self.delivered_at, self.first_sent_at) = (now, sent.at);
        let round_trip = self.round_trips.best().map_or(0.0, |best| -best);
        let round_trip = Duration::from_secs_f64(round_trip);
        let kept = (round_trip * RATE_ROUND_TRIPS).max(RATE_LEAST);
        if !self.has_begun {
            self.begins(now, kept, sent, arriving.max(leaving));
        }
        // What was sent before anything had come back waited for a round trip.
        if !sent.is_limited && sent.delivered > 0 {
            self.plenty.add(kept, span, sent.bytes);
            let full = (round_trip * FULL_ROUND_TRIPS).max(FULL_LEAST);
            self.has_begun |= self.plenty.span >= full;
        }
    }

    /// Takes a delivery rate. Every disturbance makes one smaller, and so does too little to send: one of such a time counts
    /// only if it is larger.
    fn begins(&mut self, now: Duration, kept: Duration, sent: &Sent, span: Duration) {
        if span.is_zero() {
            return;
        }
        let rate = (self.delivered - sent.delivered) as f64 / span.as_secs_f64();
        if sent.is_limited && self.best.best().is_some_and(|best| rate < best) {
            return;
        }
        self.best.add(now, kept, rate);
        if rate >= self.grown * GROWTH {
            self.grown = rate;
            self.plenty = Rate::default();
        }
    }

    /// A batch will never be acknowledged: its stream has died.
    pub fn lost(&mut self, sent: &Sent) {
        if let Some(recorder) = &mut self.recorder {
            recorder.end(None, sent, LinkEvent::Lost);
        }
        self.unacknowledged = self.unacknowledged.saturating_sub(sent.bytes);
    }

    /// Something came back so long after it had left us.
    pub fn came_back(&mut self, now: Duration, after: Duration) {
        if let Some(recorder) = &mut self.recorder {
            recorder.add(Some(now), LinkEvent::CameBack(after));
        }
        // The largest of the negated times is the shortest.
        self.round_trips.add(now, ROUND_TRIP_KEPT, -after.as_secs_f64());
    }
}

impl Recorder {
    fn add(&mut self, now: Option<Duration>, event: LinkEvent) {
        self.now = now.unwrap_or(self.now).max(self.now);
        self.trace.events.push((self.now, event));
    }

    fn end(&mut self, now: Option<Duration>, sent: &Sent, event: impl Fn(usize) -> LinkEvent) {
        let is_it = |other: &(Duration, u64)| *other == (sent.at, sent.bytes);
        // One that left before the recording began is none of it.
        if let Some(earlier) = self.on_their_way.iter().position(is_it) {
            self.on_their_way.remove(earlier);
            self.add(now, event(earlier));
        }
    }
}

/// What was carried, by the time that it took: in the last of the times that were added.
#[derive(Clone, Debug, Default)]
struct Rate {
    parts: VecDeque<(Duration, u64)>,
    span: Duration,
    bytes: u64,
}

impl Rate {
    fn mean(&self) -> Option<f64> {
        (!self.span.is_zero()).then(|| self.bytes as f64 / self.span.as_secs_f64())
    }

    fn add(&mut self, kept: Duration, span: Duration, bytes: u64) {
        (self.span, self.bytes) = (self.span + span, self.bytes + bytes);
        match self.parts.back_mut().filter(|(part, _)| *part < kept / PARTS) {
            Some(part) => *part = (part.0 + span, part.1 + bytes),
            None => self.parts.push_back((span, bytes)),
        }
        while let Some((span, bytes)) =
            self.parts.pop_front_if(|(span, _)| self.span - *span >= kept)
        {
            (self.span, self.bytes) = (self.span - span, self.bytes - bytes);
        }
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
mod traces;

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
            run(&mut estimator, MS, 12_500, round_trip, 5000);
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
    fn what_it_was_told_can_be_recorded() {
        let mut estimator = LinkEstimator::new();
        let before = estimator.sent(MS, 1);
        estimator.record();
        let (one, two) = (estimator.sent(2 * MS, 10), estimator.sent(3 * MS, 20));
        estimator.idle();
        estimator.idle();
        estimator.acknowledged(5 * MS, &before);
        estimator.acknowledged(6 * MS, &two);
        estimator.came_back(6 * MS, 3 * MS);
        estimator.lost(&one);
        let events = [
            (2 * MS, LinkEvent::Sent(10)),
            (3 * MS, LinkEvent::Sent(20)),
            (3 * MS, LinkEvent::Idle),
            (6 * MS, LinkEvent::Acknowledged(1)),
            (6 * MS, LinkEvent::CameBack(3 * MS)),
            (6 * MS, LinkEvent::Lost(0)),
        ];
        assert_eq!(estimator.recorded().unwrap().events, events);
    }

    #[test]
    fn while_the_link_gives_more_with_every_round_trip_the_last_rate_is_believed() {
        let (mut estimator, mut now) = (LinkEstimator::new(), MS);
        for doubled in 0..5 {
            // For 160 ms.
            now = run(&mut estimator, now, 1000 << doubled, 80 * MS, 16 << doubled);
            let (rate, is) = (1e6 * f64::from(1 << doubled), estimator.estimate().unwrap());
            assert!((0.8..1.02).contains(&(is.bytes_per_second / rate)), "{rate}: {is:?}");
        }
    }

    #[test]
    fn times_are_few_however_many_come() {
        let mut rate = Rate::default();
        for n in 0..100_000u32 {
            rate.add(MS * 10, Duration::from_micros(1), u64::from(n));
        }
        assert!(rate.parts.len() <= PARTS as usize + 2, "{}", rate.parts.len());
        // The last ten milliseconds.
        assert!(near(rate.mean().unwrap(), 95_000.0 * 1e6), "{rate:?}");
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
