//! What goes wrong ends in one clear error with a next step, and a stable exit code.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant};

use machine::{
    CpuCount, CpuModel, Form, Images, Limits, MachineConfig, MemoryLayout, SuperviseError,
    Supervised,
};

use crate::daemon::Daemon;
use crate::harness::{Faulty, MIB, has_kvm, shared};

fn novacron(arguments: &[&str]) -> Output {
    let _shared = shared();
    Daemon::start().novacron(arguments)
}

/// Runs `novacron run t …`; it must end with this code, and say these words in one line.
fn refuses(arguments: &[&str], code: i32, words: &[&str]) {
    let output = novacron(&[&["run", "t"], arguments].concat());
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
    for word in words {
        assert!(said.contains(word), "{arguments:?} lacks {word:?}: {said}");
    }
    let lines =
        said.lines().filter(|line| line.starts_with("novacron:") || line.starts_with("error:"));
    assert_eq!(lines.count(), 1, "{said}");
}

pub(crate) fn file(bytes: &[u8]) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    file
}

#[test]
fn impossible_machines_are_refused() {
    refuses(&["--cpus", "0"], 1, &["--cpus", "1 to 64"]);
    refuses(&["--cpus", "65"], 1, &["--cpus", "1 to 64"]);
    refuses(&["--memory", "0"], 1, &["--memory", "8 MiB"]);
    refuses(&["--memory", "5000000000"], 1, &["multiple of 4 KiB"]);
    refuses(&["--memory", "lots"], 2, &["512M"]);
    refuses(&["--hole-start", "1M"], 1, &["--hole-start", "2 MiB"]);
}

#[test]
fn more_memory_than_the_host_has_is_refused() {
    if has_kvm("more_memory_than_the_host_has_is_refused") {
        refuses(&["--memory", "16T"], 1, &["MiB available", "--memory"]);
    }
}

#[test]
fn files_that_are_no_kernels_are_refused() {
    if !has_kvm("files_that_are_no_kernels_are_refused") {
        return;
    }
    let run = |bytes: &[u8], words: &[&str]| {
        let kernel = file(bytes);
        refuses(&["--kernel", kernel.path().to_str().unwrap()], 1, words);
    };
    run(b"#!/bin/sh\necho no kernel\n", &["neither an ELF file nor a Linux bzImage", "vmlinux"]);
    run(&firmware::ORACLE[..firmware::ORACLE.len() / 2], &["cut off", "copy the file again"]);
    run(b"", &["neither an ELF file"]);
    // The segment that lies in RAM with 64 MiB ends beyond a hole that starts at 16 MiB.
    let mut moved = firmware::ORACLE.to_vec();
    let header = usize::try_from(u64::from_le_bytes(moved[32..40].try_into().unwrap())).unwrap();
    moved[header + 24..header + 32].copy_from_slice(&(0xfff_f000_u64).to_le_bytes());
    let kernel = file(&moved);
    let path = kernel.path().to_str().unwrap();
    refuses(
        &["--kernel", path, "--hole-start", "256M"],
        1,
        &["does not lie in RAM", "--hole-start"],
    );
}

#[test]
fn a_kernel_that_is_not_there_is_named() {
    if has_kvm("a_kernel_that_is_not_there_is_named") {
        refuses(&["--kernel", "/no/such/kernel"], 1, &["--kernel /no/such/kernel", "path"]);
        refuses(&["--kernel", "/tmp"], 1, &["--kernel /tmp", "directory"]);
    }
}

#[test]
fn without_a_right_to_kvm_the_way_to_get_it_is_said() {
    let name = "without_a_right_to_kvm_the_way_to_get_it_is_said";
    if !has_kvm(name) {
        return;
    }
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED {name}: only root can become another user");
        return;
    }
    // The build directory may be closed to other users; a copy is not.
    let directory = tempfile::Builder::new().prefix("novacron-test").tempdir().unwrap();
    let copy = directory.path().join("novacron");
    fs::copy(env!("CARGO_BIN_EXE_novacron"), &copy).unwrap();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(directory.path(), open).unwrap();
    let _shared = shared();
    let mut command = Command::new(&copy);
    let output = command.args(["run", "t"]).uid(65534).gid(65534).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("no right to open /dev/kvm") && said.contains("usermod"), "{said}");
}

/// A guest of a few instructions at 1 MiB, entered in 32-bit mode.
pub(crate) fn tiny_guest(code: &[u8]) -> Vec<u8> {
    const ENTRY: u32 = 0x10_0000;
    let mut image = vec![0; 64 + 2 * 56];
    image[..6].copy_from_slice(b"\x7fELF\x02\x01");
    image[16] = 2;
    image[18] = 62;
    image[24..28].copy_from_slice(&ENTRY.to_le_bytes());
    image[32] = 64;
    image[54] = 56;
    image[56] = 2;
    let mut note = Vec::new();
    for word in [4_u32, 4, 18] {
        note.extend(word.to_le_bytes());
    }
    note.extend(b"Xen\0");
    note.extend(ENTRY.to_le_bytes());
    let at = image.len() as u64;
    let mut header = |index: usize, kind: u32, offset: u64, address: u64, size: u64| {
        let start = 64 + index * 56;
        image[start..start + 4].copy_from_slice(&kind.to_le_bytes());
        for (field, value) in [(8, offset), (24, address), (32, size), (40, size)] {
            image[start + field..start + field + 8].copy_from_slice(&value.to_le_bytes());
        }
    };
    header(0, 4, at, 0, note.len() as u64);
    header(1, 1, at + note.len() as u64, ENTRY.into(), code.len() as u64);
    image.extend(note);
    image.extend(code);
    image
}

#[test]
fn a_triple_fault_is_named() {
    if has_kvm("a_triple_fault_is_named") {
        // ud2, and no handler.
        let kernel = file(&tiny_guest(&[0x0f, 0x0b]));
        let words = ["triple fault on vCPU 0", "early console"];
        refuses(&["--kernel", kernel.path().to_str().unwrap()], 4, &words);
    }
}

#[test]
fn a_guest_that_has_ended_before_its_hand_over_says_how() {
    if has_kvm("a_guest_that_has_ended_before_its_hand_over_says_how") {
        let kernel = file(&tiny_guest(&[0x0f, 0x0b]));
        let kernel = ["demo", "--plain", "--times=1", "--kernel", kernel.path().to_str().unwrap()];
        for after in [&[][..], &["--after", "ready"]] {
            let output = novacron(&[&kernel[..], after].concat());
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(4), "{said}");
            assert!(said.contains("triple fault on vCPU 0"), "{after:?}: {said}");
        }
    }
}

#[test]
fn a_guest_that_ended_long_ago_says_how_when_it_is_to_be_handed_over() {
    if !has_kvm("a_guest_that_ended_long_ago_says_how_when_it_is_to_be_handed_over") {
        return;
    }
    let kernel = file(&tiny_guest(&[0x0f, 0x0b])).reopen().unwrap();
    let images = Images { kernel, initrd: None, command_line: String::new() };
    let config = MachineConfig {
        cpus: CpuCount::try_from(1_u32).unwrap(),
        cpu: CpuModel::Host,
        memory: MemoryLayout::new(64 * MIB, 32 * MIB).unwrap(),
    };
    let _shared = shared();
    let sound = Faulty::new("");
    let folder = std::env::temp_dir();
    let booted = sound.with(|executable| Supervised::boot(executable, &folder, config, &images));
    let (mut machine, mut console) = booted.unwrap();
    // The process closes the console, and then it is gone: what it has said waits for whoever asks.
    console.read_to_end(&mut Vec::new()).unwrap();
    let status = format!("/proc/{}/status", machine.process().id());
    let end = Instant::now() + Duration::from_secs(20);
    while !fs::read_to_string(&status).unwrap().contains("\nState:\tZ") {
        assert!(Instant::now() < end, "the process is still there");
        thread::sleep(Duration::from_millis(10));
    }
    let limits = Limits::default();
    let error = sound.with(|successor| machine.hand_over(successor, Form::Shared, limits));
    let error = error.unwrap_err();
    assert!(matches!(error, SuperviseError::GuestEnded { .. }), "{error}");
}

#[test]
fn an_instruction_that_kvm_cannot_emulate_is_named() {
    if has_kvm("an_instruction_that_kvm_cannot_emulate_is_named") {
        // fld tbyte [0xd0000000]: no RAM there, and no KVM emulates the x87 load that it then has to.
        let kernel = file(&tiny_guest(&[0xdb, 0x2d, 0, 0, 0, 0xd0]));
        let words = ["cannot emulate an instruction", "0x100000", "hardware virtualization"];
        refuses(&["--kernel", kernel.path().to_str().unwrap()], 4, &words);
    }
}

#[test]
fn an_orderly_reset_is_no_error() {
    if has_kvm("an_orderly_reset_is_no_error") {
        // mov al, 0xfe; out 0x64, al
        let kernel = file(&tiny_guest(&[0xb0, 0xfe, 0xe6, 0x64, 0xf4]));
        let output = novacron(&["run", "t", "--kernel", kernel.path().to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
    }
}
