//! [`PagesIn`]: which content the guest's memory has here. See `SPEC.md`, 4.

use std::num::NonZeroU64;
use std::ops::Range;

use crate::digest::{DigestSum, Manifest, PageDigest};
use crate::hde::Batch;
use crate::ledger::SendNumber;
use crate::numbers::NumberSet;
use crate::page::{Gfn, PAGE_SIZE, PageRun};
use crate::session::{Agreement, Fault, contains};

/// Gaps between the numbers of batches that arrived: each stream may have a few on their way. More
/// mean a peer that wants our memory.
/// `SPEC.md`, 4, tells sources.
const GAPS_MAX: usize = 16 << 10;

/// The guest's memory at the destination, where nothing runs yet: zeros, until it is written.
pub trait GuestPages {
    /// What can fail.
    type Error: std::error::Error;

    /// Writes the pages of a run.
    ///
    /// # Errors
    /// When they cannot be written. The attempt is over then.
    fn write(&mut self, run: PageRun, content: &[u8]) -> Result<(), Self::Error>;
}

/// What has arrived so far, in pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Pages written into the guest's memory.
    pub pages_applied: u64,
    /// Pages dropped, since newer ones or the same were there.
    pub pages_dropped: u64,
}

#[derive(Debug)]
pub(super) struct PagesIn {
    memory: Vec<PageRun>,
    /// The number of the send whose content each page has; 0 for none. Plain numbers, since the
    /// allocator gives zeros of these without touching them.
    applied: Vec<u64>,
    manifest: Manifest,
    /// Sends that are applied, at or above what the source has settled.
    numbers: NumberSet,
    /// Sends to be acknowledged, and to be wanted in full.
    pub(super) to_acknowledge: NumberSet,
    pub(super) to_want: NumberSet,
    pub(super) counts: Counts,
}

impl PagesIn {
    pub(super) fn new(agreement: &Agreement) -> Self {
        let limit = agreement.limit();
        let pages = usize::try_from(limit.0).expect("a limit checked before");
        Self {
            memory: agreement.memory.clone(),
            applied: vec![0; pages],
            manifest: Manifest::new(limit),
            numbers: NumberSet::new(),
            to_acknowledge: NumberSet::new(),
            to_want: NumberSet::new(),
            counts: Counts::default(),
        }
    }

    pub(super) fn sum(&self) -> DigestSum {
        self.manifest.sum()
    }

    pub(super) fn applied(&self, gfn: Gfn) -> Option<SendNumber> {
        let number = *self.applied.get(usize::try_from(gfn.0).ok()?)?;
        (number != 0).then_some(SendNumber(number))
    }

    /// The source will never ask for a number below this one.
    pub(super) fn settled_below(&mut self, number: SendNumber) {
        self.numbers.forget_below(number);
    }

    /// What is applied, as a `Welcome` tells it: the newest `max` ranges, since the others can be
    /// sent again.
    pub(super) fn newest_ranges(&self, max: usize) -> Vec<Range<SendNumber>> {
        self.numbers.ranges().rev().take(max).collect()
    }

    pub(super) fn check(&self, batch: &Batch) -> Result<(), Fault> {
        batch.runs().iter().try_for_each(|run| self.check_run(*run))
    }

    pub(super) fn check_run(&self, run: PageRun) -> Result<(), Fault> {
        if contains(&self.memory, run) { Ok(()) } else { Err(Fault::NoMemory(run)) }
    }

    /// Writes those pages of a batch that are newer than what is there, and not the same.
    pub(super) fn apply<M: GuestPages>(
        &mut self,
        batch: &Batch,
        content: &[u8],
        digests: &[PageDigest],
        memory: &mut M,
    ) -> Result<(), M::Error> {
        let (mut sends, mut at) = (batch.sends().zip(digests).peekable(), 0);
        // The pages that are written together: those of one run between two that are not.
        for run in batch.runs() {
            let mut fresh: Option<PageRun> = None;
            for gfn in run.frames() {
                let Some(((_, number), digest)) = sends.next() else { return Ok(()) };
                let place = &mut self.applied[index(gfn)];
                let is_newer = *place < number.0;
                // A page of zeros that was never written is there already, and takes no memory as long as it is not.
                let is_there = *place == 0 && *digest == PageDigest::ZERO;
                if is_newer {
                    *place = number.0;
                    self.manifest.replace(gfn, *digest).expect("a page of the guest");
                    self.counts.pages_applied += 1;
                } else {
                    self.counts.pages_dropped += 1;
                }
                if !is_newer || is_there {
                    write(&mut fresh, run, at, content, memory)?;
                    continue;
                }
                fresh = Some(match fresh {
                    Some(fresh) => PageRun::known_valid(fresh.first(), fresh.pages() + 1),
                    None => PageRun::known_valid(gfn, 1),
                });
            }
            write(&mut fresh, run, at, content, memory)?;
            at += run.bytes();
        }
        self.numbers.insert(batch.numbers());
        self.to_acknowledge.insert(batch.numbers());
        Ok(())
    }

    /// Whether the peer has left more gaps than streams explain.
    pub(super) fn check_gaps(&self) -> Result<(), Fault> {
        let sets = [&self.numbers, &self.to_acknowledge, &self.to_want];
        let gaps = sets.into_iter().map(NumberSet::len).max().unwrap_or(0);
        if gaps > GAPS_MAX { Err(Fault::TooManyGaps(gaps)) } else { Ok(()) }
    }
}

/// Writes what has gathered of a run whose content begins at `at`.
fn write<M: GuestPages>(
    fresh: &mut Option<PageRun>,
    run: &PageRun,
    at: u64,
    content: &[u8],
    memory: &mut M,
) -> Result<(), M::Error> {
    let Some(fresh) = fresh.take() else { return Ok(()) };
    let start = at + (fresh.first().0 - run.first().0) * PAGE_SIZE;
    let range = to_usize(start)..to_usize(start + fresh.bytes());
    memory.write(fresh, &content[range])
}

fn index(gfn: Gfn) -> usize {
    to_usize(gfn.0)
}

fn to_usize(value: u64) -> usize {
    usize::try_from(value).expect("a place in a batch or a guest")
}

/// The pages that one run of an announcement may ask to be populated at once.
pub(super) const POPULATE_PAGES: NonZeroU64 = NonZeroU64::new(1 << 18).expect("not zero");
