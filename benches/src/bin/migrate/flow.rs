//! What the link and the processors did while a guest moved.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use benches::Stop;
use serde::Serialize;

use crate::outcome::nanoseconds;
use benches::network::{Network, SOURCE};

/// How often the source's interface is looked at.
const EVERY: Duration = Duration::from_millis(3);
/// The shortest time of which it is said that the link was full.
const WINDOW_NS: u64 = 10_000_000;
/// What hosts tell each other before and after pages, in bytes: more than that are pages.
const WORDS: u64 = 64 << 10;

/// Looks at both while a guest moves.
pub(crate) struct Flow {
    rate: Option<u64>,
    began: Instant,
    sent: u64,
    idle_ns: u64,
    is_over: Arc<AtomicBool>,
    sampler: Option<JoinHandle<Vec<Sample>>>,
}

/// What was seen.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Flowed {
    /// From the order until this process knew of the end.
    pub(crate) total_ns: u64,
    /// Bytes that both interfaces sent.
    pub(crate) wire_bytes: u64,
    /// What all processors of this host had nothing to do, together.
    pub(crate) idle_ns: u64,
    /// Where the time went, as the source's interface shows it.
    pub(crate) times: Times,
}

/// Parts of a move, which make up all of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Times {
    /// Until the first pages.
    pub(crate) before_ns: u64,
    /// While pages went, the link carried what it can; none of a link that has no rate.
    pub(crate) full_ns: Option<u64>,
    /// It carried less.
    pub(crate) partly_ns: u64,
    /// From the last pages to the end.
    pub(crate) after_ns: u64,
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    at_ns: u64,
    bytes: u64,
}

impl Flow {
    /// Begins to look. `rate` is what the link carries, in bits a second, if that is bounded.
    pub(crate) fn start(rate: Option<u64>) -> Result<Self, Stop> {
        let counters = Network::counters(SOURCE)?;
        let is_over = Arc::new(AtomicBool::new(false));
        let (sent, idle_ns, began) = (Network::sent()?, idle_ns()?, Instant::now());
        let of_thread = Arc::clone(&is_over);
        let look = move || sample(&counters, began, &of_thread);
        let sampler = std::thread::Builder::new().spawn(look).map_err(Stop::failed("a thread"))?;
        Ok(Self { rate, began, sent, idle_ns, is_over, sampler: Some(sampler) })
    }

    pub(crate) fn began(&self) -> Instant {
        self.began
    }

    /// The move has ended.
    pub(crate) fn end(mut self) -> Result<Flowed, Stop> {
        let total_ns = nanoseconds(self.began.elapsed());
        let wire_bytes = Network::sent()? - self.sent;
        // What waits for a disk may be counted back.
        let idle_ns = idle_ns()?.saturating_sub(self.idle_ns);
        let times = times(&self.stop(), total_ns, self.rate);
        Ok(Flowed { total_ns, wire_bytes, idle_ns, times })
    }

    fn stop(&mut self) -> Vec<Sample> {
        self.is_over.store(true, Ordering::Relaxed);
        self.sampler.take().and_then(|sampler| sampler.join().ok()).unwrap_or_default()
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.stop();
    }
}

fn sample(counters: &File, began: Instant, is_over: &AtomicBool) -> Vec<Sample> {
    let mut samples = Vec::new();
    let mut table = [0; 4096];
    while !is_over.load(Ordering::Relaxed) {
        let count = counters.read_at(&mut table, 0).unwrap_or(0);
        let text = String::from_utf8_lossy(&table[..count]);
        if let Some(bytes) = Network::sent_in(&text) {
            samples.push(Sample { at_ns: nanoseconds(began.elapsed()), bytes });
        }
        std::thread::sleep(EVERY);
    }
    samples
}

/// A move by what the interface had sent at each time.
fn times(samples: &[Sample], total_ns: u64, rate: Option<u64>) -> Times {
    let (Some(first), Some(last)) = (samples.first(), samples.last()) else {
        return Times { partly_ns: total_ns, ..Times::default() };
    };
    let (from, to) = (first.bytes + WORDS, last.bytes.saturating_sub(WORDS));
    let mut pages = samples.iter().skip_while(|sample| sample.bytes < from).peekable();
    let Some(begin) = pages.peek().copied() else {
        return Times { before_ns: total_ns, full_ns: rate.map(|_| 0), ..Times::default() };
    };
    let (mut full_ns, mut open, mut end) = (0, begin, begin);
    for sample in pages {
        let took_ns = sample.at_ns - open.at_ns;
        if took_ns >= WINDOW_NS {
            let most = rate.unwrap_or(0) as f64 / 8.0 * took_ns as f64 / 1e9;
            let is_full = (sample.bytes - open.bytes) as f64 >= 0.9 * most;
            full_ns += if is_full { took_ns } else { 0 };
            open = sample;
        }
        end = sample;
        if sample.bytes >= to {
            break;
        }
    }
    let pages_ns = end.at_ns - begin.at_ns;
    Times {
        before_ns: begin.at_ns,
        full_ns: rate.map(|_| full_ns),
        partly_ns: pages_ns - rate.map_or(0, |_| full_ns),
        after_ns: total_ns.saturating_sub(end.at_ns),
    }
}

/// What the processors of this host have had nothing to do since it started.
fn idle_ns() -> Result<u64, Stop> {
    let text = fs::read_to_string("/proc/stat").map_err(Stop::failed("/proc/stat"))?;
    idle_in(&text).ok_or_else(|| Stop::Failed("/proc/stat has no idle time".into()))
}

/// proc_stat(5): ticks of all processors; the fourth are idle ones, the fifth those that wait for a disk.
fn idle_in(stat: &str) -> Option<u64> {
    let mut ticks = stat.strip_prefix("cpu ")?.split_whitespace().skip(3).map(str::parse::<u64>);
    let tick = 1_000_000_000 / rustix::param::clock_ticks_per_second();
    Some((ticks.next()?.ok()? + ticks.next()?.ok()?) * tick)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    /// Milliseconds, and KiB by then.
    fn samples(of: &[(u64, u64)]) -> Vec<Sample> {
        of.iter().map(|&(at, sent)| Sample { at_ns: at * MS, bytes: 7 + (sent << 10) }).collect()
    }

    #[test]
    fn a_move_is_what_came_before_pages_with_them_and_after_them() {
        // 100 Mbit/s are 122 KiB in 10 ms.
        let rate = Some(100_000_000);
        let seen = samples(&[
            (0, 0),
            (20, 10),
            (30, 132),
            (40, 254),
            (45, 300),
            (50, 376),
            (60, 400),
            (70, 520),
            (80, 521),
            (90, 522),
        ]);
        let parts = times(&seen, 100 * MS, rate);
        let expected = Times {
            before_ns: 30 * MS,
            full_ns: Some(30 * MS),
            partly_ns: 10 * MS,
            after_ns: 30 * MS,
        };
        assert_eq!(parts, expected);
        let parts = times(&seen, 100 * MS, None);
        assert_eq!(parts, Times { full_ns: None, partly_ns: 40 * MS, ..expected });
        // Nothing but words.
        let parts = times(&seen[..2], 100 * MS, rate);
        let nothing = Times { before_ns: 100 * MS, full_ns: Some(0), ..Times::default() };
        assert_eq!(parts, nothing);
        assert_eq!(times(&[], 100 * MS, rate).partly_ns, 100 * MS);
    }

    #[test]
    fn idle_time_is_that_of_all_processors() {
        let tick = 1_000_000_000 / rustix::param::clock_ticks_per_second();
        let stat = "cpu  1 2 3 40 5 6 7 8 9 10\ncpu0 1 2 3 400 5 6 7 8 9 10\n";
        assert_eq!(idle_in(stat), Some(45 * tick));
        assert_eq!(idle_in("intr 1 2 3"), None);
        assert!(idle_ns().unwrap() > 0);
    }
}
