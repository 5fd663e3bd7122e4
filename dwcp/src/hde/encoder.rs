//! [`Encoder`]: from the pages of a batch to a payload.

use std::fmt;
use std::io::Cursor;

use zstd::zstd_safe::{self, CCtx, CParameter};

use super::head::{self, FIXED_BYTES, RUN_BYTES_MAX};
use super::probe::{is_close, is_incompressible, xor};
use super::tier::{self, Tier, TierCounts};
use super::{BATCH_PAGES_MAX, Batch, LadderStep, Offer, Tiers, varint};
use crate::digest::{DigestKey, DigestSum, PageDigest};
use crate::ledger::SendNumber;
use crate::page::{Gfn, PAGE_BYTES, PAGE_SIZE, Page};
use crate::wire::limits::PAGES_MAX;

/// The level of deltas at every step. They are mostly zeros: level 9 was measured to save 4 % of
/// them at a fifth of the rate, and level 3 to be worse than this one.
const DELTA_LEVEL: i32 = 1;

/// The most bytes that a page takes besides heads and content: two runs of tiers and a reference.
const PAGE_HEAD_MAX: usize = 2 + REFERENCE_BYTES_MAX;
const REFERENCE_BYTES_MAX: usize = 16;

const _: () = assert!(varint::LONGEST <= REFERENCE_BYTES_MAX);
const _: () = assert!(payload_bound(BATCH_PAGES_MAX, BATCH_PAGES_MAX) <= PAGES_MAX as usize);

/// The most bytes of a payload of so many pages in so many runs: its content, and heads.
#[must_use]
pub const fn payload_bound(pages: usize, runs: usize) -> usize {
    // Content goes into two frames at most, and a frame of what does not shrink grows by 1/256.
    let frames = pages * PAGE_BYTES + pages * PAGE_BYTES / 128 + 1024;
    FIXED_BYTES + runs * RUN_BYTES_MAX + pages * PAGE_HEAD_MAX + frames
}

/// What is to be encoded.
#[derive(Clone, Copy, Debug)]
pub struct Sending<'a> {
    /// The machine's key.
    pub key: &'a DigestKey,
    /// The pages and their numbers.
    pub batch: &'a Batch,
    /// A copy of the pages, in the order of their numbers.
    pub content: &'a [u8],
    /// All smaller numbers are settled or lost; at most the batch's first.
    pub settled_below: SendNumber,
}

/// What was encoded.
#[derive(Clone, Copy, Debug)]
pub struct Encoded<'a> {
    /// The digest of each page, in the order of their numbers: for the source's manifest.
    pub digests: &'a [PageDigest],
    /// Their sum: the arrival check.
    pub sum: DigestSum,
    /// How the pages travel.
    pub tiers: TierCounts,
}

/// Encodes batches, one after the other. A worker has one: it owns zstd's context and every buffer,
/// about 4 MiB and what zstd needs for the level. From batch to batch it allocates nothing: zstd
/// grows its tables for a stronger step or a larger frame than any before, and gives back what it
/// has not needed for 128 frames.
pub struct Encoder {
    context: CCtx<'static>,
    digests: Vec<PageDigest>,
    tiers: Vec<Tier>,
    /// What the pages of the content and delta tiers refer to, as it travels.
    references: Vec<u8>,
    /// The content of one frame where it does not lie side by side.
    staged: Vec<u8>,
    counts: TierCounts,
}

impl Encoder {
    /// An encoder that has encoded nothing yet.
    ///
    /// # Panics
    /// When there is no memory for zstd's context.
    #[must_use]
    pub fn new() -> Self {
        Self {
            context: CCtx::create(),
            digests: Vec::with_capacity(BATCH_PAGES_MAX),
            tiers: Vec::with_capacity(BATCH_PAGES_MAX),
            references: Vec::with_capacity(BATCH_PAGES_MAX * REFERENCE_BYTES_MAX),
            staged: Vec::with_capacity(BATCH_PAGES_MAX * PAGE_BYTES),
            counts: TierCounts::default(),
        }
    }

    /// Appends the payload of a `Pages` frame to `out`, at most [`payload_bound`] bytes. The digest
    /// of each page is computed here and nowhere else at the source.
    ///
    /// # Panics
    /// When the content is not as long as the batch, when numbers of the batch are said to be
    /// settled, or when there is no memory for zstd's tables.
    pub fn encode(
        &mut self,
        sending: &Sending<'_>,
        step: &LadderStep,
        offer: &(impl Offer + ?Sized),
        out: &mut Vec<u8>,
    ) -> Encoded<'_> {
        let (pages, rest) = sending.content.as_chunks::<PAGE_BYTES>();
        let batch = sending.batch;
        assert!(
            pages.len() == batch.pages() && rest.is_empty(),
            "{} bytes of content for a batch of {} pages",
            sending.content.len(),
            batch.pages()
        );
        assert!(
            sending.settled_below <= batch.first_number(),
            "those below {} cannot be settled while {} is sent",
            sending.settled_below,
            batch.first_number()
        );
        let start = out.len();
        out.reserve(payload_bound(batch.pages(), batch.runs().len()));
        head::put(batch, sending.settled_below, out);

        self.choose(sending, pages, step, offer);
        let delta_bytes = self.put_deltas(out);
        let zstd_bytes = self.put_compressed(pages, step.level, out);
        tier::put(&self.tiers, out);
        out.extend_from_slice(&self.references);
        self.put_raw(pages, out);

        let sum = self.digests.iter().sum();
        head::fill(&mut out[start..], sum, delta_bytes, zstd_bytes);
        for tier in &self.tiers {
            self.counts.add_pages(*tier, 1);
        }
        Encoded { digests: &self.digests, sum, tiers: self.counts }
    }

    /// Chooses the tier of each page, keeps its digest and its reference, and stages the deltas.
    fn choose(
        &mut self,
        sending: &Sending<'_>,
        pages: &[Page],
        step: &LadderStep,
        offer: &(impl Offer + ?Sized),
    ) {
        self.digests.clear();
        self.tiers.clear();
        self.references.clear();
        self.staged.clear();
        self.counts = TierCounts::default();
        for ((gfn, number), page) in sending.batch.sends().zip(pages) {
            let digest = sending.key.digest(gfn.0 * PAGE_SIZE, page);
            let tier = self.choose_one((gfn, number), page, digest, step.tiers, offer);
            self.digests.push(digest);
            self.tiers.push(tier);
        }
    }

    fn choose_one(
        &mut self,
        (gfn, number): (Gfn, SendNumber),
        page: &Page,
        digest: PageDigest,
        tiers: Tiers,
        offer: &(impl Offer + ?Sized),
    ) -> Tier {
        if tiers.zero && digest == PageDigest::ZERO {
            return Tier::Zero;
        }
        if tiers.known && offer.kept(gfn) == Some(digest.short()) {
            return Tier::Kept;
        }
        if let Some(key) = offer.content_key().filter(|_| tiers.known) {
            let name = key.digest(page);
            if offer.has_content(&name) {
                self.refer(Tier::Content, |references| references.extend_from_slice(&name.0));
                return Tier::Content;
            }
        }
        if let Some(base) = offer.base(gfn).filter(|_| tiers.delta)
            && (1..number.0).contains(&base.number.0)
            && is_close(page, base.content)
        {
            let distance = number.0 - base.number.0;
            self.refer(Tier::Delta, |references| varint::put(distance, references));
            self.staged.extend_from_slice(page);
            if let Some(staged) = self.staged.last_chunk_mut() {
                xor(staged, base.content);
            }
            return Tier::Delta;
        }
        if tiers.zstd && !is_incompressible(page) { Tier::Zstd } else { Tier::Raw }
    }

    fn refer(&mut self, tier: Tier, put: impl FnOnce(&mut Vec<u8>)) {
        let before = self.references.len();
        put(&mut self.references);
        self.counts.add_bytes(tier, self.references.len() - before);
    }

    /// Appends the frame of the staged deltas, if there are any, and returns its length. It always
    /// pays: at least half of it is zeros.
    fn put_deltas(&mut self, out: &mut Vec<u8>) -> usize {
        if self.staged.is_empty() {
            return 0;
        }
        let bytes = compress(&mut self.context, DELTA_LEVEL, &self.staged, out);
        self.counts.add_bytes(Tier::Delta, bytes);
        bytes
    }

    /// Appends the frame of the pages that are to be compressed, and returns its length. If it does
    /// not pay, these pages go raw.
    fn put_compressed(&mut self, pages: &[Page], level: i32, out: &mut Vec<u8>) -> usize {
        let is_compressed = |tier: &Tier| *tier == Tier::Zstd;
        let Some(first) = self.tiers.iter().position(is_compressed) else { return 0 };
        let count = self.tiers.iter().filter(|tier| is_compressed(tier)).count();
        let side_by_side = &self.tiers[first..][..count];
        let content = if side_by_side.iter().all(is_compressed) {
            pages[first..][..count].as_flattened()
        } else {
            self.staged.clear();
            let chosen = pages.iter().zip(&self.tiers).filter(|(_, tier)| is_compressed(tier));
            chosen.for_each(|(page, _)| self.staged.extend_from_slice(page));
            &self.staged
        };
        let start = out.len();
        let bytes = compress(&mut self.context, level, content, out);
        if bytes >= content.len() {
            out.truncate(start);
            self.tiers.iter_mut().filter(|tier| is_compressed(tier)).for_each(|t| *t = Tier::Raw);
            return 0;
        }
        self.counts.add_bytes(Tier::Zstd, bytes);
        bytes
    }

    fn put_raw(&mut self, pages: &[Page], out: &mut Vec<u8>) {
        let raw = pages.iter().zip(&self.tiers).filter(|(_, tier)| **tier == Tier::Raw);
        for (page, _) in raw {
            out.extend_from_slice(page);
            self.counts.add_bytes(Tier::Raw, PAGE_BYTES);
        }
    }
}

impl Default for Encoder {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Encoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encoder")
            .field("zstd_bytes", &self.context.sizeof())
            .finish_non_exhaustive()
    }
}

/// Appends one frame, which names the length of its content, and returns its own length. `out` has
/// room for the worst case.
fn compress(context: &mut CCtx<'_>, level: i32, content: &[u8], out: &mut Vec<u8>) -> usize {
    let start = out.len() as u64;
    let mut cursor = Cursor::new(std::mem::take(out));
    cursor.set_position(start);
    let written = context
        .set_parameter(CParameter::CompressionLevel(level))
        .and_then(|_| context.compress2(&mut cursor, content));
    *out = cursor.into_inner();
    // There is room, and every level exists: what is left is that zstd's tables found no memory, at
    // which Rust's own allocations end the process, too.
    written.map_err(zstd_safe::get_error_name).expect("memory for zstd's tables")
}
