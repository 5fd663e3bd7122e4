//! A filter of system calls, and installing it.

use seccompiler::{Error as InstallError, apply_filter};

#[cfg(feature = "fault-injection")]
use super::call::{Call, call};
use super::program::{Program, allow_all, compile};
use super::tables;
use super::thread_kind::ThreadKind;

/// The kernel refuses a filter.
#[derive(Debug, thiserror::Error)]
#[error("a filter of system calls is refused: {0}")]
pub struct FilterError(#[from] InstallError);

/// What a process or a thread may call. Everything else kills the process, at once: a call that it never makes is not
/// its own any more.
#[derive(Debug)]
pub(super) struct Filter(Program);

impl Filter {
    /// For the process: whatever one of its threads does.
    pub(super) fn of_process() -> Self {
        let calls = tables::of_process();
        #[cfg(feature = "fault-injection")]
        let forbidden = |call: &&Call| !crate::fault::forbids("device-loop", call.name);
        #[cfg(feature = "fault-injection")]
        let calls = calls.filter(forbidden).chain(crate::fault::opens_by_name().then_some(OPENAT));
        Self(compile(calls))
    }

    /// For a thread that has done what every thread does at its start.
    pub(super) fn of_thread(kind: ThreadKind) -> Self {
        let calls = tables::of_thread(kind);
        #[cfg(feature = "fault-injection")]
        let calls = calls.filter(|call| !crate::fault::forbids(kind.name(), call.name));
        Self(compile(calls))
    }

    /// Installs it for this thread and those that it will start. Returns whether this kernel has filters at all.
    pub(super) fn install(&self) -> Result<bool, FilterError> {
        match apply_filter(&self.0) {
            Ok(()) => Ok(true),
            // A kernel without filters refuses any; else it is this one that is wrong, and that is no excuse.
            Err(_) if apply_filter(&allow_all()).is_err() => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

/// What a test lets through, to see Landlock hold.
#[cfg(feature = "fault-injection")]
const OPENAT: &Call = &call("openat", libc::SYS_openat);
