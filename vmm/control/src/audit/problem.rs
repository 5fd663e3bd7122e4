//! What is wrong with a log, and where.

use std::fmt;
use std::io;
use std::path::PathBuf;

use super::folder::file_name;

/// Damage, and the place where it shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditProblem {
    /// The number of the segment; none if it is the head, or a segment that is missing.
    pub segment: Option<u64>,
    /// The line in it, from 1.
    pub line: Option<u64>,
    /// What it is.
    pub damage: Damage,
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// A line's bytes are not those of its hash, or no record
    #[error("this line was altered, or is none of the log's")]
    Altered,
    /// Records are missing
    #[error("records {first} to {last} were removed")]
    Removed {
        /// The first of them.
        first: u64,
        /// The last of them.
        last: u64,
    },
    /// A record comes before the one that it follows
    #[error("record {seq} was moved here: the one before it comes later")]
    Moved {
        /// Which.
        seq: u64,
    },
    /// A record stands here that the log has already gone beyond
    #[error("record {seq} was put in: it, or another of that number, came before")]
    Inserted {
        /// Which.
        seq: u64,
    },
    /// A record is sound in itself, and is not what the next or the previous one followed
    #[error("record {seq} or the one before it was replaced: their hashes do not fit")]
    Replaced {
        /// Which.
        seq: u64,
    },
    /// The first line of a segment is something else
    #[error("the segment does not begin with its own first record")]
    NoStart,
    /// A segment without a line
    #[error("the segment has no whole line")]
    Empty,
    /// A segment is missing
    #[error("segment {number} is missing: it was removed, and not because it was old")]
    NoSegment {
        /// Which.
        number: u64,
    },
    /// The end is missing
    #[error(
        "the log ends with record {last}, and its head knows record {head}: the end was cut off"
    )]
    CutOff {
        /// The last that is there.
        last: u64,
        /// The last that was.
        head: u64,
    },
    /// The head names a record by another hash, or one of long ago
    #[error("the head names a record {seq} that is not the log's: either was replaced")]
    OtherHead {
        /// Which.
        seq: u64,
    },
    /// It may be whole in itself
    #[error(
        "no record has the hash that was noted: the log was written anew, or that record was so old that it is deleted"
    )]
    NotedMissing,
    /// The head is no head
    #[error("the file `head` was altered")]
    HeadAltered,
    /// There is none
    #[error("there is no file `head`: it was removed, or this is no audit log")]
    NoHead,
}

impl AuditProblem {
    pub(super) fn at(segment: u64, line: u64, damage: Damage) -> Self {
        Self { segment: Some(segment), line: Some(line), damage }
    }

    pub(super) fn of_the_whole(damage: Damage) -> Self {
        Self { segment: None, line: None, damage }
    }
}

impl fmt::Display for AuditProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.segment, self.line) {
            (Some(segment), Some(line)) => {
                write!(f, "{}, line {line}: {}", file_name(segment), self.damage)
            }
            (Some(segment), None) => write!(f, "{}: {}", file_name(segment), self.damage),
            (None, _) => write!(f, "{}", self.damage),
        }
    }
}

impl std::error::Error for AuditProblem {}

/// Why a log is not found to be sound.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// It is not
    #[error("{}: {problem}", path.display())]
    Problem {
        /// The log's folder.
        path: PathBuf,
        /// What is wrong.
        problem: AuditProblem,
    },
    /// It cannot be read
    #[error("{}: {source}", path.display())]
    Io {
        /// The log's folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}
