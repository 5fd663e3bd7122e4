//! The jail of a machine process: what it gives up before it does anything for a guest.
//!
//! Whoever breaks out of a guest is in this process, and has what it has: descriptors that were passed to it, and the
//! calls in these tables. It has no capability, no name for a file, no network, and no process but itself.
//!
//! | step | file | what it holds off |
//! |---|---|---|
//! | [`still`] | here | our own libraries: what they would do by name, or to die |
//! | namespaces | `namespaces.rs` | the host's network, its System V objects, everything that is mounted |
//! | capabilities | `capabilities.rs` | rights of root, now and by executing something |
//! | Landlock | `names.rs` | opening by name, TCP ports, abstract sockets and signals to others |
//! | seccomp | `tables/`, `program.rs`, `filter.rs` | every system call, and every ioctl, that is not in the table of the thread's kind |
//!
//! A filter is inherited: the device loop's has what any thread of the process does, and each thread narrows itself to its
//! own table when it starts. A call that is in none kills the process; whoever started it says so.
//!
//! The tables know the C library that makes the calls: glibc, linked dynamically or statically.
#![allow(
    unsafe_code,
    reason = "mallopt(3) and signal(2) are settings of the process that only C has"
)]

mod call;
mod capabilities;
mod filter;
mod ioctls;
mod names;
mod namespaces;
mod program;
mod tables;
mod thread_kind;

use std::io::{self, Write};
use std::process::abort;
use std::sync::OnceLock;

#[cfg(feature = "fault-injection")]
pub use call::AllowedCall;
use filter::{Filter, FilterError};
#[cfg(feature = "fault-injection")]
pub use tables::allowed_calls;
pub(crate) use thread_kind::ThreadKind;

/// The process could not be shut in.
#[derive(Debug, thiserror::Error)]
pub enum JailError {
    /// Capabilities
    #[error("cannot give up capabilities: {0}")]
    Capabilities(#[source] io::Error),
    /// Landlock
    #[error("Landlock: {0}")]
    Landlock(#[from] landlock::RulesetError),
    /// A filter of system calls
    #[error(transparent)]
    Filter(#[from] FilterError),
}

/// The filters to which threads narrow themselves, if this process is in its jail.
static FILTERS: OnceLock<[(ThreadKind, Filter); ThreadKind::THREADS.len()]> = OnceLock::new();

/// Shuts this process in, for good. It has one thread, and has opened what it will want by name.
///
/// What the host does not allow, or its kernel does not have, is said once, and the rest holds.
///
/// # Errors
/// When the kernel has what it takes, and refuses: the process must not go on.
pub(crate) fn close() -> Result<(), JailError> {
    still();
    if let Err(error) = namespaces::leave() {
        tracing::warn!(%error, "this machine process stays in namespaces of its host");
    }
    capabilities::give_up().map_err(|error| JailError::Capabilities(error.into()))?;
    if !names::deny_all()? {
        tracing::warn!(
            "this host's kernel has no Landlock, or has it switched off: Linux 5.13 has it"
        );
    }
    let narrower = ThreadKind::THREADS.map(|kind| (kind, Filter::of_thread(kind)));
    if Filter::of_process().install()? {
        let _ = FILTERS.set(narrower);
    } else {
        tracing::warn!("this host's kernel has no filters of system calls (CONFIG_SECCOMP_FILTER)");
    }
    #[cfg(feature = "fault-injection")]
    crate::fault::do_as_planted(ThreadKind::DeviceLoop.name());
    Ok(())
}

/// Narrows this thread to what its kind does. In a process without a jail, a test's for one, this does nothing.
///
/// # Panics
/// When the kernel refuses: a thread that is not narrowed must not run.
pub(crate) fn narrow(kind: ThreadKind) {
    let Some(filters) = FILTERS.get() else { return };
    let filter = filters.iter().find(|(of, _)| *of == kind).map(|(_, filter)| filter);
    let is_narrow = filter.expect("each thread's kind has a filter").install();
    assert!(matches!(is_narrow, Ok(true)), "{kind:?}: {is_narrow:?}");
    #[cfg(feature = "fault-injection")]
    crate::fault::do_as_planted(kind.name());
}

/// Keeps libraries from what the filter forbids.
fn still() {
    // One heap for all threads. A second one is shrunk with regard to a file of /proc (glibc's `shrink_heap`), and costs
    // memory; threads that decode pages use buffers that they keep.
    // SAFETY: this sets a number of the allocator's; there is one thread.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
    // The handlers of Rust's runtime tell a full stack from other faults, and then let the kernel do what it does now
    // at once: end the process by the very signal, which whoever started it names.
    for signal in [libc::SIGSEGV, libc::SIGBUS] {
        // SAFETY: the default action is no handler of ours.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    // A backtrace would be read from files.
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("a thread");
        // At once, since another thread's panic may end the process in the middle of them. Where nobody reads them the words
        // are lost: to panic about that would be to panic twice.
        let words = format!("novacron machine: {name}: {panic}\n");
        let _ = io::stderr().write_all(words.as_bytes());
        // As the profile of a release says, too; a build for tests unwinds.
        abort()
    }));
}
