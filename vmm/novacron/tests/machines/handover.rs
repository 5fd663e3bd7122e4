//! Hand-overs in both forms, compared byte for byte, and the mutations that must be caught.

use machine::{Form, SuperviseError};

use crate::harness::{Faulty, MIB, Oracle, Shape, has_kvm, is_long_run};

/// Hands over, with memory and state compared byte for byte in the successor.
fn goes_well(shape: Shape, form: Form, times: u32) {
    let mut oracle = Oracle::boot(shape, &Faulty::new("reference"));
    for _ in 0..times {
        oracle.wait_for_rounds(100);
        let report = oracle.hand_over(form).unwrap();
        assert!(report.blackout.total_ns() > 0);
        let parts: u64 = report.blackout.parts().map(|(_, ns)| ns).sum();
        assert_eq!(parts, report.blackout.total_ns(), "nothing of a blackout is unnamed");
    }
    oracle.wait_for_rounds(100);
    oracle.end_well();
}

#[test]
fn a_guest_survives_three_shared_hand_overs() {
    if has_kvm("a_guest_survives_three_shared_hand_overs") {
        goes_well(Shape::default(), Form::Shared, 3);
    }
}

#[test]
fn a_guest_survives_three_copying_hand_overs() {
    if has_kvm("a_guest_survives_three_copying_hand_overs") {
        goes_well(Shape::default(), Form::Copying, 3);
    }
}

#[test]
fn one_slot_or_two_and_the_last_page_are_copied() {
    if !has_kvm("one_slot_or_two_and_the_last_page_are_copied") {
        return;
    }
    // One slot; two; and one whose second slot is a single page.
    for memory in [64 * MIB, 300 * MIB, 256 * MIB + 4096] {
        let words = "pattern=page rate=2000 working_set=8M";
        goes_well(Shape { cpus: 1, memory, words, ..Shape::default() }, Form::Copying, 1);
    }
}

#[test]
fn long_every_pattern_survives_hand_overs() {
    let name = "long_every_pattern_survives_hand_overs";
    if !is_long_run(name) || !has_kvm(name) {
        return;
    }
    let words = [
        "pattern=sequential rate=5000 working_set=16M",
        "pattern=random rate=5000 working_set=16M",
        "pattern=hotspot rate=5000 working_set=16M",
        "pattern=byte rate=5000 working_set=16M",
        "pattern=page rate=5000 working_set=16M",
    ];
    for words in words {
        for cpus in [1, 2, 4] {
            for form in [Form::Shared, Form::Copying] {
                goes_well(Shape { cpus, memory: 320 * MIB, words, ..Shape::default() }, form, 3);
            }
        }
    }
}

#[test]
fn long_as_many_vcpus_as_a_machine_can_have_are_handed_over() {
    let name = "long_as_many_vcpus_as_a_machine_can_have_are_handed_over";
    if !is_long_run(name) || !has_kvm(name) {
        return;
    }
    let words = "pattern=random rate=50 working_set=16M";
    for form in [Form::Shared, Form::Copying] {
        goes_well(Shape { cpus: 64, memory: 256 * MIB, words, ..Shape::default() }, form, 1);
    }
}

/// Hands over with a fault on either side; the hand-over must fail with these words, and the guest go
/// on unharmed where it was.
fn is_caught(source: &str, destination: &str, form: Form, expected: &str) {
    let mut oracle = Oracle::boot(Shape::default(), &Faulty::new(source));
    oracle.wait_for_rounds(100);
    match oracle.hand_over_with(form, &Faulty::new(destination)) {
        Err(SuperviseError::HandOver(why)) => assert!(why.contains(expected), "{why}"),
        other => panic!("{source}{destination}: {other:?}"),
    }
    oracle.wait_for_rounds(100);
    oracle.end_well();
}

#[test]
fn a_page_damaged_on_its_way_is_caught() {
    if has_kvm("a_page_damaged_on_its_way_is_caught") {
        is_caught("damage-page", "", Form::Copying, "a batch of pages differs");
    }
}

#[test]
fn a_page_acknowledged_and_not_written_is_caught() {
    if has_kvm("a_page_acknowledged_and_not_written_is_caught") {
        is_caught("", "acknowledge-unapplied", Form::Copying, "the root over memory and state");
    }
}

#[test]
fn a_state_damaged_on_its_way_is_caught() {
    if has_kvm("a_state_damaged_on_its_way_is_caught") {
        is_caught("damage-state", "", Form::Shared, "the root over memory and state");
    }
}

#[test]
fn a_state_of_another_version_is_refused_before_anything_moves() {
    if has_kvm("a_state_of_another_version_is_refused_before_anything_moves") {
        // What is saved in the end has the version of this executable: only the greeting can tell.
        for form in [Form::Shared, Form::Copying] {
            is_caught("newer-state", "", form, "section vcpu of the saved state has version 2");
        }
    }
}

#[test]
fn lost_dirty_bits_are_caught() {
    if has_kvm("lost_dirty_bits_are_caught") {
        is_caught("reference,drop-dirty-bits", "", Form::Copying, "memory, compared byte for byte");
    }
}

#[test]
fn a_lost_page_is_caught() {
    if has_kvm("a_lost_page_is_caught") {
        is_caught("drop-page", "", Form::Copying, "did not answer in time");
    }
}

#[test]
fn a_lost_acknowledgement_is_caught() {
    if has_kvm("a_lost_acknowledgement_is_caught") {
        is_caught("", "drop-acknowledgement", Form::Copying, "did not answer in time");
    }
}

#[test]
fn a_lost_field_of_a_vcpu_is_caught() {
    if has_kvm("a_lost_field_of_a_vcpu_is_caught") {
        is_caught("reference", "drop-field", Form::Shared, "the state, as KVM gives it back");
    }
}

#[test]
fn a_guest_that_dirties_faster_than_pages_are_copied_stays_where_it_is() {
    if !has_kvm("a_guest_that_dirties_faster_than_pages_are_copied_stays_where_it_is") {
        return;
    }
    let words = "pattern=page working_set=128M";
    let shape = Shape { cpus: 2, memory: 320 * MIB, words, ..Shape::default() };
    let mut oracle = Oracle::boot(shape, &Faulty::new(""));
    let limits = machine::Limits { pages_at_pause: 1, rounds: 3 };
    let outcome = Faulty::new("")
        .with(|executable| oracle.machine.hand_over(executable, Form::Copying, limits));
    match outcome {
        Err(SuperviseError::HandOver(why)) => assert!(why.contains("still dirties"), "{why}"),
        other => panic!("{other:?}"),
    }
    oracle.wait_for_rounds(100);
    oracle.end_well();
}
