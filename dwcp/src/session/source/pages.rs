//! [`PagesOut`]: which pages go out on which stream, and what became of them. See `SPEC.md`, 4 and 8.2.

use std::collections::{BTreeMap, VecDeque};
use std::num::NonZeroU64;
use std::ops::Range;
use std::time::Duration;

use super::kept::Recall;
use crate::amst;
use crate::digest::{DigestSum, Manifest, PageDigest, ShortDigest};
use crate::hde::{BATCH_PAGES_MAX, Batch, Ladder};
use crate::ledger::{Ledger, LedgerError, SendNumber};
use crate::page::{Gfn, PageRun};
use crate::page_set::PageSet;
use crate::pba::{LinkEstimator, Sent};
use crate::session::Agreement;
use crate::wire::StreamId;

const MOST: NonZeroU64 = NonZeroU64::new(BATCH_PAGES_MAX as u64).expect("not zero");

/// No page goes out a second time in a hurry while so many numbers are unsettled: a stream that stands still
/// would take one copy after the other, and leave more gaps at the destination than it bears.
const HURRY_NUMBERS_MAX: u64 = 4096;

/// What an attempt has cost so far, in pages and events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Pages that became owed because they were dirty; a page counts each time.
    pub pages_owed: u64,
    /// Pages that were handed out for sending.
    pub pages_sent: u64,
    /// Pages that were owed again since the stream that carried them died.
    pub pages_lost: u64,
    /// Pages that were owed again since the destination lacked what they built on.
    pub pages_wanted: u64,
    /// Bytes of payload that carried pages.
    pub payload_bytes: u64,
    /// Bytes of payload by which the destination told what it has kept.
    pub kept_bytes: u64,
    /// Bytes of the machine's state, as differences: those that were sent ahead, and the last.
    pub state_bytes: u64,
    /// Batches.
    pub batches: u64,
    /// Switches that were begun.
    pub switches: u64,
    /// Connections that were made.
    pub connections: u64,
}

/// Pages to be read from the guest's memory **after** this was handed out, encoded, and given back to
/// [`super::Source::handle_encoded`].
#[derive(Debug)]
pub struct Draft {
    pub(super) stream: StreamId,
    /// The pages and their send numbers.
    pub batch: Batch,
    /// For each page the send whose content the destination holds, and a delta may build on.
    pub bases: Vec<Option<SendNumber>>,
    /// For each page what it digests to in the destination's kept image, as far as it has told; empty if nothing of that
    /// is to be used.
    pub kept: Vec<Option<ShortDigest>>,
    /// The destination lacked what an earlier send of one of these pages built on: this one must
    /// build on nothing.
    pub is_in_full: bool,
    /// Every send below is settled or given up; goes into the payload's head.
    pub settled_below: SendNumber,
}

/// The sends that a stream carries, oldest first. What is settled is let go from the front, since a
/// stream has one order.
#[derive(Debug)]
struct Carried {
    batches: VecDeque<Sending>,
    /// When a frame was last written, or the oldest batch last settled.
    quiet_since: Duration,
}

/// Which pages of those on their way may go out again.
#[derive(Clone, Copy, Debug)]
pub(super) enum Haste<'a> {
    /// All but these; `None` is no page. Pages that the destination has kept may be named, or not.
    Waits { hot: Option<&'a PageSet>, may_recall: bool },
    /// All. So many streams share what is owed.
    Burst(NonZeroU64),
}

/// A batch on its way.
#[derive(Debug)]
struct Sending {
    numbers: Range<SendNumber>,
    /// Once it is encoded.
    sent: Option<Sent>,
    /// Once it is wholly in its socket.
    written_at: Option<Duration>,
}

#[derive(Debug)]
pub(super) struct PagesOut {
    ledger: Ledger,
    manifest: Manifest,
    /// Pages that the destination wants in full.
    in_full: PageSet,
    /// What the destination has kept of an earlier stay of the machine.
    pub(super) kept: Recall,
    carried: BTreeMap<StreamId, Carried>,
    /// Sends on streams of a connection that is over: the next `Welcome` tells which arrived.
    orphans: Vec<Range<SendNumber>>,
    batch_pages: NonZeroU64,
    /// What the destination takes: it can make batches smaller, and not larger than we want them.
    peer_batch_pages: NonZeroU64,
    pub(super) link: LinkEstimator,
    pub(super) counts: Counts,
}

impl PagesOut {
    pub(super) fn new(agreement: &Agreement) -> Self {
        let limit = agreement.limit();
        Self {
            kept: Recall::new(&agreement.memory),
            ledger: Ledger::new(limit),
            manifest: Manifest::new(limit),
            in_full: PageSet::new(limit),
            carried: BTreeMap::new(),
            orphans: Vec::new(),
            batch_pages: Ladder::step(0).batch_pages,
            peer_batch_pages: MOST,
            link: LinkEstimator::new(),
            counts: Counts::default(),
        }
    }

    pub(super) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    pub(super) fn digest(&self, gfn: Gfn) -> Option<PageDigest> {
        self.manifest.get(gfn)
    }

    pub(super) fn sum(&self) -> DigestSum {
        self.manifest.sum()
    }

    pub(super) fn set_batch_pages(&mut self, pages: NonZeroU64) {
        self.batch_pages = pages.min(MOST);
    }

    pub(super) fn set_peer_batch_pages(&mut self, pages: NonZeroU64) {
        self.peer_batch_pages = pages.min(MOST);
    }

    pub(super) fn owe(&mut self, run: PageRun) -> Result<u64, LedgerError> {
        let new = self.ledger.owe(run)?;
        self.counts.pages_owed += new;
        Ok(new)
    }

    pub(super) fn owe_words(&mut self, first: Gfn, words: &[u64]) -> Result<u64, LedgerError> {
        let new = self.ledger.owe_words(first, words)?;
        self.counts.pages_owed += new;
        Ok(new)
    }

    /// The next batch for a stream, if a page is ready.
    pub(super) fn draft(
        &mut self,
        now: Duration,
        stream: StreamId,
        haste: Haste<'_>,
    ) -> Option<Draft> {
        let (mut runs, mut bases) = (Vec::new(), Vec::new());
        let mut is_in_full = false;
        let (settled_below, first_number) =
            (self.ledger.settled_below(), self.ledger.next_number());
        let batch_pages = self.batch_pages.min(self.peer_batch_pages);
        let unsettled = first_number.0 - settled_below.0;
        let haste = match haste {
            Haste::Waits { hot: Some(_), may_recall } if unsettled > HURRY_NUMBERS_MAX => {
                Haste::Waits { hot: None, may_recall }
            }
            haste => haste,
        };
        let mut room = Some(match haste {
            Haste::Waits { .. } => batch_pages,
            Haste::Burst(streams) => amst::burst_batch(self.ledger.owed(), streams, batch_pages),
        });
        while let Some(max_pages) = room {
            let send = match haste {
                Haste::Waits { hot, .. } => {
                    self.ledger.next_run_with_bases(max_pages, hot, &mut bases)
                }
                Haste::Burst(_) => self.ledger.next_run_in_burst(max_pages),
            };
            let Some(send) = send else { break };
            is_in_full |= self.in_full.remove(send.run).expect("a page of the ledger") > 0;
            room = NonZeroU64::new(max_pages.get() - send.run.pages());
            runs.push(send.run);
        }
        let batch = Batch::new(first_number, runs).ok()?;
        bases.resize(batch.pages(), None);
        // What is kept lies compressed in a file, and is found page by page quickly in the order of the file only. While the
        // guest is about to stop, or stands still, nobody waits for that.
        let may_recall = matches!(haste, Haste::Waits { may_recall: true, .. });
        let kept = match may_recall && self.kept.knows_any() && !is_in_full {
            true => batch.sends().map(|(gfn, _)| self.kept.digest(gfn)).collect(),
            false => Vec::new(),
        };
        self.counts.pages_sent += batch.pages() as u64;
        self.counts.batches += 1;
        let nothing = || Carried { batches: VecDeque::new(), quiet_since: now };
        let carried = self.carried.entry(stream).or_insert_with(nothing);
        let sending = Sending { numbers: batch.numbers(), sent: None, written_at: None };
        carried.batches.push_back(sending);
        Some(Draft { stream, batch, bases, kept, is_in_full, settled_below })
    }

    /// Keeps the digests of what was read, where nothing newer was.
    pub(super) fn encoded(
        &mut self,
        now: Duration,
        draft: &Draft,
        digests: &[PageDigest],
        bytes: usize,
    ) {
        let batch = &draft.batch;
        let sending = self.carried.get_mut(&draft.stream).and_then(|on| on.batches.back_mut());
        if let Some(sending) = sending.filter(|sending| sending.numbers == batch.numbers()) {
            if draft.kept.iter().any(Option::is_some) {
                // It may be next to nothing, and says less than the link could do.
                self.link.idle();
            }
            sending.sent = Some(self.link.sent(now, bytes as u64));
        }
        for ((gfn, number), digest) in batch.sends().zip(digests) {
            if self.ledger.latest_send(gfn) == Some(number) {
                self.manifest.replace(gfn, *digest).expect("a page of the ledger");
            }
        }
        self.counts.payload_bytes += bytes as u64;
    }

    /// A frame of a stream is in its socket.
    pub(super) fn written(&mut self, now: Duration, stream: StreamId) {
        if let Some(carried) = self.carried.get_mut(&stream) {
            carried.quiet_since = now;
            if let Some(sending) = carried.batches.back_mut() {
                sending.written_at.get_or_insert(now);
            }
        }
    }

    pub(super) fn settle(
        &mut self,
        now: Duration,
        ranges: &[Range<SendNumber>],
    ) -> Result<(), LedgerError> {
        for range in ranges {
            self.ledger.settle(range.clone())?;
        }
        for carried in self.carried.values_mut() {
            let ledger = &self.ledger;
            while let Some(done) =
                carried.batches.pop_front_if(|sending| !ledger.is_outstanding(&sending.numbers))
            {
                carried.quiet_since = now;
                if let Some(sent) = &done.sent {
                    self.link.acknowledged(now, sent);
                }
                if let Some(at) = done.written_at {
                    self.link.came_back(now, now.saturating_sub(at));
                }
            }
        }
        Ok(())
    }

    /// A ping has come back that left at so many microseconds.
    pub(super) fn pinged(&mut self, now: Duration, token: u64) {
        if let Some(after) = now.checked_sub(Duration::from_micros(token)) {
            self.link.came_back(now, after);
        }
    }

    /// Whether a stream carries what is not acknowledged.
    pub(super) fn is_carried_by(&self, stream: StreamId) -> bool {
        self.carried.get(&stream).is_some_and(|carried| !carried.batches.is_empty())
    }

    /// Streams that wait for an acknowledgement, and since when.
    pub(super) fn unanswered(&self) -> impl Iterator<Item = (StreamId, Duration)> {
        let waiting = self.carried.iter().filter(|(_, carried)| !carried.batches.is_empty());
        waiting.map(|(stream, carried)| (*stream, carried.quiet_since))
    }

    /// The destination lacks what these sends built on: their pages go out again, in full.
    pub(super) fn want(&mut self, ranges: &[Range<SendNumber>]) -> Result<(), LedgerError> {
        for range in ranges {
            let in_full = &mut self.in_full;
            let lost = self.ledger.lose_with(range.clone(), |run| {
                in_full.insert(run).expect("a page of the ledger");
            })?;
            self.counts.pages_wanted += lost;
        }
        Ok(())
    }

    /// A stream has died, and others live on.
    pub(super) fn stream_lost(&mut self, stream: StreamId) {
        let carried = self.carried.remove(&stream).map(|carried| carried.batches);
        for sending in carried.unwrap_or_default() {
            self.forget(&sending);
            self.lose(sending.numbers);
        }
    }

    /// All streams have died. What they carried is neither settled nor lost until the destination
    /// has said what it got.
    pub(super) fn connection_lost(&mut self) {
        self.kept.connection_lost();
        for sending in std::mem::take(&mut self.carried).into_values().flat_map(|on| on.batches) {
            self.forget(&sending);
            self.orphans.push(sending.numbers);
        }
    }

    fn forget(&mut self, sending: &Sending) {
        if let Some(sent) = &sending.sent {
            self.link.lost(sent);
        }
    }

    /// The destination has these sends, of those that were on their way when the connection ended.
    pub(super) fn welcomed(
        &mut self,
        now: Duration,
        applied: &[Range<SendNumber>],
    ) -> Result<(), LedgerError> {
        self.settle(now, applied)?;
        for numbers in std::mem::take(&mut self.orphans) {
            self.lose(numbers);
        }
        Ok(())
    }

    fn lose(&mut self, numbers: Range<SendNumber>) {
        self.counts.pages_lost += self.ledger.lose(numbers).expect("numbers that were drawn");
    }
}
