//! [`SourceLink`]: a source's streams.

use std::io;
use std::net::TcpStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::link::{Events, Link, Owned, Party, Streams};
use super::stream::{End, Endpoint, Stream, Wait};
use super::tls::{TlsClient, server_name};
use super::wake::Wake;
use super::{HANDSHAKE, LinkEvent, tls_error};
use crate::acp::SessionId;
use crate::digest::{DigestKey, ShortDigest};
use crate::hde::{Base, Encoder, Ladder, LadderStep, Offer, Sending, Shadow, TierCounts, Tiers};
use crate::ledger::SendNumber;
use crate::page::{Gfn, PAGE_BYTES, PageRun};
use crate::pba::{EncodedBatch, EncoderEstimator, Work};
use crate::session::{Agreement, Draft, Fault, Source, SourceEvent, SourceTimers, Transmit};
use crate::wire::{HEADER_BYTES, Header, HeaderBytes, StreamId};

/// What a source's streams need of the machine and its host.
pub trait SourceSide: Send + Sync + 'static {
    /// A socket that is connected to the destination. It takes no longer than a few seconds.
    ///
    /// # Errors
    /// When it cannot be connected: it is tried again.
    fn dial(&self, stream: StreamId) -> io::Result<TcpStream>;

    /// Copies pages of the guest's memory, which the guest may be writing to.
    ///
    /// # Errors
    /// When they cannot be read. The attempt is given up then.
    fn read(&self, run: PageRun, content: &mut [u8]) -> io::Result<()>;

    /// A thread of the link begins: its jail can be narrowed.
    fn begin_thread(&self) {}
}

/// What a [`SourceLink`] is started with.
#[derive(Debug)]
pub struct SourceTerms {
    /// What both sides agreed on.
    pub agreement: Agreement,
    /// What the user decides about waiting.
    pub timers: SourceTimers,
    /// Our key, and the destination's.
    pub tls: TlsClient,
    /// How much memory the content of pages may take that differences are made to.
    pub shadow_bytes: usize,
    /// Tiers that may be used; the others are off for measurements.
    pub tiers: Tiers,
    /// The destination's host has kept an image of an earlier stay of the machine, as far as is known: see
    /// [`Source::recall`].
    pub recalls: bool,
}

/// A source, and the streams that it has. Dropped, it ends them, whatever they still carry.
#[derive(Debug)]
pub struct SourceLink {
    link: Owned<SourceParty>,
}

/// A source, and what its streams have in common.
struct SourceParty {
    source: Source,
    common: Arc<Common>,
    step: usize,
    tiers: TierCounts,
    encoders: EncoderEstimator,
    work: Work,
}

impl std::fmt::Debug for SourceParty {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SourceParty").field("source", &self.source).finish_non_exhaustive()
    }
}

/// What no lock is needed for, and what has one of its own.
struct Common {
    side: Arc<dyn SourceSide>,
    tls: TlsClient,
    session: SessionId,
    key: DigestKey,
    tiers: Tiers,
    shadow: Option<Mutex<Shadow>>,
}

impl SourceLink {
    /// Starts a source. Nothing is owed yet.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub fn start(terms: SourceTerms, side: Arc<dyn SourceSide>) -> io::Result<Self> {
        let SourceTerms { agreement, timers, tls, shadow_bytes, tiers, recalls } = terms;
        let shadow = (tiers.delta && shadow_bytes > 0).then(|| Shadow::new(shadow_bytes));
        let common = Common {
            side: Arc::clone(&side),
            tls,
            session: agreement.session,
            key: agreement.key.clone(),
            tiers,
            shadow: shadow.map(Mutex::new),
        };
        let mut source = Source::new(Duration::ZERO, &agreement, timers);
        if recalls {
            source.recall();
        }
        let party = SourceParty {
            source,
            common: Arc::new(common),
            step: 0,
            tiers: TierCounts::default(),
            encoders: EncoderEstimator::new(),
            work: Work::default(),
        };
        Ok(Self { link: Link::start(party, move || side.begin_thread())? })
    }

    /// Does something with the source; the second argument is its time.
    pub fn with<T>(&self, act: impl FnOnce(&mut Source, Duration) -> T) -> T {
        self.link.act(|party, _, now| act(&mut party.source, now))
    }

    /// How hard pages are worked on from now on: a step of the [`Ladder`].
    pub fn set_step(&self, step: usize) {
        self.link.act(|party, _, _| {
            party.step = step;
            party.source.set_batch_pages(Ladder::step(step).batch_pages);
        });
    }

    /// By which tiers pages went out, so far.
    #[must_use]
    pub fn tiers(&self) -> TierCounts {
        self.link.look(|party, _, _| party.tiers)
    }

    /// What encoding costs and saves, so far.
    pub fn with_encoders<T>(&self, look: impl FnOnce(&EncoderEstimator) -> T) -> T {
        self.link.look(|party, _, _| look(&party.encoders))
    }

    /// What the streams' threads have done, so far.
    #[must_use]
    pub fn work(&self) -> Work {
        self.link.look(|party, _, _| party.work)
    }

    /// The next thing that has happened, if it does within this time.
    #[must_use]
    pub fn next_event(&self, within: Duration) -> Option<LinkEvent<SourceEvent>> {
        self.link.wait(within, |_| false)
    }

    /// The next thing that has happened; none if it is like this, or does not happen within this time.
    #[must_use]
    pub fn wait(
        &self,
        within: Duration,
        is_it: impl Fn(&Source) -> bool,
    ) -> Option<LinkEvent<SourceEvent>> {
        self.link.wait(within, |party| is_it(&party.source))
    }
}

impl Party for SourceParty {
    type Event = SourceEvent;

    fn handle_timeout(&mut self, now: Duration) {
        self.source.handle_timeout(now);
    }

    fn poll_timeout(&self) -> Option<Duration> {
        self.source.poll_timeout()
    }

    fn follow(
        &mut self,
        link: &Arc<Link<Self>>,
        streams: &mut Streams,
        events: &mut Events<SourceEvent>,
        now: Duration,
    ) {
        while let Some(stream) = self.source.poll_connect(now) {
            if let Err(error) = self.open(link, streams, stream) {
                self.source.handle_closed(now, stream);
                events.push(LinkEvent::StreamEnded { stream, why: error.to_string() });
                // What this host has none of now, it has none of for the next one.
                break;
            }
        }
        while let Some(event) = self.source.poll_event() {
            match &event {
                SourceEvent::Disconnected => streams.end(|_| true),
                SourceEvent::StreamDead(dead) => streams.end(|stream| stream == *dead),
                _ => {}
            }
            events.push(LinkEvent::Session(event));
        }
    }
}

impl SourceParty {
    /// Gives a stream a thread, which connects it.
    fn open(
        &self,
        link: &Arc<Link<Self>>,
        streams: &mut Streams,
        stream: StreamId,
    ) -> io::Result<()> {
        let wake = Arc::new(Wake::new()?);
        let common = Arc::clone(&self.common);
        let of_thread = Arc::clone(&wake);
        let name = format!("dwcp-{}.{}", stream.connection, stream.place);
        link.spawn(name, move |link| {
            common.side.begin_thread();
            let end = common.carry(link, stream, of_thread);
            link.forget(stream, end.to_string(), |party, now| {
                party.source.handle_closed(now, stream);
            });
        })?;
        streams.add(stream, wake);
        Ok(())
    }
}

impl Common {
    /// A stream's life.
    fn carry(
        self: &Arc<Self>,
        link: &Arc<Link<SourceParty>>,
        id: StreamId,
        wake: Arc<Wake>,
    ) -> End {
        let until = Instant::now() + HANDSHAKE;
        let opened = self.side.dial(id).map_err(End::from).and_then(|socket| {
            let tls = self.tls.connection(server_name(self.session)).map_err(tls_error)?;
            Stream::open(socket, tls, wake, until)
        });
        let mut stream = match opened {
            Ok(stream) => stream,
            Err(end) => return end,
        };
        link.act(|party, _, now| {
            party.work.streams += 1;
            party.source.handle_connected(now, id);
        });
        let mut carrier = Carrier {
            link,
            common: self,
            stream: id,
            encoder: Encoder::new(),
            content: Vec::new(),
            bases: Bases::default(),
            account: Account::new(),
        };
        let end = stream.serve(&mut carrier);
        // What it was about to do is not done.
        link.act(|party, _, now| {
            carrier.account.settle(now, party);
            party.work.streams -= 1;
        });
        end
    }
}

/// What one stream of a source sends and hears.
struct Carrier<'a> {
    link: &'a Arc<Link<SourceParty>>,
    common: &'a Common,
    stream: StreamId,
    encoder: Encoder,
    content: Vec<u8>,
    bases: Bases,
    account: Account,
}

/// What a stream's thread does with its time.
struct Account {
    /// Up to here it is settled, by the clock and by processor time.
    settled: Instant,
    paid: Duration,
    /// What the batch under way was said to take.
    said: Duration,
    /// Since then: what it waited for its socket, and for something to do.
    stalled: Duration,
    idle: Duration,
    /// What of the processor went into encoding, and the bytes that came of that.
    encoding: Duration,
    bytes: u64,
}

impl Account {
    fn new() -> Self {
        let zero = Duration::ZERO;
        Self {
            settled: Instant::now(),
            paid: thread_time(),
            said: zero,
            stalled: zero,
            idle: zero,
            encoding: zero,
            bytes: 0,
        }
    }

    /// Pays for all that the thread did since: encoding, encrypting, writing.
    fn settle(&mut self, now: Duration, party: &mut SourceParty) {
        let (clock, time) = (Instant::now(), thread_time());
        let took = time.saturating_sub(self.paid);
        party.source.regain_processor_time(std::mem::take(&mut self.said));
        party.source.spend_processor_time(now, took);
        let span = clock.saturating_duration_since(self.settled);
        party.work.busy += span.saturating_sub(std::mem::take(&mut self.idle));
        party.work.processor += took;
        party.work.stalled += std::mem::take(&mut self.stalled);
        let carrying = took.saturating_sub(std::mem::take(&mut self.encoding));
        party.encoders.observe_carried(std::mem::take(&mut self.bytes), carrying);
        (self.settled, self.paid) = (clock, time);
    }

    /// Says what a batch will take, so that streams which draw theirs meanwhile do not all of them take what one may.
    fn begin(&mut self, now: Duration, source: &mut Source, takes: Duration) {
        self.said = takes;
        source.spend_processor_time(now, takes);
    }
}

/// What this thread has taken of a processor since its start.
fn thread_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    // The clock of a thread begins at 0.
    Duration::try_from(time).unwrap_or_default()
}

/// What the destination has of a batch's pages. The bases of differences are copied: the shadow is every stream's.
#[derive(Default)]
struct Bases {
    /// What the destination has kept of the batch's pages, ascending.
    kept: Vec<(Gfn, ShortDigest)>,
    /// The pages, ascending, with the places of their content.
    found: Vec<(Gfn, SendNumber, usize)>,
    content: Vec<u8>,
}

impl Bases {
    fn begin(&mut self, draft: &Draft) {
        self.found.clear();
        self.kept.clear();
        let kept = draft.batch.sends().zip(&draft.kept);
        self.kept.extend(kept.filter_map(|((gfn, _), kept)| kept.map(|kept| (gfn, kept))));
        self.kept.sort_unstable_by_key(|(gfn, _)| *gfn);
    }

    fn copy(&mut self, draft: &Draft, shadow: &Shadow) {
        self.content.clear();
        for ((gfn, _), base) in draft.batch.sends().zip(&draft.bases) {
            if let Some(base) = base.and_then(|number| shadow.get(gfn, number)) {
                self.found.push((gfn, base.number, self.found.len()));
                self.content.extend_from_slice(base.content);
            }
        }
        self.found.sort_unstable();
    }
}

impl Offer for Bases {
    fn kept(&self, gfn: Gfn) -> Option<ShortDigest> {
        let index = self.kept.binary_search_by_key(&gfn, |(gfn, _)| *gfn).ok()?;
        Some(self.kept[index].1)
    }

    fn base(&self, gfn: Gfn) -> Option<Base<'_>> {
        let index = self.found.binary_search_by_key(&gfn, |(gfn, ..)| *gfn).ok()?;
        let (_, number, place) = self.found[index];
        Some(Base { number, content: &self.content.as_chunks::<PAGE_BYTES>().0[place] })
    }
}

impl Endpoint for Carrier<'_> {
    fn header(&mut self, bytes: &HeaderBytes) -> Result<Header, Fault> {
        self.link.poll(|party, _, now| party.source.handle_header(now, self.stream, bytes))
    }

    fn frame(&mut self, header: Header, payload: &[u8]) -> Result<(), Fault> {
        self.link.act(|party, _, now| party.source.handle_frame(now, header, payload))
    }

    fn next(&mut self, frame: &mut Vec<u8>) {
        let (stream, account) = (self.stream, &mut self.account);
        let found = self.link.poll(|party, streams, now| {
            account.settle(now, party);
            let Some(transmit) = party.source.poll_transmit(now, stream) else {
                streams.idles(stream);
                return None;
            };
            if let Transmit::Pages(draft) = &transmit {
                let pages = draft.batch.pages() as f64;
                let takes = pages / party.encoders.pages_per_second(party.step);
                let takes = Duration::try_from_secs_f64(takes).unwrap_or_default();
                account.begin(now, &mut party.source, takes);
            }
            Some((transmit, party.step))
        });
        match found {
            None => {}
            Some((Transmit::Frame(bytes), _)) => *frame = bytes,
            Some((Transmit::Pages(draft), step)) => self.encode(&draft, step, frame),
        }
    }

    fn written(&mut self) {
        self.link.act(|party, _, now| party.source.handle_written(now, self.stream));
    }

    fn waited(&mut self, for_what: Wait, time: Duration) {
        match for_what {
            Wait::Room => self.account.stalled += time,
            Wait::Work => self.account.idle += time,
        }
    }
}

impl Carrier<'_> {
    fn encode(&mut self, draft: &Draft, step_index: usize, frame: &mut Vec<u8>) {
        // Not what the clock says: threads that share processors would seem slow at whatever they do.
        let began = thread_time();
        self.bases.begin(draft);
        if let Some(shadow) = self.common.shadow.as_ref().filter(|_| !draft.is_in_full) {
            self.bases.copy(draft, &lock(shadow));
        }
        if let Err(error) = self.read(draft) {
            self.link.act(|party, _, _| {
                // In doubt nothing can be given up; the peer asks for what it lacks, and in vain.
                let _ = party.source.abort(&format!("the guest's memory cannot be read: {error}"));
            });
            return;
        }
        let sending = Sending {
            key: &self.common.key,
            batch: &draft.batch,
            content: &self.content,
            settled_below: draft.settled_below,
        };
        frame.resize(HEADER_BYTES, 0);
        let step = Ladder::step(step_index);
        let zstd = self.common.tiers.zstd && step.tiers.zstd;
        let step = LadderStep { tiers: Tiers { zstd, ..self.common.tiers }, ..step };
        let encoded = self.encoder.encode(&sending, &step, &self.bases, frame);
        let payload_bytes = frame.len() - HEADER_BYTES;
        let took = thread_time().saturating_sub(began);
        let (tiers, bytes) = (encoded.tiers, payload_bytes as u64);
        self.account.encoding = took;
        self.account.bytes = bytes;
        let header = self.link.poll(|party, _, now| {
            party.encoders.observe(&EncodedBatch { step: step_index, tiers, bytes, took });
            party.tiers.add(&tiers);
            party.source.handle_encoded(now, draft, encoded.digests, payload_bytes)
        });
        match header {
            Some(header) => frame[..HEADER_BYTES].copy_from_slice(&header),
            // The stream has gone meanwhile, and what it carried is owed again.
            None => frame.clear(),
        }
        if let Some(shadow) = &self.common.shadow {
            let mut shadow = lock(shadow);
            for ((gfn, number), page) in draft.batch.sends().zip(self.content.as_chunks().0) {
                shadow.insert(gfn, number, page);
            }
        }
    }

    fn read(&mut self, draft: &Draft) -> io::Result<()> {
        self.content.resize(draft.batch.bytes(), 0);
        let mut rest = self.content.as_mut_slice();
        for run in draft.batch.runs() {
            let bytes = usize::try_from(run.bytes()).expect("a batch has a few MiB");
            let (part, others) = rest.split_at_mut(bytes);
            self.common.side.read(*run, part)?;
            rest = others;
        }
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // What is in it is checked wherever it is used.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
