//! Records what the source of a move tells its link estimator: what `dwcp::pba`'s forecasts of a link are judged by. The
//! traces in `dwcp/traces` whose names begin with `link` are made by this program.
//!
//! Pages of noise go through `dwcp::transport` from one network namespace to another, over both kernels' own TCP and a line
//! between them that holds packets back, loses some, and becomes slower and faster. Needs root, and no KVM.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use benches::network::{DESTINATION, Network, SOURCE, inside};
use benches::relay::Line;
use benches::{Stop, finish};
use clap::Parser;
use dwcp::acp::SessionId;
use dwcp::digest::DigestKey;
use dwcp::hde::Tiers;
use dwcp::page::{Gfn, PAGE_BYTES, Page, PageRun};
use dwcp::pba::trace::LinkTrace;
use dwcp::session::{Agreement, DestinationTimers, SourceTimers};
use dwcp::transport::{
    DestinationLink, DestinationMemory, DestinationTerms, KeyPair, PAGES_PROTOCOL, SourceLink,
    SourceSide, SourceTerms, TlsClient, TlsServer,
};
use dwcp::wire::StreamId;

const MS: Duration = Duration::from_millis(1);
const PATIENCE: Duration = Duration::from_secs(60);
/// The guest's memory: so much that it is not all on its way at once.
const PAGES: u64 = 16 << 10;
/// So many are owed at least while there is enough to send: little, so that a pause begins when it should.
const BACKLOG_PAGES: u64 = 512;
const DATA_STREAMS: usize = 4;
/// Streams are cut into batches as a machine process does it: each holds one for so long.
const BATCH_HOLDS: f64 = 0.05;
const BATCH_PAGES: std::ops::RangeInclusive<u64> = 8..=64;
const RETHINK_EVERY: Duration = MS.saturating_mul(50);
/// Other traffic comes for so long, and stays away for as long.
const OTHERS: Duration = MS.saturating_mul(2500);
/// Of a guest that writes little for a time, and much then: for how long each; and what little is.
const QUIET: Duration = MS.saturating_mul(1500);
const LOUD: Duration = MS.saturating_mul(2500);
const LITTLE_PAGES: u64 = 12;
const LITTLE_EVERY: Duration = MS.saturating_mul(100);

const MEGABIT: u64 = 1_000_000;
const LINE: Line = Line {
    bits_per_second: 100 * MEGABIT,
    delay: MS.saturating_mul(20),
    // What the line itself holds in a round trip.
    queue_bytes: 500_000,
    loss_per_million: 0,
};

/// What is recorded.
struct Setup {
    name: &'static str,
    /// How the line is, one after the other, each for as long as the others.
    lines: &'static [Line],
    /// Others share the line now and then.
    is_shared: bool,
    /// There is too little to send now and then.
    has_pauses: bool,
}

const SETUPS: [Setup; 7] = [
    Setup { name: "steady", lines: &[LINE], is_shared: false, has_pauses: false },
    Setup {
        name: "near",
        lines: &[Line { delay: MS.saturating_mul(0), queue_bytes: 250_000, ..LINE }],
        is_shared: false,
        has_pauses: true,
    },
    Setup { name: "pauses", lines: &[LINE], is_shared: false, has_pauses: true },
    Setup {
        name: "changing",
        lines: &[
            LINE,
            Line { bits_per_second: 30 * MEGABIT, ..LINE },
            Line { bits_per_second: 80 * MEGABIT, ..LINE },
            Line { bits_per_second: 10 * MEGABIT, ..LINE },
            Line { bits_per_second: 50 * MEGABIT, ..LINE },
        ],
        is_shared: false,
        has_pauses: false,
    },
    Setup {
        name: "lossy",
        lines: &[Line { loss_per_million: 5_000, ..LINE }],
        is_shared: false,
        has_pauses: false,
    },
    Setup {
        name: "lossy-pauses",
        lines: &[Line { loss_per_million: 2_000, ..LINE }],
        is_shared: false,
        has_pauses: true,
    },
    Setup { name: "shared", lines: &[LINE], is_shared: true, has_pauses: false },
];

/// Moves pages over lines of several kinds, and writes one trace each
#[derive(Debug, Parser)]
struct Options {
    /// Where the traces go
    #[arg(long, value_name = "DIRECTORY")]
    to: PathBuf,
    /// How long each is recorded
    #[arg(long, value_name = "S", default_value_t = 20)]
    seconds: u64,
}

fn main() -> ExitCode {
    finish(run(&Options::parse()))
}

fn run(options: &Options) -> Result<(), Stop> {
    if !rustix::process::geteuid().is_root() {
        return Err(Stop::Skipped("only root makes network namespaces and links".into()));
    }
    for setup in &SETUPS {
        let trace = record(setup, Duration::from_secs(options.seconds))?;
        let bytes = zstd::encode_all(&trace.to_bytes()[..], 19);
        let bytes = bytes.map_err(Stop::failed("compressing"))?;
        println!("{}: {} events, {} bytes", setup.name, trace.events.len(), bytes.len());
        let path = options.to.join(format!("link-{}.zst", setup.name));
        fs::write(path, bytes).map_err(Stop::failed("writing the trace"))?;
    }
    Ok(())
}

/// A guest whose pages are noise, each another one's; and a host that has no use for them.
struct Noise {
    to: SocketAddr,
}

impl SourceSide for Noise {
    fn dial(&self, _stream: StreamId) -> io::Result<TcpStream> {
        inside(SOURCE, || TcpStream::connect(self.to)).map_err(io::Error::other)?
    }

    fn read(&self, run: PageRun, content: &mut [u8]) -> io::Result<()> {
        let first = run.first().0 * PAGE_BYTES as u64;
        for (at, word) in (first..).step_by(8).zip(content.as_chunks_mut::<8>().0) {
            // splitmix64 (Steele, Lea, Flood 2014).
            let bits = at.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            *word = (bits ^ (bits >> 31)).to_le_bytes();
        }
        Ok(())
    }
}

struct Nowhere;

impl DestinationMemory for Nowhere {
    fn write(&self, _run: PageRun, _content: &[u8]) -> io::Result<()> {
        Ok(())
    }

    fn read(&self, _gfn: Gfn, content: &mut Page) -> io::Result<()> {
        content.fill(0);
        Ok(())
    }
}

fn record(setup: &Setup, time: Duration) -> Result<LinkTrace, Stop> {
    let network = Network::with_line(setup.lines[0])?;
    let agreement = Agreement {
        session: SessionId::new([7; 16]).ok_or_else(|| Stop::Failed("a session".into()))?,
        key: DigestKey::new([3; 32]),
        memory: vec![PageRun::new(Gfn(0), PAGES).map_err(Stop::failed("the memory"))?],
    };
    let key = || KeyPair::generate().and_then(|key| KeyPair::from_pkcs8(&key));
    let (ours, theirs) =
        (key().map_err(Stop::failed("a key"))?, key().map_err(Stop::failed("a key"))?);
    let terms = DestinationTerms {
        agreement: agreement.clone(),
        timers: DestinationTimers { patience: PATIENCE },
        tls: TlsServer::new(&theirs, Arc::new(ours.public()), PAGES_PROTOCOL),
    };
    let destination = DestinationLink::start(terms, Arc::new(Nowhere));
    let destination = destination.map_err(Stop::failed("a destination"))?;
    let listener = listen()?;
    let to = listener.local_addr().map_err(Stop::failed("a socket"))?;
    let (door, is_over) = (destination.door(), Arc::new(AtomicBool::new(false)));
    let terms = SourceTerms {
        agreement,
        timers: SourceTimers { patience: PATIENCE, ..SourceTimers::default() },
        tls: TlsClient::new(&ours, Arc::new(theirs.public()), PAGES_PROTOCOL),
        shadow_bytes: 0,
        tiers: Tiers::ALL,
        recalls: false,
    };
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for _ in 0..=DATA_STREAMS {
                let taken = listener.accept().and_then(|(socket, _)| door.accept(socket));
                if let Err(error) = taken {
                    eprintln!("a stream is not taken: {error}");
                }
            }
        });
        if setup.is_shared {
            let (others, is_over) = (listen()?, Arc::clone(&is_over));
            scope.spawn(move || {
                if let Err(error) = share(&others, &is_over) {
                    eprintln!("other traffic has ended: {error}");
                }
            });
        }
        let source = SourceLink::start(terms, Arc::new(Noise { to }));
        let source = source.map_err(Stop::failed("a source"))?;
        let moved = go(setup, time, &network, &source);
        is_over.store(true, Ordering::Release);
        moved
    })
}

fn listen() -> Result<TcpListener, Stop> {
    let bind = || TcpListener::bind((Network::address(DESTINATION), 0));
    inside(DESTINATION, bind)?.map_err(Stop::failed("a socket"))
}

/// One connection of others, which takes what it gets, now and then.
fn share(listener: &TcpListener, is_over: &AtomicBool) -> io::Result<()> {
    let to = listener.local_addr()?;
    let mut socket = inside(SOURCE, || TcpStream::connect(to)).map_err(io::Error::other)??;
    let mut other = listener.accept()?.0;
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut buffer = vec![0; 1 << 16];
            while other.read(&mut buffer).is_ok_and(|count| count > 0) {}
        });
        let (began, content) = (Instant::now(), vec![7; 1 << 14]);
        while !is_over.load(Ordering::Acquire) {
            if began.elapsed().as_millis() / OTHERS.as_millis() % 2 == 1 {
                socket.write_all(&content)?;
            } else {
                std::thread::sleep(MS);
            }
        }
        drop(socket);
        Ok(())
    })
}

/// Keeps the source busy as the setup wants it, for so long.
fn go(
    setup: &Setup,
    time: Duration,
    network: &Network,
    source: &SourceLink,
) -> Result<LinkTrace, Stop> {
    source.set_step(0);
    let least =
        NonZeroU64::new(*BATCH_PAGES.start()).ok_or_else(|| Stop::Failed("pages".into()))?;
    source.with(|source, _| {
        source.record_link();
        source.set_data_streams(DATA_STREAMS);
        source.set_batch_pages(least);
        source.offered();
    });
    let (began, mut thought, mut owed) = (Instant::now(), Instant::now(), Instant::now());
    let mut at = 0;
    while began.elapsed() < time {
        let elapsed = began.elapsed();
        let parts = setup.lines.len() as f64;
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "few parts")]
        let part = (elapsed.as_secs_f64() / time.as_secs_f64() * parts) as usize;
        network.set_line(setup.lines[part.min(setup.lines.len() - 1)]);
        let into = Duration::from_nanos_u128(elapsed.as_nanos() % (LOUD + QUIET).as_nanos());
        let pages = if !setup.has_pauses || into < LOUD {
            let left = source.with(|source, _| source.ledger().owed());
            if left < BACKLOG_PAGES { BACKLOG_PAGES } else { 0 }
        } else if owed.elapsed() >= LITTLE_EVERY {
            LITTLE_PAGES
        } else {
            0
        };
        if pages > 0 {
            owed = Instant::now();
            let first = if at + pages > PAGES { 0 } else { at };
            at = first + pages;
            let run = PageRun::new(Gfn(first), pages).map_err(Stop::failed("pages"))?;
            let owes = source.with(|source, _| source.owe(run));
            owes.map_err(Stop::failed("the ledger"))?;
        }
        if thought.elapsed() >= RETHINK_EVERY {
            thought = Instant::now();
            source.with(|source, _| {
                let Some(link) = source.link().estimate() else { return };
                let pages = link.bytes_per_second * BATCH_HOLDS / DATA_STREAMS as f64;
                #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "pages")]
                let pages = (pages / PAGE_BYTES as f64) as u64;
                let pages = pages.clamp(*BATCH_PAGES.start(), *BATCH_PAGES.end());
                source.set_batch_pages(NonZeroU64::new(pages).unwrap_or(least));
            });
        }
        std::thread::sleep(MS);
    }
    source
        .with(|source, _| source.link().recorded().cloned())
        .ok_or_else(|| Stop::Failed("nothing was recorded".into()))
}
