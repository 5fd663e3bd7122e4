//! The oracle guest's end of the conversation, line by line.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use firmware::oracle::report::{Report, Rounds, Verdict};
use kvm_ioctls::Kvm;

use crate::stop::Stop;

/// How long the guest may take to stamp its memory, or to check it.
const PATIENCE: Duration = Duration::from_secs(120);
/// Longest line that the oracle writes; a guest that writes longer ones is not the oracle.
const MAX_LINE: u64 = 1024;

/// A running oracle guest, seen through its console.
#[derive(Debug)]
pub struct Guest {
    lines: Receiver<String>,
    console: UnixStream,
}

impl Guest {
    /// The guest behind a console, whose lines are read from now on.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn new(console: UnixStream) -> Result<Self, Stop> {
        let reader = console.try_clone().map_err(Stop::failed("the console"))?;
        reader.set_read_timeout(None).map_err(Stop::failed("the console"))?;
        let (send, lines) = channel();
        std::thread::spawn(move || {
            let mut reader = BufReader::new(reader);
            loop {
                let mut line = String::new();
                match (&mut reader).take(MAX_LINE).read_line(&mut line) {
                    Ok(1..) if send.send(line).is_ok() => {}
                    _ => return,
                }
            }
        });
        Ok(Self { lines, console })
    }

    /// Waits until the guest has stamped its memory and begins its rounds.
    ///
    /// # Errors
    /// When it complains, ends, or is silent for too long.
    pub fn wait_until_ready(&mut self) -> Result<(), Stop> {
        self.wait_for(|report| matches!(report, Report::Ready(_)).then_some(()))
    }

    /// The reports of a time, beginning with the first that is written after this call.
    ///
    /// # Errors
    /// As with `wait_until_ready`.
    pub fn watch(&mut self, time: Duration) -> Result<Vec<Rounds>, Stop> {
        let _ = self.gap_us(0)?;
        let end = Instant::now() + time;
        let mut reports = Vec::new();
        while Instant::now() < end {
            reports.push(self.wait_for(rounds)?);
        }
        Ok(reports)
    }

    /// The first `count` reports in which the guest has written more than `writes` pages.
    ///
    /// # Errors
    /// As with `wait_until_ready`.
    pub fn beyond(&mut self, writes: u64, count: usize) -> Result<Vec<Rounds>, Stop> {
        let later = |report: Report<'_>| rounds(report).filter(|rounds| rounds.writes > writes);
        (0..count).map(|_| self.wait_for(later)).collect()
    }

    /// The longest time that the guest's own clock jumped: in the reports that are there already, and
    /// in `further` ones. Of those, the first may have been written before something happened.
    ///
    /// # Errors
    /// As with `wait_until_ready`.
    pub fn gap_us(&mut self, further: usize) -> Result<u64, Stop> {
        let mut gap_us = 0;
        while let Ok(line) = self.lines.try_recv() {
            gap_us = gap_us.max(take(&line, rounds)?.map_or(0, |rounds| rounds.gap_us));
        }
        for _ in 0..further {
            gap_us = gap_us.max(self.wait_for(rounds)?.gap_us);
        }
        Ok(gap_us)
    }

    /// Lets the guest check every page that it owns.
    ///
    /// # Errors
    /// When it finds a wrong one, and as with `wait_until_ready`.
    pub fn verdict(&mut self) -> Result<Verdict, Stop> {
        self.console.write_all(b"v").map_err(Stop::failed("the console"))?;
        let verdict = self.wait_for(|report| match report {
            Report::Verdict(verdict) => Some(verdict),
            _ => None,
        })?;
        if !verdict.ok {
            let why = format!("the guest found {} wrong pages", verdict.errors);
            return Err(Stop::Failed(why));
        }
        Ok(verdict)
    }

    fn wait_for<T>(&mut self, pick: impl Fn(Report<'_>) -> Option<T>) -> Result<T, Stop> {
        let end = Instant::now() + PATIENCE;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let line =
                self.lines.recv_timeout(left).map_err(Stop::failed("the guest's console"))?;
            if let Some(picked) = take(&line, &pick)? {
                return Ok(picked);
            }
        }
    }
}

fn rounds(report: Report<'_>) -> Option<Rounds> {
    match report {
        Report::Rounds(rounds) => Some(rounds),
        _ => None,
    }
}

/// What `pick` takes of a line. A complaint of the guest ends the measurement.
fn take<T>(line: &str, pick: impl Fn(Report<'_>) -> Option<T>) -> Result<Option<T>, Stop> {
    let Ok(report) = Report::parse(line.trim_end()) else { return Ok(None) };
    match report {
        Report::Error(_) | Report::Refused { .. } | Report::Exception(_) | Report::Panic { .. } => {
            Err(Stop::Failed(format!("the guest says: {}", line.trim_end())))
        }
        report => Ok(pick(report)),
    }
}

/// The rate of this host's TSC in kHz, by which the oracle tells its own.
///
/// # Errors
/// When KVM does not tell.
pub fn tsc_khz() -> Result<u64, Stop> {
    let khz = || Kvm::new()?.create_vm()?.create_vcpu(0)?.get_tsc_khz();
    Ok(khz().map_err(Stop::failed("KVM_GET_TSC_KHZ"))?.into())
}

/// Waits for a guest's first byte; returns when it came, and what `then` found at that moment. The
/// rest of the line shows that it was the oracle's, and not a firmware's.
///
/// # Errors
/// When no such line comes.
pub fn read_hello<T>(
    mut console: &UnixStream,
    then: impl FnOnce() -> T,
) -> Result<(Instant, T), Stop> {
    console
        .set_read_timeout(Some(Duration::from_secs(30)))
        .map_err(Stop::failed("the guest's console"))?;
    let mut first = [0];
    console.read_exact(&mut first).map_err(Stop::failed("the guest's first byte"))?;
    let came = Instant::now();
    let found = then();
    let mut line = vec![first[0]];
    while line.last() != Some(&b'\n') && (line.len() as u64) < MAX_LINE {
        console.read_exact(&mut first).map_err(Stop::failed("the guest's first line"))?;
        line.push(first[0]);
    }
    let line = String::from_utf8_lossy(&line);
    match Report::parse(line.trim_end()) {
        Ok(Report::Hello { .. }) => Ok((came, found)),
        _ => Err(Stop::Failed(format!("the guest's first line is {line:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_complaint_ends_a_measurement_and_other_lines_do_not() {
        assert!(take("oracle: refused reason=too-large word=memory\n", rounds).is_err());
        let line = "oracle: rounds=1 writes=2 checked=3 rate=4 gap_us=5 errors=0\n";
        assert_eq!(take(line, rounds).unwrap().unwrap().gap_us, 5);
        assert!(take("a line that was cut", rounds).unwrap().is_none());
    }

    #[test]
    fn only_the_oracles_greeting_is_a_first_byte() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(b"oracle: hello version=1\n").unwrap();
        assert!(read_hello(&ours, || ()).is_ok());
        theirs.write_all(b"qboot\n").unwrap();
        assert!(read_hello(&ours, || ()).is_err());
    }
}
