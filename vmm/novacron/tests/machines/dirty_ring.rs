//! Machines whose dirty log is KVM's rings: handed over, saved, filled, mixed with others, and refused.

use std::process::Command;

use machine::{
    DirtyLogKind, Form, Host, RestoreOptions, RingEntries, SnapshotOptions, SuperviseError,
};

use crate::harness::{Faulty, MIB, Oracle, Shape, has_kvm, shared};

const RING: DirtyLogKind = DirtyLogKind::RING;
const SMALLEST: DirtyLogKind = DirtyLogKind::Ring(RingEntries::LEAST);

/// Whether this host has dirty rings; says so, in the form that the runner counts, if not.
fn has_ring(test: &str) -> bool {
    if !has_kvm(test) {
        return false;
    }
    let checked = RING.check(&Host::open().unwrap());
    checked.inspect_err(|why| eprintln!("SKIPPED {test}: {why}")).is_ok()
}

/// Copies a guest from process to process, each with the next of these logs; memory and state are compared byte for
/// byte in each.
fn moves_through(shape: Shape, logs: &[DirtyLogKind]) {
    let with = |log: &DirtyLogKind| Faulty::new("reference").logging(*log);
    let mut oracle = Oracle::boot(shape, &with(&logs[0]));
    // However fast it writes: all that it can have written may be left for the blackout.
    let limits = machine::Limits { pages_at_pause: 64 * MIB / 4096, ..Default::default() };
    for log in &logs[1..] {
        oracle.wait_for_rounds(100);
        with(log)
            .with(|executable| oracle.machine.hand_over(executable, Form::Copying, limits))
            .unwrap();
    }
    oracle.wait_for_rounds(100);
    oracle.end_well();
}

#[test]
fn a_guest_survives_copying_hand_overs_between_rings_and_bitmaps() {
    if has_ring("a_guest_survives_copying_hand_overs_between_rings_and_bitmaps") {
        moves_through(
            Shape { memory: 288 * MIB, ..Shape::default() },
            &[RING, RING, DirtyLogKind::Bitmap, RING],
        );
    }
}

#[test]
fn four_vcpus_that_fill_the_smallest_rings_all_the_time_are_copied() {
    if has_ring("four_vcpus_that_fill_the_smallest_rings_all_the_time_are_copied") {
        let words = "pattern=random working_set=32M";
        moves_through(
            Shape { cpus: 4, memory: 288 * MIB, words, ..Shape::default() },
            &[SMALLEST, SMALLEST, SMALLEST],
        );
    }
}

#[test]
fn a_machine_with_rings_is_handed_over_in_the_shared_form() {
    if has_ring("a_machine_with_rings_is_handed_over_in_the_shared_form") {
        let shape = Shape { memory: 64 * MIB, ..Shape::default() };
        let mut oracle = Oracle::boot(shape, &Faulty::new("reference").logging(RING));
        let successor = Faulty::new("reference").logging(RING);
        oracle.hand_over_with(Form::Shared, &successor).unwrap();
        oracle.wait_for_rounds(100);
        oracle.end_well();
    }
}

#[test]
fn a_page_forgotten_by_a_ring_is_caught() {
    if !has_ring("a_page_forgotten_by_a_ring_is_caught") {
        return;
    }
    let source = Faulty::new("reference,drop-dirty-bits").logging(RING);
    // The page that is forgotten may have been read after it was written, where the guest had no processor in between: then
    // nothing is wrong, as the comparison says.
    for _ in 0..5 {
        let mut oracle = Oracle::boot(Shape { memory: 64 * MIB, ..Shape::default() }, &source);
        oracle.wait_for_rounds(100);
        let outcome = oracle.hand_over_with(Form::Copying, &Faulty::new("").logging(RING));
        oracle.wait_for_rounds(100);
        oracle.end_well();
        match outcome {
            Err(SuperviseError::HandOver(why)) => {
                assert!(why.contains("memory, compared byte for byte"), "{why}");
                return;
            }
            Ok(report) => eprintln!("nothing was forgotten that mattered: {report:?}"),
            Err(other) => panic!("{other:?}"),
        }
    }
    panic!("no page that was forgotten was caught");
}

#[test]
fn a_guest_goes_on_with_full_rings_after_hand_overs_that_failed() {
    if !has_ring("a_guest_goes_on_with_full_rings_after_hand_overs_that_failed") {
        return;
    }
    let words = "pattern=page working_set=64M";
    let shape = Shape { memory: 128 * MIB, words, ..Shape::default() };
    let mut oracle = Oracle::boot(shape, &Faulty::new("").logging(SMALLEST));
    let limits = machine::Limits { pages_at_pause: 0, rounds: 3 };
    let mut failures = 0;
    while failures < 2 {
        let successor = Faulty::new("").logging(SMALLEST);
        let outcome = successor
            .with(|executable| oracle.machine.hand_over(executable, Form::Copying, limits));
        match outcome {
            Err(SuperviseError::HandOver(why)) if why.contains("still dirties") => failures += 1,
            // It writes faster than its pages are copied, but for a host so busy that its vCPUs got no processor.
            Ok(_) => {}
            other => panic!("{other:?}"),
        }
        oracle.wait_for_rounds(50_000);
    }
    // Also when it stood still already.
    for log in [SMALLEST, DirtyLogKind::Bitmap] {
        let successor = Faulty::new("kill:DestinationPermitReceived").logging(log);
        let limits = machine::Limits { pages_at_pause: 64 * MIB / 4096, rounds: 10 };
        let outcome = successor
            .with(|executable| oracle.machine.hand_over(executable, Form::Copying, limits));
        assert!(matches!(outcome, Err(SuperviseError::HandOver(_))), "{outcome:?}");
        oracle.wait_for_rounds(50_000);
    }
    oracle.end_well();
}

#[test]
fn a_guest_that_fills_its_rings_is_saved_and_restored_with_them() {
    if !has_ring("a_guest_that_fills_its_rings_is_saved_and_restored_with_them") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let words = "pattern=page working_set=16M";
    let shape = Shape { memory: 64 * MIB, words, ..Shape::default() };
    let mut oracle = Oracle::boot(shape, &Faulty::new("").logging(SMALLEST));
    for (nth, is_lazy) in [false, true].into_iter().enumerate() {
        let path = folder.path().join(format!("{nth}"));
        oracle.wait_for_rounds(20_000);
        oracle.machine.snapshot(&path, SnapshotOptions::default()).unwrap();
        oracle.wait_for_rounds(20_000);
        oracle.end_well();
        let options = RestoreOptions { is_lazy, ..RestoreOptions::default() };
        oracle = Oracle::restore(&path, options, &Faulty::new("").logging(SMALLEST)).unwrap();
    }
    oracle.wait_for_rounds(20_000);
    oracle.end_well();
}

#[test]
fn a_host_without_dirty_rings_says_so_before_anything_starts_or_moves() {
    if !has_ring("a_host_without_dirty_rings_says_so_before_anything_starts_or_moves") {
        return;
    }
    let lacks = "no dirty ring";
    for verb in [&["run", "t"][..], &["demo", "--plain"]] {
        let _shared = shared();
        let output = Command::new(env!("CARGO_BIN_EXE_novacron"))
            .env("NOVACRON_FAULT", "no-dirty-ring")
            .args([verb, &["--dirty-log", "ring"]].concat())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{said}");
        assert!(said.contains(lacks) && said.contains("--dirty-log bitmap"), "{said}");
    }

    let shape = Shape { memory: 64 * MIB, ..Shape::default() };
    let mut oracle = Oracle::boot(shape, &Faulty::new("").logging(RING));
    // A kill that comes only once pages have moved: it must not come to that.
    let lesser = Faulty::new("no-dirty-ring,kill:DestinationReady").logging(RING);
    for form in [Form::Shared, Form::Copying] {
        match oracle.hand_over_with(form, &lesser) {
            Err(SuperviseError::HandOver(why)) => assert!(why.contains(lacks), "{why}"),
            other => panic!("{form:?}: {other:?}"),
        }
        oracle.wait_for_rounds(100);
    }
    // There it can have a bitmap.
    oracle.hand_over_with(Form::Copying, &Faulty::new("no-dirty-ring")).unwrap();
    oracle.end_well();
}

#[test]
fn a_dirty_log_that_there_is_not_is_refused_on_the_command_line() {
    let refuses = |kind: &str, word: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_novacron"))
            .args(["run", "t", "--dirty-log", kind])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{kind}: {said}");
        assert!(said.contains(word), "{kind}: {said}");
    };
    refuses("pml", "give bitmap, ring, or ring:N");
    refuses("ring:1000", "a power of two from 1024 to 65536");
    refuses("ring:131072", "a power of two from 1024 to 65536");
}
