//! The daemon's log: lines in a queue, and a thread that writes them to standard error.
//!
//! ```text
//!  any thread ─► push: into the queue, or counted as lost ─► writer ─► standard error: may wait as long as it likes
//!                                              └───────────► a line that says how many are missing, where they are
//! ```
//!
//! `tracing-appender` has such a thread, too. Its queue is bounded in lines of any length, not in bytes, and what it
//! loses it counts and does not say where; what is here is little more than it would take to mend that.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};

/// Bytes of lines that wait; as many again are in the writer's hands. Some two thousand lines: more than a healthy
/// sink is ever behind.
const MOST_BYTES: usize = 256 << 10;

/// Lines that wait to be written.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    /// Something waits, or the writer has done what waited.
    changed: Condvar,
    /// Lines lost, ever.
    lost: Arc<AtomicU64>,
}

#[derive(Debug, Default)]
struct Waiting {
    bytes: Vec<u8>,
    lines: u64,
    /// Lines lost behind those: told of once those are written. Until the writer has taken note, the next are lost, too,
    /// so that the place where they are missing is one.
    lost: u64,
    /// Whether the writer is at work.
    is_writing: bool,
}

impl Queue {
    /// The count of lines that were lost.
    pub(super) fn lost(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.lost)
    }

    /// Adds a line, which has its end. Never waits for the sink.
    pub(super) fn push(&self, line: &[u8]) {
        let mut waiting = self.lock();
        if waiting.lost > 0 || waiting.bytes.len() + line.len() > MOST_BYTES {
            waiting.lost += 1;
            self.lost.fetch_add(1, Relaxed);
        } else {
            waiting.bytes.extend_from_slice(line);
            waiting.lines += 1;
        }
        self.changed.notify_all();
    }

    /// Waits until everything is written, or for `limit`: a sink that is stuck keeps nobody from ending.
    pub(super) fn finish(&self, limit: Duration) {
        let end = Instant::now() + limit;
        let mut waiting = self.lock();
        while waiting.is_writing || !waiting.is_empty() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let woken = self.changed.wait_timeout(waiting, left);
            waiting = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Writes what comes, for good; `told` makes the line about lines that were lost.
    pub(super) fn write(&self, mut sink: File, told: impl Fn(u64) -> String) {
        loop {
            let taken = self.take();
            if write_all(&mut sink, &taken.bytes).is_err() {
                // Some may have come through; nobody knows.
                self.lost.fetch_add(taken.lines, Relaxed);
            }
            if taken.lost > 0 {
                // The count has them, whether or not they can be told of.
                let _ = write_all(&mut sink, told(taken.lost).as_bytes());
            }
            self.lock().is_writing = false;
            self.changed.notify_all();
        }
    }

    /// Waits for something to write.
    fn take(&self) -> Waiting {
        let mut waiting = self.lock();
        while waiting.is_empty() {
            waiting = self.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
        let taken = std::mem::take(&mut *waiting);
        waiting.is_writing = true;
        taken
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Nothing that is done under it leaves it half done.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.lost == 0
    }
}

/// Writes, however long it takes. Another process may have made the sink non-blocking: a machine process does so with
/// one that it cannot open anew.
fn write_all(sink: &mut File, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match sink.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let sink = sink.as_fd();
                let _ = poll(&mut [PollFd::new(&sink, PollFlags::OUT)], None);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn told(lost: u64) -> String {
        format!("{lost} lost\n")
    }

    /// A queue whose writer writes to a pipe, and the pipe's other end.
    fn queue() -> (&'static Queue, File) {
        let queue: &Queue = Box::leak(Box::default());
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        std::thread::spawn(move || queue.write(writer.into(), told));
        (queue, reader.into())
    }

    #[test]
    fn lines_are_lost_while_nobody_reads_and_that_is_said_where_they_are_missing() {
        let (queue, mut reader) = queue();
        let line = format!("{}\n", "x".repeat(999));
        for _ in 0..1000 {
            queue.push(line.as_bytes());
        }
        let lost = queue.lost().load(Relaxed);
        assert!((300..=740).contains(&lost), "{lost}");
        let started = Instant::now();
        queue.finish(Duration::from_millis(50));
        assert!(started.elapsed() < Duration::from_secs(5), "it does not wait for good");
        let mut text = Vec::new();
        let mut piece = [0; 4096];
        // In one place, or in two: the thread that writes takes a piece when it gets to it, and then there is room again.
        let (mut whole, mut told) = (0, 0);
        while whole + told < 1000 {
            let count = reader.read(&mut piece).unwrap();
            text.extend_from_slice(&piece[..count]);
            while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
                let said: Vec<_> = text.drain(..=end).collect();
                match said.strip_suffix(b" lost\n") {
                    Some(number) => {
                        told += std::str::from_utf8(number).unwrap().parse::<u64>().unwrap();
                    }
                    None => {
                        assert_eq!(said, line.as_bytes());
                        whole += 1;
                    }
                }
            }
        }
        assert_eq!((whole + told, told), (1000, lost));
        // It goes on as if nothing had been.
        queue.push(b"next\n");
        queue.finish(Duration::from_secs(20));
        let count = reader.read(&mut piece).unwrap();
        assert_eq!(&piece[..count], b"next\n");
        assert_eq!(queue.lost().load(Relaxed), lost);
    }

    #[test]
    fn what_is_written_when_it_is_finished_is_all_there_and_a_sink_that_is_gone_loses_it() {
        let (queue, mut reader) = queue();
        (0..100).for_each(|number| queue.push(format!("{number}\n").as_bytes()));
        queue.finish(Duration::from_secs(20));
        let mut piece = [0; 4096];
        let count = reader.read(&mut piece).unwrap();
        assert!(piece[..count].ends_with(b"\n99\n"));
        drop(reader);
        queue.push(b"into nothing\n");
        queue.finish(Duration::from_secs(20));
        assert_eq!(queue.lost().load(Relaxed), 1);
    }

    #[test]
    fn a_sink_that_somebody_made_non_blocking_is_waited_for() {
        let queue: &Queue = Box::leak(Box::default());
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::NONBLOCK).unwrap();
        std::thread::spawn(move || queue.write(writer.into(), told));
        let line = vec![b'x'; 100_000];
        queue.push(&line);
        queue.push(&line);
        let mut reader = File::from(reader);
        let (mut count, end) = (0, Instant::now() + Duration::from_secs(20));
        while count < 200_000 {
            assert!(Instant::now() < end, "{count}");
            count += reader.read(&mut [0; 4096]).unwrap_or(0);
        }
        assert_eq!(queue.lost().load(Relaxed), 0);
    }
}
