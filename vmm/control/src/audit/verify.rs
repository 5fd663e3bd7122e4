//! Whether a log is whole.

use std::io::{self, BufRead, BufReader};
use std::path::Path;

use super::chain::{Lost, Next, follow};
use super::folder::AuditFolder;
use super::hash::RecordHash;
use super::head::Head;
use super::problem::{AuditProblem, Damage, VerifyError};
use super::record::{Record, SegmentStart};

/// How often it is begun again when the daemon deletes an old segment meanwhile.
const TRIES: u32 = 5;

/// What a log that is whole has in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Segments.
    pub segments: u64,
    /// Records, of any kind.
    pub records: u64,
    /// The number of the first and of the last record that is there; none if there are none.
    pub numbers: Option<(u64, u64)>,
    /// The times of the first and of the last record.
    pub times: Option<(String, String)>,
    /// The hash of the last record: noted elsewhere, it is what nobody can write anew.
    pub head: RecordHash,
    /// Bytes of a last line that is cut short: somebody writes it right now, or was killed when he did. The next daemon
    /// cuts it off.
    pub torn: u64,
}

/// Checks every record, the segments, and the head; and that the log still holds the record of a hash that was noted
/// earlier. A daemon may write to the log meanwhile.
///
/// # Errors
/// Something is wrong with it: the first thing that is. Or it cannot be read.
pub fn verify(path: &Path, noted: Option<RecordHash>) -> Result<Summary, VerifyError> {
    let failed = |source| VerifyError::Io { path: path.to_owned(), source };
    let folder = AuditFolder::open(path).map_err(failed)?;
    let mut tries = 0;
    loop {
        tries += 1;
        match verify_once(&folder, noted) {
            Err(Lost::Io(error)) if error.kind() == io::ErrorKind::NotFound && tries < TRIES => {}
            Err(Lost::Io(error)) => return Err(failed(error)),
            Err(Lost::Problem(problem)) => {
                return Err(VerifyError::Problem { path: path.to_owned(), problem });
            }
            Ok(summary) => return Ok(summary),
        }
    }
}

fn verify_once(folder: &AuditFolder, noted: Option<RecordHash>) -> Result<Summary, Lost> {
    // The head first: it must not know more than the log that is read after it.
    let head = folder.read_head()?;
    let numbers = folder.segments()?;
    let open = |number| Ok(BufReader::new(folder.read_segment(number)?));
    check(head.as_deref(), &numbers, open, noted)
}

/// The same of bytes: those of the head, and of each segment with its number, in their order.
///
/// # Errors
/// The first thing that is wrong.
pub fn verify_bytes(
    head: Option<&[u8]>,
    segments: &[(u64, &[u8])],
) -> Result<Summary, AuditProblem> {
    let numbers: Vec<_> = segments.iter().map(|(number, _)| *number).collect();
    let open = |number| {
        let found = segments.iter().find(|(other, _)| *other == number);
        found.map(|(_, bytes)| *bytes).ok_or_else(|| io::ErrorKind::NotFound.into())
    };
    check(head, &numbers, open, None).map_err(|lost| match lost {
        Lost::Problem(problem) => problem,
        // Bytes can always be read.
        Lost::Io(_) => AuditProblem::of_the_whole(Damage::NoHead),
    })
}

fn check<R: BufRead>(
    head: Option<&[u8]>,
    numbers: &[u64],
    open: impl Fn(u64) -> io::Result<R>,
    noted: Option<RecordHash>,
) -> Result<Summary, Lost> {
    let whole = AuditProblem::of_the_whole;
    let head = head.ok_or_else(|| whole(Damage::NoHead))?;
    let head = Head::decode(head).ok_or_else(|| whole(Damage::HeadAltered))?;
    no_segment_is_missing_between(numbers)?;
    let mut tally = Tally::new(head, noted);
    let mut next = starting_point(numbers);
    let mut newest = None;
    for (index, &number) in numbers.iter().enumerate() {
        let followed = follow(number, open(number)?, next, |line, record, hash| {
            tally.add(number, line, record, hash)
        })?;
        tally.torn = followed.torn.len() as u64;
        if tally.torn > 0 && index + 1 < numbers.len() {
            let damage = Damage::Altered;
            return Err(AuditProblem { segment: Some(number), line: None, damage }.into());
        }
        newest = Some(followed.start);
        next = Some(followed.next);
    }
    let next = next.unwrap_or(Next::FIRST);
    tally.witness.has_seen_its_record(next)?;
    if let Some(newest) = newest {
        no_segment_is_missing_before(numbers, &newest)?;
    }
    if !tally.holds_noted {
        return Err(whole(Damage::NotedMissing).into());
    }
    Ok(tally.sum(numbers.len(), next))
}

/// What is found on the way.
struct Tally {
    witness: Witness,
    noted: Option<RecordHash>,
    holds_noted: bool,
    records: u64,
    /// Number and time.
    first: Option<(u64, String)>,
    last: Option<(u64, String)>,
    torn: u64,
}

impl Tally {
    fn new(head: Head, noted: Option<RecordHash>) -> Self {
        let (witness, holds_noted) = (Witness::new(head), noted.is_none());
        Self { witness, noted, holds_noted, records: 0, first: None, last: None, torn: 0 }
    }

    fn add(
        &mut self,
        segment: u64,
        line: u64,
        record: &Record,
        hash: RecordHash,
    ) -> Result<(), AuditProblem> {
        self.records += 1;
        let here = (record.seq, record.time.clone());
        self.first.get_or_insert_with(|| here.clone());
        self.last = Some(here);
        // The oldest one's predecessor counts, too: it was deleted because it was old.
        self.holds_noted |= [hash, record.previous].map(Some).contains(&self.noted);
        self.witness.see(segment, line, record.seq, hash)
    }

    fn sum(self, segments: usize, next: Next) -> Summary {
        let ends = self.first.zip(self.last);
        let numbers = ends.as_ref().map(|(first, last)| (first.0, last.0));
        let times = ends.map(|(first, last)| (first.1, last.1));
        let (records, torn) = (self.records, self.torn);
        Summary { segments: segments as u64, records, numbers, times, head: next.previous, torn }
    }
}

/// The first segment of all follows nothing; the oldest that is kept says itself what it follows.
pub(super) fn starting_point(numbers: &[u64]) -> Option<Next> {
    (numbers.first() == Some(&1)).then_some(Next::FIRST)
}

/// Whether there is no gap between segments.
pub(super) fn no_segment_is_missing_between(numbers: &[u64]) -> Result<(), AuditProblem> {
    match numbers.windows(2).find(|pair| pair[1] != pair[0] + 1) {
        Some(pair) => Err(AuditProblem::of_the_whole(Damage::NoSegment { number: pair[0] + 1 })),
        None => Ok(()),
    }
}

/// Whether the first segments are there that the newest says are kept.
pub(super) fn no_segment_is_missing_before(
    numbers: &[u64],
    newest: &SegmentStart,
) -> Result<(), AuditProblem> {
    match numbers.first() {
        Some(first) if *first > newest.oldest => {
            Err(AuditProblem::of_the_whole(Damage::NoSegment { number: newest.oldest }))
        }
        _ => Ok(()),
    }
}

/// Looks out for the record that the head names.
pub(super) struct Witness {
    head: Head,
    has_seen: bool,
}

impl Witness {
    pub(super) fn new(head: Head) -> Self {
        Self { head, has_seen: head.seq == 0 }
    }

    pub(super) fn see(
        &mut self,
        segment: u64,
        line: u64,
        seq: u64,
        hash: RecordHash,
    ) -> Result<(), AuditProblem> {
        if seq != self.head.seq {
            return Ok(());
        }
        if hash != self.head.hash {
            return Err(AuditProblem::at(segment, line, Damage::OtherHead { seq }));
        }
        self.has_seen = true;
        Ok(())
    }

    /// At the end of the log.
    pub(super) fn has_seen_its_record(&self, next: Next) -> Result<(), AuditProblem> {
        let (seq, last) = (self.head.seq, next.seq - 1);
        if self.has_seen {
            return Ok(());
        }
        let damage =
            if seq > last { Damage::CutOff { last, head: seq } } else { Damage::OtherHead { seq } };
        Err(AuditProblem::of_the_whole(damage))
    }
}

#[cfg(test)]
#[path = "verify_tests.rs"]
mod tests;
