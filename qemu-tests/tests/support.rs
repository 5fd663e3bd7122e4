//! What several tests need.

use std::path::Path;

use qemu_tests::{Case, CommandRun, Ending, HostImage, HostReport, Initramfs};

/// The init of hosts and guests, built with this package.
pub(crate) const TEST_INIT: &str = env!("CARGO_BIN_EXE_test-init");

/// The test `name`, or nothing where there is no QEMU; that is counted as skipped.
pub(crate) fn case(name: &str) -> Option<Case> {
    Case::begin(name, Path::new(env!("CARGO_TARGET_TMPDIR")))
}

/// The same for a test of the long run; elsewhere it counts as skipped.
pub(crate) fn long_case(name: &str) -> Option<Case> {
    Case::begin_long(name, Path::new(env!("CARGO_TARGET_TMPDIR")))
}

/// A host with test-init and nothing else in it.
pub(crate) fn host() -> HostImage {
    HostImage::new(Path::new(TEST_INIT)).unwrap()
}

/// The initramfs of a Linux guest: test-init without a script.
pub(crate) fn guest_initramfs() -> Vec<u8> {
    let mut archive = Initramfs::new();
    archive.add_program("/init", Path::new(TEST_INIT)).unwrap();
    archive.finish().unwrap()
}

/// Makes `novacron` log where a guest's vCPUs were whenever it was saved: `run_guests` wants to know, where a guest is
/// handed over.
pub(crate) const LOG: &str = "--log=warn,machine::vm=debug";

/// Boots a host of Linux guests and runs its script; once more, twice at most, when a guest ended with a triple fault or
/// got stuck, the host was reset, or the script came to no end. All are faults of the emulator, as often as
/// `Accelerator` says; one of ours comes again.
pub(crate) fn run_guests(case: &Case, host: impl Fn() -> HostImage) -> HostReport {
    for nth in 1..=2 {
        match host().boot(case).unwrap().finish() {
            Ok(report) => match report.runs.iter().find_map(fault_of_emulator) {
                None => return report,
                Some(fault) => eprintln!("attempt {nth}: {fault}; once more"),
            },
            Err(error) => eprintln!("attempt {nth}: {error}; once more"),
        }
    }
    host().boot(case).unwrap().finish().unwrap()
}

fn fault_of_emulator(run: &CommandRun) -> Option<&'static str> {
    if run.output.iter().any(|line| line.contains("triple fault on vCPU")) {
        Some("a guest ended with a triple fault")
    } else if is_stuck(run) {
        Some("a guest fell silent, and from then on its interrupts were off")
    } else {
        None
    }
}

/// Whether a guest that did not end well took no interrupt, whenever it was saved after its last words: it waits for a
/// lock that it holds itself. A guest that an interrupt of ours did not reach idles, and would take any other.
fn is_stuck(run: &CommandRun) -> bool {
    /// Saves that are needed to tell: in one, any guest may be where it takes none.
    const SAVES: usize = 3;
    let after = run.output.iter().rev().take_while(|line| !line.starts_with("guest: "));
    let saves: Vec<_> = after.filter(|line| line.contains(" saved vcpu=")).collect();
    run.ending != Ending::Exit(0)
        && saves.len() >= SAVES
        && saves.iter().all(|line| line.contains("takes_interrupts: false"))
}

/// What a guest's init said, from the lines that a console printed.
#[derive(Debug)]
pub(crate) struct GuestReport {
    /// `kernel=… cpus=… memory_kib=… clocksource=… loader=…`
    facts: String,
    /// The kernel's messages of level warning or worse.
    pub(crate) warnings: Vec<String>,
    /// What CPUID told it: `leaf subleaf eax ebx ecx edx`, if it was asked.
    pub(crate) cpuid: Vec<String>,
    /// `<address> <vendor>:<device> <class>` of each PCI function.
    pub(crate) pci: Vec<String>,
    /// The device of each generation id that has its driver.
    pub(crate) vmgenid: Vec<String>,
    /// Whether it heard of its power button.
    pub(crate) button_was_pressed: bool,
    /// Whether it came to its end.
    pub(crate) ended: bool,
}

impl GuestReport {
    /// Reads the lines of one guest.
    pub(crate) fn parse(lines: &[String]) -> Self {
        let told = |prefix: &str| {
            lines.iter().filter_map(|line| line.strip_prefix(prefix)).map(str::to_owned).collect()
        };
        let reached: Vec<String> = told("guest: init reached ");
        assert_eq!(reached.len(), 1, "init was reached {} times in {lines:#?}", reached.len());
        let presses: Vec<String> = told("guest: power button was pressed");
        let ends: Vec<String> = told("guest: end ");
        Self {
            facts: reached[0].clone(),
            warnings: told("guest: warn "),
            cpuid: told("guest: cpuid "),
            pci: told("guest: pci "),
            vmgenid: told("guest: vmgenid "),
            button_was_pressed: presses.len() == 1,
            // The whole line: nothing of it, nor of the lines before it, was left to be printed when the machine ended.
            ended: matches!(&ends[..], [end] if end == "PowerOff" || end == "Restart"),
        }
    }

    /// The value of one of the facts.
    pub(crate) fn fact(&self, name: &str) -> &str {
        self.facts
            .split(' ')
            .find_map(|fact| fact.strip_prefix(name)?.strip_prefix('='))
            .unwrap_or_else(|| panic!("no {name} in `{}`", self.facts))
    }
}

#[test]
fn an_end_into_which_the_kernel_wrote_is_none() {
    let ended = |end: &str| {
        let lines = ["guest: init reached kernel=6.12.1".to_owned(), end.to_owned()];
        GuestReport::parse(&lines).ended
    };
    assert!(ended("guest: end PowerOff") && ended("guest: end Restart"));
    assert!(!ended("guest: end PowerOff[    5.453050] reboot: Power down"));
    assert!(!ended("guest: end Po") && !ended(""));
}

#[test]
fn a_guest_is_stuck_only_if_it_takes_no_interrupt_since_its_last_words() {
    const ON: &str =
        "Z DEBUG machine::vm::machine: saved vcpu=0 state=VcpuStateV1 { takes_interrupts: true }";
    let off = ON.replace("true", "false");
    let is_stuck = |code, output: &[&str]| {
        let output = output.iter().map(|line| (*line).to_owned()).collect();
        is_stuck(&CommandRun { command: String::new(), output, ending: Ending::Exit(code) })
    };
    let off = off.as_str();
    let words = "guest: worker 0 rounds=100 wrong=0";
    assert!(is_stuck(
        4,
        &[ON, words, "gue  shared  1/20  blackout", off, off, off, "novacron: ..."]
    ));
    // It speaks; idles; has hardly been looked at; or went on.
    assert!(!is_stuck(4, &[off, off, off, words, off, off]));
    assert!(!is_stuck(4, &[words, off, off, ON, off]));
    assert!(!is_stuck(4, &[words]));
    assert!(!is_stuck(0, &[words, off, off, off]));
}
