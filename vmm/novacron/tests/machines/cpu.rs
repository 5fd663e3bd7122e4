//! CPU models: what a host offers, what it refuses, and that a guest never meets less than it had.
//!
//! Where KVM runs ring 3 natively a guest sees the processor's CPUID whatever its model is: what a guest really
//! sees is tested in an emulated host (`qemu-tests`).

use std::process::{Command, Output};

use machine::{CpuModel, Form, Host, HostCpu, SuperviseError};

use crate::daemon::Daemon;
use crate::harness::{Faulty, MIB, Oracle, Shape, has_kvm, shared};

const WORDS: &str = "pattern=random rate=5000 working_set=16M";

/// Whether this host offers the model; says so, in the form that the runner counts, if not.
fn offers(test: &str, model: CpuModel) -> bool {
    if !has_kvm(test) {
        return false;
    }
    let host = HostCpu::of(&Host::open().unwrap()).unwrap();
    let lacks = model.check(&host.profile).err();
    if let Some(lacks) = &lacks {
        eprintln!("SKIPPED {test}: this host lacks {lacks} of CPU model {model}");
    }
    lacks.is_none()
}

fn shape(cpu: CpuModel) -> Shape {
    Shape { cpu, memory: 64 * MIB, words: WORDS, ..Shape::default() }
}

/// Boots the oracle, and hands it over in both forms, compared byte for byte.
fn runs_and_moves(cpu: CpuModel) {
    let mut oracle = Oracle::boot(shape(cpu), &Faulty::new("reference"));
    for form in [Form::Shared, Form::Copying] {
        oracle.wait_for_rounds(100);
        oracle.hand_over(form).unwrap();
    }
    oracle.wait_for_rounds(100);
    oracle.end_well();
}

#[test]
fn a_guest_of_model_x86_64_v1_runs_and_moves() {
    if offers("a_guest_of_model_x86_64_v1_runs_and_moves", CpuModel::X86V1) {
        runs_and_moves(CpuModel::X86V1);
    }
}

#[test]
fn a_guest_of_model_x86_64_v2_runs_and_moves() {
    if offers("a_guest_of_model_x86_64_v2_runs_and_moves", CpuModel::X86V2) {
        runs_and_moves(CpuModel::X86V2);
    }
}

#[test]
fn a_guest_of_model_x86_64_v3_runs_and_moves() {
    if offers("a_guest_of_model_x86_64_v3_runs_and_moves", CpuModel::X86V3) {
        runs_and_moves(CpuModel::X86V3);
    }
}

#[test]
fn a_host_that_lacks_what_the_guest_has_is_refused_before_anything_moves() {
    if !has_kvm("a_host_that_lacks_what_the_guest_has_is_refused_before_anything_moves") {
        return;
    }
    for cpu in [CpuModel::Host, CpuModel::X86V1] {
        let mut oracle = Oracle::boot(shape(cpu), &Faulty::new("reference"));
        for form in [Form::Shared, Form::Copying] {
            oracle.wait_for_rounds(100);
            // A kill that comes only once pages have moved: it must not come to that.
            let lesser = Faulty::new("lacks:nx,lacks:sse2,kill:DestinationReady");
            match oracle.hand_over_with(form, &lesser) {
                Err(SuperviseError::HandOver(why)) => {
                    let lacks = "lacks sse2, nx, which the guest has had since its start";
                    assert!(why.contains(lacks) && why.contains(cpu.name()), "{why}");
                }
                other => panic!("{cpu}, {form:?}: {other:?}"),
            }
        }
        // It goes on, and where nothing is missing it still moves.
        oracle.wait_for_rounds(100);
        oracle.hand_over(Form::Copying).unwrap();
        oracle.end_well();
    }
}

/// Runs `novacron` on a host that lacks some features.
fn novacron(lacks: &[&str], arguments: &[&str]) -> Output {
    let _shared = shared();
    let faults: Vec<_> = lacks.iter().map(|feature| format!("lacks:{feature}")).collect();
    let faults = faults.join(",");
    if arguments.first() == Some(&"run") {
        return Daemon::start_with(&[("NOVACRON_FAULT", &faults)]).novacron(arguments);
    }
    Command::new(env!("CARGO_BIN_EXE_novacron"))
        .env("NOVACRON_FAULT", faults)
        .args(arguments)
        .output()
        .unwrap()
}

fn says(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn a_model_that_the_host_lacks_a_part_of_does_not_start() {
    if !has_kvm("a_model_that_the_host_lacks_a_part_of_does_not_start") {
        return;
    }
    // The CPU is looked at before the kernel: this one would end the machine with other words.
    let kernel = tempfile::NamedTempFile::new().unwrap();
    let kernel = kernel.path().to_str().unwrap();
    let arguments = ["run", "t", "--cpu", "x86-64-v1", "--kernel", kernel];
    let refused = novacron(&["nx", "sse2"], &arguments);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains("lacks sse2, nx of CPU model x86-64-v1; choose --cpu host"), "{said}");
}

#[test]
fn more_memory_than_a_model_addresses_does_not_start() {
    if !has_kvm("more_memory_than_a_model_addresses_does_not_start") {
        return;
    }
    let arguments = ["run", "t", "--cpu", "x86-64-v1", "--memory", "600G"];
    let refused = novacron(&[], &arguments);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains("x86-64-v1 addresses 39 bits"), "{said}");
}

#[test]
fn a_name_that_is_no_model_is_refused_with_the_names_that_are() {
    let refused = novacron(&[], &["run", "t", "--cpu", "pentium"]);
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(CpuModel::ALL.iter().all(|model| said.contains(model.name())), "{said}");
}

#[test]
fn a_host_says_what_it_offers_and_what_it_has_in_common_with_another() {
    if !has_kvm("a_host_says_what_it_offers_and_what_it_has_in_common_with_another") {
        return;
    }
    let text = says(&novacron(&["nx"], &["cpu"]));
    assert!(text.contains("x86-64-v1 lacks nx\n"), "{text}");

    let document = says(&novacron(&["nx"], &["cpu", "--output", "json"]));
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &document).unwrap();
    let path = file.path().to_str().unwrap();
    let common = says(&novacron(&["sse2"], &["cpu", path, "--output", "json"]));
    let common: machine::CommonCpu = serde_json::from_str(&common).unwrap();
    let only = (common.only_here.to_string(), common.only_there.to_string());
    assert_eq!(only, ("nx".to_owned(), "sse2".to_owned()));
    assert_eq!(common.best, None);
    let text = says(&novacron(&[], &["cpu", path]));
    assert!(text.contains("move from here to there: it would miss nx"), "{text}");
    assert!(text.contains("A guest with --cpu host moves from there to here"), "{text}");

    std::fs::write(file.path(), document.replace("\"sse2\"", "\"sse9\"")).unwrap();
    let refused = novacron(&[], &["cpu", path]);
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains("\"sse9\" is no CPU feature") && said.contains("novacron cpu"), "{said}");
}

#[test]
fn a_model_is_shown_without_a_host() {
    for form in ["text", "json"] {
        let shown = says(&novacron(&[], &["cpu", "--model", "x86-64-v3", "--output", form]));
        assert!(shown.contains("avx2") && shown.contains("x86-64-v3"), "{shown}");
    }
    let refused = novacron(&[], &["cpu", "--model", "host"]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
}
