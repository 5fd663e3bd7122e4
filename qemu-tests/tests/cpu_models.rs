//! What a guest really sees of its CPU model, on real kvm_amd, and what a lesser host refuses.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use qemu_tests::{CommandRun, Ending, novacron};
use serde_json::Value;

use crate::linux_guest::{Guest, host_of_guests};
use crate::support::{case, host, run_guests};

/// By leaf and subleaf: EAX, EBX, ECX, EDX.
type Cpuid = BTreeMap<(u32, u32), [u32; 4]>;

const BASELINES: [&str; 3] = ["x86-64-v1", "x86-64-v2", "x86-64-v3"];

fn guest(cpu: &'static str) -> Guest {
    Guest { cpu, tells_cpuid: true, ..Guest::default() }
}

#[test]
fn a_guest_sees_its_model_to_the_last_bit_on_whatever_host() {
    let Some(case) = case("a_guest_sees_its_model_to_the_last_bit_on_whatever_host") else {
        return;
    };
    let mut image = host_of_guests().time_limit(Duration::from_secs(90));
    for model in BASELINES {
        image = image.run(&guest(model).command());
    }
    let report = run_guests(&case, || image.clone());
    for (model, run) in BASELINES.iter().zip(&report.runs) {
        check(guest(model), run);
    }
}

#[test]
fn a_lesser_host_refuses_what_it_lacks_by_name_and_gives_the_same_of_what_it_has() {
    let name = "a_lesser_host_refuses_what_it_lacks_by_name_and_gives_the_same_of_what_it_has";
    let Some(case) = case(name) else { return };
    let lesser = host_of_guests().lacks(&["avx2", "bmi2"]).time_limit(Duration::from_secs(60));
    let lesser = lesser
        .run(&["/bin/novacron", "cpu"])
        .run(&guest("x86-64-v3").command())
        .run(&guest("x86-64-v2").command());
    let report = run_guests(&case, || lesser.clone());
    let [cpu, refused, runs] = report.runs.as_slice() else { panic!("{report:?}") };
    assert!(says(cpu, "x86-64-v2 offered"), "{cpu}");
    assert!(says(cpu, "x86-64-v3 lacks avx2, bmi2"), "{cpu}");
    assert_eq!(refused.ending, Ending::Exit(1), "{refused}");
    let why = "this host lacks avx2, bmi2 of CPU model x86-64-v3; choose --cpu x86-64-v2";
    assert!(says(refused, why), "{refused}");
    // The same table as on the other host.
    check(guest("x86-64-v2"), runs);
}

#[test]
fn two_hosts_are_compared_by_what_each_said_of_itself() {
    let Some(case) = case("two_hosts_are_compared_by_what_each_said_of_itself") else { return };
    let image = || host().program("/bin/novacron", &novacron().unwrap()).unwrap();
    let describe = ["/bin/novacron", "cpu", "--output", "json"];
    let lesser = image().lacks(&["avx2", "bmi2"]).run(&describe).boot(&case).unwrap();
    let lesser = lesser.finish().unwrap();
    let document = lesser.runs[0].output.join("\n");
    let other = image().content("/lesser.json", document.as_bytes()).unwrap();
    let report = other
        .run(&["/bin/novacron", "cpu", "/lesser.json"])
        .run(&["/bin/novacron", "cpu", "/lesser.json", "--output", "json"])
        .boot(&case)
        .unwrap()
        .finish()
        .unwrap();
    let [text, json] = report.runs.as_slice() else { panic!("{report:?}") };
    assert!(says(text, "Best CPU model of both: x86-64-v2"), "{text}");
    assert!(says(text, "does not move from here to there: it would miss avx2, bmi2"), "{text}");
    assert!(says(text, "A guest with --cpu host moves from there to here"), "{text}");
    let common: Value = serde_json::from_str(&json.output.join("\n")).unwrap();
    assert_eq!(common["only_here"], serde_json::json!(["avx2", "bmi2"]));
    assert_eq!(common["best"], "x86-64-v2");
}

fn says(run: &CommandRun, words: &str) -> bool {
    run.output.iter().any(|line| line.contains(words))
}

/// What the executable itself says that the guest's first vCPU sees.
fn model_table(guest: Guest) -> Cpuid {
    let output = Command::new(novacron().unwrap())
        .args(["cpu", "--model", guest.cpu, "--cpus", &guest.cpus.to_string(), "--output", "json"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    let number = |leaf: &Value, name: &str| u32::try_from(leaf[name].as_u64().unwrap()).unwrap();
    let leaves = document["cpuid"].as_array().unwrap().iter().map(|leaf| {
        let registers = ["eax", "ebx", "ecx", "edx"].map(|name| number(leaf, name));
        ((number(leaf, "leaf"), number(leaf, "subleaf")), registers)
    });
    leaves.collect()
}

/// Panics unless the guest ran, and saw its model's table: each leaf of it, and zeros where it has none.
fn check(guest: Guest, run: &CommandRun) {
    let table = model_table(guest);
    let told = guest.check(run).cpuid;
    let seen: Cpuid = told.iter().map(|line| parse(line)).collect();
    for place in table.keys() {
        assert!(seen.contains_key(place), "the guest did not look at {place:x?}");
    }
    for (place, registers) in seen {
        let mut expected = table.get(&place).copied().unwrap_or_default();
        if place == (0xd, 0) && expected != [0; 4] {
            // The size of what XCR0 has switched on, which is KVM's to say: here the legacy area alone.
            expected[1] = 576;
        }
        assert_eq!(registers, expected, "leaf {place:x?}: {registers:08x?} {expected:08x?}");
    }
}

fn parse(line: &str) -> ((u32, u32), [u32; 4]) {
    let numbers = line.split(' ').map(|word| u32::from_str_radix(word, 16).unwrap());
    let numbers: Vec<u32> = numbers.collect();
    let [leaf, subleaf, eax, ebx, ecx, edx] = numbers[..] else { panic!("{line}") };
    ((leaf, subleaf), [eax, ebx, ecx, edx])
}
