//! Both links, over TLS on loopback.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::*;
use crate::acp::SessionId;
use crate::digest::{DigestKey, PageDigest};
use crate::hde::{Tier, Tiers};
use crate::page::{Gfn, PAGE_BYTES, Page, PageRun};
use crate::session::{
    Agreement, DestinationEvent, DestinationTimers, KeptImage, SourceEnd, SourceEvent, SourceTimers,
};
use crate::wire::{HEADER_BYTES, Header, Kind, Message, StreamId};

/// No test waits longer for anything.
const PATIENCE: Duration = Duration::from_secs(30);
const PAGES: u64 = 4096;

/// A guest's memory that two threads may use at a time, and what is kept of it.
struct Memory(Mutex<Vec<u8>>, Option<Arc<Kept>>);

/// What is kept of a guest's memory.
#[derive(Debug)]
struct Kept(Vec<u8>);

impl KeptImage for Kept {
    fn digest(&self, gfn: Gfn) -> PageDigest {
        let page = &self.0.as_chunks::<PAGE_BYTES>().0[gfn.0 as usize];
        let mut digests = Vec::new();
        let _ = agreement().key.digest_run(PageRun::new(gfn, 1).unwrap(), page, &mut digests);
        digests[0]
    }
}

impl KeptReader for Arc<Kept> {
    fn copy(&mut self, gfn: Gfn, into: &mut Page) -> bool {
        *into = self.0.as_chunks().0[gfn.0 as usize];
        true
    }
}

impl Memory {
    fn zeros() -> Self {
        Self(Mutex::new(vec![0; PAGES as usize * PAGE_BYTES]), None)
    }

    /// A third zeros, a third that shrinks, a third that does not.
    fn mixed() -> Self {
        let memory = Self::zeros();
        let mut random = 1_u64;
        for page in 0..PAGES {
            match page % 3 {
                0 => {}
                1 => memory.fill(page, |index| (index / 64) as u8 ^ page as u8),
                _ => memory.fill(page, |_| {
                    random ^= random << 13;
                    random ^= random >> 7;
                    random ^= random << 17;
                    random as u8
                }),
            }
        }
        memory
    }

    fn fill(&self, page: u64, mut byte: impl FnMut(usize) -> u8) {
        let mut memory = self.0.lock().unwrap();
        let page = &mut memory[page as usize * PAGE_BYTES..][..PAGE_BYTES];
        page.iter_mut().enumerate().for_each(|(index, into)| *into = byte(index));
    }

    fn bytes(&self) -> Vec<u8> {
        self.0.lock().unwrap().clone()
    }
}

fn range(run: PageRun) -> std::ops::Range<usize> {
    let first = run.first().0 as usize * PAGE_BYTES;
    first..first + run.bytes() as usize
}

impl DestinationMemory for Memory {
    fn write(&self, run: PageRun, content: &[u8]) -> io::Result<()> {
        self.0.lock().unwrap()[range(run)].copy_from_slice(content);
        Ok(())
    }

    fn read(&self, gfn: Gfn, content: &mut Page) -> io::Result<()> {
        let start = gfn.0 as usize * PAGE_BYTES;
        content.copy_from_slice(&self.0.lock().unwrap()[start..][..PAGE_BYTES]);
        Ok(())
    }

    fn kept(&self) -> Option<Arc<dyn KeptImage>> {
        self.1.clone().map(|kept| kept as Arc<dyn KeptImage>)
    }

    fn kept_reader(&self) -> Option<Box<dyn KeptReader>> {
        self.1.clone().map(|kept| Box::new(kept) as Box<dyn KeptReader>)
    }
}

struct Host {
    memory: Arc<Memory>,
    to: SocketAddr,
    dialled: AtomicUsize,
}

impl SourceSide for Host {
    fn dial(&self, _stream: StreamId) -> io::Result<TcpStream> {
        self.dialled.fetch_add(1, Ordering::Relaxed);
        TcpStream::connect_timeout(&self.to, Duration::from_secs(5))
    }

    fn read(&self, run: PageRun, content: &mut [u8]) -> io::Result<()> {
        content.copy_from_slice(&self.memory.0.lock().unwrap()[range(run)]);
        Ok(())
    }
}

fn keys() -> KeyPair {
    KeyPair::from_pkcs8(&KeyPair::generate().unwrap()).unwrap()
}

fn agreement() -> Agreement {
    Agreement {
        session: SessionId::new([9; 16]).unwrap(),
        key: DigestKey::new([3; 32]),
        memory: vec![PageRun::new(Gfn(0), PAGES).unwrap()],
    }
}

fn client(own: &KeyPair, peer: PublicKey) -> TlsClient {
    TlsClient::new(own, Arc::new(peer), PAGES_PROTOCOL)
}

/// A destination that listens on loopback.
struct There {
    link: DestinationLink,
    memory: Arc<Memory>,
    at: SocketAddr,
    is_over: Arc<AtomicBool>,
    listener: Option<thread::JoinHandle<()>>,
}

impl There {
    fn new(own: &KeyPair, peer: PublicKey) -> Self {
        Self::with_memory(own, peer, Memory::zeros())
    }

    fn with_memory(own: &KeyPair, peer: PublicKey, memory: Memory) -> Self {
        let memory = Arc::new(memory);
        let terms = DestinationTerms {
            agreement: agreement(),
            timers: DestinationTimers { patience: PATIENCE },
            tls: TlsServer::new(own, Arc::new(peer), PAGES_PROTOCOL),
        };
        let shared: Arc<dyn DestinationMemory> = memory.clone();
        let link = DestinationLink::start(terms, shared).unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let at = listener.local_addr().unwrap();
        let is_over = Arc::new(AtomicBool::new(false));
        let (door, ends) = (link.door(), Arc::clone(&is_over));
        let listener = thread::spawn(move || {
            while let Ok((socket, _)) = listener.accept() {
                if ends.load(Ordering::Acquire) {
                    return;
                }
                let _ = door.accept(socket);
            }
        });
        Self { link, memory, at, is_over, listener: Some(listener) }
    }

    fn wait<T>(&self, mut is_it: impl FnMut(LinkEvent<DestinationEvent>) -> Option<T>) -> T {
        let end = Instant::now() + PATIENCE;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let event = self.link.next_event(left).expect("the destination said nothing in time");
            if let Some(found) = is_it(event) {
                return found;
            }
        }
    }

    /// Waits until everything is there, and takes the permit.
    fn takes(&self) -> Vec<u8> {
        let state = self.wait(|event| match event {
            LinkEvent::Session(DestinationEvent::Ready { state }) => Some(state),
            LinkEvent::Session(DestinationEvent::Refuse(why)) => panic!("{why}"),
            _ => None,
        });
        self.link.with(|destination, _| destination.taken());
        state
    }
}

impl Drop for There {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Release);
        let _ = TcpStream::connect(self.at);
        let _ = self.listener.take().unwrap().join();
    }
}

/// A source that dials one address.
struct Here {
    link: SourceLink,
    host: Arc<Host>,
}

impl Here {
    fn new(own: &KeyPair, peer: PublicKey, to: SocketAddr, patience: Duration) -> Self {
        Self::recalling(own, peer, to, patience, false)
    }

    fn recalling(
        own: &KeyPair,
        peer: PublicKey,
        to: SocketAddr,
        patience: Duration,
        recalls: bool,
    ) -> Self {
        let memory = Arc::new(Memory::mixed());
        let host = Arc::new(Host { memory, to, dialled: AtomicUsize::new(0) });
        let terms = SourceTerms {
            agreement: agreement(),
            timers: SourceTimers { patience, ..SourceTimers::default() },
            tls: client(own, peer),
            shadow_bytes: 32 << 20,
            tiers: Tiers::ALL,
            recalls,
        };
        let link = SourceLink::start(terms, host.clone()).unwrap();
        link.set_step(1);
        link.with(|source, _| {
            source.set_data_streams(3);
            source.owe(agreement().memory[0]).unwrap();
        });
        Self { link, host }
    }

    fn wait<T>(&self, mut is_it: impl FnMut(SourceEvent) -> Option<T>) -> T {
        let end = Instant::now() + PATIENCE;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let event = self.link.next_event(left).expect("the source said nothing in time");
            if let LinkEvent::Session(event) = event
                && let Some(found) = is_it(event)
            {
                return found;
            }
        }
    }

    fn wait_until(&self, is_it: impl Fn(&crate::session::Source) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !self.link.with(|source, _| is_it(source)) {
            assert!(Instant::now() < end, "{:?}", self.link.with(|source, _| source.counts()));
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// The guest writes to pages, and runs on.
    fn write(&self, pages: impl Iterator<Item = u64>, what: u8) {
        for page in pages {
            self.host.memory.fill(page, |index| what.wrapping_mul(index as u8 / 3) ^ page as u8);
            let run = PageRun::new(Gfn(page), 1).unwrap();
            self.link.with(|source, _| source.owe(run)).unwrap();
        }
    }

    /// The guest writes a byte of each page.
    fn touch(&self, pages: impl Iterator<Item = u64>) {
        for page in pages {
            self.host.memory.0.lock().unwrap()[page as usize * PAGE_BYTES + 77] ^= 0xff;
            let run = PageRun::new(Gfn(page), 1).unwrap();
            self.link.with(|source, _| source.owe(run)).unwrap();
        }
    }

    /// The guest stops, and everything that is left goes out, the permit last. A connection that turns out to be cut
    /// lets the guest run on, and it is tried again.
    fn switch(&self) {
        loop {
            self.stop();
            let is_parted = self.wait(|event| match event {
                SourceEvent::Parted => Some(true),
                SourceEvent::SwitchCancelled => Some(false),
                _ => None,
            });
            if is_parted {
                return;
            }
        }
    }

    fn stop(&self) {
        self.link.with(|source, _| {
            source.offered();
            source.drain();
        });
        let end = Instant::now() + PATIENCE;
        loop {
            assert!(Instant::now() < end);
            let switched = self.link.with(|source, now| {
                source.is_drained() && source.switch(now, b"the state".to_vec()).is_ok()
            });
            if switched {
                return;
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Nothing is owed, and everything has arrived.
fn is_settled(source: &crate::session::Source) -> bool {
    source.ledger().owed() == 0 && source.ledger().in_flight() == 0
}

#[test]
fn a_machine_moves_over_tls() {
    let (here, there) = (keys(), keys());
    let destination = There::new(&there, here.public());
    let source = Here::new(&here, there.public(), destination.at, PATIENCE);
    source.wait_until(is_settled);
    // What is written again goes as differences to what was acknowledged.
    source.touch((2..PAGES).step_by(3));
    // In the burst a page may overtake a difference to what was there before, whose batch is wanted in full then.
    source.wait_until(is_settled);
    source.write((0..PAGES).step_by(7), 9);
    source.switch();
    assert_eq!(destination.takes(), b"the state");
    assert_eq!(
        source.wait(|event| match event {
            SourceEvent::Over(end) => Some(end),
            _ => None,
        }),
        SourceEnd::Ran
    );
    assert!(source.host.memory.bytes() == destination.memory.bytes());
    let counts = source.link.with(|source, _| source.counts());
    // A difference to something else than what is there would be found, and the pages be wanted in full.
    let again = (counts.pages_lost, counts.pages_wanted);
    assert_eq!((counts.connections, again), (1, (0, 0)), "{counts:?}");
    assert_eq!(source.host.dialled.load(Ordering::Relaxed), 4);
    let tiers = source.link.tiers();
    for tier in [Tier::Zero, Tier::Raw] {
        assert!(tiers.of(tier).pages > 0, "{tier:?}: {tiers:?}");
    }
    // To exactly what was there: to anything else the difference of noise is noise, and not worth sending.
    assert!(tiers.of(Tier::Delta).pages >= PAGES / 3, "{tiers:?}");
}

#[test]
fn streams_account_for_what_they_do_and_for_what_holds_them_up() {
    const HELD: Duration = Duration::from_millis(800);
    let (here, there) = (keys(), keys());
    let destination = There::new(&there, here.public());
    let source = Here::new(&here, there.public(), destination.at, PATIENCE);
    source.wait_until(is_settled);
    let free = source.link.work();
    assert_eq!(free.streams, 4);
    assert!(free.processor > Duration::ZERO && free.processor <= free.busy, "{free:?}");
    // Nothing to do is not being busy, and no stall.
    thread::sleep(HELD);
    source.write(std::iter::once(1), 5);
    source.wait_until(is_settled);
    let idle = source.link.work();
    assert!(idle.busy - free.busy < HELD / 4, "{free:?} {idle:?}");
    // The destination takes nothing, and more is to be sent than sockets take: noise, unlike what was there.
    let held = destination.memory.0.lock().unwrap();
    let mut random = 7_u64;
    for page in 0..PAGES {
        source.host.memory.fill(page, |_| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (random >> 56) as u8
        });
    }
    source.link.with(|source, _| source.owe(agreement().memory[0])).unwrap();
    thread::sleep(HELD);
    drop(held);
    source.wait_until(is_settled);
    let work = source.link.work();
    let [busy, stalled] = [work.busy - idle.busy, work.stalled - idle.stalled];
    assert!(stalled > HELD && stalled <= busy, "{stalled:?} of {busy:?}");
}

#[test]
fn a_machine_that_returns_brings_what_has_changed_and_no_more() {
    let (here, there) = (keys(), keys());
    let kept = Memory::mixed().bytes();
    let memory = Memory(Memory::zeros().0, Some(Arc::new(Kept(kept))));
    let destination = There::with_memory(&there, here.public(), memory);
    let source = Here::recalling(&here, there.public(), destination.at, PATIENCE, true);
    // Before a page of it goes out, or after: what it was is not what it is.
    source.write((1..PAGES).step_by(64), 9);
    source.wait_until(is_settled);
    source.switch();
    assert_eq!(destination.takes(), b"the state");
    assert!(source.host.memory.bytes() == destination.memory.bytes());
    let (counts, tiers) = (source.link.with(|source, _| source.counts()), source.link.tiers());
    assert_eq!((counts.pages_lost, counts.pages_wanted), (0, 0), "{counts:?}");
    assert!(tiers.of(Tier::Kept).pages >= PAGES * 2 / 3 - PAGES / 64 - 1, "{tiers:?}");
    assert!(counts.kept_bytes < PAGES * 2 / 3 * (8 + 12) + 1, "{counts:?}");
    assert!(counts.payload_bytes < 1 << 20, "{counts:?}");
}

/// Carries connections to an address, until it is told to cut them.
struct Relay {
    at: SocketAddr,
    ends: Arc<Mutex<Vec<TcpStream>>>,
    carried: Arc<AtomicUsize>,
}

impl Relay {
    fn new(to: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let at = listener.local_addr().unwrap();
        let (ends, carried) = (Arc::default(), Arc::default());
        let relay = Self { at, ends: Arc::clone(&ends), carried: Arc::clone(&carried) };
        thread::spawn(move || {
            while let Ok((inner, _)) = listener.accept() {
                // The test's end.
                let Ok(outer) = TcpStream::connect(to) else { return };
                for (mut from, mut into) in [
                    (inner.try_clone().unwrap(), outer.try_clone().unwrap()),
                    (outer.try_clone().unwrap(), inner.try_clone().unwrap()),
                ] {
                    let carried = Arc::clone(&carried);
                    thread::spawn(move || {
                        let mut bytes = vec![0; 16 << 10];
                        while let Ok(count @ 1..) = from.read(&mut bytes) {
                            carried.fetch_add(count, Ordering::Relaxed);
                            if into.write_all(&bytes[..count]).is_err() {
                                return;
                            }
                        }
                        let _ = into.shutdown(Shutdown::Both);
                    });
                }
                ends.lock().unwrap().extend([inner, outer]);
            }
        });
        relay
    }

    /// Cuts connection number `which`, or all.
    fn cut(&self, which: Option<usize>) {
        let mut ends = self.ends.lock().unwrap();
        let both = match which {
            None => 0..ends.len(),
            Some(which) => {
                let at = which % (ends.len() / 2).max(1) * 2;
                at..(at + 2).min(ends.len())
            }
        };
        for end in ends.drain(both) {
            let _ = end.shutdown(Shutdown::Both);
        }
    }
}

#[test]
fn streams_and_connections_that_are_cut_cost_what_they_carried() {
    let (here, there) = (keys(), keys());
    let destination = There::new(&there, here.public());
    let relay = Relay::new(destination.at);
    let source = Here::new(&here, there.public(), relay.at, PATIENCE);
    // In the middle of what goes, wherever that is.
    for round in 1..=12_usize {
        let before = relay.carried.load(Ordering::Relaxed);
        let end = Instant::now() + PATIENCE;
        source.write((0..PAGES).step_by(3 + round), round as u8);
        while relay.carried.load(Ordering::Relaxed) < before + round * 100_000
            && !source.link.with(|source, _| is_settled(source))
        {
            assert!(Instant::now() < end, "nothing goes");
            thread::yield_now();
        }
        relay.cut((round % 3 != 0).then_some(round));
    }
    source.wait_until(|source| is_settled(source) && source.waiting_since().is_none());
    source.switch();
    destination.takes();
    source.wait(|event| (event == SourceEvent::Over(SourceEnd::Ran)).then_some(()));
    assert!(source.host.memory.bytes() == destination.memory.bytes());
    let counts = source.link.with(|source, _| source.counts());
    assert!(counts.connections >= 4, "{counts:?}");
    // Nothing is sent that was not owed, or lost on its way.
    assert!(
        counts.pages_sent <= counts.pages_owed + counts.pages_lost + counts.pages_wanted,
        "{counts:?}"
    );
}

#[test]
fn a_doubt_ends_over_a_new_connection() {
    let (here, there) = (keys(), keys());
    let destination = There::new(&there, here.public());
    let relay = Relay::new(destination.at);
    let source = Here::new(&here, there.public(), relay.at, PATIENCE);
    source.wait_until(is_settled);
    source.switch();
    relay.cut(None);
    destination.takes();
    source.wait(|event| (event == SourceEvent::Over(SourceEnd::Ran)).then_some(()));
}

#[test]
fn strangers_do_not_get_in_and_do_not_get_a_machine() {
    let (here, there, stranger) = (keys(), keys(), keys());
    // A source that the destination does not know.
    let destination = There::new(&there, here.public());
    let source = Here::new(&stranger, there.public(), destination.at, Duration::from_millis(500));
    let why = destination.wait(|event| match event {
        LinkEvent::Turned { why } => Some(why),
        _ => None,
    });
    assert!(why.contains("certificate"), "{why}");
    let aborted = |end: SourceEvent| matches!(end, SourceEvent::Over(SourceEnd::Aborted(_)));
    source.wait(|event| aborted(event).then_some(()));
    // A destination that the source does not know.
    let source = Here::new(&here, stranger.public(), destination.at, Duration::from_millis(500));
    source.wait(|event| aborted(event).then_some(()));
    assert_eq!(source.link.with(|source, _| source.counts().payload_bytes), 0);
    // One that speaks no TLS, and one that speaks another protocol.
    TcpStream::connect(destination.at).unwrap().write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    destination.wait(|event| matches!(event, LinkEvent::Turned { .. }).then_some(()));
    let other = TlsClient::new(&here, Arc::new(there.public()), CONTROL_PROTOCOL);
    assert!(shake_hands(&other, destination.at).is_err());
    // The one who is expected still gets in.
    let source = Here::new(&here, there.public(), destination.at, PATIENCE);
    source.wait_until(is_settled);
}

/// A TLS connection for the tests' own frames.
fn shake_hands(client: &TlsClient, to: SocketAddr) -> io::Result<(rustls::Connection, TcpStream)> {
    let mut socket = TcpStream::connect(to)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let name = server_name(agreement().session);
    let mut tls = client.connection(name).map_err(tls_error)?;
    while tls.is_handshaking() || tls.wants_write() {
        tls.complete_io(&mut socket)?;
    }
    // A server checks our key after we are done with the handshake: it says so before anything else, or nothing.
    Ok((tls, socket))
}

#[test]
fn what_no_source_sends_is_refused_and_named() {
    let (here, there) = (keys(), keys());
    let hello = Message::Hello { settled_below: crate::ledger::SendNumber(1) };
    let session = agreement().session;
    let frame = |message: &Message<'_>, sequence| {
        let mut payload = Vec::new();
        message.write_to(&mut payload);
        let length = payload.len() as u32;
        let header =
            Header::new(message.kind(), length, session, StreamId::control(1), sequence).unwrap();
        [&header.to_bytes()[..], &payload].concat()
    };
    let pages = Header::new(Kind::Pages, 100, session, StreamId::control(1), 1).unwrap();
    for (what, bytes) in [
        ("DWCP", vec![7; HEADER_BYTES]),
        ("decoded", [&pages.to_bytes()[..], &[0; 100]].concat()),
        ("where 1 was due", frame(&hello, 5)),
    ] {
        let destination = There::new(&there, here.public());
        let (mut tls, mut socket) =
            shake_hands(&client(&here, there.public()), destination.at).unwrap();
        tls.writer().write_all(&frame(&hello, 0)).unwrap();
        tls.writer().write_all(&bytes).unwrap();
        while tls.wants_write() {
            tls.write_tls(&mut socket).unwrap();
        }
        let why = destination.wait(|event| match event {
            LinkEvent::Session(DestinationEvent::Refuse(why)) => Some(why.to_string()),
            _ => None,
        });
        assert!(why.contains(what), "{what}: {why}");
    }
}

#[test]
fn only_so_many_connections_may_say_nothing() {
    let (here, there) = (keys(), keys());
    let destination = There::new(&there, here.public());
    let silent: Vec<_> = (0..64).map(|_| TcpStream::connect(destination.at).unwrap()).collect();
    let mut late = TcpStream::connect(destination.at).unwrap();
    late.set_read_timeout(Some(PATIENCE)).unwrap();
    // Closed at once, while the others have their time.
    let started = Instant::now();
    assert_eq!(late.read(&mut [0]).unwrap(), 0);
    assert!(started.elapsed() < HANDSHAKE / 2, "{:?}", started.elapsed());
    drop(silent);
    let source = Here::new(&here, there.public(), destination.at, PATIENCE);
    source.wait_until(is_settled);
}

#[test]
fn a_link_that_is_dropped_waits_for_nobody() {
    let (here, there) = (keys(), keys());
    // Somebody who accepts, and never says a word.
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let to = silent.local_addr().unwrap();
    let source = Here::new(&here, there.public(), to, PATIENCE);
    let _first = silent.accept().unwrap();
    let started = Instant::now();
    drop(source);
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
}

#[test]
fn a_greeting_is_read_without_a_key_and_within_limits() {
    let (here, there) = (keys(), keys());
    let session = agreement().session;
    let mut tls = client(&here, there.public()).connection(server_name(session)).unwrap();
    let mut bytes = Vec::new();
    tls.write_tls(&mut bytes).unwrap();
    let greeting = Greeting {
        protocols: vec![PAGES_PROTOCOL.to_vec()],
        server_name: Some(format!("s{}", "09".repeat(16))),
    };
    assert_eq!(Greeting::peek(&bytes), Ok(Some(greeting)));
    assert!(bytes.len() < 400, "{}", bytes.len());
    for length in 0..bytes.len() {
        assert_eq!(Greeting::peek(&bytes[..length]), Ok(None), "{length}");
    }
    let not_tls = |bytes: &[u8]| matches!(Greeting::peek(bytes), Err(GreetingError::NotTls(_)));
    assert!(not_tls(b"GET /v1/info HTTP/1.1\r\nhost: n\r\n\r\n"));
    // A record of a handshake that goes on and on.
    let mut endless = vec![0x16, 3, 1, 0x3f, 0xff, 1, 0, 0xff, 0xff];
    endless.resize(PEEK_BYTES, 0);
    assert_eq!(Greeting::peek(&endless[..PEEK_BYTES - 1]), Ok(None));
    assert_eq!(Greeting::peek(&endless), Err(GreetingError::TooLong));
    // No byte of it turned over makes anything panic.
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut other = bytes.clone();
            other[at] ^= 1 << bit;
            let _ = Greeting::peek(&other);
        }
    }
}
