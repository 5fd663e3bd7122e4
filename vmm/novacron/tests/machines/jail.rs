//! The jail of a machine process: what it does not have, and what happens when it tries.

use std::fs;
use std::path::{Path, PathBuf};

use machine::{Death, Form, SuperviseError};

use crate::harness::{Faulty, MIB, Oracle, Shape, has_kvm};

const SHAPE: fn() -> Shape = || Shape { memory: 64 * MIB, ..Shape::default() };

/// What `/proc/PID/status`, or a thread's, says of something.
fn status(path: &Path, of: &str) -> String {
    let text = fs::read_to_string(path.join("status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{of}:")));
    line.unwrap_or_else(|| panic!("{of} in {text}")).trim().to_owned()
}

fn process(id: u32) -> PathBuf {
    PathBuf::from(format!("/proc/{id}"))
}

/// Asserts of every thread that it is in the jail; returns how many there are.
fn is_in_jail(id: u32) -> usize {
    let tasks = fs::read_dir(process(id).join("task")).unwrap();
    let mut threads = 0;
    for task in tasks {
        let task = task.unwrap().path();
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(status(&task, set), "0000000000000000", "{set} of {}", task.display());
        }
        assert_eq!(status(&task, "NoNewPrivs"), "1");
        assert_eq!(status(&task, "Seccomp"), "2");
        for namespace in ["net", "mnt", "ipc", "uts"] {
            let link = |of: &Path| fs::read_link(of.join("ns").join(namespace)).unwrap();
            assert_ne!(link(&task), link(Path::new("/proc/self")), "{namespace}");
        }
        threads += 1;
    }
    let root = fs::read_dir(process(id).join("root")).unwrap();
    assert_eq!(root.count(), 0, "its root is empty");
    let mounts = fs::read_to_string(process(id).join("mounts")).unwrap();
    assert_eq!(mounts.lines().count(), 1, "nothing else is mounted: {mounts}");
    threads
}

#[test]
fn a_machine_process_has_nothing_but_what_it_was_given() {
    if !has_kvm("a_machine_process_has_nothing_but_what_it_was_given") {
        return;
    }
    let mut oracle = Oracle::boot(SHAPE(), &Faulty::new(""));
    // The loop and two vCPUs; KVM has threads of its own in the process.
    assert!(is_in_jail(oracle.machine.process().id()) >= 3);
    oracle.hand_over(Form::Copying).unwrap();
    is_in_jail(oracle.machine.process().id());
    oracle.end_well();
}

/// Boots with a fault that must end the process, before or after it says that its guest runs: how it ended, and the
/// error's words.
fn dies_of(fault: &str) -> (Option<Death>, String) {
    let booted = Oracle::try_boot(SHAPE(), &Faulty::new(fault));
    let outcome = booted.and_then(|oracle| oracle.machine.wait());
    match outcome {
        Err(error @ SuperviseError::Lost { death, .. }) => (death, error.to_string()),
        other => panic!("{fault}: {other:?}"),
    }
}

#[test]
fn a_forbidden_call_kills_the_process_and_is_reported_as_such() {
    if !has_kvm("a_forbidden_call_kills_the_process_and_is_reported_as_such") {
        return;
    }
    for fault in [
        "call:device-loop:openat",
        "call:vcpu:openat",
        "call:device-loop:socket",
        "call:device-loop:execve",
        // What one kind of thread may, another may not.
        "call:vcpu:eventfd2",
    ] {
        let (death, words) = dies_of(fault);
        assert_eq!(death, Some(Death::Signal(libc::SIGSYS)), "{fault}: {words}");
        assert!(words.contains("killed for a forbidden system call (SIGSYS)"), "{words}");
    }
}

#[test]
fn a_forbidden_call_in_a_job_kills_the_process() {
    let name = "a_forbidden_call_in_a_job_kills_the_process";
    if !has_kvm(name) {
        return;
    }
    let mut oracle = Oracle::boot(SHAPE(), &Faulty::new("call:job:eventfd2"));
    let error = oracle.hand_over(Form::Shared).unwrap_err();
    let is_killed = |death: &Option<Death>| *death == Some(Death::Signal(libc::SIGSYS));
    assert!(matches!(&error, SuperviseError::Lost { death, .. } if is_killed(death)), "{error:?}");
}

#[test]
fn a_new_process_that_is_killed_is_named_and_the_guest_goes_on() {
    if !has_kvm("a_new_process_that_is_killed_is_named_and_the_guest_goes_on") {
        return;
    }
    let mut oracle = Oracle::boot(SHAPE(), &Faulty::new(""));
    let outcome = oracle.hand_over_with(Form::Shared, &Faulty::new("call:vcpu:openat"));
    let error = outcome.unwrap_err();
    assert!(matches!(error, SuperviseError::HandOver(_)), "{error:?}");
    assert!(error.to_string().contains("SIGSYS"), "{error}");
    oracle.wait_for_rounds(50);
    oracle.end_well();
}

#[test]
fn a_panic_and_a_crash_are_told_from_a_forbidden_call() {
    if !has_kvm("a_panic_and_a_crash_are_told_from_a_forbidden_call") {
        return;
    }
    for (fault, signal, name) in [
        ("panic:device-loop", libc::SIGABRT, "SIGABRT"),
        ("panic:vcpu", libc::SIGABRT, "SIGABRT"),
        ("crash:vcpu", libc::SIGSEGV, "SIGSEGV"),
    ] {
        let (death, words) = dies_of(fault);
        assert_eq!(death, Some(Death::Signal(signal)), "{fault}: {words}");
        assert!(words.contains(&format!("killed by {name}")), "{words}");
    }
}

#[test]
fn no_name_opens_even_past_the_filter() {
    if !has_kvm("no_name_opens_even_past_the_filter") {
        return;
    }
    let error = Oracle::try_boot(SHAPE(), &Faulty::new("open-by-name")).err().unwrap();
    let said = error.to_string();
    // The root is there, and Landlock keeps it; and there is nothing in it.
    assert!(said.contains("/: PermissionDenied") && said.contains("/proc: NotFound"), "{said}");
}
