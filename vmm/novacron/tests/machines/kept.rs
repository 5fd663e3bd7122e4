//! Machines that outlive whoever started them.

use std::cell::Cell;
use std::io::Read;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use machine::{
    Adopted, AdoptedMachine, Form, GuestEnd, GuestStatus, Home, Limits, SnapshotOptions,
    SuperviseError, Watch,
};

use crate::harness::{Faulty, Oracle, Shape, has_kvm};

/// A home with its permit record, in a folder of its own.
fn home() -> (tempfile::TempDir, Home) {
    let folder = tempfile::tempdir().unwrap();
    let home = Home::new([7; 16], folder.path(), folder.path()).unwrap();
    home.create_permit().unwrap();
    (folder, home)
}

fn small() -> Shape {
    Shape { memory: 64 << 20, ..Shape::default() }
}

fn found(home: &Home) -> AdoptedMachine {
    match home.adopt().unwrap() {
        Some(Adopted::Machine(adopted)) => adopted,
        other => panic!("it is not found: {other:?}"),
    }
}

/// The machine's keeper goes, and another one comes.
fn change_keeper(oracle: Oracle, home: &Home) -> Oracle {
    drop(oracle);
    assert!(home.is_alive().unwrap());
    let adopted = found(home);
    assert_eq!(adopted.guest, GuestStatus::Running);
    Oracle::around(adopted.machine, adopted.console.unwrap())
}

#[test]
fn a_kept_machine_outlives_its_keepers_and_its_processes() {
    if !has_kvm("a_kept_machine_outlives_its_keepers_and_its_processes") {
        return;
    }
    let (folder, home) = home();
    let mut oracle = Oracle::boot_at(&home, small(), &Faulty::new(""));
    oracle.wait_for_rounds(20);
    let first = oracle.machine.process().id();
    let mut oracle = change_keeper(oracle, &home);
    assert_eq!(oracle.machine.process().id(), first);
    oracle.wait_for_rounds(20);
    for form in [Form::Shared, Form::Copying] {
        oracle.hand_over(form).unwrap();
        oracle = change_keeper(oracle, &home);
        assert_ne!(oracle.machine.process().id(), first);
        oracle.wait_for_rounds(20);
    }
    oracle.end_well();
    assert!(wait_until(|| !home.is_alive().unwrap()));
    home.sweep_sockets().unwrap();
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().flatten().collect();
    assert_eq!(left.len(), 2, "permit and ends: {left:?}");
}

#[test]
fn a_keeper_that_comes_late_sees_what_the_guest_printed_before() {
    if !has_kvm("a_keeper_that_comes_late_sees_what_the_guest_printed_before") {
        return;
    }
    let (_folder, home) = home();
    let mut oracle = Oracle::boot_at(&home, small(), &Faulty::new(""));
    oracle.wait_for_rounds(20);
    drop(oracle);
    let mut adopted = found(&home);
    let mut first = [0; 5];
    adopted.console.as_mut().unwrap().read_exact(&mut first).unwrap();
    assert_eq!(&first, b"oracl", "the oracle's first line");
    adopted.machine.stop().unwrap();
}

#[test]
fn a_machine_that_lives_is_not_started_again() {
    if !has_kvm("a_machine_that_lives_is_not_started_again") {
        return;
    }
    let (_folder, home) = home();
    let oracle = Oracle::boot_at(&home, small(), &Faulty::new(""));
    let again = Oracle::try_boot_at(&home, small(), &Faulty::new("")).map(|_| ()).unwrap_err();
    assert!(again.to_string().contains("alive in another process"), "{again}");
    oracle.end_well();
    assert!(wait_until(|| !home.is_alive().unwrap()));
    Oracle::boot_at(&home, small(), &Faulty::new("")).end_well();
}

#[test]
fn how_a_guest_ended_is_written_even_if_nobody_is_there() {
    if !has_kvm("how_a_guest_ended_is_written_even_if_nobody_is_there") {
        return;
    }
    let (_folder, home) = home();
    let oracle = Oracle::boot_at(&home, small(), &Faulty::new(""));
    assert_eq!(home.guest_end().unwrap(), None);
    // The order is read, and its sender gone, before there is an answer.
    oracle.machine.process().ender().unwrap().stop();
    drop(oracle);
    assert!(wait_until(|| !home.is_alive().unwrap()));
    let (how, end) = home.guest_end().unwrap().expect("it is written");
    assert_eq!((how.as_str(), end), ("the guest was stopped", GuestEnd::Stopped));
    assert!(home.adopt().unwrap().is_none());
}

#[test]
fn a_process_that_is_killed_says_nothing_and_its_parent_knows_the_signal() {
    if !has_kvm("a_process_that_is_killed_says_nothing_and_its_parent_knows_the_signal") {
        return;
    }
    let (_folder, home) = home();
    let oracle = Oracle::boot_at(&home, small(), &Faulty::new(""));
    let started = Instant::now();
    oracle.machine.process().ender().unwrap().kill();
    let paused = oracle.machine.pause().unwrap_err();
    assert!(matches!(paused, SuperviseError::Lost { .. }), "{paused}");
    assert!(started.elapsed() < Duration::from_secs(1));
    let death = oracle.machine.into_process().bury().expect("it is a child");
    assert_eq!(death.to_string(), "it was killed by SIGKILL");
    assert_eq!(home.guest_end().unwrap(), None);
}

#[test]
fn a_snapshot_and_a_hand_over_can_be_watched_and_cancelled() {
    if !has_kvm("a_snapshot_and_a_hand_over_can_be_watched_and_cancelled") {
        return;
    }
    // It writes too fast for either to come to its end by itself within moments.
    let shape = Shape { memory: 1 << 30, ..Shape::default() };
    let mut oracle = Oracle::boot(shape, &Faulty::new(""));
    let folder = tempfile::tempdir().unwrap();
    let seen = Cell::new(0);
    let watch = |progress: machine::Progress| {
        assert!(progress.pages_done >= seen.get(), "it never goes back");
        seen.set(progress.pages_done);
        if progress.pages_done > 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let options = SnapshotOptions { watch: Some(Watch(&watch)), ..SnapshotOptions::default() };
    let error = oracle.machine.snapshot(&folder.path().join("one"), options).unwrap_err();
    assert!(error.to_string().contains("cancelled"), "{error}");
    assert!(seen.get() > 0 && seen.get() < (1 << 30) / 4096, "{seen:?}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is left of it");
    oracle.wait_for_rounds(20);
    seen.set(0);
    let cancelled = Faulty::new("").with(|executable| {
        let (form, limits) = (Form::Copying, Limits { pages_at_pause: 0, rounds: 1000 });
        oracle.machine.hand_over_watched(executable, form, limits, Some(Watch(&watch)))
    });
    let error = cancelled.unwrap_err().to_string();
    assert!(error.contains("cancelled"), "{error}");
    oracle.wait_for_rounds(20);
    oracle.end_well();
}

fn wait_until(condition: impl Fn() -> bool) -> bool {
    let end = Instant::now() + Duration::from_secs(10);
    while Instant::now() < end {
        if condition() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    false
}
