//! Pages on their way, and what both sides know of them.

use std::hint::black_box;

use benches::{Stop, median, timed};
use dwcp::digest::{DigestKey, PageDigest, ShortDigest, is_zero};
use dwcp::hde::{
    Base, Batch, Decoder, Encoder, Held, LadderStep, Offer, Sending, Tier, TierCounts,
};
use dwcp::ledger::SendNumber;
use dwcp::page::{Gfn, PAGE_BYTES, Page, PageRun};
use serde::Serialize;
use zstd::zstd_safe::{CCtx, CParameter, DCtx, compress_bound, get_error_name};

/// The machine's key.
const KEY: [u8; 32] = [7; 32];

/// How pages travelled at one step. Times are medians, in nanoseconds of this thread's processor time.
#[derive(Debug, Serialize)]
pub(crate) struct StepOutcome {
    pub(crate) level: i32,
    pub(crate) compresses: bool,
    pub(crate) batch_pages: u64,
    /// One frame a batch of its non-zero pages, which lie ready: zstd alone.
    pub(crate) zstd_ns: u64,
    /// The same frames decompressed.
    pub(crate) unzstd_ns: u64,
    pub(crate) encode_ns: u64,
    pub(crate) decode_ns: u64,
    pub(crate) payload_bytes: u64,
    /// The digests of these pages, alone: what encoding would save without them.
    pub(crate) digest_ns: u64,
    /// Pages and bytes of each tier, the cheapest first.
    pub(crate) tiers: Vec<(u64, u64)>,
}

/// Memory as it was earlier, of which the destination has all pages: as its kept image of the machine, or
/// in guest memory under the send numbers of their frames.
pub(crate) enum Earlier<'a> {
    Kept(&'a [Page], Vec<PageDigest>),
    Sent(&'a [Page]),
}

impl<'a> Earlier<'a> {
    /// A kept image, whose digests the source has.
    pub(crate) fn kept(pages: &'a [Page]) -> Result<Self, Stop> {
        let mut digests = Vec::new();
        let run = PageRun::new(Gfn(0), pages.len() as u64).map_err(Stop::failed("pages"))?;
        let _sum = DigestKey::new(KEY).digest_run(run, pages.as_flattened(), &mut digests);
        Ok(Self::Kept(pages, digests))
    }

    fn number(gfn: Gfn) -> SendNumber {
        SendNumber(gfn.0 + 1)
    }

    fn page(&self, gfn: Gfn) -> Option<&Page> {
        let (Self::Kept(pages, _) | Self::Sent(pages)) = self;
        pages.get(usize::try_from(gfn.0).ok()?)
    }
}

impl Offer for Earlier<'_> {
    fn kept(&self, gfn: Gfn) -> Option<ShortDigest> {
        let Self::Kept(_, digests) = self else { return None };
        digests.get(usize::try_from(gfn.0).ok()?).map(PageDigest::short)
    }

    fn base(&self, gfn: Gfn) -> Option<Base<'_>> {
        let Self::Sent(_) = self else { return None };
        Some(Base { number: Self::number(gfn), content: self.page(gfn)? })
    }
}

impl Held for Earlier<'_> {
    fn copy_base(&self, gfn: Gfn, number: SendNumber, into: &mut Page) -> bool {
        let Self::Sent(_) = self else { return false };
        let page = self.page(gfn).filter(|_| number == Self::number(gfn));
        page.map(|page| *into = *page).is_some()
    }

    fn copy_kept(&self, gfn: Gfn, into: &mut Page) -> bool {
        let Self::Kept(..) = self else { return false };
        self.page(gfn).map(|page| *into = *page).is_some()
    }
}

/// Pages cut into batches, with what both sides know.
pub(crate) struct Moved<'a, K> {
    batches: Vec<(Batch, Vec<u8>)>,
    known: &'a K,
}

impl<'a, K: Offer + Held> Moved<'a, K> {
    /// All pages.
    pub(crate) fn of_all(content: &[Page], step: &LadderStep, known: &'a K) -> Self {
        Self::of(content, &(0..content.len()).collect::<Vec<_>>(), step, known)
    }

    /// The pages of these frames, ascending, in batches of the step's size.
    pub(crate) fn of(content: &[Page], frames: &[usize], step: &LadderStep, known: &'a K) -> Self {
        let per_batch = usize::try_from(step.batch_pages.get()).unwrap_or(usize::MAX);
        // Above the numbers of all that was sent before, which are those of its frames and 1.
        let mut number = content.len() as u64 + 2;
        let batches = frames.chunks(per_batch).filter_map(|frames| {
            let mut runs: Vec<PageRun> = Vec::new();
            for run in frames.chunk_by(|a, b| a + 1 == *b) {
                runs.push(PageRun::new(Gfn(run[0] as u64), run.len() as u64).ok()?);
            }
            let batch = Batch::new(SendNumber(number), runs).ok()?;
            number = batch.numbers().end.0;
            let content = frames.iter().flat_map(|frame| content[*frame]).collect();
            Some((batch, content))
        });
        Self { batches: batches.collect(), known }
    }

    /// The digest of each page, run by run, as the encoder computes it.
    fn digest(&self, key: &DigestKey, digests: &mut Vec<PageDigest>) {
        for (batch, content) in &self.batches {
            let mut rest = &content[..];
            for run in batch.runs() {
                let bytes = usize::try_from(run.bytes()).unwrap_or(0);
                let (pages, behind) = rest.split_at(bytes);
                rest = behind;
                black_box(key.digest_run(*run, pages, digests));
            }
        }
    }

    /// How the first page travels, if it is alone in its batch.
    pub(crate) fn tier_of_first(&self, encoder: &mut Encoder, step: &LadderStep) -> Option<Tier> {
        let (batch, content) = self.batches.first()?;
        let key = DigestKey::new(KEY);
        let sending = Sending { key: &key, batch, content, settled_below: batch.first_number() };
        let tiers = encoder.encode(&sending, step, self.known, &mut Vec::new()).tiers;
        Tier::ALL.into_iter().find(|tier| tiers.of(*tier).pages > 0)
    }

    /// So many passes at this step.
    pub(crate) fn measure(&self, step: &LadderStep, times: u32) -> Result<StepOutcome, Stop> {
        let key = DigestKey::new(KEY);
        let blocks: Vec<_> = self.batches.iter().map(|(_, content)| non_zero(content)).collect();
        let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new());
        let mut payloads = vec![Vec::new(); self.batches.len()];
        let mut context = CCtx::create();
        context
            .set_parameter(CParameter::CompressionLevel(step.level))
            .map_err(|code| Stop::Failed(get_error_name(code).to_owned()))?;
        let longest = blocks.iter().map(Vec::len).max().unwrap_or(0);
        let mut frame = Vec::with_capacity(compress_bound(longest));
        let frames = frames_of(&mut context, &blocks, longest)?;
        let mut decompressor = DCtx::create();
        let mut plain = Vec::with_capacity(longest);
        let (mut alone, mut undone) = (Vec::new(), Vec::new());
        let (mut encode, mut decode) = (Vec::new(), Vec::new());
        let (mut digest, mut digests) = (Vec::new(), Vec::new());
        let mut counts = TierCounts::default();
        // The first pass touches the payloads' memory for the first time, and does not count.
        for _ in 0..=times {
            timed(&mut digest, || self.digest(&key, &mut digests));
            timed(&mut alone, || {
                for block in blocks.iter().filter(|block| !block.is_empty()) {
                    let _ = black_box(context.compress2(&mut frame, block));
                }
            });
            timed(&mut undone, || {
                for frame in &frames {
                    let _ = black_box(decompressor.decompress(&mut plain, frame));
                }
            });
            counts = TierCounts::default();
            timed(&mut encode, || {
                for ((batch, content), payload) in self.batches.iter().zip(&mut payloads) {
                    let settled_below = batch.first_number();
                    let sending = Sending { key: &key, batch, content, settled_below };
                    payload.clear();
                    counts.add(&encoder.encode(&sending, step, self.known, payload).tiers);
                }
            });
            let mut wrong = None;
            timed(&mut decode, || {
                for payload in &payloads {
                    let decoded = decoder.decode(&key, payload, self.known);
                    wrong = wrong.take().or(decoded.err());
                }
            });
            if let Some(error) = wrong {
                return Err(Stop::Failed(format!("what was encoded is not decoded: {error}")));
            }
        }
        Ok(StepOutcome {
            level: step.level,
            compresses: step.tiers.zstd,
            batch_pages: step.batch_pages.get(),
            zstd_ns: median(alone.split_off(1)),
            unzstd_ns: median(undone.split_off(1)),
            encode_ns: median(encode.split_off(1)),
            decode_ns: median(decode.split_off(1)),
            digest_ns: median(digest.split_off(1)),
            payload_bytes: payloads.iter().map(|payload| payload.len() as u64).sum(),
            tiers: Tier::ALL
                .iter()
                .map(|tier| counts.of(*tier))
                .map(|it| (it.pages, it.bytes))
                .collect(),
        })
    }
}

/// A frame of each block that has anything in it.
fn frames_of(
    context: &mut CCtx<'_>,
    blocks: &[Vec<u8>],
    longest: usize,
) -> Result<Vec<Vec<u8>>, Stop> {
    let mut frame = Vec::with_capacity(compress_bound(longest));
    let frames = blocks.iter().filter(|block| !block.is_empty()).map(|block| {
        context
            .compress2(&mut frame, block)
            .map_err(|code| Stop::Failed(get_error_name(code).to_owned()))?;
        Ok(frame.clone())
    });
    frames.collect()
}

fn non_zero(content: &[u8]) -> Vec<u8> {
    let pages = content.as_chunks::<PAGE_BYTES>().0.iter();
    pages.filter(|page| !is_zero(&page[..])).flatten().copied().collect()
}
