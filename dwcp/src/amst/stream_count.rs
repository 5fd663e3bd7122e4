//! [`StreamCount`]: how many streams are worth having.

use std::time::Duration;

/// Streams at first. Each begins with a small window of its own, so several start faster than one.
const FIRST: usize = 4;
/// What is compared is what is delivered in so many round trips, and in so long at least.
const EPOCH_ROUND_TRIPS: u32 = 2;
const EPOCH_LEAST: Duration = Duration::from_millis(250);
/// More streams must deliver more by this part.
const GAIN: f64 = 1.1;
/// A fall of what is delivered to this part is another link: what was found out does not hold for it.
const CHANGED: f64 = 0.6;
/// Epochs after which a count that was found is questioned.
const HELD: u32 = 40;

/// Finds the number of data streams by trying: twice as many, and if they do not deliver more, back to before.
/// While one stream recovers from a lost packet the others go on: on a long link with losses many deliver far more
/// than one. Finding out takes several epochs: in simulated moves of seconds (`simulated-wan.md`) the count that is
/// found is better than the one that it begins with on one link of three, and on one worse. It is for moves of minutes.
#[derive(Clone, Debug)]
pub struct StreamCount {
    count: usize,
    most: usize,
    state: State,
    epoch: Option<Epoch>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    /// Nothing was compared yet: more are tried after the first epoch.
    Fresh,
    /// More are tried than these, which delivered so much.
    Trying { than: usize, delivered: f64 },
    /// No other count is better, as far as is known.
    Found { delivered: f64, epochs: u32 },
}

#[derive(Clone, Copy, Debug)]
struct Epoch {
    since: Duration,
    delivered: u64,
}

impl StreamCount {
    /// At most so many beside the control stream.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { count: FIRST.min(most), most, state: State::Fresh, epoch: None }
    }

    /// How many there shall be.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// So many bytes have been delivered since the beginning. `is_limited` is whether there was too little to
    /// send since the last call: then nothing can be told of the link.
    pub fn observe(
        &mut self,
        now: Duration,
        delivered: u64,
        round_trip: Duration,
        is_limited: bool,
    ) {
        let Some(epoch) = self.epoch.filter(|_| !is_limited) else {
            self.epoch = Some(Epoch { since: now, delivered });
            return;
        };
        let span = now.saturating_sub(epoch.since);
        if span < (round_trip * EPOCH_ROUND_TRIPS).max(EPOCH_LEAST) {
            return;
        }
        let rate = delivered.saturating_sub(epoch.delivered) as f64 / span.as_secs_f64();
        self.epoch = Some(Epoch { since: now, delivered });
        self.state = match self.state {
            State::Fresh => self.try_more(rate),
            State::Trying { delivered, .. } if rate >= delivered * GAIN => self.try_more(rate),
            State::Trying { than, delivered } => {
                self.count = than;
                State::Found { delivered, epochs: 0 }
            }
            State::Found { delivered, epochs } if rate < delivered * CHANGED || epochs >= HELD => {
                self.try_more(rate)
            }
            State::Found { delivered, epochs } => {
                State::Found { delivered: delivered.max(rate), epochs: epochs + 1 }
            }
        };
    }

    fn try_more(&mut self, rate: f64) -> State {
        let more = (self.count * 2).min(self.most);
        if more == self.count {
            return State::Found { delivered: rate, epochs: 0 };
        }
        let than = std::mem::replace(&mut self.count, more);
        State::Trying { than, delivered: rate }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Runs for so many milliseconds over a link that gives `rate` bytes a millisecond to so many streams.
    fn run(
        count: &mut StreamCount,
        from: u32,
        until: u32,
        delivered: &mut u64,
        rate: impl Fn(usize) -> u64,
    ) {
        for ms in (from..until).step_by(10) {
            *delivered += 10 * rate(count.count());
            count.observe(MS * ms, *delivered, 20 * MS, false);
        }
    }

    #[test]
    fn a_link_that_one_stream_fills_gets_no_more() {
        let (mut count, mut delivered) = (StreamCount::new(64), 0);
        run(&mut count, 0, 10_000, &mut delivered, |_| 12_500);
        assert_eq!(count.count(), FIRST);
    }

    #[test]
    fn a_link_that_limits_each_stream_gets_as_many_as_pay() {
        let (mut count, mut delivered) = (StreamCount::new(64), 0);
        run(&mut count, 0, 10_000, &mut delivered, |streams| 1_000 * streams.min(15) as u64);
        assert_eq!(count.count(), 16);
        let (mut few, mut delivered) = (StreamCount::new(6), 0);
        run(&mut few, 0, 10_000, &mut delivered, |streams| 1_000 * streams as u64);
        assert_eq!(few.count(), 6);
        let (mut few, mut delivered) = (StreamCount::new(6), 0);
        run(&mut few, 0, 5_000, &mut delivered, |_| 1_000);
        assert_eq!(few.count(), 4);
    }

    #[test]
    fn a_link_that_changes_is_tried_anew() {
        let (mut count, mut delivered) = (StreamCount::new(64), 0);
        run(&mut count, 0, 5_000, &mut delivered, |_| 12_500);
        assert_eq!(count.count(), FIRST);
        run(&mut count, 5_000, 20_000, &mut delivered, |streams| 300 * streams as u64);
        assert!(count.count() >= 32, "{count:?}");
    }

    #[test]
    fn a_guest_that_has_little_to_send_says_nothing_of_the_link() {
        let mut count = StreamCount::new(64);
        for ms in 0..10_000 {
            count.observe(MS * ms, u64::from(ms), 20 * MS, true);
        }
        assert_eq!((count.count(), count.state), (FIRST, State::Fresh));
    }

    #[test]
    fn none_stays_none() {
        let (mut count, mut delivered) = (StreamCount::new(0), 0);
        run(&mut count, 0, 5_000, &mut delivered, |_| 12_500);
        assert_eq!(count.count(), 0);
    }
}
