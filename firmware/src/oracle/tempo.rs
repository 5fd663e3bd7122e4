//! Time as the guest sees it: readings of the TSC go in, nothing is read here.

/// What a vCPU's successive readings of the TSC tell.
#[derive(Clone, Copy, Debug)]
pub struct Watch {
    last: u64,
    window: u64,
    longest: u64,
    backwards: u64,
}

impl Watch {
    /// Starts at the reading `now`.
    #[must_use]
    pub const fn new(now: u64) -> Self {
        Self { last: now, window: 0, longest: 0, backwards: 0 }
    }

    /// Takes the next reading. Call it often: what lies between two calls counts as a gap.
    #[inline]
    pub fn read(&mut self, now: u64) {
        match now.checked_sub(self.last) {
            Some(gap) => {
                self.window = self.window.max(gap);
                self.longest = self.longest.max(gap);
            }
            None => self.backwards += 1,
        }
        self.last = now;
    }

    /// The latest reading.
    #[must_use]
    pub const fn now(&self) -> u64 {
        self.last
    }

    /// The longest gap since the last call of this, in ticks.
    pub fn take_window(&mut self) -> u64 {
        core::mem::take(&mut self.window)
    }

    /// The longest gap of all, in ticks.
    #[must_use]
    pub const fn longest(&self) -> u64 {
        self.longest
    }

    /// How often a reading was lower than the one before.
    #[must_use]
    pub const fn backwards(&self) -> u64 {
        self.backwards
    }
}

/// Says when something that recurs is due.
///
/// It measures from the last time, so a TSC that jumps back (which is an error, and counted as one)
/// makes it due at once instead of silent until the TSC has come round.
#[derive(Clone, Copy, Debug)]
pub struct Metronome {
    last: u64,
    interval: u64,
    /// How far it may lag and still catch up, in ticks.
    catch_up: u64,
}

impl Metronome {
    /// Due every `interval` ticks from `now` on; 0 is always due. When it lags more than `catch_up`
    /// ticks, as after a blackout, what was missed is dropped.
    #[must_use]
    pub const fn new(now: u64, interval: u64, catch_up: u64) -> Self {
        Self { last: now, interval, catch_up }
    }

    /// Is it due at `now`? If so it is counted as done.
    #[inline]
    pub fn due(&mut self, now: u64) -> bool {
        let elapsed = now.wrapping_sub(self.last);
        if elapsed < self.interval {
            return false;
        }
        self.last = if elapsed - self.interval > self.catch_up {
            now
        } else {
            self.last.wrapping_add(self.interval)
        };
        true
    }
}

/// Ticks of a TSC, and what they are in time.
#[derive(Clone, Copy, Debug)]
pub struct Frequency {
    /// Ticks in a millisecond.
    pub khz: u64,
}

impl Frequency {
    /// Ticks in `ms` milliseconds.
    #[must_use]
    pub const fn ticks(self, ms: u64) -> u64 {
        self.khz.saturating_mul(ms)
    }

    /// Ticks between two of `rate` events a second; 0 for a rate of 0.
    #[must_use]
    pub const fn interval(self, rate: u64) -> u64 {
        match self.khz.saturating_mul(1000).checked_div(rate) {
            Some(ticks) => ticks,
            None => 0,
        }
    }

    /// Microseconds in `ticks`.
    #[must_use]
    pub fn microseconds(self, ticks: u64) -> u64 {
        scale(ticks, 1000, self.khz)
    }

    /// Events a second, when there were `events` in `ticks`; 0 for no time.
    #[must_use]
    pub fn rate(self, events: u64, ticks: u64) -> u64 {
        scale(events, self.khz.saturating_mul(1000), ticks)
    }
}

/// `value * times / by` without overflow on the way; 0 when `by` is.
fn scale(value: u64, times: u64, by: u64) -> u64 {
    let scaled = (u128::from(value) * u128::from(times)).checked_div(u128::from(by)).unwrap_or(0);
    u64::try_from(scaled).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_gap_and_backward_steps_are_kept() {
        let mut watch = Watch::new(100);
        for now in [110, 150, 140, 145] {
            watch.read(now);
        }
        assert_eq!((watch.longest(), watch.backwards(), watch.now()), (40, 1, 145));
        assert_eq!((watch.take_window(), watch.take_window()), (40, 0));
        watch.read(150);
        assert_eq!((watch.take_window(), watch.longest()), (5, 40));
    }

    #[test]
    fn a_metronome_keeps_its_rate_when_polled_late() {
        let mut metronome = Metronome::new(0, 10, 100);
        let beats = (0..1000).step_by(7).filter(|now| metronome.due(*now)).count();
        assert_eq!(beats, 99);
    }

    #[test]
    fn a_metronome_drops_what_a_blackout_missed() {
        let mut metronome = Metronome::new(0, 10, 100);
        assert!(metronome.due(1_000_000));
        assert!(!metronome.due(1_000_009));
        assert!(metronome.due(1_000_010));
    }

    #[test]
    fn a_metronome_is_due_after_the_clock_went_back() {
        let mut metronome = Metronome::new(1_000_000, 10, 100);
        assert!(metronome.due(5));
        assert!(!metronome.due(14));
        assert!(metronome.due(15));
    }

    #[test]
    fn a_metronome_without_interval_is_always_due() {
        let mut metronome = Metronome::new(0, Frequency { khz: 2_000_000 }.interval(0), 0);
        assert!(metronome.due(0) && metronome.due(0) && metronome.due(1));
    }

    #[test]
    fn ticks_convert_without_overflow() {
        let frequency = Frequency { khz: 2_100_000 };
        assert_eq!(frequency.ticks(200), 420_000_000);
        assert_eq!(frequency.interval(1000), 2_100_000);
        assert_eq!(frequency.microseconds(2_100_000), 1000);
        assert_eq!(frequency.microseconds(u64::MAX), 8_784_163_844_623_596);
        assert_eq!(frequency.rate(500, 1_050_000_000), 1000);
        assert_eq!(frequency.rate(500, 0), 0);
    }
}
