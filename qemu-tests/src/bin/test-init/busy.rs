//! A busy guest: processes that compute, write memory and check it, and a timer that watches the clocks.

use std::io::{self, Write as _};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Processes beside the init.
const WORKERS: u64 = 3;
/// Words that each writes and checks: 32 pages, so that a copying hand-over comes to its end under emulation,
/// where it copies slowly and pauses a guest that owes at most 256 pages.
const WORDS: usize = 16 << 10;
/// How often the clocks are looked at, and how often what was found is said.
const TICK: Duration = Duration::from_millis(10);
const TICKS_A_REPORT: u32 = 25;
/// Rounds of a worker between two of its reports.
const ROUNDS_A_REPORT: u64 = 100;

/// Processes that work until they are ended.
pub(crate) struct Workers(Vec<Child>);

impl Workers {
    /// Starts them: this program again, by another name of its work.
    pub(crate) fn start() -> io::Result<Self> {
        let start = |number: u64| Command::new("/init").args(["work", &number.to_string()]).spawn();
        (0..WORKERS).map(start).collect::<io::Result<_>>().map(Self)
    }

    /// Ends them; those that had ended by themselves are an error.
    pub(crate) fn end(mut self) -> io::Result<()> {
        for worker in &mut self.0 {
            if let Some(status) = worker.try_wait()? {
                return Err(io::Error::other(format!("a worker ended with {status}")));
            }
            worker.kill()?;
            worker.wait()?;
        }
        Ok(())
    }
}

/// Fills memory with numbers that follow from a seed, checks them, and so on; says how often, and how many
/// were wrong.
pub(crate) fn work(number: u64) -> io::Result<()> {
    let mut memory = vec![0_u64; WORDS];
    let mut wrong = 0_u64;
    for round in 1_u64.. {
        let seed = (number << 48) ^ round.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let numbers = || {
            std::iter::successors(Some(seed | 1), |last| {
                let bits = last ^ (last << 13);
                let bits = bits ^ (bits >> 7);
                Some(bits ^ (bits << 17))
            })
        };
        memory.iter_mut().zip(numbers()).for_each(|(word, number)| *word = number);
        // Another worker's turn: what this one has written waits to be checked.
        thread::sleep(Duration::from_millis(1));
        let differ = memory.iter().zip(numbers()).filter(|(word, number)| *word != number);
        wrong += differ.count() as u64;
        if round.is_multiple_of(ROUNDS_A_REPORT) {
            let line = format!("guest: worker {number} rounds={round} wrong={wrong}\n");
            // In one write: several processes have this console.
            io::stdout().write_all(line.as_bytes())?;
        }
    }
    Ok(())
}

/// Looks at the clocks until `done`, and says what they show: `guest: clocks <real ns> <monotonic ns>
/// back=<times that one ran back> gap_ms=<the longest time between two looks>`.
pub(crate) fn watch_clocks(done: &AtomicBool) -> io::Result<()> {
    let (mut last_real, mut last) = (ns(ClockId::Realtime), ns(ClockId::Monotonic));
    let (mut back, mut gap) = (0_u32, 0);
    while !done.load(Ordering::Relaxed) {
        for _ in 0..TICKS_A_REPORT {
            thread::sleep(TICK);
            let (real, monotonic) = (ns(ClockId::Realtime), ns(ClockId::Monotonic));
            back += u32::from(real < last_real) + u32::from(monotonic < last);
            gap = gap.max(monotonic - last);
            (last_real, last) = (real, monotonic);
        }
        let gap_ms = gap / 1_000_000;
        let line = format!("guest: clocks {last_real} {last} back={back} gap_ms={gap_ms}\n");
        io::stdout().write_all(line.as_bytes())?;
    }
    Ok(())
}

fn ns(clock: ClockId) -> i64 {
    let now = clock_gettime(clock);
    now.tv_sec * 1_000_000_000 + now.tv_nsec
}
