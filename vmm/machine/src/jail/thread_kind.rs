//! What threads a machine process has.

use super::call::Call;
use super::tables::{device_loop, job, loader, vcpu};

/// What a thread is for, and with that, which calls it makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ThreadKind {
    /// The main thread: orders, the console, making and restoring machines.
    DeviceLoop,
    /// Runs one vCPU.
    Vcpu,
    /// Owns the machine while it is handed over or saved.
    Job,
    /// Puts pages of a snapshot into memory: one as they are touched, or several all at once.
    Loader,
}

impl ThreadKind {
    /// Those that narrow themselves; the device loop's filter is the process's.
    pub(super) const THREADS: [Self; 3] = [Self::Vcpu, Self::Job, Self::Loader];

    /// By which it is named in a fault.
    #[cfg(feature = "fault-injection")]
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::DeviceLoop => "device-loop",
            Self::Vcpu => "vcpu",
            Self::Job => "job",
            Self::Loader => "loader",
        }
    }

    /// What it does that not every thread does.
    pub(super) fn own_calls(self) -> &'static [Call] {
        match self {
            Self::DeviceLoop => device_loop::CALLS,
            Self::Vcpu => vcpu::CALLS,
            Self::Job => job::CALLS,
            Self::Loader => loader::CALLS,
        }
    }
}
