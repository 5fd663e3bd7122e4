use super::*;
use crate::page::{Gfn, PageRun};
use crate::page_set::PageSet;
use crate::pba::{DirtyEstimator, LinkEstimate};

const MS: Duration = Duration::from_millis(1);

/// A guest of 4 GiB that writes `hot` pages again and again, and as many `fresh` ones in each 100 ms.
fn guest(hot: u64, fresh: u64) -> DirtyEstimator {
    let limit = Gfn(1 << 20);
    let mut estimator = DirtyEstimator::new(limit);
    for n in 0..6 {
        let mut dirty = PageSet::new(limit);
        if hot > 0 {
            dirty.insert(PageRun::new(Gfn(0), hot).unwrap()).unwrap();
        }
        if fresh > 0 {
            dirty.insert(PageRun::new(Gfn(100_000 + n * fresh), fresh).unwrap()).unwrap();
        }
        estimator.observe(100 * MS, dirty.words());
    }
    estimator
}

/// 1,000 bytes a page, 1 ms that does not depend on pages.
fn outlook(dirty: &DirtyEstimator, megabytes_per_second: f64, round_trip_ms: u32) -> Outlook<'_> {
    Outlook {
        link: LinkEstimate {
            bytes_per_second: megabytes_per_second * 1e6,
            round_trip: MS * round_trip_ms,
        },
        dirty,
        guest_speed: 1.0,
        live_bytes_per_second: f64::INFINITY,
        bytes_per_page: 1_000.0,
        pages_per_second: f64::INFINITY,
        overhead: MS,
    }
}

fn debt(owed_pages: u64, unacknowledged_bytes: u64) -> Debt {
    Debt { owed_pages, unacknowledged_bytes }
}

#[derive(Debug, PartialEq)]
enum Kind {
    Continue,
    Stop,
    StopSettled,
    Stuck,
}

fn kind(decision: Decision) -> Kind {
    match decision {
        Decision::Continue(_) => Kind::Continue,
        Decision::Stop(Stop { settles_first: false, .. }) => Kind::Stop,
        Decision::Stop(Stop { settles_first: true, .. }) => Kind::StopSettled,
        Decision::Stuck(_) => Kind::Stuck,
    }
}

#[test]
fn the_table_of_decisions() {
    #[rustfmt::skip]
    let table = [
        // hot, fresh, MB/s, round trip, owed, unacknowledged, budget in ms
        ("everything is owed",            0,      0,  12.5,   0, 262_144,       0,   300, Kind::Continue),
        ("nothing is, and nothing comes", 0,      0,  12.5,   0,       0,       0,   300, Kind::Stop),
        ("an idle guest, far away",       0,      0,  12.5, 200,       0,       0,   300, Kind::Stop),
        ("a queue is ahead, guest idle",  0,      0,  12.5,  80,       0, 500_000,   300, Kind::StopSettled),
        ("a queue is ahead, guest busy",  0, 50_000,  125.,  80,     100,   1_000,   300, Kind::Stop),
        ("a few hot pages",              64,      0,  12.5, 200,      64,       0,   300, Kind::Stop),
        ("hot pages that still shrink",  64,    100,  125.,   0,  20_000,       0,   300, Kind::Continue),
        ("writes more than is carried",   0, 20_000,  12.5,   0, 200_000,       0,   300, Kind::Stuck),
        ("the same, and who cares",       0, 20_000,  12.5,   0, 200_000,       0, 60_000, Kind::Stop),
        ("the link is too long",          0,      0,  12.5, 700,       0,       0,   300, Kind::Stuck),
        ("no budget at all",              0,      0,  12.5,   0,       0,       0,     0, Kind::Stuck),
    ];
    for (name, hot, fresh, rate, round_trip, owed, queue, budget, expected) in table {
        let dirty = guest(hot, fresh);
        let decision = decide(&outlook(&dirty, rate, round_trip), debt(owed, queue), MS * budget);
        assert_eq!(kind(decision), expected, "{name}: {decision:?}");
    }
}

#[test]
fn a_forecast_is_the_arithmetic() {
    // 262,144 pages of 1,000 bytes at 125 MB/s are 2.097 s; 64 hot pages more are nothing beside the link.
    let dirty = guest(64, 0);
    let forecast = outlook(&dirty, 125.0, 20).forecast(debt(262_144, 0), 300 * MS);
    let blackout = 10.0 + 1.0 + 64.0 / 125.0;
    assert!((forecast.blackout.as_secs_f64() * 1e3 - blackout).abs() < 1.0, "{forecast:?}");
    assert!((2.09..2.25).contains(&forecast.duration.as_secs_f64()), "{forecast:?}");
    assert!(forecast.fits && forecast.rounds <= 2, "{forecast:?}");
}

#[test]
fn the_blackout_counts_what_is_queued_ahead_or_the_time_to_let_it_go() {
    let idle = guest(0, 0);
    let outlook = outlook(&idle, 12.5, 80);
    let stop = outlook.stop(debt(0, 1_250_000));
    assert_eq!((stop.settles_first, stop.blackout), (true, 41 * MS));
    let busy = guest(0, 100_000);
    let outlook = Outlook { dirty: &busy, ..outlook };
    let stop = outlook.stop(debt(0, 1_250_000));
    assert_eq!((stop.settles_first, stop.blackout), (false, 141 * MS));
}

#[test]
fn a_slow_encoder_bounds_as_a_slow_link_does() {
    let dirty = guest(0, 0);
    let fast = outlook(&dirty, 1e6, 0);
    let slow = Outlook { pages_per_second: 10_000.0, ..fast };
    assert_eq!(slow.stop(debt(1_000, 0)).blackout, 101 * MS);
    assert!(fast.stop(debt(1_000, 0)).blackout < 2 * MS);
}

#[test]
fn what_is_not_finite_is_stuck_and_not_a_panic() {
    let dirty = guest(10, 10);
    for rate in [0.0, 1e-300, f64::INFINITY] {
        let decision = decide(&outlook(&dirty, rate, 20), debt(1_000, 1_000), 300 * MS);
        if rate == f64::INFINITY {
            assert_eq!(kind(decision), Kind::Stop);
        } else {
            assert!(!matches!(decision, Decision::Stop(_)), "{rate}: {decision:?}");
        }
    }
}
