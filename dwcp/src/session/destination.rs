//! [`Destination`]: the side that may come to have the permit. See `SPEC.md`, 3 and 7.3.

mod kept;
mod pages;
mod phase;
mod states;

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

pub use kept::KeptImage;
use kept::KeptOut;
use pages::PagesIn;
pub use pages::{Counts, GuestPages};
use phase::{Phase, Receiving};
use states::StatesIn;

use super::outgoing::Outgoing;
use super::timers::{DEAD_AFTER, PING_AFTER};
use super::{Agreement, DestinationTimers, Fault};
use crate::acp::SessionId;
use crate::digest::{DigestKey, PageDigest, Root};
use crate::hde::{Batch, Decoded};
use crate::ledger::SendNumber;
use crate::numbers::NumberSet;
use crate::page::{Gfn, PageRun};
use crate::wire::{
    Ask, Expected, Header, HeaderBytes, Message, PeerAnswer, RANGES_MAX, StreamId, Text,
    WELCOME_RANGES_MAX,
};

/// What a destination tells its caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DestinationEvent {
    /// A connection is over: close every stream of it.
    Disconnected {
        /// Its number.
        connection: u16,
    },
    /// These pages are not zero: their memory may be populated before they arrive.
    Populate(PageRun),
    /// Everything is here, and its root is the source's. Restore the machine, open its disks, write
    /// `Taken`, and say [`Destination::taken`]; or write `Refused`, and say [`Destination::refused`].
    Ready {
        /// The machine's final state.
        state: Vec<u8>,
    },
    /// Write `Refused`, and say [`Destination::refused`]. Nothing more is taken in until then.
    Refuse(Text),
}

/// The destination of a move. Its record says `Prepared` (P13).
#[derive(Debug)]
pub struct Destination {
    session: SessionId,
    key: DigestKey,
    timers: DestinationTimers,
    link: Option<Link>,
    /// The number of the newest connection.
    connection: u16,
    /// Since when there is no connection.
    down_since: Option<Duration>,
    pages: PagesIn,
    kept: KeptOut,
    states: StatesIn,
    phase: Phase,
    /// What memory and state digest to, once that is what the source's do.
    root: Option<Root>,
    events: VecDeque<DestinationEvent>,
}

/// The streams of the newest connection. Those of older ones are over.
#[derive(Debug)]
struct Link {
    control: Option<Outgoing>,
    incoming: BTreeMap<u16, Expected>,
    heard_at: Duration,
    spoke_at: Duration,
}

impl Destination {
    /// The destination of an attempt. Its guest's memory is all zeros.
    #[must_use]
    pub fn new(now: Duration, agreement: &Agreement, timers: DestinationTimers) -> Self {
        Self {
            session: agreement.session,
            key: agreement.key.clone(),
            timers,
            link: None,
            connection: 0,
            down_since: Some(now),
            pages: PagesIn::new(agreement),
            kept: KeptOut::new(&agreement.memory),
            states: StatesIn::default(),
            phase: Phase::Receiving(Receiving::default()),
            root: None,
            events: VecDeque::new(),
        }
    }

    /// This host has kept an image of an earlier stay of the machine: the source is told what is in it, if it asks. Before
    /// anything is connected.
    pub fn keep(&mut self, image: Arc<dyn KeptImage>) {
        self.kept.keep(image);
    }

    /// What has arrived so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.pages.counts
    }

    /// What memory and state digest to, once everything is here and the source's digest to the same.
    #[must_use]
    pub fn root(&self) -> Option<Root> {
        self.root
    }

    /// Since when the source has not been connected; `None` while it is.
    #[must_use]
    pub fn waiting_since(&self) -> Option<Duration> {
        self.down_since
    }

    /// Whether the guest's memory has a page exactly as it was read for this send: what a delta needs
    /// as its base.
    #[must_use]
    pub fn holds(&self, gfn: Gfn, number: SendNumber) -> bool {
        self.pages.applied(gfn) == Some(number)
    }

    /// The first frame of a new stream, from a peer that the caller has authenticated.
    ///
    /// # Errors
    /// When it is no `Hello` of this session on a stream that may be new: close the stream.
    pub fn handle_hello(
        &mut self,
        now: Duration,
        bytes: &HeaderBytes,
        payload: &[u8],
    ) -> Result<StreamId, Fault> {
        let stream = Header::parse(bytes)?.stream();
        let mut expected = Expected::first(self.session, stream);
        let header = expected.check(bytes)?;
        let Some(Message::Hello { settled_below }) = Message::parse(header.kind(), payload)? else {
            return Err(Fault::Unexpected(header.kind()));
        };
        if stream.connection < self.connection.max(1) {
            return Err(Fault::Stale(stream));
        }
        if stream.connection > self.connection {
            self.disconnect();
            self.connection = stream.connection;
            let incoming = BTreeMap::new();
            self.link = Some(Link { control: None, incoming, heard_at: now, spoke_at: now });
        }
        let link = self.link.as_mut().ok_or(Fault::Stale(stream))?;
        if link.incoming.contains_key(&stream.place) {
            return Err(Fault::Stale(stream));
        }
        link.incoming.insert(stream.place, expected);
        link.heard_at = now;
        if stream.is_control() {
            link.control = Some(Outgoing::new(self.session, stream));
            self.down_since = None;
            self.pages.settled_below(settled_below);
            self.welcome();
        }
        Ok(stream)
    }

    /// The header of the next frame of a stream; its payload is to be read and given to
    /// [`Destination::handle_frame`], or, decoded, to [`Destination::handle_pages`].
    ///
    /// # Errors
    /// When it is not the next header of the stream. The attempt is about to be refused then.
    pub fn handle_header(
        &mut self,
        stream: StreamId,
        bytes: &HeaderBytes,
    ) -> Result<Header, Fault> {
        let incoming = self.incoming(stream);
        let header = incoming.and_then(|expected| Ok(expected.check(bytes)?));
        header.inspect_err(|fault| self.blame(fault))
    }

    /// A frame other than `Pages` has arrived.
    ///
    /// # Errors
    /// When the peer is at fault. The attempt is about to be refused then, if it still can be.
    pub fn handle_frame(
        &mut self,
        now: Duration,
        header: Header,
        payload: &[u8],
    ) -> Result<(), Fault> {
        let result = self.take_frame(now, header, payload);
        result.inspect_err(|fault| self.blame(fault))
    }

    /// A frame of pages has arrived, and decodes to this; the content agrees with the arrival check.
    /// What is newer than the guest's memory is written there.
    ///
    /// # Errors
    /// As [`Destination::handle_frame`]. Memory that cannot be written is no fault of the peer: the
    /// attempt is about to be refused then, too.
    pub fn handle_pages<M: GuestPages>(
        &mut self,
        now: Duration,
        header: Header,
        pages: &DecodedPages<'_>,
        memory: &mut M,
    ) -> Result<(), Fault> {
        let result = self.take_pages(now, header, pages, memory);
        result.inspect_err(|fault| self.blame(fault))
    }

    /// A frame of pages has arrived, and needs content that is not here: the pages of these sends are
    /// wanted in full. See [`DecodeError::wanted`](crate::hde::DecodeError::wanted).
    ///
    /// # Errors
    /// As [`Destination::handle_frame`].
    pub fn handle_missing(
        &mut self,
        header: Header,
        numbers: Range<SendNumber>,
    ) -> Result<(), Fault> {
        let result = self.incoming(header.stream()).map(|_| ()).and_then(|()| {
            self.pages.to_want.insert(numbers);
            self.pages.check_gaps()
        });
        result.inspect_err(|fault| self.blame(fault))
    }

    /// A frame of pages does not decode. The attempt is about to be refused.
    pub fn handle_undecodable(&mut self, reason: &str) {
        self.blame(&Fault::Pages(reason.to_owned()));
    }

    /// A stream has closed.
    pub fn handle_closed(&mut self, now: Duration, stream: StreamId) {
        if stream.connection != self.connection {
            return;
        }
        if stream.is_control() {
            self.disconnect();
            self.down_since.get_or_insert(now);
        } else if let Some(link) = &mut self.link {
            link.incoming.remove(&stream.place);
        }
    }

    /// `Taken` is durable, and the guest runs (P2, P14).
    pub fn taken(&mut self) {
        debug_assert!(matches!(self.phase, Phase::Ready), "only what is ready can be taken");
        self.phase = Phase::Running;
        self.answer(PeerAnswer::Ran, &Text::default());
    }

    /// `Refused` is durable: it never ran here, and never will (P15).
    pub fn refused(&mut self, reason: &str) {
        let reason = Text::new(reason);
        self.answer(PeerAnswer::NeverRan, &reason);
        self.phase = Phase::Refused(reason);
    }

    /// The machine cannot be received here. [`DestinationEvent::Refuse`] follows, unless everything
    /// has arrived already.
    pub fn refuse(&mut self, reason: &str) {
        if let Phase::Receiving(receiving) = &mut self.phase
            && !receiving.is_refusing
        {
            receiving.is_refusing = true;
            self.events.push_back(DestinationEvent::Refuse(Text::new(reason)));
        }
    }

    /// A time that [`Destination::poll_timeout`] named is reached.
    pub fn handle_timeout(&mut self, now: Duration) {
        if let Some(link) = &mut self.link {
            if now >= link.heard_at + DEAD_AFTER {
                self.handle_closed(now, StreamId::control(self.connection));
            } else if now >= link.spoke_at + PING_AFTER
                && let Some(control) = link.control.as_mut().filter(|control| control.is_idle())
            {
                let token = u64::try_from(now.as_micros()).unwrap_or(u64::MAX);
                control.push(Message::Ping { is_echo: false, token });
            }
        }
        if self.down_since.is_some_and(|since| now >= since + self.timers.patience) {
            self.refuse("the source was not heard for the time allowed");
        }
    }

    /// When to call [`Destination::handle_timeout`] at the latest.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Duration> {
        let link = self.link.as_ref().map(|link| {
            let dead_at = link.heard_at + DEAD_AFTER;
            let control = link.control.as_ref();
            let pings = control.is_some_and(Outgoing::is_idle);
            if pings { dead_at.min(link.spoke_at + PING_AFTER) } else { dead_at }
        });
        let is_waiting =
            matches!(&self.phase, Phase::Receiving(Receiving { is_refusing: false, .. }));
        let patience = self.down_since.filter(|_| is_waiting);
        let patience = patience.map(|since| since + self.timers.patience);
        [link, patience].into_iter().flatten().min()
    }

    /// What has happened.
    pub fn poll_event(&mut self) -> Option<DestinationEvent> {
        self.events.pop_front()
    }

    /// A frame to put on a stream whose socket takes bytes. After it is written, and not before, the
    /// stream gets the next ([`Destination::handle_written`]).
    pub fn poll_transmit(&mut self, now: Duration, stream: StreamId) -> Option<Vec<u8>> {
        let is_current = stream == StreamId::control(self.connection);
        let link = self.link.as_mut().filter(|_| is_current)?;
        let control = link.control.as_mut().filter(|control| !control.is_busy())?;
        let frame = control.pop().or_else(|| {
            let acknowledged = self.pages.to_acknowledge.take_ranges(RANGES_MAX);
            if !acknowledged.is_empty() {
                return Some(control.frame(&Message::Acknowledge(acknowledged)));
            }
            let wanted = self.pages.to_want.take_ranges(RANGES_MAX);
            if !wanted.is_empty() {
                return Some(control.frame(&Message::Want(wanted)));
            }
            self.kept.next_part().map(|part| control.frame(&Message::Kept(part)))
        })?;
        link.spoke_at = now;
        Some(frame)
    }

    /// The last frame of a stream is wholly in its socket.
    pub fn handle_written(&mut self, stream: StreamId) {
        let is_current = stream == StreamId::control(self.connection);
        if let Some(control) = self.control().filter(|_| is_current) {
            control.written();
        }
    }

    fn control(&mut self) -> Option<&mut Outgoing> {
        self.link.as_mut()?.control.as_mut()
    }

    fn push(&mut self, message: Message<'static>) {
        if let Some(control) = self.control() {
            control.push(message);
        }
    }

    /// Answers what was asked.
    fn reply(&mut self, answer: PeerAnswer, reason: &Text) {
        if let Some(control) = self.control() {
            control.reply(Message::Answer { answer, reason: reason.clone() });
        }
    }

    /// Says what was decided, asked or not.
    fn answer(&mut self, answer: PeerAnswer, reason: &Text) {
        self.push(Message::Answer { answer, reason: reason.clone() });
    }

    fn incoming(&mut self, stream: StreamId) -> Result<&mut Expected, Fault> {
        let is_current = stream.connection == self.connection;
        let link = self.link.as_mut().filter(|_| is_current);
        let expected = link.and_then(|link| link.incoming.get_mut(&stream.place));
        expected.ok_or(Fault::NotOpen(stream))
    }

    /// The first frame on a control stream: what is here. What a lost connection did not carry over
    /// is said again by it.
    fn welcome(&mut self) {
        self.pages.to_acknowledge = NumberSet::new();
        self.pages.to_want = NumberSet::new();
        let (state, _) = self.states.newest();
        let applied = self.pages.newest_ranges(WELCOME_RANGES_MAX);
        self.push(Message::Welcome { state, applied });
        match &self.phase {
            Phase::Running => self.answer(PeerAnswer::Ran, &Text::default()),
            Phase::Refused(reason) => {
                let reason = reason.clone();
                self.answer(PeerAnswer::NeverRan, &reason);
            }
            Phase::Receiving(_) | Phase::Ready => {}
        }
    }

    fn disconnect(&mut self) {
        if self.link.take().is_some() {
            self.states.connection_lost();
            self.kept.connection_lost();
            let connection = self.connection;
            self.events.push_back(DestinationEvent::Disconnected { connection });
        }
    }

    fn heard(&mut self, now: Duration) {
        if let Some(link) = &mut self.link {
            link.heard_at = now;
        }
    }

    fn take_frame(&mut self, now: Duration, header: Header, payload: &[u8]) -> Result<(), Fault> {
        let kind = header.kind();
        self.incoming(header.stream())?;
        let message = Message::parse(kind, payload)?.ok_or(Fault::Unexpected(kind))?;
        self.heard(now);
        match message {
            Message::Ask(ask) => self.asked(ask),
            Message::Ping { is_echo: false, token } => {
                if let Some(control) = self.control() {
                    control.reply(Message::Ping { is_echo: true, token });
                }
            }
            Message::Ping { is_echo: true, .. } => {}
            Message::Recall { from } => self.kept.asked(from)?,
            Message::Announce(_) | Message::State(_) | Message::Permit(_) | Message::Abort(_) => {
                if let Phase::Receiving(receiving) = &mut self.phase {
                    match message {
                        Message::Announce(runs) => self.announced(&runs)?,
                        Message::State(part) => self.states.part(&part)?,
                        Message::Permit(permit) => receiving.permit = Some(permit),
                        Message::Abort(reason) => {
                            self.refuse(&format!("the source gave up: {reason}"));
                        }
                        _ => return Err(Fault::Unexpected(kind)),
                    }
                    self.check_complete();
                }
            }
            Message::Hello { .. }
            | Message::Welcome { .. }
            | Message::Acknowledge(_)
            | Message::Want(_)
            | Message::Answer { .. }
            | Message::Limits(_)
            | Message::Kept(_) => return Err(Fault::Unexpected(kind)),
        }
        Ok(())
    }

    fn take_pages<M: GuestPages>(
        &mut self,
        now: Duration,
        header: Header,
        pages: &DecodedPages<'_>,
        memory: &mut M,
    ) -> Result<(), Fault> {
        self.incoming(header.stream())?;
        self.heard(now);
        // Once everything was here, memory is the guest's.
        if !matches!(&self.phase, Phase::Receiving(Receiving { is_refusing: false, .. })) {
            return Ok(());
        }
        self.pages.check(pages.batch)?;
        self.pages.settled_below(pages.settled_below);
        if let Err(error) = self.pages.apply(pages.batch, pages.content, pages.digests, memory) {
            self.refuse(&format!("the guest's memory cannot be written: {error}"));
            return Ok(());
        }
        self.pages.check_gaps()?;
        self.check_complete();
        Ok(())
    }

    fn announced(&mut self, runs: &[PageRun]) -> Result<(), Fault> {
        for run in runs {
            self.pages.check_run(*run)?;
        }
        let chunks = runs.iter().flat_map(|run| run.chunks(pages::POPULATE_PAGES));
        self.events.extend(chunks.map(DestinationEvent::Populate));
        Ok(())
    }

    fn asked(&mut self, ask: Ask) {
        match &self.phase {
            Phase::Running => self.reply(PeerAnswer::Ran, &Text::default()),
            Phase::Refused(reason) => {
                let reason = reason.clone();
                self.reply(PeerAnswer::NeverRan, &reason);
            }
            // Whoever has everything is about to decide by itself.
            Phase::Ready => self.reply(PeerAnswer::Undecided, &Text::default()),
            Phase::Receiving(receiving) => {
                if ask.refuse {
                    self.refuse("the source asked to refuse");
                } else if ask.is_complete && receiving.permit.is_some() {
                    self.refuse("memory or state differ from what the source has sent");
                } else {
                    self.reply(PeerAnswer::Undecided, &Text::default());
                }
            }
        }
    }

    /// Whether everything is here: the permit frame, the state that it names, and memory whose digest
    /// agrees.
    fn check_complete(&mut self) {
        let Phase::Receiving(Receiving { permit: Some(permit), is_refusing: false }) = &self.phase
        else {
            return;
        };
        let (number, state) = self.states.newest();
        // The sum is kept; the state is hashed only once the sum agrees.
        let is_complete = number == permit.state
            && self.pages.sum() == permit.root.memory()
            && Root::new(&self.key, self.pages.sum(), state) == permit.root;
        if is_complete {
            self.root = Some(permit.root);
            self.phase = Phase::Ready;
            self.events.push_back(DestinationEvent::Ready { state: self.states.take() });
        }
    }

    fn blame(&mut self, fault: &Fault) {
        // What a connection that is over still carried is nobody's fault.
        if matches!(fault, Fault::NotOpen(_)) {
            return;
        }
        self.refuse(&format!("the source is at fault: {fault}"));
    }
}

/// The pages of a frame, decoded.
#[derive(Clone, Copy, Debug)]
pub struct DecodedPages<'a> {
    /// Which pages, under which send numbers.
    pub batch: &'a Batch,
    /// Every send below is settled or given up.
    pub settled_below: SendNumber,
    /// Their content, in the batch's order.
    pub content: &'a [u8],
    /// Their digests, in the batch's order.
    pub digests: &'a [PageDigest],
}

impl<'a> From<Decoded<'a>> for DecodedPages<'a> {
    fn from(decoded: Decoded<'a>) -> Self {
        Self {
            batch: decoded.head.batch(),
            settled_below: decoded.head.settled_below(),
            content: decoded.content,
            digests: decoded.digests,
        }
    }
}
