//! Following records from each to the next.

use std::io::{self, BufRead};

use super::hash::RecordHash;
use super::lines::{self, Line};
use super::problem::{AuditProblem, Damage};
use super::record::{Event, Record, SegmentStart};

/// What comes after the records seen so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Next {
    pub(super) seq: u64,
    pub(super) previous: RecordHash,
}

impl Next {
    /// In a log that has nothing yet.
    pub(super) const FIRST: Self = Self { seq: 1, previous: RecordHash::NONE };

    pub(super) fn after(record: &Record, hash: RecordHash) -> Self {
        Self { seq: record.seq.saturating_add(1), previous: hash }
    }
}

/// A segment that was read to its end.
#[derive(Debug)]
pub(super) struct Followed {
    pub(super) start: SegmentStart,
    /// What its first record follows.
    pub(super) first: Next,
    pub(super) next: Next,
    /// Bytes of all whole lines.
    pub(super) length: u64,
    /// What follows them without a newline.
    pub(super) torn: Vec<u8>,
}

/// Why a segment cannot be followed.
#[derive(Debug)]
pub(super) enum Lost {
    Problem(AuditProblem),
    Io(io::Error),
}

impl From<io::Error> for Lost {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<AuditProblem> for Lost {
    fn from(problem: AuditProblem) -> Self {
        Self::Problem(problem)
    }
}

/// Reads segment `number`, whose first record must follow `next`; without that it may follow anything. `each` is given
/// every record with its line's number.
pub(super) fn follow(
    number: u64,
    mut reader: impl BufRead,
    next: Option<Next>,
    mut each: impl FnMut(u64, &Record, RecordHash) -> Result<(), AuditProblem>,
) -> Result<Followed, Lost> {
    let mut next = next;
    let mut begun: Option<(SegmentStart, Next)> = None;
    let (mut length, mut line) = (0, 0);
    let mut torn = Vec::new();
    while let Some(found) = lines::next(&mut reader)? {
        line += 1;
        let problem = |damage| AuditProblem::at(number, line, damage);
        let bytes = match found {
            Line::Whole(bytes) => bytes,
            Line::Torn(bytes) => {
                torn = bytes;
                break;
            }
            Line::TooLong => return Err(problem(Damage::Altered).into()),
        };
        let (record, hash) = Record::decode(&bytes).ok_or_else(|| problem(Damage::Altered))?;
        let here = Next { seq: record.seq, previous: record.previous };
        if let Some(next) = next
            && here != next
        {
            return Err(problem(misfit(here, next, &mut reader)?).into());
        }
        begun = Some(match (&record.event, begun) {
            (Event::Segment(start), None) if start.number == number => (*start, here),
            (Event::Segment(_), Some(_)) | (_, None) => return Err(problem(Damage::NoStart).into()),
            (_, Some(begun)) => begun,
        });
        each(line, &record, hash)?;
        next = Some(Next::after(&record, hash));
        length += bytes.len() as u64 + 1;
    }
    match (begun, next) {
        (Some((start, first)), Some(next)) => Ok(Followed { start, first, next, length, torn }),
        _ => Err(AuditProblem { segment: Some(number), line: None, damage: Damage::Empty }.into()),
    }
}

/// What it means that a record, sound in itself, is not the next one. `rest` is what comes after it.
fn misfit(here: Next, next: Next, rest: &mut impl BufRead) -> io::Result<Damage> {
    let seq = here.seq;
    if seq == next.seq {
        return Ok(Damage::Replaced { seq });
    }
    if seq < next.seq {
        return Ok(Damage::Inserted { seq });
    }
    while let Some(Line::Whole(bytes)) = lines::next(rest)? {
        if Record::decode(&bytes).is_some_and(|(record, _)| record.seq == next.seq) {
            return Ok(Damage::Moved { seq });
        }
    }
    Ok(Damage::Removed { first: next.seq, last: seq - 1 })
}
