//! Records what encoding takes, batch by batch: what `dwcp::pba`'s forecasts of bytes and of processor time are judged by.
//! The traces in `dwcp/traces` whose names begin with `encode` are made by this program.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use benches::{Stop, finish, processor_ns};
use clap::Parser;
use dwcp::digest::DigestKey;
use dwcp::hde::{Base, Batch, Encoder, Ladder, Offer, Sending};
use dwcp::ledger::SendNumber;
use dwcp::page::{Gfn, PAGE_BYTES, Page, PageRun};
use dwcp::pba::EncodedBatch;
use dwcp::pba::trace::BatchTrace;

/// The step of the traces that stay at one: the one that encoding is judged by elsewhere, too.
const STEP: usize = 2;
/// Pages from one change of the step to the next: many batches of the smallest size, and two of the largest.
const STRETCH_PAGES: usize = 2048;
/// The steps of the trace that changes them, over and over: up and down, by one and by many.
const STEPS: [usize; 30] =
    [0, 1, 2, 3, 4, 5, 0, 2, 4, 1, 3, 5, 1, 4, 0, 3, 1, 5, 2, 0, 4, 3, 2, 1, 0, 5, 3, 0, 1, 2];

/// Encodes the pages of a guest's memory, as they go the first time, as they go when the step is changed now and then, and
/// what differs later
#[derive(Debug, Parser)]
struct Options {
    /// The folder that `memory-image` prints
    image: PathBuf,
    /// Where the traces go
    #[arg(long, value_name = "DIRECTORY")]
    to: PathBuf,
    /// At most so much of the memory, from its start
    #[arg(long, value_name = "MIB", default_value_t = 512)]
    mib: usize,
}

fn main() -> ExitCode {
    finish(run(&Options::parse()))
}

fn run(options: &Options) -> Result<(), Stop> {
    let before = read(&options.image.join("filled"), options.mib)?;
    let after = read(&options.image.join("worked"), options.mib)?;
    let all: Vec<usize> = (0..before.len()).collect();
    let changed: Vec<usize> = all.iter().copied().filter(|it| before[*it] != after[*it]).collect();
    let base = Sent(&before);
    let traces = [
        ("encode-first", record(&before, &all, &(), |_| STEP)?),
        (
            "encode-steps",
            record(&before, &all, &(), |page| STEPS[page / STRETCH_PAGES % STEPS.len()])?,
        ),
        ("encode-later", record(&after, &changed, &base, |_| STEP)?),
    ];
    for (name, trace) in traces {
        let bytes = zstd::encode_all(&trace.to_bytes()[..], 19);
        let bytes = bytes.map_err(Stop::failed("compressing"))?;
        println!("{name}: {} batches, {} bytes", trace.batches.len(), bytes.len());
        let path = options.to.join(format!("{name}.zst"));
        fs::write(path, bytes).map_err(Stop::failed("writing the trace"))?;
    }
    Ok(())
}

fn read(path: &Path, mib: usize) -> Result<Vec<Page>, Stop> {
    let context = path.display().to_string();
    let mut bytes = fs::read(path).map_err(Stop::failed(&context))?;
    bytes.truncate(mib << 20);
    Ok(bytes.as_chunks::<PAGE_BYTES>().0.to_vec())
}

/// What the destination has of earlier sends, under the numbers of their frames.
struct Sent<'a>(&'a [Page]);

impl Offer for Sent<'_> {
    fn base(&self, gfn: Gfn) -> Option<Base<'_>> {
        let content = self.0.get(usize::try_from(gfn.0).ok()?)?;
        Some(Base { number: SendNumber(gfn.0 + 1), content })
    }
}

/// Encodes these pages, ascending, in batches of the step that the place among them has.
fn record(
    content: &[Page],
    frames: &[usize],
    known: &impl Offer,
    step_at: impl Fn(usize) -> usize,
) -> Result<BatchTrace, Stop> {
    let key = DigestKey::new([7; 32]);
    let (mut encoder, mut trace, mut payload) = (Encoder::new(), BatchTrace::default(), Vec::new());
    // Above the numbers of all that was sent before.
    let mut number = content.len() as u64 + 2;
    let (mut read, mut done) = (Vec::new(), 0);
    while done < frames.len() {
        let index = step_at(done);
        let step = Ladder::step(index);
        let pages = usize::try_from(step.batch_pages.get()).unwrap_or(usize::MAX);
        let some = &frames[done..(done + pages).min(frames.len())];
        done += some.len();
        let runs: Result<Vec<_>, _> = some
            .chunk_by(|a, b| a + 1 == *b)
            .map(|run| PageRun::new(Gfn(run[0] as u64), run.len() as u64))
            .collect();
        let runs = runs.map_err(Stop::failed("pages"))?;
        let batch = Batch::new(SendNumber(number), runs).map_err(Stop::failed("a batch"))?;
        number = batch.numbers().end.0;
        // As a move does: the guest's memory is read into a buffer first.
        let began = processor_ns();
        read.clear();
        some.iter().for_each(|frame| read.extend_from_slice(&content[*frame]));
        payload.clear();
        let settled_below = batch.first_number();
        let sending = Sending { key: &key, batch: &batch, content: &read, settled_below };
        let tiers = encoder.encode(&sending, &step, known, &mut payload).tiers;
        let took = Duration::from_nanos(processor_ns() - began);
        trace.batches.push(EncodedBatch { step: index, tiers, bytes: payload.len() as u64, took });
    }
    Ok(trace)
}
