//! [`Pacer`]: when the next batch may go out.

use std::num::NonZeroU64;
use std::time::Duration;

/// What may go out at once after a pause: with less, a caller that wakes a little late would lose what it
/// could have sent.
const BURST: Duration = Duration::from_millis(10);

/// Keeps a limit of bytes a second over all streams. A batch goes out whole, and those after it wait until it is
/// paid for: a virtual clock says until when the limit is used up. What is limited may be anything that is counted, such
/// as nanoseconds of processor time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pacer {
    bytes_per_second: Option<NonZeroU64>,
    paid_until: Duration,
}

impl Pacer {
    /// Without a limit.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The limit from now on; `None` is none. Bytes that are not paid for under one limit are paid for
    /// under the next.
    pub fn set_limit(&mut self, now: Duration, bytes_per_second: Option<NonZeroU64>) {
        self.paid_until = match (self.bytes_per_second, bytes_per_second) {
            (Some(old), Some(new)) => {
                // What is owed is bytes, not time.
                let debt = self.paid_until.saturating_sub(now);
                let scaled = debt.as_secs_f64() * old.get() as f64 / new.get() as f64;
                now.saturating_add(Duration::try_from_secs_f64(scaled).unwrap_or(Duration::MAX))
            }
            // Without a limit nothing is owed.
            _ => Duration::ZERO,
        };
        self.bytes_per_second = bytes_per_second;
    }

    /// The limit in force.
    #[must_use]
    pub fn limit(&self) -> Option<NonZeroU64> {
        self.bytes_per_second
    }

    /// When a batch may go out next; `None` is now.
    #[must_use]
    pub fn opens_at(&self, now: Duration) -> Option<Duration> {
        self.bytes_per_second.map(|_| self.paid_until).filter(|at| *at > now)
    }

    /// So many bytes go out now.
    pub fn spend(&mut self, now: Duration, bytes: u64) {
        let Some(limit) = self.bytes_per_second else { return };
        let takes = Duration::from_secs_f64(bytes as f64 / limit.get() as f64);
        self.paid_until = self.paid_until.max(now.saturating_sub(BURST)).saturating_add(takes);
    }

    /// So many bytes of those that were to go out did not.
    pub fn regain(&mut self, bytes: u64) {
        let Some(limit) = self.bytes_per_second else { return };
        let took = Duration::from_secs_f64(bytes as f64 / limit.get() as f64);
        self.paid_until = self.paid_until.saturating_sub(took);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn limit(bytes_per_second: u64) -> Option<NonZeroU64> {
        NonZeroU64::new(bytes_per_second)
    }

    /// Sends batches whenever it may, and returns the bytes of so long.
    fn send(pacer: &mut Pacer, from: Duration, until: Duration, batch: u64) -> u64 {
        let (mut now, mut bytes) = (from, 0);
        while now < until {
            match pacer.opens_at(now) {
                Some(at) => now = at,
                None => {
                    pacer.spend(now, batch);
                    bytes += batch;
                }
            }
        }
        bytes
    }

    #[test]
    fn without_a_limit_it_is_always_open() {
        let mut pacer = Pacer::new();
        pacer.spend(SECOND, u64::MAX);
        assert_eq!((pacer.opens_at(SECOND), pacer.limit()), (None, None));
    }

    #[test]
    fn the_limit_is_kept_whatever_the_batches() {
        for batch in [100, 4_096, 100_000, 3_000_000] {
            let mut pacer = Pacer::new();
            pacer.set_limit(SECOND, limit(1_000_000));
            let sent = send(&mut pacer, SECOND, 11 * SECOND, batch);
            let most = 10_000_000 + 10_000 + batch;
            assert!((10_000_000..=most).contains(&sent), "{batch}: {sent}");
        }
    }

    #[test]
    fn a_pause_is_not_made_up_for() {
        let mut pacer = Pacer::new();
        pacer.set_limit(SECOND, limit(1_000_000));
        let sent = send(&mut pacer, 100 * SECOND, 101 * SECOND, 1_000);
        assert!((1_000_000..=1_012_000).contains(&sent), "{sent}");
    }

    #[test]
    fn another_limit_holds_at_once() {
        let mut pacer = Pacer::new();
        pacer.set_limit(SECOND, limit(1_000));
        pacer.spend(SECOND, 100_000);
        assert!(pacer.opens_at(SECOND) > Some(100 * SECOND));
        pacer.set_limit(SECOND, limit(1_000_000));
        assert!(pacer.opens_at(SECOND) < Some(2 * SECOND));
        pacer.set_limit(SECOND, None);
        assert_eq!(pacer.opens_at(SECOND), None);
    }

    #[test]
    fn what_an_old_limit_made_wait_does_not_outlive_it() {
        let mut pacer = Pacer::new();
        pacer.set_limit(SECOND, limit(1));
        pacer.spend(SECOND, 4 << 20);
        pacer.set_limit(SECOND, None);
        pacer.set_limit(SECOND, limit(1_000_000));
        assert_eq!(pacer.opens_at(SECOND), None);
    }

    #[test]
    fn what_did_not_go_out_need_not_be_paid_for() {
        let mut pacer = Pacer::new();
        pacer.regain(1);
        pacer.set_limit(SECOND, limit(1_000));
        pacer.spend(SECOND, 5_000);
        pacer.regain(3_000);
        let opens = pacer.opens_at(SECOND).unwrap();
        assert!(opens > 2 * SECOND && opens <= 3 * SECOND, "{opens:?}");
        // No more than was ever spent is won by it.
        pacer.regain(u64::MAX);
        assert_eq!(pacer.opens_at(SECOND), None);
        let sent = send(&mut pacer, 100 * SECOND, 101 * SECOND, 100);
        assert!((1_000..=1_110).contains(&sent), "{sent}");
    }

    #[test]
    fn no_row_of_limits_is_too_wild() {
        let mut pacer = Pacer::new();
        let limits = [1, 0, 2_200_000_000_000, 1, u64::MAX, 1, 0, u64::MAX, 1];
        for bytes_per_second in limits.into_iter().cycle().take(1000) {
            pacer.set_limit(SECOND, limit(bytes_per_second));
            pacer.spend(SECOND, 8 << 20);
        }
    }
}
