//! Linux, unmodified, on our own VMM, inside an emulated host with real kvm_amd.

use std::time::Duration;

use qemu_tests::{Case, CommandRun, Ending, HostImage, HostReport, guest_kernel, novacron};

use crate::support::{GuestReport, case, guest_initramfs, host, long_case, run_guests};

/// `noxsave`: QEMU's emulated SVM does not intercept XSETBV (`helper_xsetbv` in its
/// `target/i386/tcg/fpu_helper.c` asks nobody), so KVM in the host never learns the guest's XCR0 and
/// sets it back to 1 at the next entry: the guest's kernel would warn that sizes do not match, and
/// lose SSE registers when it switches tasks. Without XSAVE it uses FXSAVE, which needs no XCR0.
pub(crate) const CMDLINE: &str = "console=ttyS0 quiet noxsave panic=-1";

/// Warnings that a guest's kernel may print, by what they begin with, and why each is right. Any
/// other warning is a defect of the machine model.
const EXPLAINED: [(&str, &str); 3] = [
    ("Speculative Return Stack Overflow: IBPB-extending", "QEMU's EPYC has no microcode to update"),
    ("Speculative Return Stack Overflow: WARNING: See", "the second line of the same message"),
    ("hrtimer: interrupt took", "it is emulated, on processors that other work wants too"),
];

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
    /// `vmlinux` or `bzImage`.
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
    run_and_check(&case, &guests, Duration::from_secs(600));
}

fn run_and_check(case: &Case, guests: &[Guest], limit: Duration) {
    let report = run(case, guests, limit);
    assert_eq!(report.runs.len(), guests.len());
    for (guest, run) in guests.iter().zip(&report.runs) {
        guest.check(run);
    }
}

/// Runs guests one after the other in one host: its own boot is the dearest part of a guest's.
fn run(case: &Case, guests: &[Guest], limit: Duration) -> HostReport {
    run_guests(case, || {
        let image = host_of_guests().time_limit(limit);
        guests.iter().fold(image, |image, guest| image.run(&guest.command()))
    })
}

/// A host with our executable, and all that guests boot from.
pub(crate) fn host_of_guests() -> HostImage {
    let kernel = guest_kernel().unwrap();
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
        let novacron = ["/init", "attend", "/bin/novacron", "run", "linux"];
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
        assert!(guest.fact("kernel").starts_with("6.12."), "{run}");
        assert_eq!(guest.fact("cpus"), self.cpus.to_string(), "{run}");
        // A machine without kvmclock loses its time when it moves.
        assert_eq!(guest.fact("clocksource"), "kvm-clock", "{run}");
        let (memory_kib, all) = (guest.fact("memory_kib"), self.memory_mib << 10);
        // The kernel keeps its own image and a table of pages to itself.
        let usable = all - (40 << 10)..all;
        assert!(usable.contains(&memory_kib.parse().unwrap()), "{memory_kib} KiB of {all}");
        assert_eq!(guest.pci, ["0000:00:00.0 1b36:0008 060000"], "{run}");
        assert_eq!(guest.vmgenid, ["NOVA0001:00"], "{run}");
        check_clock(run);
        let explained = |line: &&String| EXPLAINED.iter().any(|(start, _)| line.starts_with(start));
        let unexplained: Vec<_> = guest.warnings.iter().filter(|line| !explained(line)).collect();
        assert!(unexplained.is_empty(), "{self:?}: {unexplained:#?}");
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
