//! A machine's console: one connection to the machine, any number of people who look at it.

use std::collections::VecDeque;
use std::io;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};

use crate::metrics::Metrics;

/// Bytes of output that are kept for those who come late: as much as the machine keeps.
const HISTORY_BYTES: usize = machine::CONSOLE_HISTORY_BYTES;
/// Pieces of input that wait for the guest; who types more waits, too.
const INPUT_PIECES: usize = 64;

/// The console of a machine. It outlives the machine's process: what the guest printed last can be read when it has gone.
#[derive(Debug)]
pub(crate) struct Console {
    history: Mutex<History>,
    grown: watch::Sender<Grown>,
    input: Mutex<Option<mpsc::Sender<Vec<u8>>>>,
    readers: AtomicUsize,
}

/// What readers wait for.
#[derive(Clone, Copy, Debug, Default)]
struct Grown {
    /// Bytes that there have been.
    length: u64,
    /// Whether more may come: there is a process that prints.
    is_open: bool,
}

#[derive(Debug, Default)]
struct History {
    ring: VecDeque<u8>,
    /// Bytes before the first in the ring.
    forgotten: u64,
}

/// What comes next on a console.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Output {
    /// Bytes that are not kept any more, before these.
    pub(crate) lost: u64,
    pub(crate) bytes: Vec<u8>,
}

/// Somebody who looks at it; counted while it lives.
#[derive(Debug)]
pub(crate) struct Reader {
    console: Arc<Console>,
    at: u64,
}

impl Console {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            history: Mutex::default(),
            grown: watch::Sender::default(),
            input: Mutex::new(None),
            readers: AtomicUsize::new(0),
        })
    }

    /// Connects it to a machine's process, until that closes its end.
    pub(crate) fn connect(
        self: &Arc<Self>,
        stream: UnixStream,
        runtime: &Handle,
        metrics: Arc<Metrics>,
    ) -> io::Result<()> {
        stream.set_nonblocking(true)?;
        // Tokio registers the stream with the runtime that is entered.
        let entered = runtime.enter();
        let (mut from_guest, mut to_guest) = tokio::net::UnixStream::from_std(stream)?.into_split();
        drop(entered);
        let (send, mut typed) = mpsc::channel::<Vec<u8>>(INPUT_PIECES);
        *self.lock_input() = Some(send);
        self.grown.send_modify(|grown| grown.is_open = true);
        let console = Arc::clone(self);
        runtime.spawn(async move {
            let mut bytes = vec![0; 4096];
            while let Ok(count @ 1..) = from_guest.read(&mut bytes).await {
                metrics.console_output.inc_by(count as u64);
                console.append(&bytes[..count]);
            }
            console.grown.send_modify(|grown| grown.is_open = false);
        });
        runtime.spawn(async move {
            while let Some(bytes) = typed.recv().await {
                if to_guest.write_all(&bytes).await.is_err() {
                    return;
                }
            }
        });
        Ok(())
    }

    /// The machine's process has gone: there is nobody to type for.
    pub(crate) fn disconnect(&self) {
        *self.lock_input() = None;
    }

    /// Somebody who begins with what is kept; None if there are `most` already.
    pub(crate) fn reader(self: &Arc<Self>, most: usize) -> Option<Reader> {
        let count = self.readers.fetch_add(1, Relaxed);
        let reader = Reader { console: Arc::clone(self), at: 0 };
        // Dropped, it counts itself out again.
        (count < most).then_some(reader)
    }

    /// What is kept.
    pub(crate) fn history(&self) -> Vec<u8> {
        self.lock().ring.iter().copied().collect()
    }

    /// Bytes that there have been.
    pub(crate) fn length(&self) -> u64 {
        self.grown.borrow().length
    }

    /// Types for the guest; waits while it does not read. False if it is not there.
    pub(crate) async fn type_in(&self, bytes: Vec<u8>) -> bool {
        let input = self.lock_input().clone();
        match input {
            Some(input) => input.send(bytes).await.is_ok(),
            None => false,
        }
    }

    fn append(&self, bytes: &[u8]) {
        let mut history = self.lock();
        history.ring.extend(bytes);
        let excess = history.ring.len().saturating_sub(HISTORY_BYTES);
        history.ring.drain(..excess);
        history.forgotten += excess as u64;
        let length = history.forgotten + history.ring.len() as u64;
        self.grown.send_modify(|grown| grown.length = length);
    }

    fn lock(&self) -> MutexGuard<'_, History> {
        // A panic aborts the process, so that no lock is ever poisoned.
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_input(&self) -> MutexGuard<'_, Option<mpsc::Sender<Vec<u8>>>> {
        self.input.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reader {
    /// What comes next, some bytes at least; waits for it. None when the guest has ended, and everything is read.
    pub(crate) async fn next(&mut self) -> Option<Output> {
        let from = self.at;
        let mut grown = self.console.grown.subscribe();
        let news = grown.wait_for(|grown| grown.length > from || !grown.is_open);
        // The sender lives as long as the console.
        if news.await.is_ok_and(|grown| grown.length <= from) {
            return None;
        }
        let history = self.console.lock();
        let lost = history.forgotten.saturating_sub(from);
        let skip = (from + lost - history.forgotten).min(history.ring.len() as u64);
        let skip = usize::try_from(skip).unwrap_or(history.ring.len());
        let bytes: Vec<u8> = history.ring.iter().skip(skip).copied().collect();
        self.at = from + lost + bytes.len() as u64;
        // Who comes late has lost nothing that was promised.
        let lost = if from == 0 { 0 } else { lost };
        Some(Output { lost, bytes })
    }

    pub(crate) fn console(&self) -> Arc<Console> {
        Arc::clone(&self.console)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.console.readers.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(bytes: &[u8]) -> Output {
        Output { lost: 0, bytes: bytes.to_vec() }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn two_see_the_same_each_from_the_past_on() {
        let console = Console::new();
        console.append(b"past, ");
        let mut one = console.reader(2).unwrap();
        assert_eq!(one.next().await.unwrap(), output(b"past, "));
        console.append(b"present");
        let mut two = console.reader(2).unwrap();
        assert_eq!(one.next().await.unwrap(), output(b"present"));
        assert_eq!(two.next().await.unwrap(), output(b"past, present"));
        assert!(console.reader(2).is_none(), "two are enough");
        drop(one);
        assert!(console.reader(2).is_some());
    }

    #[tokio::test(flavor = "current_thread")]
    async fn who_reads_too_slowly_is_told_how_much_it_has_missed() {
        let console = Console::new();
        console.append(b"abc");
        let mut reader = console.reader(9).unwrap();
        reader.next().await;
        console.append(&vec![b'x'; HISTORY_BYTES]);
        console.append(b"yz");
        let Output { lost, bytes } = reader.next().await.unwrap();
        assert_eq!((lost, bytes.len()), (2, HISTORY_BYTES));
        assert!(bytes.ends_with(b"xyz"));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_is_typed_reaches_the_guest_while_there_is_one() {
        let console = Console::new();
        assert!(!console.type_in(b"nobody".to_vec()).await);
        let (ours, guest) = UnixStream::pair().unwrap();
        console.connect(ours, &Handle::current(), Arc::default()).unwrap();
        guest.set_nonblocking(true).unwrap();
        let mut guest = tokio::net::UnixStream::from_std(guest).unwrap();
        assert!(console.type_in(b"ls\n".to_vec()).await);
        let mut heard = [0; 3];
        guest.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"ls\n");
        guest.write_all(b"files").await.unwrap();
        let mut reader = console.reader(1).unwrap();
        assert_eq!(reader.next().await.unwrap(), output(b"files"));
        drop(guest);
        assert_eq!(reader.next().await, None, "the guest has ended");
        console.disconnect();
        assert!(!console.type_in(b"nobody".to_vec()).await);
        assert_eq!(console.history(), b"files");
    }
}
