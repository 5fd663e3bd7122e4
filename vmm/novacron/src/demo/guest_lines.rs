//! What the oracle guest says on its console, line by line.

use std::io::{BufRead, BufReader, Cursor, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use control::ConsoleStream;
use firmware::oracle::report::{Ready, Report, Rounds, Verdict};

use crate::Failure;

/// Longest line that the oracle writes; a guest that writes longer ones is not the oracle.
const MAX_LINE: u64 = 1024;

/// A line of the guest.
#[derive(Debug)]
pub(super) struct Line(String);

impl Line {
    fn report(&self) -> Option<Report<'_>> {
        Report::parse(self.0.trim_end()).ok()
    }

    pub(super) fn ready(self) -> Option<Ready> {
        match self.report() {
            Some(Report::Ready(ready)) => Some(ready),
            _ => None,
        }
    }

    pub(super) fn rounds(self) -> Option<Rounds> {
        match self.report() {
            Some(Report::Rounds(rounds)) => Some(rounds),
            _ => None,
        }
    }

    pub(super) fn verdict(self) -> Option<Verdict> {
        match self.report() {
            Some(Report::Verdict(verdict)) => Some(verdict),
            _ => None,
        }
    }

    /// What the guest says when it cannot go on, or has found a wrong page.
    fn complaint(&self) -> Option<Failure> {
        let is_complaint = matches!(
            self.report(),
            Some(
                Report::Error(_)
                    | Report::Refused { .. }
                    | Report::Exception(_)
                    | Report::Panic { .. }
            )
        );
        is_complaint.then(|| Failure::Guest(format!("the guest says: {}", self.0.trim_end())))
    }
}

/// The guest's end of the conversation.
#[derive(Debug)]
pub(super) struct GuestLines {
    lines: Receiver<Line>,
    console: UnixStream,
}

impl GuestLines {
    pub(super) fn new(console: ConsoleStream) -> Result<Self, Failure> {
        let ConsoleStream { stream: console, first } = console;
        let reader = console.try_clone().map_err(Failure::other("the console"))?;
        let (send, lines) = channel();
        std::thread::spawn(move || {
            let mut reader = BufReader::new(Cursor::new(first).chain(reader));
            loop {
                let mut line = String::new();
                let mut limited = Read::take(&mut reader, MAX_LINE);
                match limited.read_line(&mut line) {
                    Ok(1..) if send.send(Line(line)).is_ok() => {}
                    _ => return,
                }
            }
        });
        Ok(Self { lines, console })
    }

    /// Writes to the guest's console.
    pub(super) fn say(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.console.write_all(bytes).map_err(Failure::other("the console"))
    }

    /// Waits for a line that `pick` takes. A complaint of the guest ends the wait.
    pub(super) fn wait_for<T>(
        &mut self,
        patience: Duration,
        pick: impl Fn(Line) -> Option<T>,
    ) -> Result<T, Failure> {
        let end = Instant::now() + patience;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left).map_err(|error| match error {
                RecvTimeoutError::Timeout => {
                    Failure::Guest(format!("the guest said nothing new for {patience:?}"))
                }
                RecvTimeoutError::Disconnected => Failure::Guest("the guest has ended".into()),
            })?;
            if let Some(complaint) = line.complaint() {
                return Err(complaint);
            }
            if let Some(picked) = pick(line) {
                return Ok(picked);
            }
        }
    }

    /// The lines that are there already.
    pub(super) fn pending(&mut self) -> Result<Vec<Line>, Failure> {
        let lines: Vec<_> = self.lines.try_iter().collect();
        lines.iter().find_map(Line::complaint).map_or(Ok(lines), Err)
    }
}
