//! Debian 12's own kernel, unmodified, and the initrd that Debian's tools make for it, on our own VMM.

use std::time::Duration;

use qemu_tests::{Case, CommandRun, Ending, HostImage, debian_kernel};

use crate::kernel_warnings;
use crate::linux_guest::{Guest, Then, host_of_guests};
use crate::support::{case, long_case, run_guests};

/// As in other guests of an emulated host, and nothing else: what a bare command line does is tested.
const CMDLINE: &str = "console=ttyS0 quiet noxsave";
const PROMPT: &str = "(initramfs) ";
/// MiB of the host: kernel and initrd of the guest lie in it packed, and unpacked in the guest.
const HOST_MEMORY: u32 = 1280;

/// A Debian that comes no further than its initrd's shell, since it has no disk.
#[derive(Clone, Copy, Debug)]
struct Shell {
    cpu: &'static str,
    cpus: u32,
    /// What it is booted with besides.
    parameters: &'static str,
    /// The command that ends it.
    end: &'static str,
}

const PLAIN: Shell = Shell { cpu: "host", cpus: 1, parameters: "", end: "poweroff" };

/// The first guest comes to its prompt by itself: it looks for a disk and finds none. The second runs the tests' own
/// init, which is quicker, and resets itself.
#[test]
fn debian_comes_to_its_prompt_and_switches_itself_off_and_resets_itself() {
    let name = "debian_comes_to_its_prompt_and_switches_itself_off_and_resets_itself";
    let Some(case) = case(name) else { return };
    let guest = Guest { kernel: "vmlinuz", then: Then::Reboot, ..Guest::default() };
    let report = run_guests(&case, || {
        host_of_debian()
            .run(&PLAIN.command())
            .run(&guest.command())
            .time_limit(Duration::from_secs(180))
    });
    PLAIN.check(&report.runs[0]);
    guest.check(&report.runs[1]);
}

#[test]
fn long_debian_runs_on_other_cpu_models_and_several_cpus_and_resets_itself() {
    let name = "long_debian_runs_on_other_cpu_models_and_several_cpus_and_resets_itself";
    let Some(case) = long_case(name) else { return };
    check_each(
        &case,
        &[
            Shell { parameters: "break=premount", end: "reboot", ..PLAIN },
            Shell { cpu: "x86-64-v2", ..PLAIN },
            Shell { cpu: "x86-64-v3", end: "reboot", ..PLAIN },
            Shell { cpus: 2, end: "reboot", ..PLAIN },
            Shell { cpus: 4, ..PLAIN },
        ],
    );
}

/// The ways to reset that a guest may be told to take: ACPI's register, the keyboard controller, the chipset's register,
/// the firmware; and what Linux takes of itself without stopping its processors first.
#[test]
fn long_debian_resets_itself_by_each_way_that_there_is() {
    let Some(case) = long_case("long_debian_resets_itself_by_each_way_that_there_is") else {
        return;
    };
    let guest = Guest { kernel: "vmlinuz", then: Then::Reboot, ..Guest::default() };
    let ways = ["acpi", "kbd", "pci", "bios", "force"];
    let report = run_guests(&case, || {
        let commands = ways.iter().map(|way| {
            let mut command = guest.command();
            let cmdline = command.iter_mut().find(|word| word.contains("console=")).unwrap();
            cmdline.push_str(&format!(" reboot={way}"));
            command
        });
        let host = host_of_debian().time_limit(Duration::from_secs(300));
        commands.fold(host, |host, command| host.run(&command))
    });
    for run in &report.runs {
        guest.check(run);
    }
}

fn check_each(case: &Case, shells: &[Shell]) {
    for shell in shells {
        // A host for each: what goes wrong in the emulator costs one of them.
        let report = run_guests(case, || {
            host_of_debian().run(&shell.command()).time_limit(Duration::from_secs(180))
        });
        shell.check(&report.runs[0]);
    }
}

/// A host with our executable, and what Debian boots from.
fn host_of_debian() -> HostImage {
    let debian = debian_kernel().unwrap();
    host_of_guests()
        .file("/guest/vmlinuz", &debian.vmlinuz)
        .unwrap()
        .file("/guest/initrd.debian", &debian.initrd)
        .unwrap()
        .memory_mib(HOST_MEMORY)
}

impl Shell {
    fn command(self) -> Vec<String> {
        let Self { cpu, cpus, parameters, end } = self;
        // Raw: each line of the log has its level before it. One that fits into 80 columns comes back as it was typed.
        let script = format!("uname -r; dmesg -r | grep '^<[0-4]>'; {end} -f");
        let cmdline = format!("{CMDLINE} {parameters}");
        let cpus = cpus.to_string();
        let command = ["/init", "type", PROMPT, &script, "/bin/novacron", "run", "linux", "--rm"];
        let files = ["--kernel", "/guest/vmlinuz", "--initrd", "/guest/initrd.debian"];
        let machine = ["--memory", "512M", "--cpus", &cpus, "--cpu", cpu, "--cmdline", &cmdline];
        command.into_iter().chain(files).chain(machine).map(str::to_owned).collect()
    }

    /// Panics unless the guest came to its prompt, did there what it was told, complained of nothing and ended so.
    fn check(self, run: &CommandRun) {
        assert_eq!(run.ending, Ending::Exit(0), "{run}");
        let version = run.output.iter().find(|line| line.starts_with("6.1."));
        let version = version.unwrap_or_else(|| panic!("it did not say its version: {run}"));
        let warnings: Vec<_> = run.output.iter().filter_map(|line| warning(line)).collect();
        kernel_warnings::check(version, self.cpu, &warnings, run);
        let end = match self.end {
            "reboot" => "novacron: the guest reset itself",
            _ => "novacron: the guest switched itself off",
        };
        assert!(run.output.iter().any(|line| line == end), "no `{end}`: {run}");
    }
}

/// The text of a line of `dmesg -r`: `<level>[seconds] text`.
fn warning(line: &str) -> Option<String> {
    let (level, rest) = line.strip_prefix('<')?.split_once(">[")?;
    level.parse::<u8>().ok()?;
    Some(rest.split_once("] ")?.1.to_owned())
}

#[test]
fn a_line_of_the_log_is_its_text() {
    let raw = "<4>[    0.766837] Speculative Return Stack Overflow: [x] y";
    assert_eq!(warning(raw).as_deref(), Some("Speculative Return Stack Overflow: [x] y"));
    for other in ["6.1.0-57-cloud-amd64", "[    0.7] a", "<x>[ 0.1] a", "(initramfs) dmesg -r"] {
        assert_eq!(warning(other), None, "{other}");
    }
}
