//! [`Background`]: a limit that gives way to others.

use std::num::NonZeroU64;
use std::time::Duration;

/// Delay in queues that is aimed at: enough to see that the link is full, too little for others to mind.
const TARGET: Duration = Duration::from_millis(60);
/// The largest step up and down, once a round trip.
const UP: f64 = 0.1;
const DOWN: f64 = 0.5;
/// It never stands still: a move that does not end helps nobody.
const LEAST: f64 = 64.0 * 1024.0;
/// What it begins with.
const FIRST: f64 = 1024.0 * 1024.0;

/// Sets a limit of bytes a second by the delay that the link's queues add: while there is little, the link has
/// room; once others fill the queues, the limit falls long before their packets are lost. The way of LEDBAT
/// ([RFC 6817](https://www.rfc-editor.org/rfc/rfc6817)) with the target of its successor, for a rate instead of
/// a window: the windows of the streams are TCP's.
#[derive(Clone, Copy, Debug)]
pub struct Background {
    bytes_per_second: f64,
    changed_at: Duration,
}

impl Background {
    /// A move that begins now.
    #[must_use]
    pub fn new(now: Duration) -> Self {
        Self { bytes_per_second: FIRST, changed_at: now }
    }

    /// The limit.
    #[must_use]
    pub fn limit(&self) -> NonZeroU64 {
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a rate of at least LEAST; beyond u64 the cast saturates"
        )]
        NonZeroU64::new(self.bytes_per_second as u64).unwrap_or(NonZeroU64::MIN)
    }

    /// Something came back after `round_trip`, which takes `without_queues` at least. `is_used` is whether the
    /// limit was what held sending back: if it was not, there is no use in a higher one.
    pub fn came_back(
        &mut self,
        now: Duration,
        round_trip: Duration,
        without_queues: Duration,
        is_used: bool,
    ) {
        if now < self.changed_at + round_trip {
            return;
        }
        self.changed_at = now;
        let queued = round_trip.saturating_sub(without_queues).as_secs_f64();
        let target = TARGET.as_secs_f64();
        let room = (target - queued) / target;
        if room > 0.0 && !is_used {
            return;
        }
        let factor = if room > 0.0 { 1.0 + UP * room } else { 1.0 + (DOWN * room).max(-DOWN) };
        self.bytes_per_second = (self.bytes_per_second * factor).max(LEAST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const LINK: f64 = 12_500_000.0;

    /// A link whose queue fills with what is sent beyond its rate, at most 400 ms of it. Returns the mean of
    /// the limit over the second half.
    fn run(seconds: u32, others: impl Fn(Duration) -> f64) -> (f64, f64) {
        let mut background = Background::new(Duration::ZERO);
        let (mut queue, mut sum, mut longest) = (0.0f64, 0.0, 0.0f64);
        let steps = seconds * 100;
        for step in 0..steps {
            let now = MS * 10 * step;
            let sent = background.limit().get() as f64 + others(now);
            queue = (queue + (sent - LINK) * 0.01).clamp(0.0, LINK * 0.4);
            let delay = Duration::from_secs_f64(queue / LINK);
            background.came_back(now, 20 * MS + delay, 20 * MS, true);
            if step >= steps / 2 {
                sum += background.limit().get() as f64;
                longest = longest.max(delay.as_secs_f64());
            }
        }
        (sum / f64::from(steps - steps / 2), longest)
    }

    #[test]
    fn a_free_link_is_used_without_long_queues() {
        let (mean, longest) = run(60, |_| 0.0);
        assert!(mean > 0.9 * LINK, "{mean}");
        assert!(longest < 0.2, "{longest}");
    }

    #[test]
    fn who_fills_the_queues_gets_the_link() {
        // TCP that keeps half a second in the queue takes all that is left, and more.
        let (mean, _) = run(60, |now| if now > 10_000 * MS { LINK } else { 0.0 });
        assert!(mean < 0.02 * LINK, "{mean}");
    }

    #[test]
    fn what_others_leave_is_used() {
        let (mean, _) = run(120, |_| 0.7 * LINK);
        assert!((0.25 * LINK..0.36 * LINK).contains(&mean), "{mean}");
    }

    #[test]
    fn a_limit_that_is_not_reached_does_not_grow_and_none_is_nothing() {
        let mut background = Background::new(Duration::ZERO);
        let first = background.limit();
        for second in 1..100 {
            background.came_back(1000 * MS * second, 20 * MS, 20 * MS, false);
        }
        assert_eq!(background.limit(), first);
        for second in 100..1000 {
            background.came_back(1000 * MS * second, 900 * MS, 20 * MS, true);
        }
        assert_eq!(background.limit().get() as f64, LEAST);
    }
}
