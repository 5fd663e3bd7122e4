//! What executes a QEMU machine's instructions.

use std::fs::OpenOptions;

/// VMX is not among what QEMU emulates, so an emulated host is AMD.
const EMULATED_CPU: &str = "EPYC,+svm,+npt";

/// How QEMU runs a machine.
///
/// Both ways to emulate have a fault in what they do of SVM (QEMU 7.2), and each is right for what does
/// not meet it:
///
/// - With a thread for each processor, once in a hundred hand-overs of a guest with two vCPUs one of them
///   faults right after a VMRUN: the first page walk finds a page table entry absent that is there before
///   and after, and the guest ends with a triple fault. KVM's trace shows that nothing touches the guest in
///   between. On one thread it did not happen in 590. It takes neither a hand-over nor two vCPUs: of 12 boots of
///   Debian's kernel on one vCPU, on an idle machine, 4 ended so, and 2 with the host itself reset in the middle of the
///   guest's boot, without a word of its kernel: no program in a host, and no guest, can do that to it. QEMU 10.0 has
///   the same fault (1 of 12). Where the machine is so busy that processors seldom run at the same time, it did not
///   happen in 70.
/// - On one thread, a guest gets an interrupt while its RFLAGS.IF is 0, and Linux waits for ever for a lock
///   that the interrupted code holds: in 2 of 112 boots on an idle machine, and in 3 of 14 on a busy one. The interrupted
///   flags lie on the guest's stack. With a thread for each processor it did not happen in 100. The oracle
///   guest takes no interrupts.
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
