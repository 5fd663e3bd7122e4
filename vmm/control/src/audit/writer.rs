//! The one who writes to a log: finds where it ends, and goes on from there.

use std::io::{self, BufReader};
use std::time::SystemTime;

use super::chain::{Followed, Lost, Next, follow};
use super::folder::AuditFolder;
use super::hash::RecordHash;
use super::head::Head;
use super::log::Receipt;
use super::problem::{AuditProblem, Damage};
use super::record::{Call, Event, Record, SegmentStart, Torn, rfc3339};
use super::segment::SegmentFile;
use super::verify::{
    Witness, no_segment_is_missing_before, no_segment_is_missing_between, starting_point,
};
use crate::config::AuditConfig;

/// The end of a log, where records are added.
#[derive(Debug)]
pub(super) struct Writer {
    folder: AuditFolder,
    limits: AuditConfig,
    /// The newest segment's number, file and length.
    number: u64,
    pub(super) file: SegmentFile,
    length: u64,
    next: Next,
    /// What is in the file may be more than `length` says: nothing is added to that.
    is_broken: bool,
}

impl Writer {
    /// Finds the end of the log; makes one if there is none. Looks at the newest segment only: a daemon does not read a
    /// gigabyte before it starts, and [`super::verify()`] does.
    pub(super) fn open(folder: AuditFolder, limits: AuditConfig) -> Result<Self, Lost> {
        let whole = AuditProblem::of_the_whole;
        let numbers = folder.segments()?;
        let head = match folder.read_head()? {
            Some(bytes) => Head::decode(&bytes).ok_or_else(|| whole(Damage::HeadAltered))?,
            // A log begins with its head: one without a head, and with records, has lost it.
            None if numbers.is_empty() => {
                folder.replace_head(Head::EMPTY)?;
                Head::EMPTY
            }
            None => return Err(whole(Damage::NoHead).into()),
        };
        let Some(&number) = numbers.last() else {
            Witness::new(head).has_seen_its_record(Next::FIRST)?;
            return Self::begin(folder, limits);
        };
        no_segment_is_missing_between(&numbers)?;
        let followed =
            find_end(&folder, number, starting_point(&numbers[numbers.len() - 1..]), head)?;
        no_segment_is_missing_before(&numbers, &followed.start)?;
        let Followed { start, next, length, torn, .. } = followed;
        let file = SegmentFile::new(folder.append_to_segment(number)?);
        let mut writer = Self { folder, limits, number, file, length, next, is_broken: false };
        if !torn.is_empty() {
            writer.file.cut(length)?;
            let cut = RecordHash::of(&torn);
            writer.append(vec![Event::Torn(Torn { bytes: torn.len() as u64, cut })])?;
        }
        // What is whole was perhaps not acknowledged, and is part of the log from now on.
        writer.acknowledge()?;
        writer.remove_before(start.oldest);
        Ok(writer)
    }

    /// A log of nothing but its first record.
    fn begin(folder: AuditFolder, limits: AuditConfig) -> Result<Self, Lost> {
        let start = SegmentStart { number: 1, oldest: 1 };
        let (length, next) = start_segment(&folder, start, Next::FIRST)?;
        let file = SegmentFile::new(folder.append_to_segment(1)?);
        let writer = Self { folder, limits, number: 1, file, length, next, is_broken: false };
        writer.acknowledge()?;
        Ok(writer)
    }

    /// Adds calls to the log, all or none of them.
    ///
    /// # Errors
    /// Nothing was added.
    pub(super) fn add(&mut self, calls: Vec<Call>) -> io::Result<Vec<Receipt>> {
        if self.is_broken {
            return Err(io::Error::other("an earlier error left it in doubt; restart the daemon"));
        }
        if self.length >= self.limits.segment_size.0 {
            self.rotate()?;
        }
        let before = (self.length, self.next);
        let added = self.append(calls.into_iter().map(Event::Call).collect());
        let added = added.and_then(|receipts| self.acknowledge().map(|()| receipts));
        if added.is_err() {
            // What was refused must not be in the log.
            (self.length, self.next) = before;
            self.is_broken |= self.file.cut(self.length).is_err();
        }
        added
    }

    fn append(&mut self, events: Vec<Event>) -> io::Result<Vec<Receipt>> {
        let time = rfc3339(SystemTime::now());
        let (mut lines, mut next) = (Vec::new(), self.next);
        let mut receipts = Vec::with_capacity(events.len());
        for event in events {
            let Next { seq, previous } = next;
            let record = Record { seq, time: time.clone(), event, previous };
            let (line, hash) = record.encode().map_err(io::Error::other)?;
            lines.extend(line);
            receipts.push(Receipt { seq, hash });
            next = Next::after(&record, hash);
        }
        self.file.append(&lines)?;
        if let Err(error) = self.file.sync() {
            self.is_broken = true;
            return Err(error);
        }
        self.length += lines.len() as u64;
        self.next = next;
        Ok(receipts)
    }

    /// From here on a log that ends before this is one whose end was cut off.
    fn acknowledge(&self) -> io::Result<()> {
        self.folder.replace_head(Head { seq: self.next.seq - 1, hash: self.next.previous })
    }

    /// Goes on in a new segment, and deletes those that are too old.
    fn rotate(&mut self) -> io::Result<()> {
        let number = self.number + 1;
        let oldest = number.saturating_sub(u64::from(self.limits.segments_kept) - 1).max(1);
        // Where more are kept than before, those that are gone do not come back.
        let oldest = self.folder.segments()?.first().map_or(oldest, |first| oldest.max(*first));
        let (length, next) =
            start_segment(&self.folder, SegmentStart { number, oldest }, self.next)?;
        // It is there now: whatever happens, nothing may be added to the one before.
        self.is_broken = true;
        self.file = SegmentFile::new(self.folder.append_to_segment(number)?);
        (self.number, self.length, self.next) = (number, length, next);
        self.is_broken = false;
        self.remove_before(oldest);
        Ok(())
    }

    /// Deletes the segments before this one, the oldest first, so that no gap is seen whenever it stops. One that cannot
    /// be deleted is tried again with the next one.
    fn remove_before(&self, oldest: u64) {
        let old = self.folder.segments().unwrap_or_default().into_iter();
        for number in old.filter(|number| *number < oldest) {
            if let Err(error) = self.folder.remove_segment(number) {
                tracing::warn!(segment = number, %error, "an old segment of the audit log stays");
                return;
            }
        }
    }
}

/// Makes a segment with its first record: its length, and what comes next.
fn start_segment(folder: &AuditFolder, start: SegmentStart, next: Next) -> io::Result<(u64, Next)> {
    let Next { seq, previous } = next;
    let event = Event::Segment(start);
    let record = Record { seq, time: rfc3339(SystemTime::now()), event, previous };
    let (line, hash) = record.encode().map_err(io::Error::other)?;
    folder.create_segment(start.number, &line)?;
    Ok((line.len() as u64, Next::after(&record, hash)))
}

/// Reads the newest segment. It holds the record that the head names, or begins behind that: the head is written after
/// the log, and a new segment before it.
fn find_end(
    folder: &AuditFolder,
    number: u64,
    next: Option<Next>,
    head: Head,
) -> Result<Followed, Lost> {
    let mut witness = Witness::new(head);
    let reader = BufReader::new(folder.read_segment(number)?);
    let followed = follow(number, reader, next, |line, record, hash| {
        witness.see(number, line, record.seq, hash)
    })?;
    let is_before = Next { seq: head.seq + 1, previous: head.hash } == followed.first;
    if !is_before {
        witness.has_seen_its_record(followed.next)?;
    }
    Ok(followed)
}
