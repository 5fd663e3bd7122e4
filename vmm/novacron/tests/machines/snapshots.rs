//! Snapshots of a guest that checks its own memory.

use std::fs;
use std::path::Path;
use std::process::Command;

use dwcp::archive::ArchiveKey;
use machine::{
    CpuCount, CpuModel, Form, Images, MachineConfig, MemoryLayout, RestoreOptions, SnapshotOptions,
    SnapshotReport, Step, SuperviseError, Supervised,
};
use tempfile::TempDir;

use crate::errors::{file, tiny_guest};
use crate::harness::{Faulty, MIB, Oracle, Shape, has_kvm, shared};

const SMALL: u64 = 64 * MIB;

fn oracle() -> Oracle {
    let words = "pattern=random rate=5000 working_set=8M";
    Oracle::boot(Shape { memory: SMALL, words, ..Shape::default() }, &Faulty::new(""))
}

fn take(oracle: &Oracle, path: &Path) -> SnapshotReport {
    oracle.machine.snapshot(path, SnapshotOptions::default()).unwrap()
}

fn restore(path: &Path, is_lazy: bool) -> Result<Oracle, SuperviseError> {
    let options = RestoreOptions { is_lazy, ..RestoreOptions::default() };
    Oracle::restore(path, options, &Faulty::new(""))
}

fn goes_on(mut oracle: Oracle) {
    oracle.wait_for_rounds(200);
    oracle.end_well();
}

/// What lies in a folder, by name.
fn listing(folder: &TempDir) -> Vec<String> {
    let entries = fs::read_dir(folder.path()).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_running_guest_is_saved_and_its_copies_go_on() {
    if !has_kvm("a_running_guest_is_saved_and_its_copies_go_on") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("one");
    let mut original = oracle();
    let report = take(&original, &path);
    assert_eq!(report.bytes, fs::metadata(&path).unwrap().len());
    assert!(report.rounds > 0 && report.paused_ns > 0, "{report:?}");
    let generation = |oracle: &mut Oracle| oracle.machine.permit().record().unwrap().vm();
    let vm = generation(&mut original);
    for is_lazy in [false, true] {
        let mut copy = restore(&path, is_lazy).unwrap();
        assert_ne!(generation(&mut copy), vm, "a copy is another machine");
        goes_on(copy);
    }
    goes_on(original);
    assert_eq!(listing(&folder), ["one"]);
}

#[test]
fn a_paused_guest_is_saved_and_stays_paused() {
    if !has_kvm("a_paused_guest_is_saved_and_stays_paused") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("one");
    let original = oracle();
    original.machine.pause().unwrap();
    let report = take(&original, &path);
    assert_eq!((report.rounds, report.paused_ns), (0, 0));
    goes_on(restore(&path, false).unwrap());
    original.machine.resume().unwrap();
    goes_on(original);
}

#[test]
fn a_guest_whose_pages_are_still_fetched_is_handed_over_and_saved() {
    if !has_kvm("a_guest_whose_pages_are_still_fetched_is_handed_over_and_saved") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("one");
    take(&oracle(), &path);
    for form in [Form::Shared, Form::Copying] {
        let mut copy = restore(&path, true).unwrap();
        copy.hand_over(form).unwrap();
        goes_on(copy);
    }
    let copy = restore(&path, true).unwrap();
    let second = folder.path().join("second");
    take(&copy, &second);
    drop(copy);
    goes_on(restore(&second, false).unwrap());
}

#[test]
fn a_snapshot_that_builds_on_another_holds_what_differs() {
    if !has_kvm("a_snapshot_that_builds_on_another_holds_what_differs") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let paths = ["one", "two", "three"].map(|name| folder.path().join(name));
    let mut original = oracle();
    let full = take(&original, &paths[0]);
    for pair in paths.windows(2) {
        original.wait_for_rounds(50);
        let options = SnapshotOptions { parent: Some(&pair[0]), ..SnapshotOptions::default() };
        let report = original.machine.snapshot(&pair[1], options).unwrap();
        // The working set is an eighth of memory.
        assert!(report.bytes < full.bytes / 2, "{report:?} after {full:?}");
    }
    // A restored machine is of the same line.
    let mut copy = restore(&paths[2], true).unwrap();
    copy.wait_for_rounds(50);
    let four = folder.path().join("four");
    let options = SnapshotOptions { parent: Some(&paths[2]), ..SnapshotOptions::default() };
    copy.machine.snapshot(&four, options).unwrap();
    drop((original, copy));
    for path in paths.iter().chain([&four]) {
        for is_lazy in [false, true] {
            goes_on(restore(path, is_lazy).unwrap());
        }
    }
    fs::remove_file(&paths[0]).unwrap();
    let error = restore(&four, false).err().unwrap().to_string();
    assert!(error.contains("/one: No such file") && error.contains("in its folder"), "{error}");
}

#[test]
fn a_snapshot_of_another_machine_is_nothing_to_build_on() {
    if !has_kvm("a_snapshot_of_another_machine_is_nothing_to_build_on") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (folder.path().join("one"), folder.path().join("two"));
    let (original, other) = (oracle(), oracle());
    take(&other, &one);
    let options = SnapshotOptions { parent: Some(&one), ..SnapshotOptions::default() };
    let error = original.machine.snapshot(&two, options).unwrap_err();
    assert!(error.to_string().contains("of another machine"), "{error}");
    assert!(matches!(error, SuperviseError::SnapshotFailed(_)));
    goes_on(original);
    assert_eq!(listing(&folder), ["one"]);
}

#[test]
fn an_encrypted_snapshot_needs_its_key() {
    if !has_kvm("an_encrypted_snapshot_needs_its_key") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (folder.path().join("one"), folder.path().join("two"));
    let (key, other) = (ArchiveKey::new([1; 32]), ArchiveKey::new([2; 32]));
    let original = oracle();
    let options = SnapshotOptions { key: Some(&key), ..SnapshotOptions::default() };
    original.machine.snapshot(&one, options).unwrap();
    original.machine.snapshot(&two, SnapshotOptions { parent: Some(&one), ..options }).unwrap();
    drop(original);
    for (key, words) in [(None, "give its key"), (Some(&other), "under another key")] {
        let options = RestoreOptions { key, is_lazy: false };
        let error = Oracle::restore(&two, options, &Faulty::new("")).err().unwrap().to_string();
        assert!(error.contains("/two") && error.contains(words), "{error}");
    }
    for is_lazy in [false, true] {
        let options = RestoreOptions { key: Some(&key), is_lazy };
        goes_on(Oracle::restore(&two, options, &Faulty::new("")).unwrap());
    }
}

#[test]
fn a_damaged_snapshot_is_refused_by_name() {
    if !has_kvm("a_damaged_snapshot_is_refused_by_name") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (one, bad) = (folder.path().join("one"), folder.path().join("bad"));
    take(&oracle(), &one);
    let whole = fs::read(&one).unwrap();
    let refused = |bytes: &[u8], words: &str| {
        fs::write(&bad, bytes).unwrap();
        for is_lazy in [false, true] {
            let error = restore(&bad, is_lazy).err().unwrap().to_string();
            assert!(error.contains("/bad") && error.contains(words), "{error}");
        }
    };
    refused(&whole[..whole.len() - 1], "cut off");
    refused(&whole[..whole.len() / 2], "cut off");
    refused(b"a poem", "not a snapshot");
    let flipped = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 4;
        bytes
    };
    refused(&flipped(20), "header");
    refused(&flipped(100), "description");
    refused(&flipped(whole.len() - 50), "end");
    refused(&flipped(whole.len() - 400), "index");
    // Pages are read last: eagerly before the guest runs, lazily when they are wanted, and then it ends.
    fs::write(&bad, flipped(whole.len() / 2)).unwrap();
    let error = restore(&bad, false).err().unwrap().to_string();
    assert!(error.contains("/bad") && error.contains("of its pages is not"), "{error}");
    let lazy = Faulty::new("").with(|executable| {
        let options = RestoreOptions { is_lazy: true, ..RestoreOptions::default() };
        Supervised::restore(executable, &std::env::temp_dir(), &bad, options)
    });
    let (machine, _console, _) = lazy.unwrap();
    let error = machine.wait().unwrap_err();
    assert!(matches!(error, SuperviseError::GuestEnded { .. }), "{error}");
    assert!(error.to_string().contains("of its pages is not"), "{error}");
}

#[test]
fn killed_at_every_step_a_snapshot_leaves_nothing_and_harms_no_other() {
    if !has_kvm("killed_at_every_step_a_snapshot_leaves_nothing_and_harms_no_other") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (folder.path().join("one"), folder.path().join("two"));
    take(&oracle(), &one);
    let whole = fs::read(&one).unwrap();
    for step in Step::OF_SNAPSHOT {
        let copy = Oracle::restore(
            &one,
            RestoreOptions::default(),
            &Faulty::new(format!("kill:{}", step.name())),
        )
        .unwrap();
        let options = SnapshotOptions { parent: Some(&one), ..SnapshotOptions::default() };
        let error = copy.machine.snapshot(&two, options).unwrap_err();
        assert!(matches!(error, SuperviseError::Lost { .. }), "{step:?}: {error}");
        assert_eq!(listing(&folder), ["one"], "{step:?}");
    }
    for step in Step::OF_RESTORE {
        for is_lazy in [false, true] {
            let options = RestoreOptions { is_lazy, ..RestoreOptions::default() };
            let faults = Faulty::new(format!("kill:{}", step.name()));
            let error = Oracle::restore(&one, options, &faults).err().unwrap();
            assert!(matches!(error, SuperviseError::Lost { .. }), "{step:?}: {error}");
        }
    }
    assert_eq!(fs::read(&one).unwrap(), whole);
    goes_on(restore(&one, true).unwrap());
}

#[test]
fn clocks_go_on_after_a_restore_on_another_boot() {
    if !has_kvm("clocks_go_on_after_a_restore_on_another_boot") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("one");
    take(&oracle(), &path);
    for is_lazy in [false, true] {
        let options = RestoreOptions { is_lazy, ..RestoreOptions::default() };
        goes_on(Oracle::restore(&path, options, &Faulty::new("forget-boot")).unwrap());
    }
}

#[test]
fn dirty_bits_that_are_lost_while_saving_are_found_by_the_guest() {
    if !has_kvm("dirty_bits_that_are_lost_while_saving_are_found_by_the_guest") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("one");
    let words = "pattern=random rate=20000 working_set=16M";
    let shape = Shape { memory: SMALL, words, ..Shape::default() };
    let original = Oracle::boot(shape, &Faulty::new("drop-dirty-bits"));
    take(&original, &path);
    drop(original);
    let mut copy = restore(&path, false).unwrap();
    let verdict = copy.verdict();
    assert!(!verdict.ok && verdict.errors > 0, "{verdict:?}");
}

#[test]
fn a_host_that_lacks_what_the_saved_guest_has_is_refused_by_name() {
    if !has_kvm("a_host_that_lacks_what_the_saved_guest_has_is_refused_by_name") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for cpu in [CpuModel::Host, CpuModel::X86V1] {
        let path = folder.path().join(cpu.name());
        let words = "pattern=random rate=5000 working_set=8M";
        let shape = Shape { cpu, memory: SMALL, words, ..Shape::default() };
        take(&Oracle::boot(shape, &Faulty::new("")), &path);
        // A kill that comes only once memory is there: it must not come to that.
        let lesser = Faulty::new("lacks:nx,lacks:sse2,kill:RestoreMemory");
        let error = Oracle::restore(&path, RestoreOptions::default(), &lesser).err().unwrap();
        let lacks = "lacks sse2, nx, which the guest has had since its start";
        let said = error.to_string();
        assert!(said.contains(lacks) && said.contains(cpu.name()), "{said}");
        goes_on(restore(&path, true).unwrap());
    }
}

#[test]
fn a_guest_that_ends_while_it_is_saved_says_how() {
    if !has_kvm("a_guest_that_ends_while_it_is_saved_says_how") {
        return;
    }
    // mov ecx, 400,000; dec ecx; jnz to the dec; ud2, and no handler. Half a second where ring 0 is emulated.
    let code = [0xb9, 0x80, 0x1a, 0x06, 0, 0xff, 0xc9, 0x75, 0xfc, 0x0f, 0x0b];
    let kernel = file(&tiny_guest(&code)).reopen().unwrap();
    let images = Images { kernel, initrd: None, command_line: String::new() };
    let config = MachineConfig {
        cpus: CpuCount::try_from(1_u32).unwrap(),
        cpu: CpuModel::Host,
        memory: MemoryLayout::new(SMALL, 32 * MIB).unwrap(),
    };
    let folder = tempfile::tempdir().unwrap();
    let _shared = shared();
    let sound = Faulty::new("");
    let booted =
        sound.with(|executable| Supervised::boot(executable, folder.path(), config, &images));
    let (machine, _console) = booted.unwrap();
    let error = (0..1000)
        .find_map(|nth| {
            let path = folder.path().join(nth.to_string());
            machine.snapshot(&path, SnapshotOptions::default()).err()
        })
        .expect("the guest ends");
    assert!(matches!(error, SuperviseError::GuestEnded { .. }), "{error}");
    assert!(error.to_string().contains("triple fault on vCPU 0"), "{error}");
}

/// Runs the test that calls it once more, as the only one of a process whose mounts nobody else sees.
fn in_own_mounts(test: &str, body: impl FnOnce()) {
    const INSIDE: &str = "NOVACRON_TEST_OWN_MOUNTS";
    if std::env::var_os(INSIDE).is_some() {
        return body();
    }
    let output = Command::new("unshare")
        .args(["--mount", "--map-root-user"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", &format!("snapshots::{test}"), "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    if said.contains("unshare failed") {
        return eprintln!("SKIPPED {test}: this host allows no namespaces: {}", said.trim());
    }
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

fn mount(options: &str, folder: &Path) {
    let status =
        Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(folder).status();
    assert!(status.unwrap().success());
}

#[test]
fn a_full_or_read_only_disk_harms_neither_the_guest_nor_earlier_snapshots() {
    let name = "a_full_or_read_only_disk_harms_neither_the_guest_nor_earlier_snapshots";
    if !has_kvm(name) {
        return;
    }
    in_own_mounts(name, || {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (folder.path().join("one"), folder.path().join("two"));
        let original = oracle();
        mount("size=1g", folder.path());
        let report = take(&original, &one);
        for room in [64 << 10, report.bytes / 2, report.bytes / 4 * 3] {
            mount(&format!("remount,size={}", report.bytes + room), folder.path());
            let error = original.machine.snapshot(&two, SnapshotOptions::default()).unwrap_err();
            assert!(error.to_string().contains("No space left on device"), "{error}");
            assert_eq!(listing(&folder), ["one"]);
        }
        mount("remount,ro", folder.path());
        let error = original.machine.snapshot(&two, SnapshotOptions::default()).unwrap_err();
        assert!(error.to_string().contains("Read-only file system"), "{error}");
        goes_on(original);
        goes_on(restore(&one, true).unwrap());
    });
}
