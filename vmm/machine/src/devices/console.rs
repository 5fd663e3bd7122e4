//! The console's history: what the guest printed, kept in a ring, and how much of it has been sent on.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use vmm_sys_util::eventfd::EventFd;

/// Bytes of output that are kept: a console that attaches late sees the past.
pub const CONSOLE_HISTORY_BYTES: usize = 64 << 10;

/// The guest's output. vCPU threads append, the device loop sends on; neither waits for the other.
#[derive(Debug)]
pub struct Console {
    history: Mutex<History>,
    written: EventFd,
}

#[derive(Debug, Default)]
struct History {
    ring: VecDeque<u8>,
    /// Bytes at the ring's end that have not been sent on.
    unsent: usize,
    /// Bytes that were overwritten before they had been sent on.
    lost: u64,
}

/// The saved form: the history, so that a console that attaches after a move sees the past, and how
/// much of it the next process has to send on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ConsoleStateV1 {
    history: Vec<u8>,
    unsent: u32,
    lost: u64,
}

impl Console {
    /// An empty history.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn new() -> io::Result<Arc<Self>> {
        let written = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?;
        Ok(Arc::new(Self { history: Mutex::default(), written }))
    }

    /// Readable when there is output to send on.
    pub(crate) fn written(&self) -> &EventFd {
        &self.written
    }

    /// Appends output, forgetting the oldest when the ring is full.
    pub(crate) fn append(&self, bytes: &[u8]) {
        self.history().append(bytes);
        let _ = self.written.write(1);
    }

    /// Gives `send` what has not been sent; it answers how many bytes of that it took.
    ///
    /// # Errors
    /// Those of `send`; nothing counts as sent then.
    pub fn send_on(&self, send: impl FnOnce(&[u8]) -> io::Result<usize>) -> io::Result<()> {
        let mut history = self.history();
        let _ = self.written.read();
        let start = history.ring.len() - history.unsent;
        let unsent = &history.ring.make_contiguous()[start..];
        let taken = if unsent.is_empty() { 0 } else { send(unsent)? };
        history.unsent -= taken.min(history.unsent);
        Ok(())
    }

    /// Sends on all that is kept once more: to a reader who has seen nothing yet.
    pub(crate) fn send_all_again(&self) {
        let mut history = self.history();
        history.unsent = history.ring.len();
        history.lost = 0;
        drop(history);
        let _ = self.written.write(1);
    }

    /// The saved form.
    pub(crate) fn save(&self) -> ConsoleStateV1 {
        let history = self.history();
        ConsoleStateV1 {
            history: history.ring.iter().copied().collect(),
            unsent: u32::try_from(history.unsent).expect("the ring is smaller than 4 GiB"),
            lost: history.lost,
        }
    }

    /// How many bytes it remembers.
    pub(crate) fn remembers(&self) -> usize {
        self.history().ring.len()
    }

    /// Takes over another console's past.
    pub(crate) fn restore(&self, state: &ConsoleStateV1) {
        let mut history = self.history();
        *history = History::default();
        history.append(&state.history);
        history.unsent = history.ring.len().min(state.unsent as usize);
        history.lost = state.lost;
        drop(history);
        let _ = self.written.write(1);
    }

    fn history(&self) -> MutexGuard<'_, History> {
        // A panic aborts the process, so that no lock is ever poisoned.
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl History {
    fn append(&mut self, bytes: &[u8]) {
        let kept = &bytes[bytes.len().saturating_sub(CONSOLE_HISTORY_BYTES)..];
        let excess = (self.ring.len() + kept.len()).saturating_sub(CONSOLE_HISTORY_BYTES);
        self.ring.drain(..excess);
        self.ring.extend(kept);
        self.unsent += bytes.len();
        if self.unsent > self.ring.len() {
            let lost = (self.unsent - self.ring.len()) as u64;
            self.lost = self.lost.saturating_add(lost);
            self.unsent = self.ring.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(console: &Console, at_most: usize) -> Vec<u8> {
        let mut out = Vec::new();
        let take = |bytes: &[u8]| {
            out.extend_from_slice(&bytes[..bytes.len().min(at_most)]);
            Ok(out.len())
        };
        console.send_on(take).unwrap();
        out
    }

    #[test]
    fn what_a_slow_reader_did_not_take_is_offered_again() {
        let console = Console::new().unwrap();
        console.append(b"abcdef");
        assert_eq!(sent(&console, 2), b"ab");
        console.append(b"gh");
        assert_eq!(sent(&console, 99), b"cdefgh");
        assert_eq!(sent(&console, 99), b"");
    }

    #[test]
    fn output_that_nobody_takes_overwrites_the_oldest_and_is_counted() {
        let console = Console::new().unwrap();
        console.append(&vec![b'a'; CONSOLE_HISTORY_BYTES]);
        console.append(b"bcd");
        assert_eq!(console.save().lost, 3);
        assert!(sent(&console, usize::MAX).ends_with(b"abcd"));
    }

    #[test]
    fn a_reader_who_comes_late_sees_the_past() {
        let console = Console::new().unwrap();
        console.append(b"the past, ");
        sent(&console, 99);
        console.append(b"the present");
        console.send_all_again();
        assert_eq!(sent(&console, 99), b"the past, the present");
        assert_eq!(sent(&console, 99), b"");
    }

    #[test]
    fn a_successor_sends_on_what_its_predecessor_had_not() {
        let console = Console::new().unwrap();
        console.append(b"seen, unseen");
        sent(&console, 6);
        let successor = Console::new().unwrap();
        successor.restore(&console.save());
        assert_eq!(sent(&successor, 99), b"unseen");
        assert_eq!(successor.save().history, b"seen, unseen");
    }
}
