//! Nothing is left behind: processes, descriptors, locks and files are as they were.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use machine::{BootSource, CpuCount, CpuModel, Form, Host, MachineConfig, MemoryLayout, Paused};

use crate::harness::{Faulty, MIB, Oracle, Shape, alone, has_kvm, is_long_run};

/// What there is of each.
#[derive(Debug, PartialEq, Eq)]
struct Census {
    children: usize,
    descriptors: usize,
    locks: usize,
    files: usize,
}

impl Census {
    /// Of this process, and of the folder that its machines have.
    fn take(folder: &Path) -> Self {
        let us = std::process::id().to_string();
        let count = |path: String| fs::read_dir(path).unwrap().count();
        // Each thread has its own list; a test is not on the main thread.
        let lists = fs::read_dir("/proc/self/task").unwrap().map(|task| {
            fs::read_to_string(task.unwrap().path().join("children")).unwrap_or_default()
        });
        let children = lists.map(|list| list.split_whitespace().count()).sum();
        let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
        Self {
            children,
            descriptors: count("/proc/self/fd".into()),
            locks: locks.lines().filter(|line| line.split_whitespace().any(|w| w == us)).count(),
            files: count(folder.display().to_string()),
        }
    }
}

/// Start, pause, resume, hand over, stop.
fn cycle(form: Form, folder: &Path) {
    let words = "fill=8M working_set=4M rate=1000";
    let mut oracle = Oracle::boot_alone(
        Shape { cpus: 1, memory: 64 * MIB, words, ..Shape::default() },
        &Faulty::sound_in(folder),
    );
    oracle.machine.pause().unwrap();
    oracle.machine.resume().unwrap();
    oracle.hand_over_with(form, &Faulty::sound_in(folder)).unwrap();
    oracle.machine.stop().unwrap();
}

fn cycles_leave_nothing(count: u32) {
    // The census would count what other tests have, too.
    let _alone = alone();
    // Others write to the system's folder of temporary files.
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    cycle(Form::Shared, folder);
    let before = Census::take(folder);
    for nth in 0..count {
        cycle(if nth % 2 == 0 { Form::Shared } else { Form::Copying }, folder);
    }
    // The thread that reads the last console ends when it has seen its end.
    let mut after = Census::take(folder);
    for _ in 0..50 {
        if after == before {
            break;
        }
        thread::sleep(Duration::from_millis(20));
        after = Census::take(folder);
    }
    assert_eq!(after, before);
}

/// Names of this process's threads.
fn threads() -> Vec<String> {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let name = |task: fs::DirEntry| fs::read_to_string(task.path().join("comm")).ok();
    tasks.filter_map(|task| Some(name(task.ok()?)?.trim_end().to_owned())).collect()
}

#[test]
fn a_running_machine_that_is_dropped_leaves_no_thread_and_no_memory() {
    let name = "a_running_machine_that_is_dropped_leaves_no_thread_and_no_memory";
    if !has_kvm(name) {
        return;
    }
    let _alone = alone();
    let host = Host::open().unwrap();
    let memory = MemoryLayout::new(64 * MIB, 32 * MIB).unwrap();
    let cpus = CpuCount::try_from(2_u32).unwrap();
    for _ in 0..20 {
        let mut machine =
            Paused::new(&host, MachineConfig { cpus, cpu: CpuModel::Host, memory }).unwrap();
        let command_line = "cpus=2 tsc_khz=1000000 working_set=4M";
        let oracle = BootSource { kernel: firmware::ORACLE, initrd: None, command_line };
        machine.boot(&oracle).unwrap();
        let running = machine.resume();
        // The guest writes its memory meanwhile.
        thread::sleep(Duration::from_millis(30));
        assert!(threads().contains(&"vcpu1".to_owned()), "{:?}", threads());
        let ram = Arc::downgrade(running.ram());
        drop(running);
        assert!(ram.upgrade().is_none(), "memory is let go");
        assert!(!threads().iter().any(|name| name.starts_with("vcpu")), "{:?}", threads());
    }
}

#[test]
fn ten_cycles_leave_nothing_behind() {
    if has_kvm("ten_cycles_leave_nothing_behind") {
        cycles_leave_nothing(10);
    }
}

#[test]
fn long_500_cycles_leave_nothing_behind() {
    let name = "long_500_cycles_leave_nothing_behind";
    if is_long_run(name) && has_kvm(name) {
        cycles_leave_nothing(500);
    }
}

#[test]
fn the_census_sees_what_a_running_machine_has() {
    if !has_kvm("the_census_sees_what_a_running_machine_has") {
        return;
    }
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let before = Census::take(folder.path());
    let words = "fill=8M working_set=4M rate=1000";
    let shape = Shape { cpus: 1, memory: 64 * MIB, words, ..Shape::default() };
    let oracle = Oracle::boot_alone(shape, &Faulty::sound_in(folder.path()));
    let during = Census::take(folder.path());
    assert_eq!(during.children, before.children + 1);
    assert!(during.descriptors > before.descriptors);
    fs::write(folder.path().join("left"), "").unwrap();
    assert_eq!(Census::take(folder.path()).files, before.files + 1);
    oracle.machine.stop().unwrap();
}
