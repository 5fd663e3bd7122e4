//! Batches of pages as payloads and back: bytes a second of one core, beside memcpy, the zero scan,
//! the digest, and zstd alone on the same pages, by turns in one run.
//!
//! The pages are those of a guest's memory; how they move the first time, how they return to a host that
//! has kept an earlier image, and how they go again while the guest works; and contents that lose.

mod content;
mod moved;
mod report;
mod tiers;

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use benches::{Setting, Stop, Verdict, finish, median, ratio, show, timed};
use clap::Parser;
use content::{aes_key, encrypted, noise, read, rewritten, seal};
use dwcp::digest::{DigestKey, is_zero};
use dwcp::hde::{Held, Ladder, LadderStep, Offer, Tiers};
use dwcp::page::{Gfn, PAGE_BYTES, Page, PageRun};
use moved::{Earlier, Moved, StepOutcome};
use serde::Serialize;
use tiers::TierOutcome;

/// The targets: encoding takes so much of zstd's own time on the same pages, and a zero page is
/// found at 10 GB/s.
const OF_ZSTD: f64 = 1.0 / 0.9;
const ZERO_SCAN_PS_A_BYTE: u64 = 100;
/// The step whose encoder is compared with zstd: level 1.
const COMPARED_STEP: usize = 2;
/// Steps of the moves: level 1, and level 3 in larger batches.
const MOVED_STEPS: [usize; 2] = [COMPARED_STEP, 3];
/// Parts of the pages that are rewritten before the memory returns, in per cent.
const REWRITTEN: [usize; 2] = [5, 25];
/// What a `Kept` takes for a page that is not zero: the beginning of its digest; and for a run of them: where it
/// begins and how long it is (`SPEC.md`, 10.2).
const KEPT_PAGE_BYTES: u64 = 8;
const KEPT_RUN_BYTES: u64 = 12;
/// Pages of the content that no codec shrinks, and of the zeros.
const GENERATED_PAGES: usize = 16 << 10;

/// Encodes and decodes pages of memory at every step of the ladder
#[derive(Debug, Parser)]
struct Options {
    /// Memory pages, such as a guest's memory file; what is behind the last whole page is left out
    file: Option<PathBuf>,
    /// The same memory, later
    #[arg(long, value_name = "FILE", requires = "file")]
    later: Option<PathBuf>,
    /// At most so much of a file, from its start
    #[arg(long, value_name = "MIB", default_value_t = 1024)]
    mib: usize,
    /// Only the step of the ladder that encoding is judged by, and no moves
    #[arg(long)]
    quick: bool,
    /// Passes of each kind
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    times: u32,
    /// Figures as JSON, times in nanoseconds
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Outcome {
    setting: Setting,
    contents: Vec<ContentOutcome>,
    moves: Vec<MoveOutcome>,
    tiers: Vec<TierOutcome>,
    verdicts: Vec<Verdict>,
}

/// Figures of one content. Times are medians, in nanoseconds of this thread's processor time.
#[derive(Debug, Serialize)]
struct ContentOutcome {
    name: String,
    bytes: u64,
    non_zero_bytes: u64,
    memcpy_ns: u64,
    aes_ns: u64,
    zero_scan_ns: u64,
    digest_ns: u64,
    steps: Vec<StepOutcome>,
}

/// How a memory moved, or a part of it.
#[derive(Debug, Serialize)]
struct MoveOutcome {
    name: String,
    bytes: u64,
    non_zero_bytes: u64,
    /// What tells the source which content the destination has, were all of it to travel.
    manifest_bytes: u64,
    step: StepOutcome,
}

fn main() -> ExitCode {
    finish(run(&Options::parse()))
}

fn run(options: &Options) -> Result<(), Stop> {
    let times = options.times;
    let judged = COMPARED_STEP..=COMPARED_STEP;
    let steps = if options.quick { &Ladder::STEPS[judged] } else { &Ladder::STEPS[..] };
    let mut setting = Setting::now(concat!("benches ", env!("CARGO_PKG_VERSION")));
    let (mut contents, mut moves, mut tiers) = (Vec::new(), Vec::new(), Vec::new());
    if let Some(path) = &options.file {
        let content = read(path, options.mib)?;
        contents.push(measure(&name(path), &content, steps, times)?);
        contents.push(measure("the same, encrypted", &encrypted(&content)?, steps, times)?);
        if !options.quick {
            moves.extend(first_and_returns(&content, times)?);
        }
        let later = options.later.as_ref().map(|later| read(later, options.mib)).transpose()?;
        if let Some(later) = later.as_ref().filter(|_| !options.quick) {
            moves.extend(after_work(&content, later, times)?);
        }
        for step in steps {
            tiers.extend(tiers::measure(&content, later.as_deref(), step, times)?);
        }
    }
    contents.push(measure("noise", &noise(GENERATED_PAGES), steps, times)?);
    let zeros = vec![[0; PAGE_BYTES]; GENERATED_PAGES];
    contents.push(measure("zeros", &zeros, steps, times)?);
    setting.end();
    let verdicts = verdicts(&contents);
    let outcome = Outcome { setting, contents, moves, tiers, verdicts };
    show(&outcome, options.json, report::print)
}

fn name(path: &Path) -> String {
    path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

fn measure(
    name: &str,
    content: &[Page],
    steps: &[LadderStep],
    times: u32,
) -> Result<ContentOutcome, Stop> {
    let key = DigestKey::new([7; 32]);
    let aes = aes_key()?;
    let mut copy = content.to_vec();
    let mut digests = Vec::new();
    let run = PageRun::new(Gfn(0), content.len() as u64).map_err(Stop::failed("pages"))?;
    let (mut memcpy, mut scan, mut digest) = (Vec::new(), Vec::new(), Vec::new());
    let (mut encryption, mut broken) = (Vec::new(), Ok(()));
    for _ in 0..times {
        timed(&mut memcpy, || black_box(&mut copy).copy_from_slice(black_box(content)));
        timed(&mut scan, || {
            black_box(content.iter().filter(|page| is_zero(&page[..])).count());
        });
        timed(&mut digest, || {
            black_box(key.digest_run(run, content.as_flattened(), &mut digests));
        });
        timed(&mut encryption, || {
            // In pieces of TLS records.
            let records = copy.as_flattened_mut().chunks_mut(16 << 10);
            broken = (0..).zip(records).try_for_each(|(number, it)| seal(&aes, number, it));
        });
    }
    broken?;
    drop(copy);
    let steps = steps.iter().map(|step| Moved::of_all(content, step, &()).measure(step, times));
    Ok(ContentOutcome {
        name: name.to_owned(),
        bytes: bytes(content.len()),
        non_zero_bytes: non_zero_bytes(content),
        memcpy_ns: median(memcpy),
        aes_ns: median(encryption),
        zero_scan_ns: median(scan),
        digest_ns: median(digest),
        steps: steps.collect::<Result<_, Stop>>()?,
    })
}

fn bytes(pages: usize) -> u64 {
    (pages * PAGE_BYTES) as u64
}

fn non_zero_bytes(content: &[Page]) -> u64 {
    bytes(content.iter().filter(|page| !is_zero(&page[..])).count())
}

/// What the destination says of the pages that it has kept: all that are not zero. Heads of frames are not counted.
fn manifest_bytes(content: &[Page]) -> u64 {
    let runs = content.chunk_by(|a, b| !is_zero(&a[..]) && !is_zero(&b[..]));
    let runs = runs.filter(|run| !is_zero(&run[0][..]));
    runs.map(|run| KEPT_RUN_BYTES + run.len() as u64 * KEPT_PAGE_BYTES).sum()
}

/// The first move of a memory, and its return to where it came from with a part of it rewritten.
fn first_and_returns(content: &[Page], times: u32) -> Result<Vec<MoveOutcome>, Stop> {
    let mut moves = all_of("first move", content, &(), 0, times)?;
    let kept = Earlier::kept(content)?;
    let manifest = manifest_bytes(content);
    for per_cent in REWRITTEN {
        let name = format!("return, {per_cent} % rewritten");
        moves.extend(all_of(&name, &rewritten(content, per_cent, 1), &kept, manifest, times)?);
    }
    Ok(moves)
}

/// The same memory after its guest has worked: it returns, or what differs is sent again, as deltas and
/// without them.
fn after_work(before: &[Page], after: &[Page], times: u32) -> Result<Vec<MoveOutcome>, Stop> {
    let manifest = manifest_bytes(before);
    let mut moves = all_of("return, after work", after, &Earlier::kept(before)?, manifest, times)?;
    let step = Ladder::step(COMPARED_STEP);
    let without = LadderStep { tiers: Tiers { delta: false, ..Tiers::ALL }, ..step };
    let sent = Earlier::Sent(before);
    let frames: Vec<_> = (0..after.len().min(before.len()))
        .filter(|index| after[*index] != before[*index])
        .collect();
    let moved = Moved::of(after, &frames, &step, &sent);
    for (name, step) in [("what work changed", step), ("the same without deltas", without)] {
        moves.push(MoveOutcome {
            name: name.to_owned(),
            bytes: bytes(frames.len()),
            non_zero_bytes: bytes(frames.iter().filter(|it| !is_zero(&after[**it][..])).count()),
            manifest_bytes: 0,
            step: moved.measure(&step, times)?,
        });
    }
    Ok(moves)
}

fn all_of<K: Offer + Held>(
    name: &str,
    content: &[Page],
    known: &K,
    manifest_bytes: u64,
    times: u32,
) -> Result<Vec<MoveOutcome>, Stop> {
    let moves = MOVED_STEPS.map(Ladder::step).into_iter().map(|step| {
        Ok(MoveOutcome {
            name: name.to_owned(),
            bytes: bytes(content.len()),
            non_zero_bytes: non_zero_bytes(content),
            manifest_bytes,
            step: Moved::of_all(content, &step, known).measure(&step, times)?,
        })
    });
    moves.collect()
}

fn verdicts(contents: &[ContentOutcome]) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    for content in contents {
        let judged = Ladder::step(COMPARED_STEP);
        let is_judged = |step: &&StepOutcome| step.compresses && step.level == judged.level;
        let Some(step) = content.steps.iter().find(is_judged) else { continue };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_has_no_zero_pages_and_a_head_for_each_run_of_the_others() {
        let memory = [0, 1, 2, 0, 0, 3, 0].map(|byte| [byte; PAGE_BYTES]);
        assert_eq!(manifest_bytes(&memory), 2 * 12 + 3 * 8);
        assert_eq!(manifest_bytes(&memory[3..5]), 0);
    }
}
