//! Processor time of a VMM's processes without that of the guest, which computes all the time.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use benches::Stop;

/// How often the guest's thread is looked at: what it computed after the last look before its process
/// ended counts as the VMM's.
const EVERY: Duration = Duration::from_millis(2);

/// Processor time of a process, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Of all its threads, those that have ended included.
    pub(crate) own_ns: u64,
    /// Of its children that have ended and were waited for.
    pub(crate) children_ns: u64,
}

impl Usage {
    /// None if there is no such process any more.
    pub(crate) fn of(process: u32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{process}/stat")).ok()?)
    }

    /// proc_pid_stat(5): the name may hold anything, so that fields count from behind it. The 14th to
    /// the 17th are ticks.
    fn parse(stat: &str) -> Option<Self> {
        let (_, fields) = stat.rsplit_once(") ")?;
        let mut ticks = fields.split(' ').skip(11).map(str::parse::<u64>);
        let mut two = || Some(ticks.next()?.ok()? + ticks.next()?.ok()?);
        let tick = 1_000_000_000 / rustix::param::clock_ticks_per_second();
        Some(Self { own_ns: two()? * tick, children_ns: two()? * tick })
    }
}

/// A thread that runs a guest, found in its process.
pub(crate) fn vcpu_thread(process: u32, name: &str) -> Result<u32, Stop> {
    let folder = format!("/proc/{process}/task");
    let threads = fs::read_dir(&folder).map_err(Stop::failed(&folder))?;
    let is_it = |id: &u32| {
        let found = fs::read_to_string(format!("{folder}/{id}/comm")).unwrap_or_default();
        found.trim_end() == name
    };
    let mut ids = threads.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    ids.find(is_it).ok_or_else(|| Stop::Failed(format!("process {process} has no thread {name}")))
}

/// Nanoseconds that a thread has been on a processor; None if it has ended.
pub(crate) fn thread_ns(process: u32, thread: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{process}/task/{thread}/schedstat")).ok()?;
    text.split(' ').next()?.parse().ok()
}

/// Looks at a guest's thread again and again, since it may end with its process.
pub(crate) struct Watched {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    last_ns: AtomicU64,
    is_over: AtomicBool,
}

impl Watched {
    pub(crate) fn start(process: u32, thread: u32) -> Result<Self, Stop> {
        let shared = Arc::new(Shared::default());
        let first = thread_ns(process, thread)
            .ok_or_else(|| Stop::Failed("the guest's thread has ended".into()))?;
        shared.last_ns.store(first, Ordering::Relaxed);
        let of_thread = Arc::clone(&shared);
        let look = move || {
            while !of_thread.is_over.load(Ordering::Relaxed) {
                let Some(ns) = thread_ns(process, thread) else { return };
                of_thread.last_ns.store(ns, Ordering::Relaxed);
                std::thread::sleep(EVERY);
            }
        };
        let thread = std::thread::Builder::new().spawn(look).map_err(Stop::failed("a thread"))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// What it had at the last look.
    pub(crate) fn ns(&self) -> u64 {
        self.shared.last_ns.load(Ordering::Relaxed)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_behind_any_name() {
        let tick = 1_000_000_000 / rustix::param::clock_ticks_per_second();
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194560 100 0 0 0 3 4 5 6 20 0 1 0 9";
        let expected = Usage { own_ns: 7 * tick, children_ns: 11 * tick };
        assert_eq!(Usage::parse(stat), Some(expected));
        assert_eq!(Usage::parse("7 (a) S 1"), None);
    }

    #[test]
    fn a_process_finds_its_own_threads() {
        let process = std::process::id();
        let thread = vcpu_thread(process, "usage-of-a-test");
        assert!(thread.is_err());
        assert!(Usage::of(process).is_some());
        assert!(thread_ns(process, process).is_some());
    }
}
