//! The oracle runs in every shape.

use firmware::oracle::options::Pattern;

use crate::harness::{Faulty, MIB, Oracle, Shape, has_kvm, is_long_run};

fn runs(shape: Shape) {
    let mut oracle = Oracle::boot(shape, &Faulty::new(""));
    oracle.wait_for_rounds(1000);
    oracle.end_well();
}

#[test]
fn the_oracle_runs_in_every_pattern() {
    if !has_kvm("the_oracle_runs_in_every_pattern") {
        return;
    }
    let words = [
        "pattern=sequential working_set=8M",
        "pattern=random working_set=8M",
        "pattern=hotspot working_set=8M",
        "pattern=byte working_set=8M",
        "pattern=page working_set=8M",
    ];
    assert_eq!(words.len(), Pattern::ALL.len());
    for words in words {
        runs(Shape { cpus: 2, memory: 64 * MIB, words, ..Shape::default() });
    }
}

#[test]
fn the_oracle_runs_on_one_two_and_four_vcpus() {
    if !has_kvm("the_oracle_runs_on_one_two_and_four_vcpus") {
        return;
    }
    for cpus in [1, 2, 4] {
        runs(Shape {
            cpus,
            memory: 320 * MIB,
            words: "pattern=random working_set=16M",
            ..Shape::default()
        });
    }
}

#[test]
fn long_the_oracle_runs_in_64_mib_to_6_gib() {
    let name = "long_the_oracle_runs_in_64_mib_to_6_gib";
    if !is_long_run(name) || !has_kvm(name) {
        return;
    }
    for memory in [64, 256, 512, 1024, 6144] {
        for cpus in [1, 2, 4] {
            runs(Shape {
                cpus,
                memory: memory * MIB,
                words: "pattern=hotspot working_set=32M",
                ..Shape::default()
            });
        }
    }
}
