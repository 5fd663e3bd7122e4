//! Which calls each kind of thread makes, and what for.
//!
//! | table | whose |
//! |---|---|
//! | `thread.rs` | every thread's, from its start to its end |
//! | `device_loop.rs`, `vcpu.rs`, `job.rs`, `loader.rs`, `stream.rs`, `mover.rs`, `throttle.rs` | one kind's, besides |
//! | `faults.rs` | every thread's of an executable that tests break on purpose |
//!
//! The test `long_no_call_is_allowed_without_need` takes each away in turn. A row that it cannot show to be needed says why
//! it is there.

pub(super) mod device_loop;
#[cfg(feature = "fault-injection")]
pub(super) mod faults;
pub(super) mod job;
pub(super) mod loader;
pub(super) mod mover;
pub(super) mod stream;
pub(super) mod thread;
pub(super) mod throttle;
pub(super) mod vcpu;

#[cfg(feature = "fault-injection")]
use super::call::AllowedCall;
use super::call::Call;
use super::thread_kind::ThreadKind;

/// What a thread of this kind does once it has narrowed itself.
pub(super) fn of_thread(kind: ThreadKind) -> impl Iterator<Item = &'static Call> {
    let calls = kind.own_calls().chain(thread::CALLS);
    #[cfg(feature = "fault-injection")]
    let calls = calls.chain(faults::CALLS);
    calls
}

/// What any thread of the process does, before it narrows itself and afterwards. The vCPUs' table stands first: the
/// filter looks for a request of ioctl(2) in this order, and `KVM_RUN` is the one that comes a million times.
pub(super) fn of_process() -> impl Iterator<Item = &'static Call> {
    let threads = ThreadKind::THREADS.into_iter().flat_map(of_thread);
    threads.chain(thread::START).chain(of_thread(ThreadKind::DeviceLoop))
}

/// Every row, for the test that takes each away.
#[cfg(feature = "fault-injection")]
#[must_use]
pub fn allowed_calls() -> Vec<AllowedCall> {
    let of = |kind: ThreadKind| {
        let start = if kind == ThreadKind::DeviceLoop { thread::START } else { &[] };
        let calls = kind.own_calls().chain(thread::CALLS).chain(start);
        calls.map(move |call| AllowedCall {
            thread: kind.name(),
            call: call.name,
            unproven: call.unproven,
        })
    };
    ThreadKind::THREADS.into_iter().chain([ThreadKind::DeviceLoop]).flat_map(of).collect()
}
