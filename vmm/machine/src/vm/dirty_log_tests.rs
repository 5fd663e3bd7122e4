//! Both dirty logs on running guests: what either names is compared with what has changed.

use std::collections::BTreeSet;
use std::num::NonZeroU64;
use std::thread;
use std::time::{Duration, Instant};

use dwcp::digest::DigestKey;
use dwcp::ledger::Ledger;
use dwcp::page::{Gfn, PageRun};
use firmware::oracle::report::Report;
use kvm_bindings::{Msrs, kvm_msr_entry};

use super::*;
use crate::dirty::{KvmBitmapLog, KvmRingLog};
use crate::kvm::RingEntries;
use crate::memory::{HOLE_END, MemoryLayout};
use crate::meter::Meter;
use crate::migrate::{MoveLimits, SurveyOrder, survey};
use crate::vm::CpuCount;

const MIB: u64 = 1 << 20;
const SMALLEST_RING: DirtyLogKind = DirtyLogKind::Ring(RingEntries::LEAST);
const KINDS: [DirtyLogKind; 3] = [DirtyLogKind::Bitmap, DirtyLogKind::RING, SMALLEST_RING];
/// Far more than any step takes on a loaded host.
const PATIENCE: Duration = Duration::from_secs(60);

/// The kinds that this host has; one that it lacks counts as skipped.
fn kinds(test: &str) -> Vec<(Host, DirtyLogKind)> {
    let with_host = |kind: DirtyLogKind| Some((Host::of_test(test)?, kind));
    let has = |(host, kind): &(Host, DirtyLogKind)| {
        let checked = kind.check(host);
        checked.inspect_err(|why| eprintln!("SKIPPED {test}: {why}")).is_ok()
    };
    KINDS.into_iter().filter_map(with_host).filter(has).collect()
}

/// A machine of two vCPUs and two slots.
fn machine(host: &Host, kind: DirtyLogKind) -> Paused {
    let memory = MemoryLayout::new(32 * MIB, 16 * MIB).unwrap();
    let cpus = CpuCount::try_from(2_u32).unwrap();
    let config = MachineConfig { cpus, cpu: crate::cpu::CpuModel::Host, memory };
    Paused::with_dirty_log(host, config, kind).unwrap()
}

/// The same with an oracle that has stamped its memory.
fn running(host: &Host, kind: DirtyLogKind, words: &str) -> Running {
    let mut machine = machine(host, kind);
    let tsc_khz = machine.parts.tsc_khz;
    let command_line = format!("cpus=2 tsc_khz={tsc_khz} report=20 {words}");
    let oracle = BootSource { kernel: firmware::ORACLE, initrd: None, command_line: &command_line };
    machine.boot(&oracle).unwrap();
    let running = machine.resume();
    wait(&running, |report| matches!(report, Report::Ready(_)).then_some(()));
    running
}

/// Waits until the guest says something that `pick` takes.
fn wait<T>(machine: &Running, pick: impl Fn(Report<'_>) -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    let mut said = Vec::new();
    loop {
        let mut take = |bytes: &[u8]| {
            said.extend_from_slice(bytes);
            Ok(bytes.len())
        };
        machine.console().send_on(&mut take).unwrap();
        // What follows the last line's end is not all of a line yet.
        while let Some(end) = said.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = said.drain(..=end).collect();
            let line = String::from_utf8(line).unwrap();
            if let Some(picked) = Report::parse(line.trim_end()).ok().and_then(&pick) {
                return picked;
            }
        }
        assert!(Instant::now() < end, "the guest is silent");
        thread::sleep(Duration::from_millis(1));
    }
}

/// How many pages the guest has written, as it says now.
fn writes(machine: &Running) -> u64 {
    wait(machine, |report| match report {
        Report::Rounds(rounds) => Some(rounds.writes),
        _ => None,
    })
}

/// Waits until the guest has written so many more.
fn wait_for_writes(machine: &Running, more: u64) {
    let end = Instant::now() + PATIENCE;
    let start = writes(machine);
    while writes(machine) < start + more {
        assert!(Instant::now() < end, "the guest does not go on");
    }
}

fn ledger(ram: &GuestRam) -> Ledger {
    Ledger::new(Gfn(ram.layout().frame_limit()))
}

/// What a log has now.
fn harvest(log: &mut dyn DirtyLog, ram: &GuestRam) -> BTreeSet<u64> {
    let mut ledger = ledger(ram);
    log.harvest(&mut ledger).unwrap();
    let runs = ledger.owed_pages().runs(NonZeroU64::MAX);
    runs.flat_map(|run| run.frames()).map(|gfn| gfn.0).collect()
}

/// Memory as it was read, page by page.
struct Replica {
    pages: Vec<(PageRun, Vec<u8>)>,
}

impl Replica {
    fn of(ram: &GuestRam) -> Self {
        let regions = ram.layout().regions();
        let frames = regions.flat_map(|region| {
            (0..region.pages()).map(move |page| Gfn(region.first_frame() + page))
        });
        let mut replica = Self { pages: Vec::new() };
        for frame in frames {
            replica.pages.push((PageRun::new(frame, 1).unwrap(), vec![0; 4096]));
        }
        replica.read(ram, |_| true);
        replica
    }

    /// Reads the pages again that `which` names.
    fn read(&mut self, ram: &GuestRam, which: impl Fn(u64) -> bool) {
        for (run, bytes) in &mut self.pages {
            if which(run.first().0) {
                ram.read_run(*run, bytes).unwrap();
            }
        }
    }

    /// The pages that memory has otherwise.
    fn differences(&self, ram: &GuestRam) -> BTreeSet<u64> {
        let mut now = vec![0; 4096];
        let differs = |(run, bytes): &&(PageRun, Vec<u8>)| {
            ram.read_run(*run, &mut now).unwrap();
            now != *bytes
        };
        self.pages.iter().filter(differs).map(|(run, _)| run.first().0).collect()
    }
}

/// What the log named, and what had changed, in the intervals of a single harvest.
#[derive(Debug, Default)]
struct Counted {
    intervals: u64,
    changed: u64,
    named: u64,
}

/// Copies as a migration does, round by round, and demands that the copy is exact whenever the guest stands still.
/// `run` lets the guest run for the last round.
fn copies_are_exact(
    running: Running,
    intervals: u32,
    run: impl Fn(&Running),
) -> (Running, Counted) {
    let paused = running.pause();
    let ram = Arc::clone(paused.ram());
    let mut log = paused.start_dirty_log().unwrap();
    harvest(&mut *log, &ram);
    let mut replica = Replica::of(&ram);
    let mut counted = Counted::default();
    let mut running = paused.resume();
    for interval in 0..intervals {
        // None while the guest runs, one, two.
        let rounds = interval % 3;
        for _ in 0..rounds {
            thread::sleep(Duration::from_millis(5));
            let dirty = harvest(&mut *log, &ram);
            replica.read(&ram, |frame| dirty.contains(&frame));
        }
        run(&running);
        let paused = running.pause();
        paused.save().unwrap();
        let dirty = harvest(&mut *log, &ram);
        let differs = replica.differences(&ram);
        let missed: Vec<_> = differs.difference(&dirty).collect();
        assert!(missed.is_empty(), "interval {interval}: changed, and not in the log: {missed:?}");
        if rounds == 0 {
            counted.intervals += 1;
            counted.changed += differs.len() as u64;
            counted.named += dirty.len() as u64;
        }
        replica.read(&ram, |frame| dirty.contains(&frame));
        assert!(harvest(&mut *log, &ram).is_empty(), "nothing runs, and something is dirty");
        running = paused.resume();
    }
    running.stop_dirty_log().unwrap();
    (running, counted)
}

fn for_a_moment(_: &Running) {
    thread::sleep(Duration::from_millis(10));
}

#[test]
fn every_page_that_changes_is_in_either_log_and_hardly_another() {
    for (host, kind) in kinds("every_page_that_changes_is_in_either_log_and_hardly_another") {
        for words in [
            "pattern=random rate=20000 working_set=8M seed=7",
            "pattern=page working_set=8M seed=7",
            "pattern=hotspot working_set=8M seed=7",
        ] {
            let running = running(&host, kind, words);
            let (running, counted) = copies_are_exact(running, 12, for_a_moment);
            drop(running.pause());
            eprintln!("{kind}, {words}: {counted:?}");
            let Counted { intervals, changed, named } = counted;
            assert!(changed > 0, "the guest wrote nothing");
            // A page may be written and hold what it held. The oracle changes every page that it writes: there is no
            // more than its stacks and tables, and what KVM writes for it.
            assert!(named <= changed + 16 * intervals, "{named} pages for {changed}");
        }
    }
}

#[test]
fn a_survey_sees_how_fast_a_guest_writes_and_leaves_no_log_behind() {
    for (host, kind) in kinds("a_survey_sees_how_fast_a_guest_writes_and_leaves_no_log_behind") {
        let mut running = running(&host, kind, "fill=8M pattern=page working_set=4M rate=500");
        let limits = MoveLimits::default();
        let order =
            SurveyOrder { bytes_per_second: 1e9, round_trip: Duration::from_millis(1), limits };
        let (key, meter) = (DigestKey::new([4; 32]), Meter::default());
        let report = survey(&mut running, &order, &key, &meter).unwrap();
        // So many are written by either vCPU, and more where it makes up for lost time, and the guest's stacks; a busy
        // host lets it write fewer.
        assert!((50.0..1_600.0).contains(&report.dirty_pages_per_second), "{kind}: {report:?}");
        assert!((8 * MIB / 4096..32 * MIB / 4096).contains(&report.pages), "{kind}: {report:?}");
        assert!((1.0..4_200.0).contains(&report.bytes_per_page), "{kind}: {report:?}");
        assert!(report.blackout < limits.max_downtime, "{kind}: {report:?}");
        assert_eq!(report.too_fast, None, "{kind}");

        has_no_log(&running, kind);
        meter.cancel();
        survey(&mut running, &order, &key, &meter).unwrap_err();
        has_no_log(&running, kind);
    }
}

/// Panics if what the guest writes is logged.
fn has_no_log(running: &Running, kind: DirtyLogKind) {
    wait_for_writes(running, 100);
    let (vm, ram) = (&running.parts.vm, running.ram());
    let mut ledger = ledger(ram);
    match running.parts.rings() {
        // KVM has no bitmap of a slot that does not log.
        None => {
            let mut log = KvmBitmapLog::new(Arc::clone(vm), Arc::clone(ram));
            log.harvest(&mut ledger).unwrap_err();
        }
        Some(rings) => {
            let mut log = KvmRingLog::new(Arc::clone(rings), Arc::clone(ram));
            assert_eq!(log.harvest(&mut ledger).unwrap(), 0, "{kind}");
        }
    }
}

#[test]
fn a_new_bitmap_names_every_page_and_a_new_ring_none() {
    for (host, kind) in kinds("a_new_bitmap_names_every_page_and_a_new_ring_none") {
        let machine = machine(&host, kind);
        let mut log = machine.start_dirty_log().unwrap();
        let named = harvest(&mut *log, machine.ram()).len() as u64;
        let expected = if kind == DirtyLogKind::Bitmap { 32 * MIB / 4096 } else { 0 };
        assert_eq!(named, expected, "{kind}");
        assert_eq!(harvest(&mut *log, machine.ram()).len(), 0, "{kind}");
    }
}

#[test]
fn our_own_writes_are_in_either_log() {
    for (host, kind) in kinds("our_own_writes_are_in_either_log") {
        let machine = machine(&host, kind);
        let mut log = machine.start_dirty_log().unwrap();
        harvest(&mut *log, machine.ram());
        // Across a page boundary, and in the last page of all.
        machine.ram().write(0x5fff, &[1, 2]).unwrap();
        let last = HOLE_END + 16 * MIB - 1;
        machine.ram().write(last, &[3]).unwrap();
        let expected = BTreeSet::from([5, 6, last / 4096]);
        assert_eq!(harvest(&mut *log, machine.ram()), expected, "{kind}");
    }
}

/// What lets KVM write to guest memory (Documentation/virt/kvm/x86/msr.rst).
const MSR_KVM_WALL_CLOCK_NEW: u32 = 0x4b56_4d00;
const MSR_KVM_SYSTEM_TIME_NEW: u32 = 0x4b56_4d01;

fn set_msr(vcpu: &Vcpu, index: u32, data: u64) {
    let entry = kvm_msr_entry { index, data, ..Default::default() };
    let set = vcpu.fd.set_msrs(&Msrs::from_entries(&[entry]).unwrap()).unwrap();
    assert_eq!(set, 1, "KVM refuses MSR {index:#x}");
}

#[test]
fn what_kvm_itself_writes_for_a_vcpu_is_in_either_log() {
    for (host, kind) in kinds("what_kvm_itself_writes_for_a_vcpu_is_in_either_log") {
        // The guest leaves the last megabytes alone, in the second slot.
        let running = running(&host, kind, "fill=8M working_set=4M rate=100");
        let paused = running.pause();
        let mut log = paused.start_dirty_log().unwrap();
        harvest(&mut *log, paused.ram());
        let (wall_clock, system_time) = (HOLE_END + 9 * MIB, HOLE_END + 10 * MIB);

        // Outside of KVM_RUN, on a thread that is not the vCPU's: as when a state is saved or restored.
        set_msr(&paused.vcpus[1], MSR_KVM_WALL_CLOCK_NEW, wall_clock);
        let named = harvest(&mut *log, paused.ram());
        assert_eq!(named, BTreeSet::from([wall_clock / 4096]), "{kind}");

        // kvmclock, on the way into the guest.
        set_msr(&paused.vcpus[0], MSR_KVM_SYSTEM_TIME_NEW, system_time | 1);
        let running = paused.resume();
        thread::sleep(Duration::from_millis(20));
        let paused = running.pause();
        let named = harvest(&mut *log, paused.ram());
        assert!(named.contains(&(system_time / 4096)), "{kind}: {named:?}");
    }
}

/// The smallest ring, with a guest that fills it all the time; nothing where this host has none.
fn with_full_rings(test: &str) -> Option<Running> {
    let (host, kind) = kinds(test).into_iter().find(|(_, kind)| *kind == SMALLEST_RING)?;
    Some(running(&host, kind, "pattern=page working_set=16M"))
}

fn spills(machine: &Running) -> u64 {
    machine.parts.rings().unwrap().spills()
}

/// Until a ring was full three times.
fn until_rings_were_full(machine: &Running) {
    let (start, end) = (spills(machine), Instant::now() + PATIENCE);
    while spills(machine) < start + 3 {
        assert!(Instant::now() < end, "the rings do not become full");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_guest_whose_rings_are_full_goes_on_when_nobody_harvests_and_is_not_stopped_without_a_log() {
    let Some(running) = with_full_rings(
        "a_guest_whose_rings_are_full_goes_on_when_nobody_harvests_and_is_not_stopped_without_a_log",
    ) else {
        return;
    };
    let before = spills(&running);
    wait_for_writes(&running, 50_000);
    assert_eq!(spills(&running), before, "there is no log");

    // The marks of what the loader wrote are taken, and nothing else is.
    let mut log = running.start_dirty_log().unwrap();
    harvest(&mut *log, running.ram());
    drop(log);
    wait_for_writes(&running, 50_000);
    let during = spills(&running);
    assert!(during > before + 4, "the rings were full {} times", during - before);

    running.stop_dirty_log().unwrap();
    let after = spills(&running);
    wait_for_writes(&running, 50_000);
    // One that was full at that moment says so once more.
    assert!(spills(&running) <= after + 2, "there is no log any more");

    // Nothing of the first log is left in the next, and that is as good as the first.
    let paused = running.pause();
    let mut log = paused.start_dirty_log().unwrap();
    assert_eq!(harvest(&mut *log, paused.ram()), BTreeSet::new());
    let (running, _) = copies_are_exact(paused.resume(), 6, until_rings_were_full);
    drop(running.pause());
}

#[test]
fn a_pause_while_the_rings_are_full_waits_for_the_harvest_and_no_longer() {
    let test = "a_pause_while_the_rings_are_full_waits_for_the_harvest_and_no_longer";
    let Some(running) = with_full_rings(test) else { return };
    let ram = Arc::clone(running.ram());
    let mut log = running.start_dirty_log().unwrap();
    harvest(&mut *log, &ram);
    let mut replica = Replica::of(&ram);
    let dirty = harvest(&mut *log, &ram);
    replica.read(&ram, |frame| dirty.contains(&frame));

    let rings = Arc::clone(running.parts.rings().unwrap());
    let harvest_goes_on = rings.hold();
    let before = spills(&running);
    let end = Instant::now() + PATIENCE;
    // Both vCPUs have filled theirs.
    while spills(&running) < before + 2 {
        assert!(Instant::now() < end, "the rings do not become full");
        thread::sleep(Duration::from_millis(1));
    }
    let pausing = thread::spawn(move || running.pause());
    thread::sleep(Duration::from_millis(50));
    assert!(!pausing.is_finished(), "the vCPUs can only wait");
    assert_eq!(rings.spills(), before + 2, "and they do not ask again and again");
    drop(harvest_goes_on);
    let paused = pausing.join().unwrap();
    assert!(paused.exit().is_none());
    let dirty = harvest(&mut *log, &ram);
    assert!(dirty.len() > 1500, "what two full rings held is there: {}", dirty.len());
    let missed = replica.differences(&ram);
    let missed: Vec<_> = missed.difference(&dirty).collect();
    assert!(missed.is_empty(), "{missed:?}");
    drop(paused);
}
