//! The page path of the copying form: harvest → ledger → batch → digest → socket → acknowledgement.

use std::num::NonZeroU64;
use std::sync::Arc;

use dwcp::digest::{DigestKey, DigestSum, Manifest, ManifestError, PageDigest, is_zero};
use dwcp::hde::Batch;
use dwcp::ledger::{Ledger, SendNumber};
use dwcp::page::{Gfn, PAGE_BYTES, PAGE_SIZE, PageRun};

use super::blackout::Blackout;
use super::message::{Form, PagesFrame, Part, ToPredecessor, ToSuccessor};
use super::{HandOverError, HandOverReport, Limits};
use crate::clock::monotonic_ns;
use crate::dirty::DirtyLog;
use crate::ipc::Channel;
use crate::memory::{Extents, GuestRam};
use crate::meter::Meter;

/// Pages in one batch: 1 MiB. Larger ones wait longer for their acknowledgement, smaller ones cost
/// more messages: where a guest writes pages here and there, a batch is one message for all of them.
const BATCH_PAGES: NonZeroU64 = NonZeroU64::new(256).unwrap();

/// The digest of every page at this end, as the pages go out or come in.
struct Digests {
    key: DigestKey,
    manifest: Manifest,
    /// Those of one run, kept from run to run.
    of_run: Vec<PageDigest>,
}

impl Digests {
    fn new(key: &DigestKey, limit: Gfn) -> Self {
        Self { key: key.clone(), manifest: Manifest::new(limit), of_run: Vec::new() }
    }

    /// Digests a run's bytes, and returns their sum.
    fn record(&mut self, run: PageRun, bytes: &[u8]) -> Result<DigestSum, ManifestError> {
        let sum = self.key.digest_run(run, bytes, &mut self.of_run);
        self.manifest.replace_run(run, &self.of_run)?;
        Ok(sum)
    }

    /// The same for a run of zeros, which nobody needs to read. What is known to be zero is left as
    /// it is: writing it again would only cost memory.
    fn record_zeros(&mut self, run: PageRun) -> Result<DigestSum, ManifestError> {
        for gfn in run.frames() {
            if !self.is_zero(gfn) {
                self.manifest.replace(gfn, PageDigest::ZERO)?;
            }
        }
        Ok(DigestSum::ZERO)
    }

    /// Whether the page is known to be zero.
    fn is_zero(&self, gfn: Gfn) -> bool {
        self.manifest.get(gfn) == Some(PageDigest::ZERO)
    }
}

/// Copies pages to the successor until the ledger is settled.
pub(super) struct Copier<'a> {
    ram: &'a GuestRam,
    channel: &'a Channel,
    log: Box<dyn DirtyLog + Send>,
    ledger: Ledger,
    digests: Digests,
    buffer: Vec<u8>,
    extents: Extents,
    meter: &'a Meter,
    /// Whether the guest still runs: until then the hand-over can be given up.
    is_running: bool,
    pub(super) copied: Copied,
}

/// What a copying hand-over has done so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Copied {
    /// Rounds while the guest ran.
    rounds: u32,
    /// Pages sent, counting each time.
    pages: u64,
    /// Of those, pages of the last round.
    pages_of_last_round: u64,
}

impl Copied {
    /// The report, once the guest runs elsewhere: the last round was inside the blackout.
    pub(super) fn report(self, form: Form, blackout: Blackout, started_ns: u64) -> HandOverReport {
        HandOverReport {
            form,
            blackout,
            rounds: self.rounds,
            pages_sent: self.pages,
            pages_sent_paused: self.pages_of_last_round,
            total_ns: monotonic_ns().saturating_sub(started_ns),
        }
    }
}

impl<'a> Copier<'a> {
    /// A copier that owes every page. The first harvest of a new bitmap would say the same, that of a
    /// ring nothing at all: neither is relied on.
    ///
    /// # Errors
    /// When the layout does not fit the ledger.
    pub(super) fn new(
        ram: &'a GuestRam,
        channel: &'a Channel,
        log: Box<dyn DirtyLog + Send>,
        key: &DigestKey,
        meter: &'a Meter,
    ) -> Result<Self, HandOverError> {
        let limit = Gfn(ram.layout().frame_limit());
        let mut ledger = Ledger::new(limit);
        for region in ram.layout().regions() {
            ledger.owe(region.run())?;
        }
        Ok(Self {
            ram,
            channel,
            log,
            ledger,
            digests: Digests::new(key, limit),
            buffer: vec![0; byte_count(BATCH_PAGES.get())],
            extents: Extents::default(),
            meter,
            is_running: true,
            copied: Copied::default(),
        })
    }

    /// Rounds while the guest runs, until few enough pages are owed.
    ///
    /// # Errors
    /// When the guest writes faster than pages are copied, or the successor fails.
    pub(super) fn copy_while_running(&mut self, limits: Limits) -> Result<(), HandOverError> {
        loop {
            self.harvest()?;
            let dirty = self.ledger.owed();
            if self.copied.rounds > 0 && dirty <= limits.pages_at_pause {
                self.is_running = false;
                return Ok(());
            }
            if self.copied.rounds == limits.rounds {
                return Err(HandOverError::DoesNotConverge { dirty, rounds: self.copied.rounds });
            }
            self.copied.rounds += 1;
            self.meter.begin_round(self.copied.rounds);
            self.send_owed()?;
        }
    }

    /// Moves what was written since the last harvest into the ledger.
    pub(super) fn harvest(&mut self) -> Result<(), HandOverError> {
        self.log.harvest(&mut self.ledger)?;
        Ok(())
    }

    /// Sends everything owed, and waits until all of it is written and checked at the successor.
    pub(super) fn send_owed(&mut self) -> Result<(), HandOverError> {
        let before = self.copied.pages;
        while let Some(batch) = Batch::take_owed(&mut self.ledger, BATCH_PAGES) {
            self.send(&batch)?;
            let go_on = self.meter.advance(batch.pages() as u64, self.ledger.owed());
            if self.is_running {
                go_on?;
            }
            while self.channel.is_readable()? {
                self.settle_one()?;
            }
        }
        while self.ledger.in_flight() > 0 {
            self.settle_one()?;
        }
        self.copied.pages_of_last_round = self.copied.pages - before;
        Ok(())
    }

    /// Sum over all pages' digests.
    pub(super) fn sum(&self) -> DigestSum {
        self.digests.manifest.sum()
    }

    fn send(&mut self, batch: &Batch) -> Result<(), HandOverError> {
        let (mut parts, mut digest_sum, mut length) = (Vec::new(), DigestSum::ZERO, 0);
        for run in batch.runs() {
            let mut rest = Some(*run);
            while let Some(run) = rest {
                let (part, sum, after) = self.read(run, length)?;
                if !part.is_zero {
                    length += byte_count(part.pages);
                }
                digest_sum += sum;
                parts.push(part);
                rest = after;
            }
        }
        self.copied.pages += batch.pages() as u64;
        #[cfg(feature = "fault-injection")]
        if batch.runs().iter().any(|run| crate::fault::drops_page(*run)) {
            return Ok(());
        }
        let (first_number, digest_sum) = (batch.first_number().0, digest_sum.to_bytes());
        let frame = PagesFrame { first_number, digest_sum, parts };
        self.channel.send(&ToSuccessor::Pages(frame), &[])?;
        let bytes = &mut self.buffer[..length];
        if !bytes.is_empty() {
            #[cfg(feature = "fault-injection")]
            crate::fault::damage_page(bytes);
            self.channel.send_bytes(bytes)?;
        }
        Ok(())
    }

    /// Reads the first pages of a run that are a hole of the memory file, or that are not, to `at` in
    /// the buffer. Returns them, the sum of their digests, and the rest of the run.
    fn read(
        &mut self,
        run: PageRun,
        at: usize,
    ) -> Result<(Part, DigestSum, Option<PageRun>), HandOverError> {
        let (part, is_hole, rest) = self.extents.first_part(self.ram, run)?;
        let (sum, is_zero) = if is_hole {
            (self.digests.record_zeros(part)?, true)
        } else {
            let bytes = &mut self.buffer[at..][..byte_count(part.pages())];
            self.ram.read_run(part, bytes)?;
            (self.digests.record(part, bytes)?, is_zero(bytes))
        };
        let part = Part { first_frame: part.first().0, pages: part.pages(), is_zero };
        Ok((part, sum, rest))
    }

    fn settle_one(&mut self) -> Result<(), HandOverError> {
        match self.channel.receive::<ToPredecessor>()?.0 {
            ToPredecessor::Applied { first_number, pages } => {
                let end = first_number.checked_add(pages).ok_or(HandOverError::OutOfTurn {
                    found: "send numbers that overflow".into(),
                    expected: "an acknowledgement",
                })?;
                self.ledger.settle(SendNumber(first_number)..SendNumber(end))?;
                Ok(())
            }
            ToPredecessor::Refused { why } => Err(HandOverError::Refused(why)),
            other => Err(HandOverError::OutOfTurn {
                found: format!("{other:?}"),
                expected: "an acknowledgement",
            }),
        }
    }
}

/// Bytes of pages that this process chose, or has checked against [`BATCH_PAGES`].
fn byte_count(pages: u64) -> usize {
    usize::try_from(pages * PAGE_SIZE).expect("a batch is at most a MiB")
}

/// The other end: writes what comes, and checks it.
pub(super) struct Applier {
    ram: Arc<GuestRam>,
    digests: Digests,
    buffer: Vec<u8>,
    /// Send number from which the next batch must start at least: numbers only grow on one stream.
    next_number: u64,
}

impl Applier {
    pub(super) fn new(ram: Arc<GuestRam>, key: &DigestKey) -> Self {
        let limit = Gfn(ram.layout().frame_limit());
        Self {
            ram,
            digests: Digests::new(key, limit),
            buffer: vec![0; byte_count(BATCH_PAGES.get())],
            next_number: 0,
        }
    }
}

impl Applier {
    /// Takes one batch from the channel, writes it, checks it, and says so.
    pub(super) fn apply(
        &mut self,
        channel: &Channel,
        frame: &PagesFrame,
    ) -> Result<(), HandOverError> {
        let batch = self.check(frame)?;
        let full = frame.parts.iter().filter(|part| !part.is_zero);
        let length = byte_count(full.map(|part| part.pages).sum());
        if length > 0 {
            channel.receive_bytes(&mut self.buffer[..length])?;
        }
        let (first_number, pages) = (frame.first_number, batch.pages() as u64);
        let applied = ToPredecessor::Applied { first_number, pages };
        #[cfg(feature = "fault-injection")]
        if length > 0 && crate::fault::acknowledges_unapplied() {
            return Ok(channel.send(&applied, &[])?);
        }
        let (mut sum, mut at) = (DigestSum::ZERO, 0);
        for (run, part) in batch.runs().iter().zip(&frame.parts) {
            if part.is_zero {
                sum += self.apply_zeros(*run)?;
                continue;
            }
            let bytes = &self.buffer[at..][..byte_count(run.pages())];
            self.ram.write_run(*run, bytes)?;
            sum += self.digests.record(*run, bytes)?;
            at += bytes.len();
        }
        if sum.to_bytes() != frame.digest_sum {
            return Err(HandOverError::Differs { what: "a batch of pages" });
        }
        #[cfg(feature = "fault-injection")]
        if crate::fault::drops_acknowledgement() {
            return Ok(());
        }
        Ok(channel.send(&applied, &[])?)
    }

    /// The batch that a frame announces, if it can be one.
    fn check(&mut self, frame: &PagesFrame) -> Result<Batch, HandOverError> {
        if frame.first_number < self.next_number {
            return Err(HandOverError::Differs { what: "the order of send numbers" });
        }
        let runs = frame.parts.iter();
        let runs = runs.map(|part| PageRun::new(Gfn(part.first_frame), part.pages));
        let runs = runs.collect::<Result<_, _>>();
        let runs = runs.map_err(|_| HandOverError::Differs { what: "a run of pages" })?;
        let batch = Batch::new(SendNumber(frame.first_number), runs)
            .ok()
            .filter(|batch| batch.pages() as u64 <= BATCH_PAGES.get())
            .ok_or(HandOverError::Differs { what: "the size of a batch" })?;
        self.next_number = batch.numbers().end.0;
        Ok(batch)
    }

    /// Sum over all pages' digests.
    pub(super) fn sum(&self) -> DigestSum {
        self.digests.manifest.sum()
    }

    /// Zeros over a page that is zero already would only fill the memory file's holes.
    fn apply_zeros(&mut self, run: PageRun) -> Result<DigestSum, HandOverError> {
        for gfn in run.frames().filter(|gfn| !self.digests.is_zero(*gfn)) {
            self.ram.write(gfn.0 * PAGE_SIZE, &[0; PAGE_BYTES])?;
        }
        Ok(self.digests.record_zeros(run)?)
    }
}
