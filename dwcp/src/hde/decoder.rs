//! [`Decoder`]: from a payload to the pages of a batch.

use std::fmt;

use zstd::zstd_safe::{self, DCtx};

use super::probe::xor;
use super::tier::{self, Tier, TierCounts};
use super::varint::Reader;
use super::{BATCH_PAGES_MAX, ContentDigest, DecodeError, Head, Held};
use crate::digest::{DigestKey, DigestSum, PageDigest};
use crate::ledger::SendNumber;
use crate::page::{PAGE_BYTES, PAGE_SIZE};

/// What was decoded, and has passed its arrival check.
#[derive(Clone, Copy, Debug)]
pub struct Decoded<'a> {
    /// The pages, their numbers, and what else the head says. That the pages are the guest's is for
    /// the caller to check, and which of them are newer than what was applied.
    pub head: &'a Head,
    /// The content of the pages, in the order of their numbers.
    pub content: &'a [u8],
    /// The digest of each: for the destination's manifest.
    pub digests: &'a [PageDigest],
    /// How they travelled.
    pub tiers: TierCounts,
}

/// Where a page comes from.
#[derive(Clone, Copy, Debug)]
enum Source {
    Zero,
    Kept,
    Content(ContentDigest),
    /// The next delta, on the page as it was at that number.
    Delta(SendNumber),
    Zstd,
    Raw,
}

/// The parts of a payload behind its runs.
struct Body<'a> {
    deltas: &'a [u8],
    compressed: &'a [u8],
    raw: &'a [u8],
    counts: TierCounts,
}

/// Decodes payloads, one after the other. A worker has one: it owns zstd's context and every
/// buffer, which together take at most 2 × 4 MiB, and less where batches are smaller or have no
/// deltas. After its first batch it allocates nothing.
///
/// Nothing is allocated, and no work done, for a number of the peer's that was not checked: the
/// content of a batch is at most 4 MiB, its frames name their sizes, and both must agree.
pub struct Decoder {
    context: DCtx<'static>,
    head: Option<Head>,
    tiers: Vec<Tier>,
    sources: Vec<Source>,
    digests: Vec<PageDigest>,
    /// As long as the largest batch; zeroed memory that is untouched beyond the largest one seen.
    content: Vec<u8>,
    deltas: Vec<u8>,
}

impl Decoder {
    /// A decoder that has decoded nothing yet.
    ///
    /// # Panics
    /// When there is no memory for zstd's context.
    #[must_use]
    pub fn new() -> Self {
        Self {
            context: DCtx::create(),
            head: None,
            tiers: Vec::with_capacity(BATCH_PAGES_MAX),
            sources: Vec::with_capacity(BATCH_PAGES_MAX),
            digests: Vec::with_capacity(BATCH_PAGES_MAX),
            content: vec![0; BATCH_PAGES_MAX * PAGE_BYTES],
            deltas: vec![0; BATCH_PAGES_MAX * PAGE_BYTES],
        }
    }

    /// Decodes the payload of a `Pages` frame, and checks it against its arrival check. The digest
    /// of each page is computed here and nowhere else at the destination.
    ///
    /// # Errors
    /// See [`DecodeError`]: the peer is at fault, unless [`DecodeError::wanted`] names what is to be
    /// asked for in full.
    pub fn decode(
        &mut self,
        key: &DigestKey,
        payload: &[u8],
        held: &(impl Held + ?Sized),
    ) -> Result<Decoded<'_>, DecodeError> {
        let mut reader = Reader::new(payload);
        let runs = self.head.take().map(|head| head.batch.into_runs()).unwrap_or_default();
        let head = Head::read(&mut reader, runs)?;
        let body = self.parse(&head, reader)?;
        self.restore(key, &head, &body, held)?;
        if self.digests.iter().sum::<DigestSum>() != head.sum {
            let relies_on_held = self
                .tiers
                .iter()
                .any(|tier| matches!(tier, Tier::Kept | Tier::Content | Tier::Delta));
            let numbers = head.batch.numbers();
            return Err(match relies_on_held {
                true => DecodeError::HeldDiffers { numbers },
                false => DecodeError::Arrival,
            });
        }
        let content = &self.content[..head.batch.bytes()];
        let head = self.head.insert(head);
        Ok(Decoded { head, content, digests: &self.digests, tiers: body.counts })
    }

    /// Takes the payload behind its runs apart: afterwards every length has been checked.
    fn parse<'a>(&mut self, head: &Head, mut reader: Reader<'a>) -> Result<Body<'a>, DecodeError> {
        let deltas = reader.bytes(length(head.delta_bytes))?;
        let compressed = reader.bytes(length(head.zstd_bytes))?;
        tier::take(&mut reader, head.batch.pages(), &mut self.tiers)?;
        let mut counts = TierCounts::default();
        self.sources.clear();
        for (tier, (_, number)) in self.tiers.iter().zip(head.batch.sends()) {
            let before = reader.rest().len();
            self.sources.push(source(*tier, number, &mut reader)?);
            counts.add_pages(*tier, 1);
            counts.add_bytes(*tier, before - reader.rest().len());
        }
        counts.add_bytes(Tier::Delta, deltas.len());
        counts.add_bytes(Tier::Zstd, compressed.len());
        let raw = reader.bytes(content_bytes(&counts, Tier::Raw))?;
        counts.add_bytes(Tier::Raw, raw.len());
        match reader.rest().len() {
            0 => Ok(Body { deltas, compressed, raw, counts }),
            more => Err(DecodeError::Trailing(more)),
        }
    }

    /// Puts the content together, and computes its digests.
    fn restore(
        &mut self,
        key: &DigestKey,
        head: &Head,
        body: &Body<'_>,
        held: &(impl Held + ?Sized),
    ) -> Result<(), DecodeError> {
        let (content, _) = self.content[..head.batch.bytes()].as_chunks_mut::<PAGE_BYTES>();
        // Compressed pages are decompressed to the end of the content. In the pass below, each then
        // moves towards the front or stays; no other page is written over one that has not moved
        // yet, since in front of them is room for all pages that are not compressed.
        let mut compressed = content.len() - pages_of(&body.counts, Tier::Zstd);
        let into = content[compressed..].as_flattened_mut();
        decompress(&mut self.context, Tier::Zstd, body.compressed, into)?;
        let deltas = &mut self.deltas[..content_bytes(&body.counts, Tier::Delta)];
        decompress(&mut self.context, Tier::Delta, body.deltas, deltas)?;
        let mut deltas = deltas.as_chunks().0.iter();
        let mut raw = body.raw.as_chunks::<PAGE_BYTES>().0.iter();

        self.digests.clear();
        for (index, (source, (gfn, _))) in self.sources.iter().zip(head.batch.sends()).enumerate() {
            let page = &mut content[index];
            let is_there = match source {
                Source::Zero => {
                    page.fill(0);
                    self.digests.push(PageDigest::ZERO);
                    continue;
                }
                Source::Kept => held.copy_kept(gfn, page),
                Source::Content(name) => held.copy_content(name, page),
                Source::Delta(base) => deltas.next().is_some_and(|delta| {
                    held.copy_base(gfn, *base, page).then(|| xor(page, delta)).is_some()
                }),
                Source::Zstd => {
                    content.copy_within(compressed..=compressed, index);
                    compressed += 1;
                    true
                }
                Source::Raw => raw.next().map(|from| page.copy_from_slice(from)).is_some(),
            };
            if !is_there {
                return Err(DecodeError::Missing { numbers: head.batch.numbers() });
            }
            self.digests.push(key.digest(gfn.0 * PAGE_SIZE, &content[index]));
        }
        Ok(())
    }
}

/// Reads what a page of this tier refers to.
fn source(tier: Tier, number: SendNumber, reader: &mut Reader<'_>) -> Result<Source, DecodeError> {
    Ok(match tier {
        Tier::Zero => Source::Zero,
        Tier::Kept => Source::Kept,
        Tier::Content => Source::Content(ContentDigest(reader.array()?)),
        Tier::Delta => {
            let distance = reader.varint()?;
            if !(1..number.0).contains(&distance) {
                return Err(DecodeError::Base);
            }
            Source::Delta(SendNumber(number.0 - distance))
        }
        Tier::Zstd => Source::Zstd,
        Tier::Raw => Source::Raw,
    })
}

fn pages_of(counts: &TierCounts, tier: Tier) -> usize {
    usize::try_from(counts.of(tier).pages).expect("at most a batch")
}

fn content_bytes(counts: &TierCounts, tier: Tier) -> usize {
    pages_of(counts, tier) * PAGE_BYTES
}

fn length(bytes: u32) -> usize {
    // A length that no memory could hold is longer than the payload.
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// Decompresses exactly one frame of exactly this much content; for none, there must be no frame.
fn decompress(
    context: &mut DCtx<'_>,
    tier: Tier,
    frame: &[u8],
    into: &mut [u8],
) -> Result<(), DecodeError> {
    if into.is_empty() && frame.is_empty() {
        return Ok(());
    }
    // A frame of another size is not even begun, and behind it there is no second one. Whatever
    // window it names, nothing is allocated for it: it is decompressed in place.
    let size = zstd_safe::get_frame_content_size(frame).ok().flatten();
    let names_its_size = size == Some(into.len() as u64);
    let is_one = zstd_safe::find_frame_compressed_size(frame) == Ok(frame.len());
    let is_whole = names_its_size
        && is_one
        && !into.is_empty()
        && context.decompress(into, frame) == Ok(into.len());
    if is_whole { Ok(()) } else { Err(DecodeError::Frame(tier)) }
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Decoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decoder").field("head", &self.head).finish_non_exhaustive()
    }
}
