//! One byte stream out of a machine and into it: a console or a port.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use thiserror::Error;

/// A machine that prints more is broken, and must not take the test process's memory with it.
const LIMIT: usize = 16 << 20;

/// A stream whose whole past is kept, in memory and in a log file.
///
/// A thread of its own reads it, so that a machine never waits for a test to listen. The thread
/// ends with the stream, which ends with QEMU.
#[derive(Debug)]
pub struct Channel {
    name: String,
    stream: UnixStream,
    transcript: Arc<Transcript>,
    /// Bytes of the transcript that earlier waits have passed.
    passed: usize,
}

#[derive(Debug, Default)]
struct Transcript {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    bytes: Vec<u8>,
    ended: bool,
}

/// The line that a test waits for did not come.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ChannelError {
    /// The machine closed the stream, most likely because it is gone.
    #[error("{channel} ended before {wanted}")]
    Ended {
        /// The channel.
        channel: String,
        /// What was waited for.
        wanted: String,
    },
    /// The time is up.
    #[error("{channel}: no {wanted} in time")]
    TimedOut {
        /// The channel.
        channel: String,
        /// What was waited for.
        wanted: String,
    },
}

impl Channel {
    /// Begins to read `stream`; what comes is written to `log` as well.
    ///
    /// # Errors
    /// The stream cannot be shared with the reading thread.
    pub(crate) fn new(name: &str, stream: UnixStream, log: File) -> io::Result<Self> {
        let transcript = Arc::new(Transcript::default());
        let (reader, shared) = (stream.try_clone()?, Arc::clone(&transcript));
        thread::Builder::new().name(format!("channel {name}")).spawn(move || {
            shared.record(reader, log);
        })?;
        Ok(Self { name: name.to_owned(), stream, transcript, passed: 0 })
    }

    /// The next line that begins with `prefix`, and with it everything before it, is passed: later
    /// waits see only what came after. Returned without the line's end.
    ///
    /// # Errors
    /// The stream ended, or `deadline` passed, before such a line was complete.
    pub fn wait_for(&mut self, prefix: &str, deadline: Instant) -> Result<String, ChannelError> {
        let mut state = self.transcript.lock();
        loop {
            while let Some(length) = line_length(&state.bytes[self.passed..]) {
                let line = text(&state.bytes[self.passed..self.passed + length]);
                self.passed += length;
                if line.starts_with(prefix) {
                    return Ok(line);
                }
            }
            let (channel, wanted) = (self.name.clone(), format!("`{prefix}`"));
            if state.ended {
                return Err(ChannelError::Ended { channel, wanted });
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ChannelError::TimedOut { channel, wanted });
            }
            state = self
                .transcript
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Waits for the stream's end and returns every line of it.
    ///
    /// # Errors
    /// `deadline` passed before.
    pub fn wait_for_end(&mut self, deadline: Instant) -> Result<Vec<String>, ChannelError> {
        // No line begins with a line's end, so only the stream's end ends this wait.
        match self.wait_for("\n", deadline) {
            Err(ChannelError::TimedOut { channel, .. }) => {
                Err(ChannelError::TimedOut { channel, wanted: "end".to_owned() })
            }
            _ => Ok(self.lines()),
        }
    }

    /// Every line so far, the last perhaps incomplete, passed or not.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let state = self.transcript.lock();
        state.bytes.split_inclusive(|byte| *byte == b'\n').map(text).collect()
    }

    /// Sends bytes into the machine.
    ///
    /// # Errors
    /// The machine is gone.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }
}

impl Transcript {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // The state is whole after every statement of its holders: a panic of one harms no other.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record(&self, mut stream: UnixStream, mut log: File) {
        let mut buffer = [0; 4096];
        let mut kept = 0;
        while kept < LIMIT {
            let count = match stream.read(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // A reset is how the stream of a killed QEMU ends.
                Ok(0) | Err(_) => break,
                Ok(count) => count,
            };
            // A full disk must not cost the test its machine; the transcript is still there.
            let _ = log.write_all(&buffer[..count]);
            kept += count;
            self.lock().bytes.extend_from_slice(&buffer[..count]);
            self.changed.notify_all();
        }
        self.lock().ended = true;
        self.changed.notify_all();
    }
}

/// The length of the first line of `bytes` with its end, if it is complete.
fn line_length(bytes: &[u8]) -> Option<usize> {
    bytes.iter().position(|byte| *byte == b'\n').map(|end| end + 1)
}

/// A line without its end; serial lines end in two bytes.
fn text(line: &[u8]) -> String {
    String::from_utf8_lossy(line).trim_end_matches(['\r', '\n']).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn pair() -> (Channel, UnixStream, tempfile::NamedTempFile) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let log = tempfile::NamedTempFile::new().unwrap();
        (Channel::new("x", ours, log.reopen().unwrap()).unwrap(), theirs, log)
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    #[test]
    fn a_wait_passes_what_came_before_and_later_waits_see_only_what_follows() {
        let (mut channel, mut machine, _log) = pair();
        machine.write_all(b"noise\r\na: 1\r\nb: 1\r\na: 2\r\n").unwrap();
        assert_eq!(channel.wait_for("a:", soon()).unwrap(), "a: 1");
        assert_eq!(channel.wait_for("a:", soon()).unwrap(), "a: 2");
        let late = channel.wait_for("b:", Instant::now() + Duration::from_millis(20));
        assert_eq!(
            late,
            Err(ChannelError::TimedOut { channel: "x".into(), wanted: "`b:`".into() })
        );
    }

    #[test]
    fn a_line_is_seen_when_it_is_complete_and_not_before() {
        let (mut channel, mut machine, _log) = pair();
        machine.write_all(b"a: 1").unwrap();
        assert!(channel.wait_for("a:", Instant::now() + Duration::from_millis(20)).is_err());
        machine.write_all(b"2\n").unwrap();
        assert_eq!(channel.wait_for("a:", soon()).unwrap(), "a: 12");
    }

    #[test]
    fn a_machine_that_is_gone_ends_the_wait_at_once() {
        let (mut channel, mut machine, log) = pair();
        machine.write_all(b"last words").unwrap();
        drop(machine);
        let error = channel.wait_for("a:", soon()).unwrap_err();
        assert!(matches!(error, ChannelError::Ended { .. }), "{error}");
        assert_eq!(channel.wait_for_end(soon()).unwrap(), ["last words"]);
        assert_eq!(std::fs::read(log.path()).unwrap(), b"last words");
    }

    #[test]
    fn what_a_test_sends_arrives() {
        let (mut channel, mut machine, _log) = pair();
        channel.send(b"ping\n").unwrap();
        let mut received = [0; 5];
        machine.read_exact(&mut received).unwrap();
        assert_eq!(&received, b"ping\n");
    }
}
