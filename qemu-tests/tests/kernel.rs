//! Our kernels, as a host and as a guest of QEMU.

use std::time::Duration;

use qemu_tests::{Accelerator, Ending, MachineSpec, QemuMachine, guest_kernel};

use crate::support::{GuestReport, case, guest_initramfs, host};

#[test]
fn host_kernel_reaches_init_with_kvm_amd() {
    let Some(case) = case("host_kernel_reaches_init_with_kvm_amd") else { return };
    let report = host().run(&["/init", "kvm"]).boot(&case).unwrap().finish().unwrap();
    assert!(report.reached.contains("kernel=6.12.") && report.reached.contains(" cpus=2 "));
    let run = &report.runs[0];
    assert_eq!(run.ending, Ending::Exit(0), "{run}");
    // Rflags of a virtual CPU after its reset: only the bit that is always set (APM volume 2, 14.1.3).
    assert_eq!(run.output, ["kvm: api=12 kvm_amd npt=Y reset_rflags=0x2"]);
}

/// Proves kernel and initramfs of a guest on a VMM that is known to be right, so that a failure on
/// ours is ours.
#[test]
fn the_elf_kernel_boots_through_its_pvh_note_as_a_guest_of_qemu() {
    let Some(case) = case("the_elf_kernel_boots_through_its_pvh_note_as_a_guest_of_qemu") else {
        return;
    };
    let spec = MachineSpec {
        kernel: guest_kernel().unwrap().vmlinux,
        initramfs: guest_initramfs(),
        cmdline: "console=ttyS0 panic=-1".to_owned(),
        cpus: 2,
        memory_mib: 256,
        accelerator: Accelerator::asked_for(),
        lacks: Vec::new(),
        ports: Vec::new(),
        disks: Vec::new(),
        firmware: None,
        wire: None,
        time_limit: Duration::from_secs(30),
        logs: case.logs.clone(),
    };
    let mut machine = QemuMachine::start(&spec).unwrap();
    machine.wait().unwrap();
    let deadline = machine.deadline();
    let lines = machine.console().wait_for_end(deadline).unwrap();
    let guest = GuestReport::parse(&lines);
    assert_eq!(guest.fact("cpus"), "2");
    assert!(guest.fact("kernel").starts_with("6.12."));
    let memory_kib: u32 = guest.fact("memory_kib").parse().unwrap();
    assert!((200 << 10..256 << 10).contains(&memory_kib), "{memory_kib} KiB of 256 MiB");
    assert!(guest.ended);
}
