//! Signals that ask this process to end, as numbers that a thread waits for.
//!
//! The signals are blocked everywhere but in that thread, so that no system call of another is
//! interrupted. A process that is started afterwards would inherit that: start it before, or with [`spawn`].

use std::io;
use std::process::{Child, Command};
use std::sync::OnceLock;

use rustix::process::Signal;
use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::signal::{block_signal, register_signal_handler, unblock_signal};

/// How often this process was asked to end since the waiting thread last looked.
static REQUESTS: OnceLock<EventFd> = OnceLock::new();

/// Calls `act` in a thread of its own, each time this process is asked to end (SIGTERM, SIGINT), with how often it
/// was so far; until `act` says that that was enough.
///
/// # Errors
/// When the system refuses a descriptor, a handler or a thread; or if it is called twice.
pub(crate) fn on_request_to_end(
    act: impl FnMut(u64) -> Continue + Send + 'static,
) -> io::Result<()> {
    on_signals([Signal::TERM, Signal::INT], act)
}

/// The same for signals of the caller's choice.
///
/// # Errors
/// As with [`on_request_to_end`], which is not called besides.
pub(crate) fn on_signals<const N: usize>(
    signals: [Signal; N],
    mut act: impl FnMut(u64) -> Continue + Send + 'static,
) -> io::Result<()> {
    let signals = signals.map(Signal::as_raw);
    let requests = EventFd::new(libc::EFD_CLOEXEC)?;
    let noted = requests.try_clone()?;
    REQUESTS.set(noted).map_err(|_| io::Error::other("signals are waited for already"))?;
    for signal in signals {
        block_signal(signal).map_err(|error| io::Error::other(error.to_string()))?;
        register_signal_handler(signal, note)?;
    }
    let wait = move || {
        for signal in signals {
            // Blocked a moment ago, so that this cannot fail.
            let _ = unblock_signal(signal);
        }
        let mut so_far = 0;
        loop {
            match requests.read() {
                Ok(more) => so_far += more,
                // By the very signal that it waits for.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return,
            }
            if act(so_far) == Continue::No {
                return;
            }
        }
    };
    std::thread::Builder::new().name("signals".into()).spawn(wait)?;
    Ok(())
}

/// Starts a process that is not to inherit that these signals, which are waited for, are blocked.
///
/// # Errors
/// When it cannot be started.
pub(crate) fn spawn<const N: usize>(
    signals: [Signal; N],
    command: &mut Command,
) -> io::Result<Child> {
    // One that comes meanwhile is noted by this thread instead of by the waiting one.
    for signal in signals {
        unblock_signal(signal.as_raw()).map_err(|error| io::Error::other(error.to_string()))?;
    }
    let child = command.spawn();
    for signal in signals {
        // Unblocked a moment ago, so that this cannot fail.
        let _ = block_signal(signal.as_raw());
    }
    child
}

/// Whether to go on waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Continue {
    Yes,
    No,
}

/// Runs in the waiting thread. A write to an event descriptor is one system call, as a handler may
/// make it (signal-safety(7)).
extern "C" fn note(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    if let Some(requests) = REQUESTS.get() {
        let _ = requests.write(1);
    }
}
