//! Batches of pages as payloads and back: bytes a second of one core, beside memcpy, the zero scan,
//! the digest, and zstd alone on the same pages, by turns in one run.

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use benches::{Setting, Stop, Table, Verdict, finish, median, rate, ratio, timed};
use clap::Parser;
use dwcp::digest::{DigestKey, PageDigest, is_zero};
use dwcp::hde::{
    Base, Batch, Decoder, Encoder, Held, Ladder, LadderStep, Offer, Sending, Tier, TierCounts,
    Tiers,
};
use dwcp::ledger::SendNumber;
use dwcp::page::{Gfn, PAGE_BYTES, Page, PageRun};
use serde::Serialize;
use zstd::zstd_safe::{CCtx, CParameter, compress_bound, get_error_name};

/// The targets: encoding takes so much of zstd's own time on the same pages, and a zero page is
/// found at 10 GB/s.
const OF_ZSTD: f64 = 1.0 / 0.9;
const ZERO_SCAN_PS_A_BYTE: u64 = 100;
/// The step whose encoder is compared with zstd: level 1.
const COMPARED_STEP: usize = 2;
/// Pages of the content that no codec shrinks, and of the zeros.
const GENERATED_PAGES: usize = 16 << 10;

/// Encodes and decodes pages of memory at every step of the ladder
#[derive(Debug, Parser)]
struct Options {
    /// Memory pages, such as a guest's memory file; what is behind the last whole page is left out
    file: Option<PathBuf>,
    /// The same memory, earlier: pages that differ are also sent as deltas on this
    #[arg(long, value_name = "FILE", requires = "file")]
    before: Option<PathBuf>,
    /// At most so much of the file, from its start
    #[arg(long, value_name = "MIB", default_value_t = 256)]
    mib: usize,
    /// Passes of each kind
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    times: u32,
    /// Figures as JSON, times in nanoseconds
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Outcome {
    setting: Setting,
    contents: Vec<ContentOutcome>,
    deltas: Option<DeltaOutcome>,
    verdicts: Vec<Verdict>,
}

/// Figures of one content. Times are medians, in nanoseconds of this thread's processor time.
#[derive(Debug, Serialize)]
struct ContentOutcome {
    name: String,
    bytes: u64,
    non_zero_bytes: u64,
    memcpy_ns: u64,
    zero_scan_ns: u64,
    digest_ns: u64,
    steps: Vec<StepOutcome>,
}

#[derive(Debug, Serialize)]
struct StepOutcome {
    level: i32,
    compresses: bool,
    batch_pages: u64,
    /// One frame a batch of its non-zero pages, which lie ready: zstd alone.
    zstd_ns: u64,
    encode_ns: u64,
    decode_ns: u64,
    payload_bytes: u64,
    /// The digests of these pages, alone: what encoding would save without them.
    digest_ns: u64,
    /// Pages of each tier, the cheapest first.
    tier_pages: Vec<u64>,
}

/// Pages that differ from what they were, with and without deltas.
#[derive(Debug, Serialize)]
struct DeltaOutcome {
    pages: u64,
    with: StepOutcome,
    without: StepOutcome,
}

fn main() -> ExitCode {
    finish(run(&Options::parse()))
}

fn run(options: &Options) -> Result<(), Stop> {
    let mut setting = Setting::now(concat!("benches ", env!("CARGO_PKG_VERSION")));
    let mut contents = Vec::new();
    let mut deltas = None;
    if let Some(path) = &options.file {
        let content = read(path, options.mib)?;
        contents.push(measure(&path.display().to_string(), &content, options.times)?);
        if let Some(before) = &options.before {
            deltas = Some(measure_deltas(&content, &read(before, options.mib)?, options.times)?);
        }
    }
    contents.push(measure("noise", &noise(GENERATED_PAGES), options.times)?);
    let zeros = vec![[0; PAGE_BYTES]; GENERATED_PAGES];
    contents.push(measure("zeros", &zeros, options.times)?);
    setting.end();
    let verdicts = verdicts(&contents);
    let outcome = Outcome { setting, contents, deltas, verdicts };
    if options.json {
        let json = serde_json::to_string_pretty(&outcome).map_err(Stop::failed("JSON"))?;
        println!("{json}");
    } else {
        print(&outcome);
    }
    Ok(())
}

fn read(path: &Path, mib: usize) -> Result<Vec<Page>, Stop> {
    let context = path.display().to_string();
    let mut bytes = std::fs::read(path).map_err(Stop::failed(&context))?;
    bytes.truncate(mib << 20);
    match bytes.as_chunks::<PAGE_BYTES>().0 {
        [] => Err(Stop::Failed(format!("{context} holds no whole page"))),
        pages => Ok(pages.to_vec()),
    }
}

/// Pages that no codec shrinks: the numbers of splitmix64 (Steele, Lea, Flood 2014).
fn noise(pages: usize) -> Vec<Page> {
    let mut content = vec![[0; PAGE_BYTES]; pages];
    let words = content.as_flattened_mut().as_chunks_mut::<8>().0;
    for (index, word) in (1_u64..).zip(words) {
        let mut bits = index.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        *word = (bits ^ (bits >> 31)).to_le_bytes();
    }
    content
}

fn measure(name: &str, content: &[Page], times: u32) -> Result<ContentOutcome, Stop> {
    let key = DigestKey::new([7; 32]);
    let mut copy = content.to_vec();
    let mut digests = Vec::new();
    let run = PageRun::new(Gfn(0), content.len() as u64).map_err(Stop::failed("pages"))?;
    let (mut memcpy, mut scan, mut digest) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..times {
        timed(&mut memcpy, || black_box(&mut copy).copy_from_slice(black_box(content)));
        timed(&mut scan, || {
            black_box(content.iter().filter(|page| is_zero(&page[..])).count());
        });
        timed(&mut digest, || {
            black_box(key.digest_run(run, content.as_flattened(), &mut digests));
        });
    }
    let steps = Ladder::STEPS.iter().map(|step| {
        let moved = Moved::of_all(content, step, &());
        moved.measure(step, times)
    });
    let non_zero = content.iter().filter(|page| !is_zero(&page[..])).count();
    Ok(ContentOutcome {
        name: name.to_owned(),
        bytes: (content.len() * PAGE_BYTES) as u64,
        non_zero_bytes: (non_zero * PAGE_BYTES) as u64,
        memcpy_ns: median(memcpy),
        zero_scan_ns: median(scan),
        digest_ns: median(digest),
        steps: steps.collect::<Result<_, Stop>>()?,
    })
}

/// Memory as it was before, which the destination holds under the send numbers of its frames.
struct Before<'a>(&'a [Page]);

impl Before<'_> {
    fn page(&self, gfn: Gfn) -> Option<&Page> {
        self.0.get(usize::try_from(gfn.0).ok()?)
    }
}

impl Offer for Before<'_> {
    fn base(&self, gfn: Gfn) -> Option<Base<'_>> {
        Some(Base { number: SendNumber(gfn.0 + 1), content: self.page(gfn)? })
    }
}

impl Held for Before<'_> {
    fn copy_base(&self, gfn: Gfn, number: SendNumber, into: &mut Page) -> bool {
        let page = self.page(gfn).filter(|_| number.0 == gfn.0 + 1);
        page.map(|page| *into = *page).is_some()
    }
}

fn measure_deltas(content: &[Page], before: &[Page], times: u32) -> Result<DeltaOutcome, Stop> {
    let step = Ladder::step(COMPARED_STEP);
    let bases = Before(before);
    let frames: Vec<_> = (0..content.len().min(before.len()))
        .filter(|index| content[*index] != before[*index])
        .collect();
    let moved = Moved::of(content, &frames, &step, &bases);
    let without = LadderStep { tiers: Tiers { delta: false, ..Tiers::ALL }, ..step };
    Ok(DeltaOutcome {
        pages: frames.len() as u64,
        with: moved.measure(&step, times)?,
        without: moved.measure(&without, times)?,
    })
}

/// Pages cut into batches, with what both sides know.
struct Moved<'a, K> {
    batches: Vec<(Batch, Vec<u8>)>,
    known: &'a K,
}

impl<'a, K: Offer + Held> Moved<'a, K> {
    fn of_all(content: &[Page], step: &LadderStep, known: &'a K) -> Self {
        Self::of(content, &(0..content.len()).collect::<Vec<_>>(), step, known)
    }

    /// The pages of these frames, ascending, in batches of the step's size.
    fn of(content: &[Page], frames: &[usize], step: &LadderStep, known: &'a K) -> Self {
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

    fn measure(&self, step: &LadderStep, times: u32) -> Result<StepOutcome, Stop> {
        let key = DigestKey::new([7; 32]);
        let blocks: Vec<_> = self.batches.iter().map(|(_, content)| non_zero(content)).collect();
        let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new());
        let mut payloads = vec![Vec::new(); self.batches.len()];
        let mut context = CCtx::create();
        context
            .set_parameter(CParameter::CompressionLevel(step.level))
            .map_err(|code| Stop::Failed(get_error_name(code).to_owned()))?;
        let longest = blocks.iter().map(Vec::len).max().unwrap_or(0);
        let mut frame = Vec::with_capacity(compress_bound(longest));
        let (mut alone, mut encode, mut decode) = (Vec::new(), Vec::new(), Vec::new());
        let (mut digest, mut digests) = (Vec::new(), Vec::new());
        let mut counts = TierCounts::default();
        for _ in 0..times {
            timed(&mut digest, || self.digest(&key, &mut digests));
            timed(&mut alone, || {
                for block in blocks.iter().filter(|block| !block.is_empty()) {
                    let _ = black_box(context.compress2(&mut frame, block));
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
            zstd_ns: median(alone),
            encode_ns: median(encode),
            decode_ns: median(decode),
            digest_ns: median(digest),
            payload_bytes: payloads.iter().map(|payload| payload.len() as u64).sum(),
            tier_pages: Tier::ALL.iter().map(|tier| counts.of(*tier).pages).collect(),
        })
    }
}

fn non_zero(content: &[u8]) -> Vec<u8> {
    let pages = content.as_chunks::<PAGE_BYTES>().0.iter();
    pages.filter(|page| !is_zero(&page[..])).flatten().copied().collect()
}

fn verdicts(contents: &[ContentOutcome]) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    for content in contents {
        let step = &content.steps[COMPARED_STEP];
        if content.non_zero_bytes > 0 {
            let digest_apart = step.encode_ns.saturating_sub(step.digest_ns);
            let kinds = [("encoding", step.encode_ns), ("the same less its digests", digest_apart)];
            for (kind, ns) in kinds {
                let found = ratio(ns, step.zstd_ns);
                verdicts.push(Verdict {
                    what: format!("{}, level {}, {kind}:", content.name, step.level),
                    found: format!("{found:.3} of zstd's own time"),
                    target: format!("{OF_ZSTD:.3}"),
                    is_met: found <= OF_ZSTD,
                });
            }
        } else {
            let picoseconds = content.zero_scan_ns * 1000 / content.bytes;
            verdicts.push(Verdict {
                what: format!("{}, zero scan:", content.name),
                found: format!("{picoseconds} ps a byte"),
                target: format!("{ZERO_SCAN_PS_A_BYTE} ps"),
                is_met: picoseconds <= ZERO_SCAN_PS_A_BYTE,
            });
        }
    }
    verdicts
}

fn print(outcome: &Outcome) {
    println!("{}", outcome.setting);
    for content in &outcome.contents {
        let (bytes, non_zero) = (content.bytes, content.non_zero_bytes);
        println!(
            "\n{}: {bytes} bytes, {non_zero} of them in pages that are not zero",
            content.name
        );
        println!(
            "  memcpy {} MB/s, zero scan {} MB/s, digest {} MB/s, all bytes counted",
            rate(bytes, content.memcpy_ns),
            rate(bytes, content.zero_scan_ns),
            rate(bytes, content.digest_ns)
        );
        let counted = if non_zero == 0 { bytes } else { non_zero };
        let steps = content.steps.iter().map(|step| (step, counted));
        print!("{}", table(steps));
    }
    if let Some(deltas) = &outcome.deltas {
        let bytes = deltas.pages * PAGE_BYTES as u64;
        println!(
            "\n{} pages that differ from what they were: with deltas, and without",
            deltas.pages
        );
        print!("{}", table([(&deltas.with, bytes), (&deltas.without, bytes)].into_iter()));
    }
    println!("\nMB/s of processor time, of the bytes that are not zero (of all, if all are)");
    for verdict in &outcome.verdicts {
        println!("{verdict}");
    }
}

fn table<'a>(steps: impl Iterator<Item = (&'a StepOutcome, u64)>) -> Table {
    let mut table = Table::new(&[
        "level",
        "batch",
        "zstd alone",
        "digest",
        "encode",
        "decode",
        "encode/zstd",
        "payload",
        "ratio",
        "zero",
        "known",
        "delta",
        "zstd",
        "raw",
    ]);
    for (step, bytes) in steps {
        let [zero, kept, content, delta, zstd, raw] = step.tier_pages[..] else { continue };
        table.row([
            if step.compresses { step.level.to_string() } else { "raw".to_owned() },
            format!("{} KiB", step.batch_pages * 4),
            rate(bytes, step.zstd_ns),
            rate(bytes, step.digest_ns),
            rate(bytes, step.encode_ns),
            rate(bytes, step.decode_ns),
            format!("{:.2}", ratio(step.zstd_ns, step.encode_ns)),
            step.payload_bytes.to_string(),
            format!("{:.2}", ratio(bytes, step.payload_bytes)),
            zero.to_string(),
            (kept + content).to_string(),
            delta.to_string(),
            zstd.to_string(),
            raw.to_string(),
        ]);
    }
    table
}
