use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::*;
use crate::hde::Tiers;
use crate::page::{Gfn, PageRun};

/// Runs a scenario; a failure is one line that says how to see it again.
fn check(scenario: &Scenario) -> Report {
    run(scenario).unwrap_or_else(|violation| {
        let Scenario { seed, faults, .. } = scenario;
        panic!("seed {seed}, {faults:?}: {violation}")
    })
}

fn with(fault: Fault, when: When) -> Scenario {
    Scenario { faults: vec![(when, fault)], ..Scenario::quiet(1) }
}

#[test]
fn a_machine_moves_when_nothing_goes_wrong() {
    for seed in 0..20 {
        let report = check(&Scenario::quiet(seed));
        assert_eq!((report.ending, report.attempts), (Ending::Moved, 1), "seed {seed}");
        assert_eq!(report.counts.pages_lost, 0);
    }
}

/// Runs a scenario with a fault at each frame that it has, and returns how they ended.
fn at_every_frame(fault: Fault) -> Vec<Report> {
    at_every_frame_of(&Scenario::quiet(1), fault)
}

fn at_every_frame_of(scenario: &Scenario, fault: Fault) -> Vec<Report> {
    let frames = check(scenario).frames;
    assert!(frames > 30, "{frames} frames are no move");
    let at = |frame| Scenario { faults: vec![(When::Frame(frame), fault)], ..scenario.clone() };
    (0..frames).map(|frame| check(&at(frame))).collect()
}

#[test]
fn the_link_dies_at_every_frame_and_the_move_goes_on() {
    for pause in [Duration::from_millis(1), Duration::from_secs(5)] {
        for (frame, report) in at_every_frame(Fault::Cut(pause)).iter().enumerate() {
            let reached = (report.ending, report.attempts);
            assert_eq!(reached, (Ending::Moved, 1), "cut for {pause:?} at frame {frame}");
        }
    }
}

#[test]
fn a_stream_dies_at_every_frame_and_the_move_goes_on() {
    for (frame, report) in at_every_frame(Fault::StreamDies).iter().enumerate() {
        assert_eq!((report.ending, report.attempts), (Ending::Moved, 1), "at frame {frame}");
    }
}

#[test]
fn the_destination_is_killed_at_every_frame_and_the_guest_lives_or_has_run() {
    let reports = at_every_frame(Fault::KillDestination);
    for (frame, report) in reports.iter().enumerate() {
        let expected = [(Ending::Moved, 2), (Ending::DiedThere, 1)];
        assert!(expected.contains(&(report.ending, report.attempts)), "{frame}: {report:?}");
    }
    assert!(reports.iter().any(|report| report.ending == Ending::Moved));
}

#[test]
fn the_source_is_killed_at_every_frame_and_its_machine_runs_once() {
    let reports = at_every_frame(Fault::KillSource);
    for ending in [Ending::Moved, Ending::Restarted] {
        assert!(reports.iter().any(|report| report.ending == ending), "{ending:?}");
    }
}

#[test]
fn a_record_is_torn_at_every_frame() {
    for bytes in [0, 1000, 4096] {
        for fault in [Fault::TearSource(bytes), Fault::TearDestination(bytes)] {
            for report in at_every_frame(fault) {
                assert_eq!(report.ending, Ending::Moved, "{fault:?}");
            }
        }
    }
}

#[test]
fn a_destination_that_cannot_restore_leaves_the_guest_where_it_is() {
    let report = check(&with(Fault::CannotRestore, When::Frame(3)));
    assert_eq!((report.ending, report.attempts), (Ending::Moved, 2));
}

#[test]
fn a_machine_comes_back_and_nothing_of_what_is_kept_is_sent() {
    for seed in 0..20 {
        let scenario = Scenario { writes_per_ms: 0, ..Scenario::returning(seed) };
        let report = check(&Scenario { kept: Some(0), ..scenario.clone() });
        let (counts, kept) = (report.counts, report.kept);
        assert_eq!((report.ending, report.attempts), (Ending::Moved, 1), "seed {seed}");
        assert_eq!((counts.pages_wanted, counts.pages_lost), (0, 0), "seed {seed}");
        assert_eq!((kept.recalls, kept.resumed, kept.damaged), (1, 0, 0), "seed {seed}");
        assert!(kept.pages > 25, "seed {seed}: {kept:?}");
        let first = check(&Scenario { kept: None, ..scenario.clone() });
        assert_eq!(first.kept, KeptCounts::default(), "nothing is kept");
        assert!(counts.payload_bytes * 5 < first.counts.payload_bytes, "{counts:?} {first:?}");
        // What is written meanwhile is sent.
        let changed = check(&scenario);
        assert!(changed.kept.pages < kept.pages, "seed {seed}: {changed:?}");
    }
}

#[test]
fn a_tier_that_is_turned_off_asks_for_nothing() {
    let tiers = Tiers { known: false, ..Tiers::ALL };
    let report = check(&Scenario { tiers, ..Scenario::returning(1) });
    assert_eq!(report.kept, KeptCounts::default());
}

/// The destination is near, and the link slow: what is wanted in full goes out while the guest still runs, when what is
/// kept might be named again.
#[test]
fn a_page_that_is_damaged_after_it_was_told_of_costs_its_batch_once() {
    let (delay, bytes_per_second) = (Duration::from_micros(50), 2_000_000);
    let mut damaged = 0;
    for (seed, per_mille) in (0..40).zip([30, 200, 1000].into_iter().cycle()) {
        let rot = vec![(When::Frame(0), Fault::RotKept(per_mille))];
        let back = Scenario::returning(seed);
        let scenario = Scenario { faults: rot, delay, bytes_per_second, ..back };
        let Report { ending, attempts, counts, kept, .. } = check(&scenario);
        assert_eq!((ending, attempts), (Ending::Moved, 1), "seed {seed}");
        let most = kept.damaged.min(70) * scenario.batch_pages;
        assert!(counts.pages_wanted <= most, "seed {seed}: {counts:?} {kept:?}");
        assert!(counts.pages_wanted >= kept.damaged, "seed {seed}: {counts:?} {kept:?}");
        assert!(kept.damaged <= 70, "each page is looked for once: {kept:?}");
        damaged += kept.damaged;
    }
    assert!(damaged > 200, "{damaged}");
}

#[test]
fn what_is_kept_is_lost_at_every_frame_and_the_move_goes_on() {
    for fault in [Fault::LoseKept, Fault::RotKept(1000)] {
        let reports = at_every_frame_of(&Scenario::returning(1), fault);
        for (frame, report) in reports.iter().enumerate() {
            let reached = (report.ending, report.attempts);
            assert_eq!(reached, (Ending::Moved, 1), "{fault:?} at frame {frame}");
        }
        assert!(reports[0].kept.pages == 0 && reports[0].kept.damaged > 0, "{:?}", reports[0]);
        let (some, last) = (|report: &Report| report.kept.pages > 0, reports.last().unwrap());
        assert!(reports.iter().any(|report| some(report) && report.kept.damaged > 0));
        assert!(some(last) && last.kept.damaged == 0, "{last:?}");
    }
}

/// The first frames of a return: greetings, Recall, Welcome, Kept.
const FRAMES_BEFORE_PAGES: usize = 5;

#[test]
fn the_link_dies_at_every_frame_of_a_return_and_the_move_goes_on() {
    let pauses = [Duration::from_millis(1), Duration::from_secs(5)];
    let (cuts, clogs) = (pauses.map(Fault::Cut), pauses.map(Fault::Clog));
    for fault in [Fault::StreamDies].into_iter().chain(cuts).chain(clogs) {
        for writes_per_ms in [0, 2] {
            let scenario = Scenario { writes_per_ms, ..Scenario::returning(1) };
            let all = check(&scenario).kept.pages;
            for (frame, report) in at_every_frame_of(&scenario, fault).iter().enumerate() {
                let (reached, kept) = ((report.ending, report.attempts), report.kept);
                assert_eq!(reached, (Ending::Moved, 1), "{fault:?} at frame {frame}");
                assert_eq!(report.counts.pages_wanted, 0, "{fault:?} at frame {frame}");
                assert!(kept.recalls > 0, "{fault:?} at frame {frame}: {kept:?}");
                // Later ones go again in the burst, for which nothing kept is looked for; and a guest that goes on
                // writing has nothing left of what is kept, when the link is there again.
                let uses_all = writes_per_ms == 0 && frame < FRAMES_BEFORE_PAGES;
                assert!(!uses_all || kept.pages == all, "{fault:?} at frame {frame}: {kept:?}");
            }
        }
    }
}

#[test]
fn what_is_kept_outlives_a_destination_that_is_killed_at_every_frame() {
    let reports = at_every_frame_of(&Scenario::returning(1), Fault::KillDestination);
    for (frame, report) in reports.iter().enumerate() {
        let expected = [(Ending::Moved, 2), (Ending::DiedThere, 1)];
        assert!(expected.contains(&(report.ending, report.attempts)), "{frame}: {report:?}");
    }
    let asks_again = |report: &&Report| report.attempts == 2 && report.kept.recalls == 2;
    let again: Vec<_> = reports.iter().filter(asks_again).collect();
    assert!(again.len() > 10 && again.iter().all(|report| report.kept.pages > 0), "{again:?}");
}

#[test]
fn the_source_is_killed_at_every_frame_of_a_return_and_its_machine_runs_once() {
    let reports = at_every_frame_of(&Scenario::returning(1), Fault::KillSource);
    for ending in [Ending::Moved, Ending::Restarted] {
        assert!(reports.iter().any(|report| report.ending == ending), "{ending:?}");
    }
}

/// A list of two frames.
#[test]
fn a_long_list_goes_on_where_the_link_died() {
    let memory = vec![PageRun::known_valid(Gfn(0), 9_000)];
    let scenario = Scenario {
        memory,
        kept: Some(0),
        batch_pages: 1024,
        writes_per_ms: 0,
        ..Scenario::returning(1)
    };
    let mut resumed = 0;
    for frame in 0..8 {
        let faults = vec![(When::Frame(frame), Fault::Cut(Duration::from_millis(1)))];
        let report = check(&Scenario { faults, ..scenario.clone() });
        assert_eq!((report.ending, report.attempts), (Ending::Moved, 1), "at frame {frame}");
        resumed += report.kept.resumed;
    }
    assert!(resumed > 0);
}

type OfSeed = fn(u64) -> Scenario;

/// Runs the scenarios of many seeds, on every processor. A failure is one line that reproduces it.
#[allow(
    clippy::disallowed_methods,
    reason = "each run is a function of its seed; how many at once is no matter"
)]
fn run_seeds(test: &str, seeds: Range<u64>, scenario: OfSeed) {
    let count = seeds.end - seeds.start;
    let next = AtomicU64::new(seeds.start);
    let outcomes = Mutex::new((BTreeMap::<String, u64>::new(), KeptCounts::default()));
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return;
            }
            let report = run(&scenario(seed)).unwrap_or_else(|violation| {
                let again = format!("cargo test -p dwcp --features sim {test}");
                panic!("NOVACRON_SEED={seed} {again}   # {violation}")
            });
            let (endings, kept) = &mut *outcomes.lock().unwrap();
            *endings.entry(format!("{:?}", report.ending)).or_default() += 1;
            kept.recalls += report.kept.recalls;
            kept.pages += report.kept.pages;
            kept.damaged += report.kept.damaged;
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    let (endings, kept) = outcomes.into_inner().unwrap();
    println!("{endings:?} {kept:?}");
    // Seeds to which nothing is kept, or which use nothing of it, would find no fault in that.
    let is_used = kept.recalls > count / 4 && kept.pages > count && kept.damaged > count / 10;
    assert!(is_used || count == 1, "{kept:?} in {count} seeds");
}

/// The seeds of the short run, or the one that `NOVACRON_SEED` names.
#[allow(clippy::disallowed_methods, reason = "how much to test is the caller's affair")]
fn asked(seeds: Range<u64>) -> Range<u64> {
    let one = std::env::var("NOVACRON_SEED").ok().and_then(|seed| seed.parse().ok());
    one.map_or(seeds, |seed: u64| seed..seed + 1)
}

/// Whether the long run was asked for.
#[allow(clippy::disallowed_methods, reason = "how much to test is the caller's affair")]
fn is_long_run(test: &str) -> bool {
    let asked = std::env::var_os("NOVACRON_LONG").is_some();
    if !asked {
        eprintln!("SKIPPED {test}: long run");
    }
    asked
}

#[test]
fn seeds_frame_by_frame() {
    run_seeds("seeds_frame_by_frame", asked(0..5_000), Scenario::random);
}

#[test]
fn seeds_over_tcp() {
    run_seeds("seeds_over_tcp", asked(0..300), Scenario::random_tcp);
}

#[test]
fn long_100_000_seeds_frame_by_frame() {
    if is_long_run("long_100_000_seeds_frame_by_frame") {
        run_seeds("seeds_frame_by_frame", 0..100_000, Scenario::random);
    }
}

#[test]
fn long_5_000_seeds_over_tcp() {
    if is_long_run("long_5_000_seeds_over_tcp") {
        run_seeds("seeds_over_tcp", 0..5_000, Scenario::random_tcp);
    }
}

#[test]
fn a_machine_moves_over_tcp() {
    for (seed, loss_per_million) in [(1, 0), (2, 1_000), (3, 50_000)] {
        let quiet = Scenario::quiet(seed);
        let report = check(&Scenario { transport: Transport::Tcp, loss_per_million, ..quiet });
        assert_eq!((report.ending, report.attempts), (Ending::Moved, 1), "{report:?}");
    }
}

#[test]
fn the_committed_table_is_what_the_simulation_says() {
    let table = table().unwrap_or_else(|violation| panic!("{violation}"));
    let again = "`cargo run -p benches --bin simulated-wan > dwcp/simulated-wan.md` writes it anew";
    assert!(table == include_str!("../../simulated-wan.md"), "{again}; it says:\n{table}");
}
