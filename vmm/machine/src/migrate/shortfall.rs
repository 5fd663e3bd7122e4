//! [`Shortfall`]: by how much a guest is too fast for its move, and what can be done about it.

use std::fmt;
use std::time::Duration;

use dwcp::page::PAGE_SIZE;

/// By how much a guest is too fast.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shortfall {
    /// Pages that it writes in a second of its own time, each counted once a round; none if that was not seen.
    pub dirty_pages_per_second: Option<f64>,
    /// Pages that go out in a second while it runs.
    pub live_pages_per_second: f64,
    /// For how long it would stand still.
    pub blackout: Duration,
    /// For how long it may.
    pub allowed: Duration,
    /// The share of its time in which it may run at most, so that the move ends within the limits; none if it would not end
    /// even if it wrote nothing.
    pub fitting_speed: Option<f64>,
    /// Hundredths of its time for which it was held already.
    pub throttled: u8,
}

impl Shortfall {
    /// The rate of writing at which the move would end.
    fn fitting_pages_per_second(&self) -> Option<f64> {
        Some(self.dirty_pages_per_second? * self.fitting_speed?)
    }
}

impl fmt::Display for Shortfall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { live_pages_per_second, blackout, allowed, throttled, .. } = *self;
        match self.dirty_pages_per_second {
            Some(rate) => write!(f, "the guest writes {}", Rate(rate))?,
            None => f.write_str("the guest writes too fast")?,
        }
        if throttled > 0 {
            write!(f, " at full speed, and was slowed to {} %", 100 - throttled)?;
        }
        write!(
            f,
            "; pages go out at {}; it would stand still for {} ms, and may for {} ms",
            Rate(live_pages_per_second),
            blackout.as_millis(),
            allowed.as_millis()
        )?;
        let Some(rate) = self.fitting_pages_per_second() else {
            return f.write_str(
                "; that is too short for any guest at this rate: allow a longer --max-downtime",
            );
        };
        write!(f, "; it would fit at {} or less: allow a longer --max-downtime", Rate(rate))?;
        match self.fitting_speed.map(needed) {
            Some(share) if share <= crate::vcpu::SHARE_MOST && share > throttled => {
                write!(f, ", slow the guest down with --throttle {share}%")?;
            }
            _ => {}
        }
        f.write_str(", or let pages go out faster (the link, --bandwidth, --cpu)")
    }
}

/// For how many hundredths of its time a guest is to be held that may run for this share of it.
pub(super) fn needed(fitting_speed: f64) -> u8 {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "within 0 and 100, and cut to that"
    )]
    let share = (100.0 * (1.0 - fitting_speed)).ceil().clamp(0.0, 100.0) as u8;
    share
}

/// So many pages a second, for people.
struct Rate(f64);

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mebibytes = self.0 * PAGE_SIZE as f64 / f64::from(1 << 20);
        write!(f, "{:.0} pages/s ({mebibytes:.1} MiB/s)", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Shortfall = Shortfall {
        dirty_pages_per_second: Some(12_000.0),
        live_pages_per_second: 5_120.0,
        blackout: Duration::from_millis(900),
        allowed: Duration::from_millis(300),
        fitting_speed: Some(0.4),
        throttled: 0,
    };

    #[test]
    fn a_shortfall_says_how_far_it_is_and_what_can_be_done() {
        for (shortfall, words) in [
            (
                SHORT,
                "the guest writes 12000 pages/s (46.9 MiB/s); pages go out at 5120 pages/s (20.0 MiB/s); it would \
                 stand still for 900 ms, and may for 300 ms; it would fit at 4800 pages/s (18.8 MiB/s) or less: \
                 allow a longer --max-downtime, slow the guest down with --throttle 60%, or let pages go out faster (the link, --bandwidth, --cpu)",
            ),
            (
                Shortfall { throttled: 50, ..SHORT },
                "the guest writes 12000 pages/s (46.9 MiB/s) at full speed, and was slowed to 50 %; pages go out at \
                 5120 pages/s (20.0 MiB/s); it would stand still for 900 ms, and may for 300 ms; it would fit at \
                 4800 pages/s (18.8 MiB/s) or less: allow a longer --max-downtime, slow the guest down with \
                 --throttle 60%, or let pages go out faster (the link, --bandwidth, --cpu)",
            ),
            (
                Shortfall { throttled: 80, fitting_speed: Some(0.0001), ..SHORT },
                "the guest writes 12000 pages/s (46.9 MiB/s) at full speed, and was slowed to 20 %; pages go out at \
                 5120 pages/s (20.0 MiB/s); it would stand still for 900 ms, and may for 300 ms; it would fit at \
                 1 pages/s (0.0 MiB/s) or less: allow a longer --max-downtime, or let pages go out faster (the link, --bandwidth, --cpu)",
            ),
            (
                Shortfall { dirty_pages_per_second: None, fitting_speed: None, ..SHORT },
                "the guest writes too fast; pages go out at 5120 pages/s (20.0 MiB/s); it would stand still for 900 ms, \
                 and may for 300 ms; that is too short for any guest at this rate: allow a longer --max-downtime",
            ),
        ] {
            assert_eq!(shortfall.to_string(), words);
        }
    }

    #[test]
    fn a_guest_is_held_for_what_it_may_not_run() {
        let cases = [(1.0, 0), (0.999, 1), (0.5, 50), (0.405, 60), (0.01, 99), (0.0, 100)];
        for (speed, share) in cases {
            assert_eq!(needed(speed), share, "{speed}");
        }
    }
}
