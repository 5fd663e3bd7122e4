//! Linux, unmodified, on our own VMM, inside an emulated host with real kvm_amd.

use std::time::Duration;

use qemu_tests::{Ending, kernel, novacron};

use crate::support::{GuestReport, case, guest_initramfs, host};

/// Ends by a reset through the i8042 (`reboot=k`): the one way out that every machine of ours has.
const CMDLINE: &str = "console=ttyS0 quiet reboot=k panic=-1 test-init.end=reboot";

#[test]
fn linux_reaches_its_init_on_our_vmm() {
    let Some(case) = case("linux_reaches_its_init_on_our_vmm") else { return };
    let report = host()
        .program("/bin/novacron", &novacron().unwrap())
        .unwrap()
        .file("/guest/vmlinux", &kernel().unwrap().vmlinux)
        .unwrap()
        .content("/guest/initrd", &guest_initramfs())
        .unwrap()
        .run([
            "/bin/novacron",
            "run",
            "linux",
            "--kernel",
            "/guest/vmlinux",
            "--initrd",
            "/guest/initrd",
            "--cmdline",
            CMDLINE,
            "--cpus",
            "1",
            "--memory",
            "256M",
        ])
        .time_limit(Duration::from_secs(60))
        .boot(&case)
        .unwrap()
        .finish()
        .unwrap();
    let run = &report.runs[0];
    assert_eq!(run.ending, Ending::Exit(0), "{run}");
    let guest = GuestReport::parse(&run.output);
    assert!(guest.fact("kernel").starts_with("6.12."), "{run}");
    assert_eq!(guest.fact("cpus"), "1", "{run}");
    let memory_kib: u32 = guest.fact("memory_kib").parse().unwrap();
    assert!((200 << 10..256 << 10).contains(&memory_kib), "{memory_kib} KiB of 256 MiB");
    assert!(guest.ended, "{run}");
    assert_eq!(guest.warnings, [""; 0], "{run}");
}
