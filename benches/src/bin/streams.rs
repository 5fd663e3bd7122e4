//! How fast pages go from one memory to another through `dwcp::transport`, beside a plain TCP connection and beside the
//! parts of the way alone: over loopback, so that the processors are the limit.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use benches::{Setting, Stop, Table, finish, ratio};
use clap::Parser;
use dwcp::acp::SessionId;
use dwcp::digest::DigestKey;
use dwcp::hde::Tiers;
use dwcp::page::{Gfn, PAGE_BYTES, Page, PageRun};
use dwcp::session::{
    Agreement, DestinationEvent, DestinationTimers, SourceEnd, SourceEvent, SourceTimers,
};
use dwcp::transport::{
    DestinationLink, DestinationMemory, DestinationTerms, KeyPair, LinkEvent, PAGES_PROTOCOL,
    SourceLink, SourceSide, SourceTerms, TlsClient, TlsServer,
};
use dwcp::wire::StreamId;
use ring::rand::{SecureRandom, SystemRandom};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// Moves a memory from one thread's hands to another's, over TLS on loopback
#[derive(Debug, Parser)]
struct Options {
    /// The memory, which holds random bytes: nothing is to be saved by compression
    #[arg(long, value_name = "MIB", default_value_t = 1024)]
    mib: u64,
    /// Passes of each row; the fastest counts
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    times: u32,
}

fn main() -> ExitCode {
    finish(run(&Options::parse()))
}

/// A memory of so many locks that threads rarely meet: what the machine process has without any.
struct Memory(Vec<Mutex<Box<[u8]>>>);

const PART_PAGES: u64 = 256;
const PART_BYTES: usize = 256 * PAGE_BYTES;

impl Memory {
    fn new(bytes: u64, fill: impl Fn(&mut [u8]) -> Result<(), Stop>) -> Result<Self, Stop> {
        let parts = (0..bytes.div_ceil(PART_BYTES as u64)).map(|_| {
            let mut part = vec![0; PART_BYTES].into_boxed_slice();
            fill(&mut part)?;
            Ok(Mutex::new(part))
        });
        Ok(Self(parts.collect::<Result<_, Stop>>()?))
    }

    fn with(
        &self,
        run: PageRun,
        mut act: impl FnMut(&mut [u8], std::ops::Range<usize>),
    ) -> io::Result<()> {
        let bytes = |pages: u64| usize::try_from(pages).map_or(usize::MAX, |all| all * PAGE_BYTES);
        let (mut at, mut done) = (run.first().0, 0);
        while at < run.end().0 {
            let pages = (PART_PAGES - at % PART_PAGES).min(run.end().0 - at);
            let part = usize::try_from(at / PART_PAGES).ok().and_then(|part| self.0.get(part));
            let mut part = part
                .ok_or(io::ErrorKind::InvalidInput)?
                .lock()
                .map_err(|_| io::ErrorKind::Other)?;
            let first = bytes(at % PART_PAGES);
            act(&mut part[first..first + bytes(pages)], done..done + bytes(pages));
            (at, done) = (at + pages, done + bytes(pages));
        }
        Ok(())
    }

    fn is_equal(&self, other: &Self) -> bool {
        self.0.iter().zip(&other.0).all(|(one, two)| match (one.lock(), two.lock()) {
            (Ok(one), Ok(two)) => *one == *two,
            _ => false,
        })
    }
}

impl DestinationMemory for Memory {
    fn write(&self, run: PageRun, content: &[u8]) -> io::Result<()> {
        self.with(run, |part, at| part.copy_from_slice(&content[at]))
    }

    fn read(&self, gfn: Gfn, content: &mut Page) -> io::Result<()> {
        let run = PageRun::new(gfn, 1).map_err(io::Error::other)?;
        self.with(run, |part, _| content.copy_from_slice(part))
    }
}

struct Here {
    memory: Arc<Memory>,
    to: SocketAddr,
}

impl SourceSide for Here {
    fn dial(&self, _stream: StreamId) -> io::Result<TcpStream> {
        TcpStream::connect(self.to)
    }

    fn read(&self, run: PageRun, content: &mut [u8]) -> io::Result<()> {
        self.memory.with(run, |part, at| content[at].copy_from_slice(part))
    }
}

fn run(options: &Options) -> Result<(), Stop> {
    let mut setting = Setting::now(concat!("benches ", env!("CARGO_PKG_VERSION")));
    let bytes = options.mib << 20;
    let random = SystemRandom::new();
    let memory = Arc::new(Memory::new(bytes, |part| {
        random.fill(part).map_err(|_| Stop::Failed("no random bytes".into()))
    })?);
    let mut table = Table::new(&["", "MB/s", "of plain TCP"]);
    let plain = fastest(options, || plain(bytes))?;
    let row = |table: &mut Table, name: String, ns: u64| {
        let per_second = format!("{:.0}", ratio(bytes * 1000, ns));
        table.row([name, per_second, format!("{:.2}", ratio(plain, ns))]);
    };
    row(&mut table, "plain TCP, one connection".into(), plain);
    for data_streams in [0, 1, 2, 4, 8] {
        let ns = fastest(options, || moved(&memory, bytes, data_streams))?;
        row(&mut table, format!("DWCP, {data_streams} data streams"), ns);
    }
    setting.end();
    println!(
        "{setting}\n\n{} MiB of random bytes, over loopback, both ends on this host",
        options.mib
    );
    print!("{table}");
    Ok(())
}

fn fastest(options: &Options, mut once: impl FnMut() -> Result<u64, Stop>) -> Result<u64, Stop> {
    let mut fastest = u64::MAX;
    for _ in 0..options.times {
        fastest = fastest.min(once()?);
    }
    Ok(fastest)
}

fn nanoseconds(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// The same bytes over one connection that does nothing with them.
fn plain(bytes: u64) -> Result<u64, Stop> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(Stop::failed("a socket"))?;
    let to = listener.local_addr().map_err(Stop::failed("a socket"))?;
    let started = Instant::now();
    std::thread::scope(|scope| {
        let reader = scope.spawn(move || -> io::Result<u64> {
            let mut socket = listener.accept()?.0;
            let (mut buffer, mut total) = (vec![0; 1 << 18], 0);
            loop {
                match socket.read(&mut buffer)? {
                    0 => return Ok(total),
                    count => total += count as u64,
                }
            }
        });
        let content = vec![7; 1 << 18];
        let write = || -> io::Result<()> {
            let mut socket = TcpStream::connect(to)?;
            (0..bytes >> 18).try_for_each(|_| socket.write_all(&content))
        };
        write().map_err(Stop::failed("plain TCP"))?;
        match reader.join() {
            Ok(Ok(total)) if total == bytes >> 18 << 18 => Ok(nanoseconds(started)),
            other => Err(Stop::Failed(format!("plain TCP: {other:?}"))),
        }
    })
}

/// A whole move, from the first connection until the source knows that it is over.
fn moved(memory: &Arc<Memory>, bytes: u64, data_streams: usize) -> Result<u64, Stop> {
    let agreement = Agreement {
        session: SessionId::new([7; 16]).ok_or_else(|| Stop::Failed("a session".into()))?,
        key: DigestKey::new([3; 32]),
        memory: vec![
            PageRun::new(Gfn(0), bytes / PAGE_BYTES as u64).map_err(Stop::failed("--mib"))?,
        ],
    };
    let key = || KeyPair::generate().and_then(|key| KeyPair::from_pkcs8(&key));
    let (ours, theirs) =
        (key().map_err(Stop::failed("a key"))?, key().map_err(Stop::failed("a key"))?);
    let arrived = Arc::new(Memory::new(bytes, |_| Ok(()))?);
    let terms = DestinationTerms {
        agreement: agreement.clone(),
        timers: DestinationTimers { patience: PATIENCE },
        tls: TlsServer::new(&theirs, Arc::new(ours.public()), PAGES_PROTOCOL),
    };
    let destination = DestinationLink::start(terms, arrived.clone());
    let destination = destination.map_err(Stop::failed("a destination"))?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(Stop::failed("a socket"))?;
    let to = listener.local_addr().map_err(Stop::failed("a socket"))?;
    let door = destination.door();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for _ in 0..=data_streams {
                let taken = listener.accept().and_then(|(socket, _)| door.accept(socket));
                if let Err(error) = taken {
                    eprintln!("a stream is not taken: {error}");
                }
            }
        });
        let run = agreement.memory[0];
        let terms = SourceTerms {
            agreement,
            timers: SourceTimers { patience: PATIENCE, ..SourceTimers::default() },
            tls: TlsClient::new(&ours, Arc::new(theirs.public()), PAGES_PROTOCOL),
            shadow_bytes: 0,
            tiers: Tiers::ALL,
            recalls: false,
        };
        let started = Instant::now();
        let source = SourceLink::start(terms, Arc::new(Here { memory: Arc::clone(memory), to }));
        let source = source.map_err(Stop::failed("a source"))?;
        source.set_step(0);
        let owed = source.with(|source, _| {
            source.set_data_streams(data_streams);
            source.offered();
            source.owe(run)
        });
        owed.map_err(Stop::failed("the ledger"))?;
        finish_move(&source, &destination)?;
        let ns = nanoseconds(started);
        if memory.is_equal(&arrived) {
            Ok(ns)
        } else {
            Err(Stop::Failed("what arrived is not what was sent".into()))
        }
    })
}

fn finish_move(source: &SourceLink, destination: &DestinationLink) -> Result<(), Stop> {
    let end = Instant::now() + PATIENCE;
    let late = || Stop::Failed("it takes too long".into());
    while !source.with(|source, _| {
        source.ledger().owed() == 0 && source.ledger().in_flight() == 0 && source.is_drained()
    }) {
        if Instant::now() > end {
            return Err(late());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    source.with(|source, now| source.switch(now, vec![1])).map_err(Stop::failed("the switch"))?;
    loop {
        match destination.next_event(PATIENCE).ok_or_else(late)? {
            LinkEvent::Session(DestinationEvent::Ready { .. }) => break,
            LinkEvent::Session(DestinationEvent::Refuse(why)) => {
                return Err(Stop::Failed(why.to_string()));
            }
            _ => {}
        }
    }
    destination.with(|destination, _| destination.taken());
    loop {
        match source.next_event(PATIENCE).ok_or_else(late)? {
            LinkEvent::Session(SourceEvent::Over(SourceEnd::Ran)) => return Ok(()),
            LinkEvent::Session(SourceEvent::Over(end)) => {
                return Err(Stop::Failed(format!("{end:?}")));
            }
            _ => {}
        }
    }
}
