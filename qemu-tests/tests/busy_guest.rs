//! A Linux guest that works while it is handed over, saved, killed and restored: what it has written is there, and its
//! clocks are right.

use std::time::Duration;

use qemu_tests::{Case, CommandRun, Ending, HostImage};

use crate::host_clock;
use crate::linux_guest::{CMDLINE, host_of_guests};
use crate::support::{LOG, case, long_case, run_guests};

/// How far the guest's wall clock may have moved against its host's, over all hand-overs and restores together: much less than
/// one of them takes here. How right it is at all is the guest's doing: Linux sets its clock from the CMOS clock's
/// whole seconds.
const WALL_CLOCK_MS: i64 = 50;
/// A move needs the guest's memory twice, and what both processes know of its pages.
const HOST_MIB: u32 = 1024;
/// The line that comes fastest of so many says how far the clocks are apart. On a busy machine that takes more of them:
/// where there are many moves, some from before the last.
const SAMPLES: usize = 2;
const SAMPLES_OF_MANY: usize = 10;

#[test]
fn a_busy_linux_keeps_its_memory_and_its_time_when_it_is_moved_and_restored() {
    let name = "a_busy_linux_keeps_its_memory_and_its_time_when_it_is_moved_and_restored";
    let Some(case) = case(name) else { return };
    let host = host_of_guests().time_limit(Duration::from_secs(120));
    check(&demonstrate(&case, &host, "bitmap", 1, 1000), 1);
}

#[test]
fn a_busy_linux_keeps_its_memory_and_its_time_when_its_writes_are_in_dirty_rings() {
    let name = "a_busy_linux_keeps_its_memory_and_its_time_when_its_writes_are_in_dirty_rings";
    let Some(case) = case(name) else { return };
    let host = host_of_guests().time_limit(Duration::from_secs(120));
    check(&demonstrate(&case, &host, "ring:1024", 1, 1000), 1);
}

#[test]
fn long_a_busy_linux_is_moved_and_restored_twenty_times() {
    let name = "long_a_busy_linux_is_moved_and_restored_twenty_times";
    let Some(case) = long_case(name) else { return };
    // Without an invariant TSC, which QEMU does not emulate, KVM gives guests the rate that the host measured first. On a
    // busy machine that may be 1,000 ppm off, and then every guest's clock is, moved or not.
    let rate = format!("tsc_early_khz={}", host_clock::tsc_khz(&case));
    let host = host_of_guests().parameter(&rate).time_limit(Duration::from_secs(1200));
    check(&demonstrate(&case, &host, "bitmap", 20, 1500), 20);
}

/// Hands a busy guest over in each form, so often; moves it to another daemon and back; and saves, kills and restores it in
/// each form, as often. It runs for so many milliseconds after each.
fn demonstrate(
    case: &Case,
    host: &HostImage,
    dirty_log: &str,
    times: u32,
    pause_ms: u32,
) -> CommandRun {
    let cmdline = format!("{CMDLINE} test-init.busy test-init.wait=power-button");
    let [snapshots, times, pause] = [
        format!("--snapshots={times}"),
        format!("--times={times}"),
        format!("--pause-ms={pause_ms}"),
    ];
    let command = [
        "/init",
        "attend",
        "/bin/novacron",
        "demo",
        "--plain",
        LOG,
        &times,
        &snapshots,
        "--cpus=1",
        "--memory=256M",
        "--kernel=/guest/vmlinux",
        "--initrd=/guest/initrd",
        "--cmdline",
        &cmdline,
        "--after=guest: clocks",
        &pause,
        "--dirty-log",
        dirty_log,
    ];
    let host = host.clone().memory_mib(HOST_MIB);
    let mut report = run_guests(case, || host.clone().run(&command));
    report.runs.remove(0)
}

/// Panics unless the guest worked on through two moves, and so many hand-overs and restores of each kind, found its memory as
/// it had left it, and its clocks never ran back nor lost time.
fn check(run: &CommandRun, times: usize) {
    let moves = 4 * times + 2;
    assert_eq!(run.ending, Ending::Exit(0), "{run}");
    // A guest that is killed within a line leaves that to the next one, which is then answered like its own.
    let lines = || run.output.iter().filter(|line| !line.starts_with("attend: "));
    let says = |words: &str| lines().filter(|line| line.contains(words)).count();
    assert_eq!(says("  now process "), 2 * times, "{run}");
    assert_eq!(says("  in process "), 2, "{run}");
    assert_eq!(says(" verified: the same on both hosts"), 2, "{run}");
    assert_eq!(says("  killed before, now process "), 2 * times, "{run}");
    assert_eq!(says("guest: power button was pressed"), 1, "{run}");
    assert_eq!(says("demo: ok"), 1, "{run}");
    check_workers(&run.output, moves);
    let first_move = run.output.iter().position(|line| line.contains("  now process ")).unwrap();
    let (unmoved, clocks) = (Clocks::all(&run.output[..first_move]), Clocks::all(&run.output));
    assert!(clocks.len() > moves, "{run}");
    let samples = if times == 1 { SAMPLES } else { SAMPLES_OF_MANY };
    check_clocks(&unmoved, &clocks, samples);
}

/// Panics unless each worker has said more than so often what it found wrong: nothing.
pub(crate) fn check_workers(lines: &[String], times: usize) {
    for worker in 0..3 {
        let wrong: Vec<_> = lines.iter().filter_map(|line| wrong(line, worker)).collect();
        assert!(wrong.len() > times, "worker {worker} fell silent: {lines:#?}");
        assert!(wrong.iter().all(|wrong| *wrong == "0"), "{lines:#?}");
    }
}

/// Panics unless both clocks of a guest have only gone forward, and the one as far as the other, and its wall clock is in
/// the last of all samples where it was to its host's as long as it was `unmoved`.
pub(crate) fn check_clocks(unmoved: &[Clocks], all: &[Clocks], samples: usize) {
    assert!(all.iter().all(|clocks| clocks.back == 0), "{all:#?}");
    let behind_ms = |clocks: &[Clocks]| {
        clocks.iter().map(|clocks| (clocks.host - clocks.real) / 1_000_000).min().unwrap()
    };
    let (before, after) = (behind_ms(unmoved), behind_ms(&all[all.len() - samples..]));
    let moved_ms = (after - before).abs();
    assert!(moved_ms < WALL_CLOCK_MS, "{before} ms behind its host, then {after} ms: {all:#?}");
    // Monotonic time has advanced as real time has. The guest reads one clock after the other, and may have to wait in
    // between: of many samples, half are not.
    let apart = |clocks: &[Clocks]| {
        let mut apart: Vec<_> =
            clocks.iter().map(|clocks| clocks.real - clocks.monotonic).collect();
        apart.sort_unstable();
        apart[apart.len() / 2]
    };
    let drift = apart(unmoved) - apart(&all[all.len() - samples..]);
    assert!(drift.abs() < 1_000_000, "{drift} ns between the guest's two clocks: {all:#?}");
}

/// How much a worker has found wrong, if the line says so. A guest that is killed within its line is followed by the
/// demonstration's own words, and says the line again when it is restored.
fn wrong(line: &str, worker: u32) -> Option<&str> {
    let rest = line.strip_prefix(&format!("guest: worker {worker} "))?;
    let (_, wrong) = rest.split_once(" wrong=")?;
    wrong.split(' ').next().map(str::trim_end).filter(|wrong| !wrong.is_empty())
}

#[test]
fn what_a_worker_found_wrong_is_told_from_what_follows_a_line_that_is_cut() {
    let wrong =
        |rest: &str| wrong(&format!("guest: worker 1 rounds=100 {rest}"), 1).map(str::to_owned);
    for found in ["0", "7", "10"] {
        for follows in ["", "\r", "  restored  8/20  runs after 2705.15 ms"] {
            assert_eq!(wrong(&format!("wrong={found}{follows}")), Some(found.to_owned()));
        }
    }
    assert_eq!(wrong("wrong=  restored  8/20"), None);
    assert_eq!(wrong("wr  restored  8/20"), None);
}

/// `attend: clocks <host's real> <real> <monotonic> back=… gap_ms=…`, in nanoseconds.
#[derive(Clone, Debug)]
pub(crate) struct Clocks {
    pub(crate) host: i64,
    real: i64,
    pub(crate) monotonic: i64,
    back: u32,
}

impl Clocks {
    /// What all these lines show.
    pub(crate) fn all(lines: &[String]) -> Vec<Self> {
        lines.iter().filter_map(|line| Self::parse(line)).collect()
    }

    pub(crate) fn parse(line: &str) -> Option<Self> {
        let words: Vec<_> = line.strip_prefix("attend: clocks ")?.split(' ').collect();
        let [host, real, monotonic, back, _gap] = words[..] else { return None };
        Some(Self {
            host: host.parse().ok()?,
            real: real.parse().ok()?,
            monotonic: monotonic.parse().ok()?,
            back: back.strip_prefix("back=")?.parse().ok()?,
        })
    }
}
