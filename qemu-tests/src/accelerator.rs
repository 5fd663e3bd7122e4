//! What executes a QEMU machine's instructions.

use std::fs::OpenOptions;

/// VMX is not among what QEMU emulates, so an emulated host is AMD.
const EMULATED_CPU: &str = "EPYC,+svm,+npt";

/// How QEMU runs a machine.
///
/// QEMU 7.2's emulation of SVM has two faults, and each way to emulate is right for what seldom meets them; a third one is
/// met by starting the machine again:
///
/// - With a thread for each processor, once in a hundred hand-overs of a guest with two vCPUs one of them
///   faults right after a VMRUN: the first page walk finds a page table entry absent that is there before
///   and after, and the guest ends with a triple fault. KVM's trace shows that nothing touches the guest in
///   between. On one thread it did not happen in 590. It takes neither a hand-over nor two vCPUs: of 12 boots of
///   Debian's kernel on one vCPU, on an idle machine, 4 ended so, and 2 with the host itself reset in the middle of the
///   guest's boot, without a word of its kernel: no program in a host, and no guest, can do that to it. QEMU 10.0 has
///   the same fault (1 of 12). Where the machine is so busy that processors seldom run at the same time, it did not
///   happen in 70.
/// - A guest gets an interrupt a second time, whatever its RFLAGS.IF: `helper_vmrun` delivers what KVM injects, and
///   leaves its vector in `exception_index`. Whatever makes QEMU look up before the guest's next exit (a kick of
///   another thread that comes late, the end of a turn) raises it once more. Linux ends most interrupts without an exit
///   (PV EOI), so that this may be anywhere; then it waits for ever for a lock that the interrupted code holds.
///   - On one thread in 2 of 112 boots on an idle machine, and in 3 of 14 on a busy one. The oracle guest takes no
///     interrupts.
///   - With a thread for each processor not in 100 boots, and once in the long run of a busy Linux: it fell silent within
///     a line, 0.9 s after its ninth hand-over and 0.7 s before the tenth, and answered nothing any more. In 1,800
///     hand-overs made for its sake, in 30 minutes, it did not happen again.
///   - `stop` and `cont` on QEMU's monitor, 50 times a second, make it happen to each of 11 busy guests within 17 s, and
///     it takes no hand-over (9 had none). One panicked, since it had no stack there; those that were looked into spin
///     with interrupts off, and the one whose stack was read has the timer's handler on it twice, the inner one over
///     code that had interrupts off, and nothing in service in its local APIC. With that one store taken out of QEMU,
///     3 of 3 lived through 2,800 stops each.
/// - With a thread for each processor, a host's second processor took no timer interrupt any more from its start on. It
///   was seen once. The kernel said that it runs init, of which nothing was heard, and after 20 s that its thread
///   for RCU starves ("possible timer handling issue on cpu=1"). No guest had been there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accelerator {
    /// Software, with SVM and nested paging emulated, so that kvm_amd works inside. The same on
    /// every machine, which is why it is the default. A thread for each processor.
    Emulation,
    /// The same with processors that take turns on one thread.
    EmulationInTurns,
    /// The machine's own KVM. Faster where that nests, and useless where it does not.
    Kvm,
}

impl Accelerator {
    /// Emulation, unless `NOVACRON_QEMU_KVM=1` asks for KVM and `/dev/kvm` opens.
    #[must_use]
    pub fn asked_for() -> Self {
        let asked = std::env::var_os("NOVACRON_QEMU_KVM").is_some_and(|value| value == "1");
        let opens = || OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok();
        if asked && opens() { Self::Kvm } else { Self::Emulation }
    }

    /// The same, with processors that take turns if they are emulated.
    #[must_use]
    pub(crate) fn in_turns(self) -> Self {
        match self {
            Self::Emulation | Self::EmulationInTurns => Self::EmulationInTurns,
            Self::Kvm => Self::Kvm,
        }
    }

    /// QEMU's arguments for it, and for processors that lack some features, by QEMU's names for them.
    pub(crate) fn arguments(self, lacks: &[String]) -> [String; 4] {
        let (accelerator, cpu) = match self {
            Self::Emulation => ("tcg,thread=multi", EMULATED_CPU),
            Self::EmulationInTurns => ("tcg,thread=single", EMULATED_CPU),
            Self::Kvm => ("kvm", "host"),
        };
        let lacks = lacks.iter().map(|feature| format!(",-{feature}"));
        let cpu = std::iter::once(cpu.to_owned()).chain(lacks).collect();
        ["-accel".to_owned(), accelerator.to_owned(), "-cpu".to_owned(), cpu]
    }
}
