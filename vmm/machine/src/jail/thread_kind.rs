//! What threads a machine process has.

use super::call::Call;
use super::tables::{device_loop, job, loader, mover, stream, thread, throttle, vcpu};

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
    /// Carries a stream of a move between hosts.
    Stream,
    /// Owns the machine while it moves to another host, and makes the streams' threads.
    Mover,
    /// Holds the vCPUs of a guest that is slowed down while it moves.
    Throttle,
}

impl ThreadKind {
    /// Those that narrow themselves; the device loop's filter is the process's.
    pub(super) const THREADS: [Self; 6] =
        [Self::Vcpu, Self::Job, Self::Loader, Self::Stream, Self::Mover, Self::Throttle];

    /// By which it is named in a fault.
    #[cfg(feature = "fault-injection")]
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::DeviceLoop => "device-loop",
            Self::Vcpu => "vcpu",
            Self::Job => "job",
            Self::Loader => "loader",
            Self::Stream => "stream",
            Self::Mover => "mover",
            Self::Throttle => "throttle",
        }
    }

    /// What it does that not every thread does.
    pub(super) fn own_calls(self) -> impl Iterator<Item = &'static Call> {
        let tables: &[&'static [Call]] = match self {
            Self::DeviceLoop => &[device_loop::CALLS, thread::SPAWN],
            Self::Vcpu => &[vcpu::CALLS],
            Self::Job => &[job::CALLS, job::MACHINE],
            Self::Loader => &[loader::CALLS],
            // A stream that ends may be followed by another one, which has a thread of its own.
            Self::Stream => &[stream::CALLS, thread::SPAWN, thread::START],
            // Threads that it starts have its filter besides their own.
            Self::Mover => {
                &[job::MACHINE, mover::CALLS, stream::CALLS, thread::SPAWN, thread::START]
            }
            Self::Throttle => &[throttle::CALLS],
        };
        tables.iter().copied().flatten()
    }
}
