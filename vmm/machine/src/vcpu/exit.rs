//! Why a vCPU stopped running.
#![allow(
    unsafe_code,
    reason = "the operands of an internal error lie in a union of struct kvm_run"
)]

use kvm_bindings::{KVM_EXIT_INTERNAL_ERROR, KVM_INTERNAL_ERROR_EMULATION};
use kvm_ioctls::VcpuFd;
use serde::{Deserialize, Serialize};

/// The guest ended, or KVM could not go on with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GuestExit {
    /// The guest asked for a reset through the i8042 or ACPI.
    Reset,
    /// The guest switched itself off.
    PowerOff,
    /// A fault during the handling of a fault during the handling of a fault: on hardware, a reset.
    ///
    /// Where it was is not said: AMD's KVM resets the vCPU before it tells.
    TripleFault {
        /// The vCPU it happened on.
        vcpu: u8,
    },
    /// KVM met an instruction that it cannot emulate.
    EmulationFailure {
        /// The vCPU it happened on.
        vcpu: u8,
        /// Its instruction pointer.
        rip: u64,
        /// The instruction's bytes, where KVM knows them.
        instruction: Vec<u8>,
    },
    /// Another of KVM's internal errors.
    InternalError {
        /// The vCPU it happened on.
        vcpu: u8,
        /// `KVM_INTERNAL_ERROR_*`.
        suberror: u32,
    },
    /// The processor refused the guest's state.
    EntryRefused {
        /// The vCPU it happened on.
        vcpu: u8,
        /// The hardware's own code.
        reason: u64,
    },
    /// An exit that no part of this machine could have asked for.
    Unexpected {
        /// The vCPU it happened on.
        vcpu: u8,
        /// `KVM_EXIT_*`, or what the call said.
        what: String,
    },
}

/// How a guest ended, for whoever decides what follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum GuestEnd {
    /// It switched itself off.
    PoweredOff,
    /// It reset itself: a guest that reboots wants to be started again.
    Reset,
    /// It was stopped from outside.
    Stopped,
    /// Otherwise than a guest may.
    Failed,
}

impl GuestEnd {
    /// Whether the guest ended as a guest may.
    #[must_use]
    pub fn is_orderly(self) -> bool {
        self != Self::Failed
    }
}

impl std::fmt::Display for GuestEnd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::PoweredOff => "the guest switched itself off",
            Self::Reset => "the guest reset itself",
            Self::Stopped => "the guest was stopped",
            Self::Failed => "the guest failed",
        })
    }
}

impl GuestExit {
    /// How the guest ended by this.
    #[must_use]
    pub fn end(&self) -> GuestEnd {
        match self {
            Self::Reset => GuestEnd::Reset,
            Self::PowerOff => GuestEnd::PoweredOff,
            _ => GuestEnd::Failed,
        }
    }

    /// Whether the guest ended as a guest may.
    #[must_use]
    pub fn is_orderly(&self) -> bool {
        self.end().is_orderly()
    }
}

impl std::fmt::Display for GuestExit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Reset | Self::PowerOff => self.end().fmt(f),
            Self::TripleFault { vcpu } => write!(
                f,
                "triple fault on vCPU {vcpu}: the guest has no working handler for its \
                 own faults; check that this kernel fits the machine's CPU and memory, and watch \
                 its early console"
            ),
            Self::EmulationFailure { vcpu, rip, instruction } => {
                write!(
                    f,
                    "KVM cannot emulate an instruction of the guest on vCPU {vcpu} at {rip:#x}"
                )?;
                if !instruction.is_empty() {
                    f.write_str(" (bytes")?;
                    for byte in instruction {
                        write!(f, " {byte:02x}")?;
                    }
                    f.write_str(")")?;
                }
                f.write_str(
                    "; on a host whose KVM emulates ring 0 (no VMX or SVM) ordinary kernels do not \
                     run: use a host with hardware virtualization",
                )
            }
            Self::InternalError { vcpu, suberror } => write!(
                f,
                "KVM internal error {suberror} on vCPU {vcpu}; the host's kernel log says more"
            ),
            Self::EntryRefused { vcpu, reason } => write!(
                f,
                "the processor refused to enter vCPU {vcpu} (hardware reason {reason:#x}); the \
                 host's kernel log says more"
            ),
            Self::Unexpected { vcpu, what } => write!(f, "vCPU {vcpu} stopped: {what}"),
        }
    }
}

/// A vCPU could not be created, set up or run.
#[derive(Debug, thiserror::Error)]
pub enum VcpuError {
    /// An ioctl failed
    #[error("{call} failed: {source}")]
    Ioctl {
        /// The ioctl's name.
        call: &'static str,
        /// What KVM said.
        source: kvm_ioctls::Error,
    },
    /// The CPUID table does not fit KVM's limit
    #[error("the CPUID table is longer than KVM takes")]
    CpuidTooLong,
    /// A thread could not be started
    #[error("cannot start a vCPU thread: {0}")]
    Thread(#[from] std::io::Error),
}

impl VcpuError {
    /// Names the ioctl whose error is being mapped.
    pub(crate) fn ioctl(call: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> Self {
        move |source| Self::Ioctl { call, source }
    }
}

/// Reads the operands of `KVM_EXIT_INTERNAL_ERROR` from the vCPU's run structure.
pub(super) fn internal_error(fd: &mut VcpuFd, vcpu: u8) -> GuestExit {
    let rip = fd.get_regs().map_or(0, |regs| regs.rip);
    let run = fd.get_kvm_run();
    assert_eq!(run.exit_reason, KVM_EXIT_INTERNAL_ERROR, "asked about another exit");
    // SAFETY: with this exit reason KVM has filled the union's `internal` member
    // (api.rst, "KVM_EXIT_INTERNAL_ERROR"); all of its fields are plain integers.
    let internal = unsafe { run.__bindgen_anon_1.internal };
    if internal.suberror != KVM_INTERNAL_ERROR_EMULATION {
        return GuestExit::InternalError { vcpu, suberror: internal.suberror };
    }
    // api.rst, `emulation_failure`: data[0] holds flags (bit 0: instruction bytes follow), data[1]
    // their count in its first byte, then the bytes themselves.
    let mut instruction = Vec::new();
    if internal.ndata >= 3 && internal.data[0] & 1 != 0 {
        let bytes = internal.data[1..4].iter().flat_map(|word| word.to_le_bytes());
        let mut bytes = bytes.take(16);
        let length = usize::from(bytes.next().unwrap_or(0)).min(15);
        instruction.extend(bytes.take(length));
    }
    GuestExit::EmulationFailure { vcpu, rip, instruction }
}
