//! [`DestinationLink`]: a destination's streams.

use std::cell::RefCell;
use std::io;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::link::{Events, Link, Owned, Party, Streams};
use super::stream::{End, Endpoint, Stream};
use super::tls::TlsServer;
use super::wake::Wake;
use super::{HANDSHAKE, LinkEvent, tls_error};
use crate::digest::DigestKey;
use crate::hde::{Decoder, Held};
use crate::ledger::SendNumber;
use crate::page::{Gfn, Page, PageRun};
use crate::session::{
    Agreement, DecodedPages, Destination, DestinationEvent, DestinationTimers, Fault, GuestPages,
    KeptImage,
};
use crate::wire::{HEADER_BYTES, Header, HeaderBytes, Kind, StreamId};

/// Sockets of which it is not known yet what stream they are.
const UNKNOWN_MAX: usize = 64;

/// The guest's memory at the destination, where nothing runs yet.
pub trait DestinationMemory: Send + Sync + 'static {
    /// Writes the pages of a run.
    ///
    /// # Errors
    /// When they cannot be written. The attempt is refused then.
    fn write(&self, run: PageRun, content: &[u8]) -> io::Result<()>;

    /// Copies a page that was written.
    ///
    /// # Errors
    /// When it cannot be read. It is asked for in full then.
    fn read(&self, gfn: Gfn, content: &mut Page) -> io::Result<()>;

    /// An image that this host has kept of an earlier stay of the machine.
    fn kept(&self) -> Option<Arc<dyn KeptImage>> {
        None
    }

    /// What reads pages of that image; each thread has one.
    fn kept_reader(&self) -> Option<Box<dyn KeptReader>> {
        None
    }

    /// A thread of the link begins: its jail can be narrowed.
    fn begin_thread(&self) {}
}

/// Reads pages of a kept image.
pub trait KeptReader {
    /// Copies a page; false if it cannot be read, or is not what it was. It is asked for in full then.
    fn copy(&mut self, gfn: Gfn, into: &mut Page) -> bool;
}

/// What a [`DestinationLink`] is started with.
#[derive(Debug)]
pub struct DestinationTerms {
    /// What both sides agreed on.
    pub agreement: Agreement,
    /// What the user decides about waiting.
    pub timers: DestinationTimers,
    /// Our key, and the source's.
    pub tls: TlsServer,
}

/// A destination, and the streams that it has. Dropped, it ends them, whatever they still carry.
#[derive(Debug)]
pub struct DestinationLink {
    link: Owned<DestinationParty>,
    common: Arc<Common>,
}

/// Where sockets are brought in, by whichever thread has one.
#[derive(Clone, Debug)]
pub struct Door {
    link: Arc<Link<DestinationParty>>,
    common: Arc<Common>,
}

#[derive(Debug)]
struct DestinationParty {
    destination: Destination,
    unknown: usize,
}

struct Common {
    memory: Arc<dyn DestinationMemory>,
    tls: TlsServer,
    key: DigestKey,
}

impl std::fmt::Debug for Common {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Common").finish_non_exhaustive()
    }
}

impl DestinationLink {
    /// Starts a destination, whose record says `Prepared`.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub fn start(terms: DestinationTerms, memory: Arc<dyn DestinationMemory>) -> io::Result<Self> {
        let DestinationTerms { agreement, timers, tls } = terms;
        let mut destination = Destination::new(Duration::ZERO, &agreement, timers);
        if let Some(image) = memory.kept() {
            destination.keep(image);
        }
        let party = DestinationParty { destination, unknown: 0 };
        let of_timers = Arc::clone(&memory);
        let link = Link::start(party, move || of_timers.begin_thread())?;
        let common = Arc::new(Common { memory, tls, key: agreement.key });
        Ok(Self { link, common })
    }

    /// Where sockets are brought in.
    #[must_use]
    pub fn door(&self) -> Door {
        Door { link: Arc::clone(&self.link), common: Arc::clone(&self.common) }
    }

    /// Does something with the destination; the second argument is its time.
    pub fn with<T>(&self, act: impl FnOnce(&mut Destination, Duration) -> T) -> T {
        self.link.act(|party, _, now| act(&mut party.destination, now))
    }

    /// The next thing that has happened, if it does within this time.
    #[must_use]
    pub fn next_event(&self, within: Duration) -> Option<LinkEvent<DestinationEvent>> {
        self.link.wait(within, |_| false)
    }
}

impl Door {
    /// Takes a socket on which the session was asked for. Whether it becomes a stream of it, its handshake decides.
    ///
    /// # Errors
    /// When there are too many that have not shaken hands yet, or the system has no thread left.
    pub fn accept(&self, socket: TcpStream) -> io::Result<()> {
        let is_room = self.link.look(|party, _, _| {
            let is_room = party.unknown < UNKNOWN_MAX;
            party.unknown += usize::from(is_room);
            is_room
        });
        if !is_room {
            let why = format!("{UNKNOWN_MAX} connections have not shaken hands yet");
            return Err(io::Error::new(io::ErrorKind::QuotaExceeded, why));
        }
        let common = Arc::clone(&self.common);
        let spawned = self.link.spawn("dwcp-in".into(), move |link| common.carry(link, socket));
        if spawned.is_err() {
            self.link.look(|party, _, _| party.unknown -= 1);
        }
        spawned
    }
}

impl Party for DestinationParty {
    type Event = DestinationEvent;

    fn handle_timeout(&mut self, now: Duration) {
        self.destination.handle_timeout(now);
    }

    fn poll_timeout(&self) -> Option<Duration> {
        self.destination.poll_timeout()
    }

    fn follow(
        &mut self,
        _link: &Arc<Link<Self>>,
        streams: &mut Streams,
        events: &mut Events<DestinationEvent>,
        _now: Duration,
    ) {
        while let Some(event) = self.destination.poll_event() {
            if let DestinationEvent::Disconnected { connection } = event {
                streams.end(|stream| stream.connection == connection);
            }
            events.push(LinkEvent::Session(event));
        }
    }
}

impl Common {
    /// A socket's life.
    fn carry(&self, link: &Arc<Link<DestinationParty>>, socket: TcpStream) {
        self.memory.begin_thread();
        let opened = self.open(link, socket);
        link.look(|party, _, _| party.unknown -= 1);
        let (mut stream, id) = match opened {
            Ok(opened) => opened,
            Err(end) => {
                link.remark(LinkEvent::Turned { why: end.to_string() });
                return;
            }
        };
        let end = stream.serve(&mut Carrier {
            link,
            common: self,
            stream: id,
            decoder: Decoder::new(),
            kept: RefCell::new(self.memory.kept_reader()),
        });
        link.forget(id, end.to_string(), |party, now| {
            party.destination.handle_closed(now, id);
        });
    }

    /// Shakes hands, and hears which stream it is.
    fn open(
        &self,
        link: &Arc<Link<DestinationParty>>,
        socket: TcpStream,
    ) -> Result<(Stream, StreamId), End> {
        let until = Instant::now() + HANDSHAKE;
        let wake = Arc::new(Wake::new()?);
        let tls = self.tls.connection().map_err(tls_error)?;
        let mut stream = Stream::open(socket, tls, Arc::clone(&wake), until)?;
        let mut head = [0; HEADER_BYTES];
        stream.read_exact(&mut head, until)?;
        let header = Header::parse(&head).map_err(Fault::from)?;
        if header.kind() != Kind::Hello {
            return Err(Fault::Unexpected(header.kind()).into());
        }
        let mut payload = vec![0; usize::try_from(header.length()).unwrap_or(0)];
        stream.read_exact(&mut payload, until)?;
        let id = link.act(|party, streams, now| {
            let id = party.destination.handle_hello(now, &head, &payload)?;
            // One of the same name may have closed, and its thread not be done yet.
            streams.add(id, wake);
            Ok::<_, Fault>(id)
        })?;
        Ok((stream, id))
    }
}

/// What one stream of a destination hears and sends.
struct Carrier<'a> {
    link: &'a Arc<Link<DestinationParty>>,
    common: &'a Common,
    stream: StreamId,
    decoder: Decoder,
    kept: RefCell<Option<Box<dyn KeptReader>>>,
}

/// Memory that a batch is written to.
struct Target<'a>(&'a dyn DestinationMemory);

impl GuestPages for Target<'_> {
    type Error = io::Error;

    fn write(&mut self, run: PageRun, content: &[u8]) -> io::Result<()> {
        self.0.write(run, content)
    }
}

/// What differences build on, and what was kept.
struct Holdings<'a> {
    kept: &'a RefCell<Option<Box<dyn KeptReader>>>,
    link: &'a Link<DestinationParty>,
    memory: &'a dyn DestinationMemory,
}

impl Held for Holdings<'_> {
    fn copy_base(&self, gfn: Gfn, number: SendNumber, into: &mut Page) -> bool {
        // Under the lock: another stream may be about to write a newer send of the page.
        self.link.look(|party, _, _| {
            party.destination.holds(gfn, number) && self.memory.read(gfn, into).is_ok()
        })
    }

    fn copy_kept(&self, gfn: Gfn, into: &mut Page) -> bool {
        self.kept.borrow_mut().as_mut().is_some_and(|reader| reader.copy(gfn, into))
    }
}

impl Endpoint for Carrier<'_> {
    fn header(&mut self, bytes: &HeaderBytes) -> Result<Header, Fault> {
        self.link.poll(|party, _, _| party.destination.handle_header(self.stream, bytes))
    }

    fn frame(&mut self, header: Header, payload: &[u8]) -> Result<(), Fault> {
        if header.kind() != Kind::Pages {
            return self
                .link
                .act(|party, _, now| party.destination.handle_frame(now, header, payload));
        }
        let memory = self.common.memory.as_ref();
        let holdings = Holdings { link: self.link, memory, kept: &self.kept };
        match self.decoder.decode(&self.common.key, payload, &holdings) {
            Ok(decoded) => {
                let pages = DecodedPages::from(decoded);
                self.link.act(|party, _, now| {
                    party.destination.handle_pages(now, header, &pages, &mut Target(memory))
                })
            }
            Err(error) => self.link.act(|party, _, _| match error.wanted() {
                Some(wanted) => party.destination.handle_missing(header, wanted),
                None => {
                    party.destination.handle_undecodable(&error.to_string());
                    Err(Fault::Pages(error.to_string()))
                }
            }),
        }
    }

    fn next(&mut self, frame: &mut Vec<u8>) {
        let stream = self.stream;
        // On the others a destination says nothing, and nobody has to wake them.
        if !stream.is_control() {
            return;
        }
        let found = self.link.poll(|party, streams, now| {
            let found = party.destination.poll_transmit(now, stream);
            if found.is_none() {
                streams.idles(stream);
            }
            found
        });
        if let Some(found) = found {
            *frame = found;
        }
    }

    fn written(&mut self) {
        self.link.poll(|party, _, _| party.destination.handle_written(self.stream));
    }
}
