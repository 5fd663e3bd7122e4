//! A long line between two namespaces: packets of a TUN device in each, held back as a line of this
//! rate, length and queue would. The kernels of both ends do their TCP over it as over any line.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::stop::Stop;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::network::{self, DESTINATION, SOURCE};
use crate::tun;

/// After so long the thread looks whether it is to end.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Packets that are read from one side before the other one has its turn.
const AT_A_TIME: usize = 64;
/// The longest packet before segmentation, and its header.
const FRAME_MAX_BYTES: usize = (64 << 10) + tun::HEADER_BYTES;

/// What each direction is like.
#[derive(Clone, Copy, Debug)]
pub struct Line {
    /// Its rate.
    pub bits_per_second: u64,
    /// One way.
    pub delay: Duration,
    /// What finds so much waiting before it is dropped.
    pub queue_bytes: u64,
    /// Packets that get lost on it, of a million.
    pub loss_per_million: u64,
}

/// A running relay. Its devices go with it.
pub struct Relay {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    line: Mutex<Line>,
    is_over: AtomicBool,
    dropped: AtomicU64,
}

impl Relay {
    /// Makes an interface of this name in each namespace.
    ///
    /// # Errors
    /// When there are no such namespaces, no TUN devices, or no threads.
    pub fn start(line: Line, device: &str) -> Result<Self, Stop> {
        let tun = |host| network::inside(host, || tun::open(device))?.map_err(Stop::failed("TUN"));
        let devices = [tun(SOURCE)?, tun(DESTINATION)?];
        let shared = Shared {
            line: Mutex::new(line),
            is_over: AtomicBool::new(false),
            dropped: AtomicU64::new(0),
        };
        let shared = Arc::new(shared);
        let of_thread = Arc::clone(&shared);
        let relay = move || {
            if let Err(error) = relay(&of_thread, &devices) {
                eprintln!("migrate: the relay has ended: {error}");
            }
        };
        let thread = std::thread::Builder::new().name("relay".into()).spawn(relay);
        Ok(Self { shared, thread: Some(thread.map_err(Stop::failed("a thread"))?) })
    }

    /// From now on the line is like this. What is on it already arrives as it would have.
    pub fn set_line(&self, line: Line) {
        *self.shared.line.lock().unwrap_or_else(PoisonError::into_inner) = line;
    }

    /// Packets that found a queue full, or got lost.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn relay(shared: &Shared, devices: &[File; 2]) -> io::Result<()> {
    let line = || *shared.line.lock().unwrap_or_else(PoisonError::into_inner);
    let mut ways = [Way::new(line()), Way::new(line())];
    let mut frame = vec![0; FRAME_MAX_BYTES];
    while !shared.is_over.load(Ordering::Acquire) {
        let line = line();
        ways.iter_mut().for_each(|way| way.line = line);
        for (from, way) in ways.iter_mut().enumerate() {
            for _ in 0..AT_A_TIME {
                let count = match (&devices[from]).read(&mut frame) {
                    Ok(count) => count,
                    Err(error) if is_for_now(&error) => break,
                    Err(error) => return Err(error),
                };
                let bytes = &frame[..count];
                if !way.take(Instant::now(), bytes, tun::wire_bytes(bytes)) {
                    shared.dropped.fetch_add(1, Ordering::Relaxed);
                }
            }
            while let Some(frame) = way.arrived(Instant::now()) {
                match (&devices[1 - from]).write(&frame) {
                    Ok(_) => {}
                    // A device that is full, or not up yet, drops like any other.
                    Err(error) if is_for_now(&error) => {
                        shared.dropped.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        wait(devices, ways.iter().filter_map(Way::next_arrival).min())?;
    }
    Ok(())
}

/// An interface that is down says EIO to whoever writes, and EBADFD to nobody here.
fn is_for_now(error: &io::Error) -> bool {
    let io = rustix::io::Errno::IO.raw_os_error();
    error.kind() == io::ErrorKind::WouldBlock
        || error.kind() == io::ErrorKind::Interrupted
        || error.raw_os_error() == Some(io)
}

fn wait(devices: &[File; 2], until: Option<Instant>) -> io::Result<()> {
    let left = until.map_or(LOOK_AGAIN, |until| until.saturating_duration_since(Instant::now()));
    let left = left.min(LOOK_AGAIN);
    let timeout = Timespec { tv_sec: 0, tv_nsec: left.subsec_nanos().into() };
    let mut descriptors = [0, 1].map(|side| PollFd::new(&devices[side], PollFlags::IN));
    match poll(&mut descriptors, Some(&timeout)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// One direction.
struct Way {
    line: Line,
    /// When everything that was taken will have been put on the line.
    busy_until: Option<Instant>,
    on_the_way: VecDeque<(Instant, Vec<u8>)>,
    /// Millionths of a packet that should have been lost, and were not yet: a line that loses one of a hundred loses every
    /// hundredth, so that it is the same one each time.
    to_be_lost: u64,
}

impl Way {
    fn new(line: Line) -> Self {
        Self { line, busy_until: None, on_the_way: VecDeque::new(), to_be_lost: 0 }
    }

    /// False if it was dropped, since too much waits before it, or is lost.
    fn take(&mut self, now: Instant, frame: &[u8], wire_bytes: u64) -> bool {
        let begins = self.busy_until.map_or(now, |until| until.max(now));
        if begins - now > self.time_of(self.line.queue_bytes) {
            return false;
        }
        let ends = begins + self.time_of(wire_bytes);
        self.busy_until = Some(ends);
        self.to_be_lost += self.line.loss_per_million;
        if self.to_be_lost >= 1_000_000 {
            self.to_be_lost -= 1_000_000;
            return false;
        }
        self.on_the_way.push_back((ends + self.line.delay, frame.to_vec()));
        true
    }

    fn arrived(&mut self, now: Instant) -> Option<Vec<u8>> {
        self.next_arrival().filter(|when| *when <= now)?;
        self.on_the_way.pop_front().map(|(_, frame)| frame)
    }

    fn next_arrival(&self) -> Option<Instant> {
        self.on_the_way.front().map(|(when, _)| *when)
    }

    fn time_of(&self, bytes: u64) -> Duration {
        Duration::from_nanos(bytes.saturating_mul(8_000_000_000) / self.line.bits_per_second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    /// A kilobyte a millisecond.
    const LINE: Line = Line {
        bits_per_second: 8_000_000,
        delay: MS.saturating_mul(40),
        queue_bytes: 3000,
        loss_per_million: 0,
    };

    #[test]
    fn a_frame_arrives_after_its_own_time_on_the_line_and_the_lines_length() {
        let (mut way, now) = (Way::new(LINE), Instant::now());
        assert!(way.take(now, b"one", 1000));
        assert!(way.take(now, b"two", 500));
        assert_eq!(way.next_arrival(), Some(now + 41 * MS));
        assert_eq!(way.arrived(now + 40 * MS), None);
        assert_eq!(way.arrived(now + 41 * MS).as_deref(), Some(&b"one"[..]));
        assert_eq!(way.next_arrival(), Some(now + 41 * MS + MS / 2));
    }

    #[test]
    fn an_idle_line_has_saved_nothing() {
        let (mut way, now) = (Way::new(LINE), Instant::now());
        assert!(way.take(now, b"one", 1000));
        let later = now + 100 * MS;
        assert!(way.arrived(later).is_some());
        assert!(way.take(later, b"two", 1000));
        assert_eq!(way.next_arrival(), Some(later + 41 * MS));
    }

    #[test]
    fn what_finds_the_queue_full_is_dropped() {
        let (mut way, now) = (Way::new(LINE), Instant::now());
        let taken = (0..10).filter(|_| way.take(now, b"frame", 1000)).count();
        // One that goes out, and three that wait.
        assert_eq!(taken, 4);
        assert!(way.take(now + MS, b"frame", 1000));
    }
    #[test]
    fn one_of_so_many_is_lost_when_it_has_taken_its_time() {
        let mut way = Way::new(Line { loss_per_million: 250_000, ..LINE });
        let now = Instant::now();
        let taken: Vec<_> = (0..8).map(|n| way.take(now + n * MS, b"frame", 1000)).collect();
        assert_eq!(taken, [true, true, true, false, true, true, true, false]);
        assert_eq!(way.busy_until, Some(now + 8 * MS));
    }
}
