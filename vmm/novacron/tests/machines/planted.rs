//! The oracle finds what is planted in its memory.

use firmware::oracle::page::Kind;
use machine::Plant;

use crate::harness::{Faulty, MIB, Oracle, Said, Shape, has_kvm};

/// Pages of the working set of a 64 MiB guest, and far from its image.
const ONE: u64 = 24 * MIB;
const OTHER: u64 = 32 * MIB;

fn oracle() -> Oracle {
    let words = "pattern=sequential working_set=40M rate=40000";
    Oracle::boot(Shape { cpus: 1, memory: 64 * MIB, words, ..Shape::default() }, &Faulty::new(""))
}

/// Plants while the guest stands still, and waits until it has named every address.
fn is_found(oracle: &mut Oracle, plant: Plant, expected: &[(Kind, u64)]) {
    oracle.machine.pause().unwrap();
    oracle.machine.plant(plant).unwrap();
    oracle.machine.resume().unwrap();
    let mut missing = expected.to_vec();
    while !missing.is_empty() {
        let wrong = oracle.wait(|said| match said {
            Said::Wrong(wrong) => Some(wrong),
            _ => None,
        });
        let found = missing.iter().position(|expected| *expected == (wrong.kind, wrong.address));
        missing.swap_remove(found.unwrap_or_else(|| panic!("{wrong:?} was not planted")));
    }
    let verdict = oracle.verdict();
    assert!(!verdict.ok && verdict.errors == expected.len() as u64, "{verdict:?}");
}

#[test]
fn a_flipped_bit_is_found() {
    if has_kvm("a_flipped_bit_is_found") {
        let plant = Plant::Flip { address: ONE + 1234 };
        is_found(&mut oracle(), plant, &[(Kind::Torn, ONE)]);
    }
}

#[test]
fn a_zeroed_page_is_found() {
    if has_kvm("a_zeroed_page_is_found") {
        is_found(&mut oracle(), Plant::Zero { address: ONE }, &[(Kind::Zeroed, ONE)]);
    }
}

#[test]
fn two_swapped_pages_are_found() {
    if has_kvm("two_swapped_pages_are_found") {
        let plant = Plant::Swap { one: ONE, other: OTHER };
        is_found(&mut oracle(), plant, &[(Kind::Swapped, ONE), (Kind::Swapped, OTHER)]);
    }
}

#[test]
fn a_page_restored_stale_is_found() {
    if has_kvm("a_page_restored_stale_is_found") {
        let mut oracle = oracle();
        oracle.machine.pause().unwrap();
        oracle.machine.plant(Plant::Keep { address: ONE }).unwrap();
        oracle.machine.resume().unwrap();
        // More than a whole round of the working set.
        oracle.wait_for_rounds(2 * 40 * MIB / 4096);
        is_found(&mut oracle, Plant::Restore { address: ONE }, &[(Kind::Stale, ONE)]);
    }
}
