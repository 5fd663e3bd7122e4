//! Linux, unmodified, on our own VMM, inside an emulated host with real kvm_amd.

use std::time::Duration;

use qemu_tests::{Case, CommandRun, Ending, HostImage, HostReport, kernel, novacron};

use crate::support::{GuestReport, case, guest_initramfs, host, long_case};

/// `reboot=k`: ends by a reset through the i8042, the one way out that every machine of ours has.
///
/// `noxsave`: QEMU's emulated SVM does not intercept XSETBV (`helper_xsetbv` in its
/// `target/i386/tcg/fpu_helper.c` asks nobody), so KVM in the host never learns the guest's XCR0 and
/// sets it back to 1 at the next entry: the guest's kernel would warn that sizes do not match, and
/// lose SSE registers when it switches tasks. Without XSAVE it uses FXSAVE, which needs no XCR0.
const CMDLINE: &str = "console=ttyS0 quiet noxsave reboot=k panic=-1 test-init.end=reboot";

/// Warnings that a guest's kernel may print, by what they begin with, and why each is right. Any
/// other warning is a defect of the machine model.
const EXPLAINED: [(&str, &str); 9] = [
    ("Speculative Return Stack Overflow: IBPB-extending", "QEMU's EPYC has no microcode to update"),
    ("Speculative Return Stack Overflow: WARNING: See", "the second line of the same message"),
    ("PCI: Fatal: No config space access function found", "the machine has no PCI host bridge yet"),
    ("PCI: System does not support PCI", "the machine has no PCI host bridge yet"),
    ("kvm_amd: SVM not supported by CPU", "a machine of ours offers its guest no virtualisation"),
    ("kvm_amd: CPU ", "it is not AMD's: every baseline model's vendor is Intel"),
    ("kvm_intel: VMX not supported by CPU", "this kernel is a host's kernel too, on an AMD CPU"),
    ("hrtimer: interrupt took", "it is emulated, on processors that other work wants too"),
    ("rtc_cmos rtc_cmos: broken or not accessible", "the machine has no CMOS clock yet"),
];

/// A Linux machine of ours.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Guest {
    /// `vmlinux` or `bzImage`.
    pub(crate) kernel: &'static str,
    pub(crate) cpus: u32,
    pub(crate) memory_mib: u32,
    /// The CPU model.
    pub(crate) cpu: &'static str,
    /// Whether it prints what CPUID tells it.
    pub(crate) tells_cpuid: bool,
}

impl Default for Guest {
    fn default() -> Self {
        Self { kernel: "vmlinux", cpus: 1, memory_mib: 256, cpu: "host", tells_cpuid: false }
    }
}

#[test]
fn linux_reaches_its_init_on_our_vmm() {
    let Some(case) = case("linux_reaches_its_init_on_our_vmm") else { return };
    let guest = Guest::default();
    let report = run(&case, &[guest], Duration::from_secs(120));
    guest.check(&report.runs[0]);
}

#[test]
fn long_linux_reaches_its_init_from_both_kernel_forms_on_every_number_of_cpus() {
    let name = "long_linux_reaches_its_init_from_both_kernel_forms_on_every_number_of_cpus";
    let Some(case) = long_case(name) else { return };
    let mut guests = Vec::new();
    for kernel in ["vmlinux", "bzImage"] {
        for (cpus, memory_mib) in [(1, 128), (2, 256), (4, 512)] {
            guests.push(Guest { kernel, cpus, memory_mib, ..Guest::default() });
        }
    }
    let report = run(&case, &guests, Duration::from_secs(600));
    for (guest, run) in guests.iter().zip(&report.runs) {
        guest.check(run);
    }
}

/// Runs guests one after the other in one host: its own boot is the dearest part of a guest's.
fn run(case: &Case, guests: &[Guest], limit: Duration) -> HostReport {
    let mut image = host_of_guests().time_limit(limit);
    for guest in guests {
        image = image.run(&guest.command());
    }
    image.boot(case).unwrap().finish().unwrap()
}

/// A host with our executable, and all that guests boot from.
pub(crate) fn host_of_guests() -> HostImage {
    let kernel = kernel().unwrap();
    host()
        .program("/bin/novacron", &novacron().unwrap())
        .unwrap()
        .file("/guest/vmlinux", &kernel.vmlinux)
        .unwrap()
        .file("/guest/bzImage", &kernel.bzimage)
        .unwrap()
        .content("/guest/initrd", &guest_initramfs())
        .unwrap()
}

impl Guest {
    pub(crate) fn command(self) -> [String; 15] {
        let Self { kernel, cpus, memory_mib, cpu, tells_cpuid } = self;
        let cmdline =
            if tells_cpuid { format!("{CMDLINE} test-init.cpuid") } else { CMDLINE.to_owned() };
        let [kernel, cpus, memory] =
            [format!("/guest/{kernel}"), cpus.to_string(), format!("{memory_mib}M")];
        [
            "/bin/novacron",
            "run",
            "linux",
            "--kernel",
            &kernel,
            "--initrd",
            "/guest/initrd",
            "--cmdline",
            &cmdline,
            "--cpus",
            &cpus,
            "--memory",
            &memory,
            "--cpu",
            cpu,
        ]
        .map(str::to_owned)
    }

    /// Panics unless `run` shows this guest's init, and nothing that a kernel would complain about.
    pub(crate) fn check(self, run: &CommandRun) -> GuestReport {
        assert_eq!(run.ending, Ending::Exit(0), "{run}");
        let guest = GuestReport::parse(&run.output);
        assert!(guest.fact("kernel").starts_with("6.12."), "{run}");
        assert_eq!(guest.fact("cpus"), self.cpus.to_string(), "{run}");
        // A machine without kvmclock loses its time when it moves.
        assert_eq!(guest.fact("clocksource"), "kvm-clock", "{run}");
        let (memory_kib, all) = (guest.fact("memory_kib"), self.memory_mib << 10);
        // The kernel keeps its own image and a table of pages to itself.
        let usable = all - (40 << 10)..all;
        assert!(usable.contains(&memory_kib.parse().unwrap()), "{memory_kib} KiB of {all}");
        let explained = |line: &&String| EXPLAINED.iter().any(|(start, _)| line.starts_with(start));
        let unexplained: Vec<_> = guest.warnings.iter().filter(|line| !explained(line)).collect();
        assert!(unexplained.is_empty(), "{self:?}: {unexplained:#?}");
        assert!(guest.ended, "{run}");
        guest
    }
}
