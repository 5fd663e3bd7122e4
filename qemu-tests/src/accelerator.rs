//! What executes a QEMU machine's instructions.

use std::fs::OpenOptions;

/// How QEMU runs a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accelerator {
    /// Software, with SVM and nested paging emulated, so that kvm_amd works inside. The same on
    /// every machine, which is why it is the default.
    Emulation,
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

    /// QEMU's arguments for it. VMX is not among what QEMU emulates, so an emulated host is AMD.
    ///
    /// Its processors take turns on one thread. On a thread each (QEMU 7.2, `thread=multi`), once in
    /// a hundred hand-overs of a guest with two vCPUs, one of them faults right after a VMRUN: the
    /// first page walk finds a page table entry absent that is there before and after, and the guest
    /// ends with a triple fault. KVM's trace shows that nothing touches the guest in between. On one
    /// thread it never happened, in 590, and they took no longer.
    pub(crate) fn arguments(self) -> [&'static str; 4] {
        match self {
            Self::Emulation => ["-accel", "tcg,thread=single", "-cpu", "EPYC,+svm,+npt"],
            Self::Kvm => ["-accel", "kvm", "-cpu", "host"],
        }
    }
}
