//! The last records, for people who look for something.

use std::collections::VecDeque;
use std::io::{self, BufReader};
use std::path::Path;

use super::folder::AuditFolder;
use super::lines::{self, Line};
use super::problem::VerifyError;
use super::record::{Event, Record};

/// Which records are looked for.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// At most so many, the newest.
    pub most: usize,
    /// Calls of this method only.
    pub method: Option<String>,
    /// Calls that are to change this only.
    pub target: Option<String>,
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Recent {
    /// The oldest first.
    pub records: Vec<Record>,
    /// Lines that are none, among those that were read: the log is damaged, or somebody writes to it right now.
    pub unreadable: u64,
}

impl Wanted {
    fn is(&self, record: &Record) -> bool {
        let is =
            |wanted: &Option<String>, found: &str| wanted.as_ref().is_none_or(|it| it == found);
        match &record.event {
            Event::Call(call) => is(&self.method, &call.method) && is(&self.target, &call.target),
            Event::Segment(_) | Event::Torn(_) => self.method.is_none() && self.target.is_none(),
        }
    }
}

/// Finds the last records of a log that are wanted. It reads no more segments than that takes, and checks lines, but not
/// that they follow each other: that is [`super::verify()`]'s.
///
/// # Errors
/// The log cannot be read.
pub fn recent(path: &Path, wanted: &Wanted) -> Result<Recent, VerifyError> {
    find(path, wanted).map_err(|source| VerifyError::Io { path: path.to_owned(), source })
}

fn find(path: &Path, wanted: &Wanted) -> io::Result<Recent> {
    let folder = AuditFolder::open(path)?;
    let mut found = VecDeque::new();
    let mut unreadable = 0;
    for number in folder.segments()?.into_iter().rev() {
        let missing = wanted.most.saturating_sub(found.len());
        if missing == 0 {
            break;
        }
        let file = match folder.read_segment(number) {
            Ok(file) => file,
            // Deleted meanwhile, for it was old, and so is what is before it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => break,
            Err(error) => return Err(error),
        };
        let mut reader = BufReader::new(file);
        let mut here = VecDeque::new();
        while let Some(line) = lines::next(&mut reader)? {
            let record = match &line {
                Line::Whole(bytes) => Record::decode(bytes).map(|(record, _)| record),
                Line::Torn(_) | Line::TooLong => None,
            };
            match record {
                Some(record) if wanted.is(&record) => here.push_back(record),
                Some(_) => {}
                None => unreadable += 1,
            }
            if here.len() > missing {
                here.pop_front();
            }
        }
        here.extend(found);
        found = here;
    }
    Ok(Recent { records: found.into(), unreadable })
}
