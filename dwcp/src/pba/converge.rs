//! [`Outlook::fitting_speed`]: how fast the guest may run so that its move ends.

use std::time::Duration;

use super::{Debt, Outlook};

/// Halvings of what the speed may be: to less than a thousandth.
const HALVINGS: u32 = 11;

impl Outlook<'_> {
    /// The largest share of its time in which the guest may run so that some round makes its stop fit the budget: 1 if one
    /// does anyway, none if it would not fit even if the guest wrote nothing.
    ///
    /// A guest that runs for half of the time writes what it writes, twice as slowly: its working set stays what it is. So
    /// one that is throttled may have to be far slower than its rate alone says, or hardly at all.
    #[must_use]
    pub fn fitting_speed(&self, debt: Debt, budget: Duration) -> Option<f64> {
        let fits = |guest_speed| Outlook { guest_speed, ..*self }.forecast(debt, budget).fits;
        if fits(1.0) {
            return Some(1.0);
        }
        if !fits(0.0) {
            return None;
        }
        let (mut fitting, mut too_fast) = (0.0, 1.0);
        for _ in 0..HALVINGS {
            let between = f64::midpoint(fitting, too_fast);
            if fits(between) {
                fitting = between;
            } else {
                too_fast = between;
            }
        }
        Some(fitting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::Gfn;
    use crate::pba::{DirtyEstimator, LinkEstimate};

    const LIMIT: u64 = 1 << 18;
    const BUDGET: Duration = Duration::from_millis(300);

    /// A guest that writes so many pages a second, a new one each time, harvested each second.
    fn writing(pages_per_second: u64) -> DirtyEstimator {
        let mut dirty = DirtyEstimator::new(Gfn(LIMIT));
        let mut next = 0;
        for _ in 0..4 {
            let mut words = vec![0_u64; usize::try_from(LIMIT / 64).unwrap()];
            for _ in 0..pages_per_second {
                let page = usize::try_from(next % LIMIT).unwrap();
                words[page / 64] |= 1 << (page % 64);
                next += 1;
            }
            dirty.observe(Duration::from_secs(1), &words);
        }
        dirty
    }

    /// A link that takes so many pages a second.
    fn outlook(dirty: &DirtyEstimator, pages_per_second: f64) -> Outlook<'_> {
        Outlook {
            link: LinkEstimate {
                bytes_per_second: pages_per_second * 1000.0,
                round_trip: Duration::from_millis(10),
            },
            dirty,
            guest_speed: 1.0,
            live_bytes_per_second: f64::INFINITY,
            bytes_per_page: 1000.0,
            pages_per_second: f64::INFINITY,
            overhead: Duration::from_millis(10),
        }
    }

    fn owing(pages: u64) -> Debt {
        Debt { owed_pages: pages, unacknowledged_bytes: 0 }
    }

    #[test]
    fn a_guest_that_fits_may_run_as_fast_as_it_can() {
        let dirty = writing(2_000);
        assert_eq!(outlook(&dirty, 10_000.0).fitting_speed(owing(20_000), BUDGET), Some(1.0));
    }

    #[test]
    fn a_guest_that_does_not_fit_may_run_so_fast_that_it_just_does() {
        let mut speeds = Vec::new();
        for pages_per_second in [5_000, 10_000, 20_000, 40_000] {
            let dirty = writing(pages_per_second);
            let outlook = outlook(&dirty, 5_000.0);
            let debt = owing(pages_per_second);
            assert!(!outlook.forecast(debt, BUDGET).fits, "{pages_per_second}");
            let speed = outlook.fitting_speed(debt, BUDGET).unwrap();
            let fits = |guest_speed| Outlook { guest_speed, ..outlook }.forecast(debt, BUDGET).fits;
            assert!(fits(speed) && !fits(speed + 0.002), "{pages_per_second}: {speed}");
            // What the link takes is what the guest may write, less what each round must gain.
            let rate = speed * pages_per_second as f64;
            assert!((4_000.0..5_000.0).contains(&rate), "{pages_per_second}: {rate}");
            speeds.push(speed);
        }
        assert!(speeds.is_sorted_by(|faster, slower| faster > slower), "{speeds:?}");
    }

    #[test]
    fn a_longer_stop_a_faster_link_and_a_slower_guest_leave_it_more_speed() {
        let (dirty, slower) = (writing(20_000), writing(10_000));
        let debt = owing(20_000);
        let base = outlook(&dirty, 5_000.0).fitting_speed(debt, BUDGET).unwrap();
        let faster_link = outlook(&dirty, 8_000.0).fitting_speed(debt, BUDGET).unwrap();
        let slower_guest = outlook(&slower, 5_000.0).fitting_speed(debt, BUDGET).unwrap();
        let longer = outlook(&dirty, 5_000.0).fitting_speed(debt, 20 * BUDGET).unwrap();
        assert!(base < faster_link && base < slower_guest && base < longer);
    }

    #[test]
    fn a_limit_of_the_link_counts_as_the_links_own_while_the_guest_runs() {
        let dirty = writing(20_000);
        let limited = Outlook { live_bytes_per_second: 5e6, ..outlook(&dirty, 1e6) };
        assert!((limited.live_pages_per_second() - 5_000.0).abs() < 1e-6);
        let debt = owing(LIMIT);
        assert_eq!(outlook(&dirty, 1e6).fitting_speed(debt, BUDGET), Some(1.0));
        // The last burst has the whole link: a round's pages go out in 20 ms.
        let speed = limited.fitting_speed(debt, BUDGET).unwrap();
        assert_eq!(speed, 1.0);
        let speed = limited.fitting_speed(debt, Duration::from_millis(20)).unwrap();
        assert!((0.1..0.3).contains(&speed), "{speed}");
    }

    #[test]
    fn a_stop_that_is_longer_than_allowed_without_a_page_never_fits() {
        let dirty = writing(20_000);
        let outlook = outlook(&dirty, 5_000.0);
        // Half a round trip, and what does not depend on pages.
        assert_eq!(outlook.fitting_speed(owing(20_000), Duration::from_millis(14)), None);
        assert!(outlook.fitting_speed(owing(20_000), Duration::from_millis(16)).is_some());
    }
}
