//! Time that a processor has spent, and rates of it.

use rustix::time::{ClockId, clock_gettime};

use crate::statistics::{Samples, ratio};

/// Processor time of this thread in nanoseconds: others' load is not in it, but for the caches.
#[must_use]
pub fn processor_ns() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    u64::try_from(time.tv_sec * 1_000_000_000 + time.tv_nsec).unwrap_or(0)
}

/// Adds the processor time of `work` to `samples`.
pub fn timed(samples: &mut Vec<u64>, work: impl FnOnce()) {
    let start = processor_ns();
    work();
    samples.push(processor_ns() - start);
}

/// The median; 0 of nothing.
#[must_use]
pub fn median(samples: Vec<u64>) -> u64 {
    Samples::new(samples).map_or(0, |samples| samples.median())
}

/// Megabytes (10^6) a second; nothing if nothing was done.
#[must_use]
pub fn rate(bytes: u64, ns: u64) -> String {
    let is_rate = ns > bytes / 1000;
    if is_rate { format!("{:.0}", ratio(bytes.saturating_mul(1000), ns)) } else { "-".to_owned() }
}
