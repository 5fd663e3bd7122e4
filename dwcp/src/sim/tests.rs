use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::*;

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
    let frames = check(&Scenario::quiet(1)).frames;
    assert!(frames > 30, "{frames} frames are no move");
    (0..frames).map(|frame| check(&with(fault, When::Frame(frame)))).collect()
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

type OfSeed = fn(u64) -> Scenario;

/// Runs the scenarios of many seeds, on every processor. A failure is one line that reproduces it.
#[allow(
    clippy::disallowed_methods,
    reason = "each run is a function of its seed; how many at once is no matter"
)]
fn run_seeds(test: &str, seeds: Range<u64>, scenario: OfSeed) {
    let next = AtomicU64::new(seeds.start);
    let endings = Mutex::new(BTreeMap::<String, u64>::new());
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
            *endings.lock().unwrap().entry(format!("{:?}", report.ending)).or_default() += 1;
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    println!("{:?}", endings.into_inner().unwrap());
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
