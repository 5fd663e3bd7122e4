//! Linux, unmodified, on our own VMM, inside an emulated host with real kvm_amd.

use std::fs;
use std::time::Duration;

use qemu_tests::{Case, CommandRun, Ending, HostImage, HostReport, guest_kernel, novacron};

use crate::kernel_warnings;
use crate::support::{GuestReport, case, guest_initramfs, host, run_guests};

/// `noxsave`: QEMU's emulated SVM does not intercept XSETBV (`helper_xsetbv` in its
/// `target/i386/tcg/fpu_helper.c` asks nobody), so KVM in the host never learns the guest's XCR0 and
/// sets it back to 1 at the next entry: the guest's kernel would warn that sizes do not match, and
/// lose SSE registers when it switches tasks. Without XSAVE it uses FXSAVE, which needs no XCR0.
pub(crate) const CMDLINE: &str = "console=ttyS0 quiet noxsave panic=-1";

/// What a guest does when its init has told all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    PowerOff,
    Reboot,
    /// Waits for its power button, and then switches itself off.
    WaitForButton,
}

/// A Linux machine of ours.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Guest {
    /// `vmlinux`, `bzImage`, `vmlinux-without-pvh`; or `vmlinuz`, which is Debian's.
    pub(crate) kernel: &'static str,
    pub(crate) cpus: u32,
    pub(crate) memory_mib: u32,
    /// The CPU model.
    pub(crate) cpu: &'static str,
    /// Whether it prints what CPUID tells it.
    pub(crate) tells_cpuid: bool,
    pub(crate) then: Then,
}

impl Default for Guest {
    fn default() -> Self {
        Self {
            kernel: "vmlinux",
            cpus: 1,
            memory_mib: 256,
            cpu: "host",
            tells_cpuid: false,
            then: Then::PowerOff,
        }
    }
}

#[test]
fn linux_finds_its_platform_without_a_warning() {
    let name = "linux_finds_its_platform_without_a_warning";
    let Some(case) = case(name) else { return };
    let guests =
        [Guest::default(), Guest { kernel: "bzImage", then: Then::Reboot, ..Guest::default() }];
    run_and_check(&case, &guests, Duration::from_secs(120));
}

#[test]
fn linux_switches_itself_off_when_its_power_button_is_pressed() {
    let name = "linux_switches_itself_off_when_its_power_button_is_pressed";
    let Some(case) = case(name) else { return };
    let guest = Guest { then: Then::WaitForButton, ..Guest::default() };
    run_and_check(&case, &[guest], Duration::from_secs(120));
}

/// Runs guests one after the other in one host, and panics unless each was as it should be.
pub(crate) fn run_and_check(case: &Case, guests: &[Guest], limit: Duration) {
    let report = run(case, guests, limit);
    assert_eq!(report.runs.len(), guests.len());
    for (guest, run) in guests.iter().zip(&report.runs) {
        guest.check(run);
    }
}

/// Runs guests one after the other in one host: its own boot is the dearest part of a guest's.
fn run(case: &Case, guests: &[Guest], limit: Duration) -> HostReport {
    let host = host_of_guests().time_limit(limit).memory_mib(host_memory(guests));
    run_guests(case, || guests.iter().fold(host.clone(), |host, guest| host.run(&guest.command())))
}

/// What a host of such guests needs, in MiB. Linux gives nobody more memory than it has, also where most of it is
/// never touched.
fn host_memory(guests: &[Guest]) -> u32 {
    let largest = guests.iter().map(|guest| guest.memory_mib).max().unwrap_or(0);
    768.max(largest + 512)
}

/// A host with our executable, and all that guests boot from.
pub(crate) fn host_of_guests() -> HostImage {
    let kernel = guest_kernel().unwrap();
    host()
        .program("/bin/novacron", &novacron().unwrap())
        .unwrap()
        .file("/guest/vmlinux", &kernel.vmlinux)
        .unwrap()
        .content("/guest/vmlinux-without-pvh", &without_pvh(&fs::read(&kernel.vmlinux).unwrap()))
        .unwrap()
        .file("/guest/bzImage", &kernel.bzimage)
        .unwrap()
        .content("/guest/initrd", &guest_initramfs())
        .unwrap()
}

/// The same ELF kernel without its PVH note: the note's owner is another.
fn without_pvh(vmlinux: &[u8]) -> Vec<u8> {
    // Lengths of name and content, the type XEN_ELFNOTE_PHYS32_ENTRY, the name (xen: elfnote.h).
    let head = |length: u8| [&[4, 0, 0, 0, length, 0, 0, 0, 18, 0, 0, 0][..], b"Xen\0"].concat();
    let mut kernel = vmlinux.to_vec();
    let found = [head(4), head(8)]
        .into_iter()
        .find_map(|head| vmlinux.windows(head.len()).position(|window| window == head));
    let name = found.expect("the kernel has a PVH note") + 12;
    kernel[name..name + 3].copy_from_slice(b"xen");
    kernel
}

impl Guest {
    pub(crate) fn command(self) -> Vec<String> {
        let Self { kernel, cpus, memory_mib, cpu, tells_cpuid, then } = self;
        let last = match then {
            Then::PowerOff => "",
            Then::Reboot => " test-init.end=reboot",
            Then::WaitForButton => " test-init.wait=power-button",
        };
        let cpuid = if tells_cpuid { " test-init.cpuid" } else { "" };
        let cmdline = format!("{CMDLINE}{cpuid}{last}");
        let [kernel, cpus, memory] =
            [format!("/guest/{kernel}"), cpus.to_string(), format!("{memory_mib}M")];
        let novacron = ["/init", "attend", "/bin/novacron", "run", "linux", "--rm"];
        let options = [
            ("--kernel", kernel.as_str()),
            ("--initrd", "/guest/initrd"),
            ("--cmdline", &cmdline),
            ("--cpus", &cpus),
            ("--memory", &memory),
            ("--cpu", cpu),
        ];
        let options = options.into_iter().flat_map(|(name, value)| [name, value]);
        novacron.into_iter().chain(options).map(str::to_owned).collect()
    }

    /// Panics unless `run` shows this guest's init, the platform that it finds, nothing that a kernel
    /// would complain about, and the end that it chose.
    pub(crate) fn check(self, run: &CommandRun) -> GuestReport {
        assert_eq!(run.ending, Ending::Exit(0), "{run}");
        let guest = GuestReport::parse(&run.output);
        let version = guest.fact("kernel");
        let is_debians = self.kernel == "vmlinuz";
        assert!(version.starts_with(if is_debians { "6.1." } else { "6.12." }), "{run}");
        assert_eq!(guest.fact("cpus"), self.cpus.to_string(), "{run}");
        // A machine without kvmclock loses its time when it moves.
        assert_eq!(guest.fact("clocksource"), "kvm-clock", "{run}");
        // Linux's own number for PVH without Xen (platform/pvh/enlighten.c), and the protocol's for no known loader.
        let loader = if self.kernel == "vmlinux" { "176" } else { "255" };
        assert_eq!(guest.fact("loader"), loader, "{run}");
        let (memory_kib, all) = (guest.fact("memory_kib"), self.memory_mib << 10);
        // The kernel keeps its own image and a table of pages to itself.
        let usable = all - (56 << 10) - all / 40..all;
        assert!(usable.contains(&memory_kib.parse().unwrap()), "{memory_kib} KiB of {all}");
        assert_eq!(guest.pci, ["0000:00:00.0 1b36:0008 060000"], "{run}");
        // Debian's driver is a module, and not in the initramfs of these tests.
        assert!(is_debians || guest.vmgenid == ["NOVA0001:00"], "{run}");
        check_clock(run);
        kernel_warnings::check(version, self.cpu, &guest.warnings, run);
        assert!(guest.ended, "{run}");
        assert_eq!(guest.button_was_pressed, self.then == Then::WaitForButton, "{run}");
        let end = match self.then {
            Then::Reboot => "novacron: the guest reset itself",
            Then::PowerOff | Then::WaitForButton => "novacron: the guest switched itself off",
        };
        assert!(run.output.iter().any(|line| line == end), "no `{end}`: {run}");
        guest
    }
}

/// Panics unless the guest's CMOS clock is the clock of the host that it runs on.
fn check_clock(run: &CommandRun) {
    let clocks = run.output.iter().find_map(|line| line.strip_prefix("attend: clock "));
    let (guest, host) = clocks.and_then(|clocks| clocks.split_once(' ')).unwrap();
    let [guest, host]: [i64; 2] = [guest, host].map(|seconds| seconds.parse().unwrap());
    assert!((guest - host).abs() <= 2, "the clock of the guest shows {guest}, the host's {host}");
}
