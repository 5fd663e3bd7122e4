//! What a page costs at the source besides being read and encoded: choosing it, its send number, its place on
//! a stream, its digest in the manifest, its acknowledgement.

use std::num::NonZeroU64;
use std::process::ExitCode;
use std::time::Duration;

use benches::{Setting, Stop, Table, finish, median, rate, ratio, timed};
use clap::Parser;
use dwcp::acp::SessionId;
use dwcp::digest::{DigestKey, PageDigest};
use dwcp::page::{Gfn, PAGE_BYTES, PageRun};
use dwcp::session::{Agreement, Draft, Source, SourceTimers, Transmit};
use dwcp::wire::{Header, Message, StreamId};

const SESSION: SessionId = SessionId::new([7; 16]).expect("not zeros");
const CONTROL: StreamId = StreamId::control(1);
const DATA_STREAMS: u16 = 4;
const NOW: Duration = Duration::from_secs(1);

/// Hands out and acknowledges every page of a guest, in batches of several sizes
#[derive(Debug, Parser)]
struct Options {
    /// The guest's memory
    #[arg(long, value_name = "MIB", default_value_t = 4096)]
    mib: u64,
    /// Only every so many-th page is dirty
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    every: u64,
    /// Passes
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    times: u32,
}

fn main() -> ExitCode {
    finish(run(&Options::parse()))
}

fn run(options: &Options) -> Result<(), Stop> {
    let mut setting = Setting::now(concat!("benches ", env!("CARGO_PKG_VERSION")));
    let mut table = Table::new(&["pages a batch", "ns a page", "ns a batch", "MB/s", "of memcpy"]);
    let copy = memcpy_ns(options.times);
    for batch_pages in [1, 4, 64, 256, 1024] {
        let (mut samples, mut pages, mut batches) = (Vec::new(), 0, 0);
        for _ in 0..options.times {
            let mut source = source(options)?;
            source.set_batch_pages(NonZeroU64::new(batch_pages).unwrap_or(NonZeroU64::MIN));
            let mut sent = Ok(());
            timed(&mut samples, || sent = send_all(&mut source));
            sent?;
            (pages, batches) = (source.counts().pages_sent, source.counts().batches);
        }
        let ns = median(samples);
        let bytes = pages * PAGE_BYTES as u64;
        let of_memcpy = ratio(ns, bytes) / ratio(copy, COPIED as u64);
        table.row([
            batch_pages.to_string(),
            format!("{:.1}", ratio(ns, pages)),
            format!("{:.0}", ratio(ns, batches)),
            rate(bytes, ns),
            format!("{of_memcpy:.3}"),
        ]);
    }
    setting.end();
    println!("{setting}\n");
    println!(
        "guest of {} MiB, every {}. page dirty, {DATA_STREAMS} data streams",
        options.mib, options.every
    );
    print!("{table}");
    println!("\nprocessor time; *of memcpy* is the time beside that of copying the same bytes");
    Ok(())
}

/// A source with data streams, that was welcomed, and owes every so many-th page.
fn source(options: &Options) -> Result<Source, Stop> {
    let pages = options.mib << 20 >> 12;
    let memory = vec![PageRun::new(Gfn(0), pages).map_err(Stop::failed("--mib"))?];
    let agreement = Agreement { session: SESSION, key: DigestKey::new([3; 32]), memory };
    let mut source = Source::new(NOW, &agreement, SourceTimers::default());
    source.set_data_streams(DATA_STREAMS.into());
    while let Some(stream) = source.poll_connect(NOW) {
        source.handle_connected(NOW, stream);
        let hello = source.poll_transmit(NOW, stream);
        if hello.is_some() {
            source.handle_written(NOW, stream);
        }
    }
    hear(&mut source, 0, &Message::Welcome { state: 0, applied: Vec::new() })?;
    for first in (0..pages).step_by(usize::try_from(options.every).unwrap_or(1)) {
        let run = PageRun::new(Gfn(first), 1).map_err(Stop::failed("a page"))?;
        source.owe(run).map_err(Stop::failed("a page"))?;
    }
    Ok(source)
}

/// Each stream in turn gets a batch, which is acknowledged when all have one.
fn send_all(source: &mut Source) -> Result<(), Stop> {
    let digests = [PageDigest::ZERO; 1024];
    let mut sequence = 1;
    loop {
        let mut numbers = Vec::new();
        for place in 0..=DATA_STREAMS {
            let stream = StreamId { connection: 1, place };
            let Some(Transmit::Pages(draft)) = source.poll_transmit(NOW, stream) else { continue };
            let Draft { batch, .. } = &draft;
            let header =
                source.handle_encoded(NOW, &draft, &digests[..batch.pages()], batch.bytes());
            header.ok_or_else(|| Stop::Failed("a stream is gone".to_owned()))?;
            source.handle_written(NOW, stream);
            numbers.push(batch.numbers());
        }
        if numbers.is_empty() {
            return Ok(());
        }
        hear(source, sequence, &Message::Acknowledge(numbers))?;
        sequence += 1;
    }
}

fn hear(source: &mut Source, sequence: u64, message: &Message<'_>) -> Result<(), Stop> {
    let mut payload = Vec::new();
    message.write_to(&mut payload);
    let length = u32::try_from(payload.len()).map_err(Stop::failed("a frame"))?;
    let header = Header::new(message.kind(), length, SESSION, CONTROL, sequence)
        .map_err(Stop::failed("a frame"))?;
    let header = source
        .handle_header(NOW, CONTROL, &header.to_bytes())
        .map_err(Stop::failed("the source"))?;
    source.handle_frame(NOW, header, &payload).map_err(Stop::failed("the source"))
}

/// Bytes that are copied for comparison: more than any cache holds.
const COPIED: usize = 256 << 20;

fn memcpy_ns(times: u32) -> u64 {
    let (from, mut to) = (vec![1_u8; COPIED], vec![2_u8; COPIED]);
    let mut samples = Vec::new();
    for _ in 0..times {
        timed(&mut samples, || {
            std::hint::black_box(&mut to).copy_from_slice(std::hint::black_box(&from));
        });
    }
    median(samples)
}
