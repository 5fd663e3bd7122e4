//! The page path of the copying form: harvest → ledger → run → digest → socket → acknowledgement.

use std::num::NonZeroU64;
use std::sync::Arc;

use dwcp::digest::{DigestKey, DigestSum, Manifest, ManifestError, PageDigest, is_zero};
use dwcp::ledger::{Ledger, PageSend, SendNumber};
use dwcp::page::{Gfn, PAGE_SIZE, PageRun};

use super::blackout::{Blackout, now_ns};
use super::message::{Form, PagesFrame, ToPredecessor, ToSuccessor};
use super::{HandOverError, HandOverReport, Limits};
use crate::dirty::{DirtyLog, KvmBitmapLog};
use crate::ipc::Channel;
use crate::memory::GuestRam;

/// Pages in one run: 1 MiB. Longer runs wait longer for their acknowledgement, shorter ones cost more
/// messages.
const RUN_PAGES: NonZeroU64 = NonZeroU64::new(256).unwrap();

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

    /// The same for a run of zeros, which nobody needs to read.
    fn record_zeros(&mut self, run: PageRun) -> Result<DigestSum, ManifestError> {
        run.frames().try_for_each(|gfn| self.manifest.replace(gfn, PageDigest::ZERO).map(drop))?;
        Ok(DigestSum::ZERO)
    }

    /// Whether every page of the run is known to be zero.
    fn are_zero(&self, run: PageRun) -> bool {
        run.frames().all(|gfn| self.manifest.get(gfn) == Some(PageDigest::ZERO))
    }
}

/// Copies pages to the successor until the ledger is settled.
pub(super) struct Copier<'a> {
    ram: &'a GuestRam,
    channel: &'a Channel,
    log: KvmBitmapLog,
    ledger: Ledger,
    digests: Digests,
    buffer: Vec<u8>,
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
            total_ns: now_ns().saturating_sub(started_ns),
        }
    }
}

impl<'a> Copier<'a> {
    /// A copier that owes every page. The first harvest of a new log would say the same; but nothing
    /// rests on a kernel's flag that can be asserted here.
    ///
    /// # Errors
    /// When the layout does not fit the ledger.
    pub(super) fn new(
        ram: &'a GuestRam,
        channel: &'a Channel,
        log: KvmBitmapLog,
        key: &DigestKey,
    ) -> Result<Self, HandOverError> {
        let limit = Gfn(ram.layout().frame_limit());
        let mut ledger = Ledger::new(limit);
        for region in ram.layout().regions() {
            let run = PageRun::new(Gfn(region.first_frame()), region.pages());
            ledger.owe(run.map_err(|_| HandOverError::Differs { what: "the memory layout" })?)?;
        }
        Ok(Self {
            ram,
            channel,
            log,
            ledger,
            digests: Digests::new(key, limit),
            buffer: vec![0; byte_count(RUN_PAGES.get())],
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
                return Ok(());
            }
            if self.copied.rounds == limits.rounds {
                return Err(HandOverError::DoesNotConverge { dirty, rounds: self.copied.rounds });
            }
            self.copied.rounds += 1;
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
        while let Some(send) = self.ledger.next_run(RUN_PAGES) {
            self.send(send)?;
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

    fn send(&mut self, send: PageSend) -> Result<(), HandOverError> {
        let run = send.run;
        let bytes = &mut self.buffer[..byte_count(run.pages())];
        // A hole of the memory file reads as zeros; reading it would fill it.
        let is_hole = self.ram.is_hole(run)?;
        let digest_sum = if is_hole {
            self.digests.record_zeros(run)?
        } else {
            self.ram.read_run(run, bytes)?;
            self.digests.record(run, bytes)?
        };
        let is_zero = is_hole || is_zero(bytes);
        self.copied.pages += run.pages();
        #[cfg(feature = "fault-injection")]
        if crate::fault::drops_page(run) {
            return Ok(());
        }
        let frame = PagesFrame {
            first_frame: run.first().0,
            pages: run.pages(),
            first_number: send.numbers().start.0,
            digest_sum: digest_sum.to_bytes(),
            is_zero,
        };
        self.channel.send(&ToSuccessor::Pages(frame), &[])?;
        if !is_zero {
            #[cfg(feature = "fault-injection")]
            crate::fault::damage_page(bytes);
            self.channel.send_bytes(bytes)?;
        }
        Ok(())
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

/// Bytes of a run that this process chose, or has checked against [`RUN_PAGES`].
fn byte_count(pages: u64) -> usize {
    usize::try_from(pages * PAGE_SIZE).expect("a run is at most a MiB")
}

/// The other end: writes what comes, and checks it.
pub(super) struct Applier {
    ram: Arc<GuestRam>,
    digests: Digests,
    buffer: Vec<u8>,
    /// Send number from which the next run must start at least: numbers only grow on one stream.
    next_number: u64,
}

impl Applier {
    pub(super) fn new(ram: Arc<GuestRam>, key: &DigestKey) -> Self {
        let limit = Gfn(ram.layout().frame_limit());
        Self {
            ram,
            digests: Digests::new(key, limit),
            buffer: vec![0; byte_count(RUN_PAGES.get())],
            next_number: 0,
        }
    }
}

impl Applier {
    /// Takes one run from the channel, writes it, checks it, and says so.
    pub(super) fn apply(
        &mut self,
        channel: &Channel,
        frame: &PagesFrame,
    ) -> Result<(), HandOverError> {
        let run = PageRun::new(Gfn(frame.first_frame), frame.pages)
            .ok()
            .filter(|run| run.pages() <= RUN_PAGES.get())
            .ok_or(HandOverError::Differs { what: "the length of a page run" })?;
        if frame.first_number < self.next_number {
            return Err(HandOverError::Differs { what: "the order of send numbers" });
        }
        self.next_number = frame
            .first_number
            .checked_add(run.pages())
            .ok_or(HandOverError::Differs { what: "the range of send numbers" })?;
        #[cfg(feature = "fault-injection")]
        if !frame.is_zero && crate::fault::acknowledges_unapplied() {
            channel.receive_bytes(&mut self.buffer[..byte_count(run.pages())])?;
            let (first_number, pages) = (frame.first_number, run.pages());
            return Ok(channel.send(&ToPredecessor::Applied { first_number, pages }, &[])?);
        }
        let sum = if frame.is_zero {
            self.apply_zeros(run)?
        } else {
            let bytes = &mut self.buffer[..byte_count(run.pages())];
            channel.receive_bytes(bytes)?;
            self.ram.write_run(run, bytes)?;
            self.digests.record(run, bytes)?
        };
        if sum.to_bytes() != frame.digest_sum {
            return Err(HandOverError::Differs { what: "a page run" });
        }
        let (first_number, pages) = (frame.first_number, run.pages());
        #[cfg(feature = "fault-injection")]
        if crate::fault::drops_acknowledgement() {
            return Ok(());
        }
        channel.send(&ToPredecessor::Applied { first_number, pages }, &[])?;
        Ok(())
    }

    /// Sum over all pages' digests.
    pub(super) fn sum(&self) -> DigestSum {
        self.digests.manifest.sum()
    }

    /// Zeros over a page that is zero already would only fill the memory file's holes.
    fn apply_zeros(&mut self, run: PageRun) -> Result<DigestSum, HandOverError> {
        if !self.digests.are_zero(run) {
            let bytes = &mut self.buffer[..byte_count(run.pages())];
            bytes.fill(0);
            self.ram.write_run(run, bytes)?;
        }
        Ok(self.digests.record_zeros(run)?)
    }
}
