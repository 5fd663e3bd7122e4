//! [`Source`]: the side that has the permit, and the guest. See `SPEC.md`, 3 and 7.3.

mod kept;
mod link;
mod pacing;
mod pages;
mod phase;
mod states;
mod transmit;

use std::collections::VecDeque;
use std::num::{NonZeroU32, NonZeroU64};
use std::ops::Range;
use std::time::Duration;

use link::Link;
use pacing::Pacing;
use pages::PagesOut;
pub use pages::{Counts, Draft};
pub use phase::SourceEnd;
use phase::{Live, Phase, Switch};
use states::StatesOut;

use super::timers::{ASK_EVERY, UNANSWERED_AFTER};
use super::{Agreement, Fault, SourceTimers};
use crate::digest::{DigestKey, PageDigest, Root};
use crate::ledger::{Ledger, LedgerError, SendNumber};
use crate::page::{Gfn, PageRun};
use crate::page_set::PageSet;
use crate::pba::LinkEstimator;
use crate::wire::{Ask, Expected, Header, HeaderBytes, Kind, Message, PeerAnswer, StreamId, Text};

/// Nanoseconds of a thousandth of a processor's second.
const MICROS: NonZeroU64 = NonZeroU64::new(1_000_000).unwrap();

/// What a source tells its caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceEvent {
    /// The destination was heard over a new connection.
    Connected,
    /// The connection is over: close every stream of it.
    Disconnected,
    /// A data stream is over: close it.
    StreamDead(StreamId),
    /// The switch is cancelled, and the permit frame was not sent: let the guest run on, at once.
    /// The offer stays; the pages and the state are in order.
    SwitchCancelled,
    /// The permit frame was handed out: who runs is in doubt from here on.
    Parted,
    /// The destination has no record of the session. The doubt remains, and will not end by itself.
    Unknown,
    /// The attempt is over.
    Over(SourceEnd),
}

/// A command that the source cannot follow now. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// `Offered` is not known to be durable
    #[error("the permit was not offered: a switch needs an offer that is written")]
    NotOffered,
    /// There is no connection
    #[error("the destination is not connected: wait until it is")]
    NotConnected,
    /// The guest has stopped for the switch already, or the attempt is over
    #[error("the attempt is past the point where this was possible")]
    TooLate,
}

/// The source of a move.
///
/// While the guest runs, the caller puts dirty pages into it ([`Source::owe_words`]), serves every
/// stream ([`Source::poll_transmit`]), and decides on the switch. From [`Source::switch`] on the
/// guest stands still until an event says otherwise.
#[derive(Debug)]
pub struct Source {
    key: DigestKey,
    timers: SourceTimers,
    link: Link,
    pages: PagesOut,
    states: StatesOut,
    phase: Phase,
    /// What the destination's memory and state must digest to, since the permit frame is out.
    root: Option<Root>,
    data_streams: usize,
    pacing: Pacing,
    events: VecDeque<SourceEvent>,
}

impl Source {
    /// The source of an attempt. Nothing is owed yet: the whole of the guest's memory that is not
    /// zero is the caller's first debt.
    #[must_use]
    pub fn new(now: Duration, agreement: &Agreement, timers: SourceTimers) -> Self {
        Self {
            key: agreement.key.clone(),
            timers,
            link: Link::new(agreement.session, now),
            pages: PagesOut::new(agreement),
            states: StatesOut::default(),
            phase: Phase::Live(Live::default()),
            root: None,
            data_streams: 0,
            pacing: Pacing::default(),
            events: VecDeque::new(),
        }
    }

    /// The pages owed and in flight.
    #[must_use]
    pub fn ledger(&self) -> &Ledger {
        self.pages.ledger()
    }

    /// What the attempt has cost so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts { connections: self.link.connections().into(), ..self.pages.counts }
    }

    /// What the link does, as far as acknowledgements tell. It is a matter of speed alone: what a
    /// destination could make of it by lying, it could make by being slow.
    #[must_use]
    pub fn link(&self) -> &LinkEstimator {
        &self.pages.link
    }

    /// Keeps what is told to [`Source::link`] from now on, so that others can be judged by it:
    /// [`LinkEstimator::recorded`].
    pub fn record_link(&mut self) {
        self.pages.link.record();
    }

    /// What a page digested to when it was read last; none if the guest has no such page.
    #[must_use]
    pub fn digest(&self, gfn: Gfn) -> Option<PageDigest> {
        self.pages.digest(gfn)
    }

    /// What the destination's memory and state must digest to, once the permit frame is out: the answer may be there before
    /// anybody asks for this.
    #[must_use]
    pub fn root(&self) -> Option<Root> {
        self.root
    }

    /// Since when the destination has not been heard; `None` while it is connected.
    #[must_use]
    pub fn waiting_since(&self) -> Option<Duration> {
        self.link.down_since
    }

    /// Adds dirty pages. See [`Ledger::owe`].
    ///
    /// # Errors
    /// When the guest has no such pages.
    pub fn owe(&mut self, run: PageRun) -> Result<u64, LedgerError> {
        self.pages.owe(run)
    }

    /// Adds a part of a dirty bitmap. See [`Ledger::owe_words`].
    ///
    /// # Errors
    /// When the guest has no such pages.
    pub fn owe_words(&mut self, first: Gfn, words: &[u64]) -> Result<u64, LedgerError> {
        self.pages.owe_words(first, words)
    }

    /// The destination's host has kept an image of an earlier stay of the machine, as far as is known: it is asked what is
    /// in that, and until it has told, no page goes out ([`Draft::kept`]). Before anything is connected.
    pub fn recall(&mut self) {
        self.pages.kept.want();
    }

    /// How many data streams there shall be beside the control stream, which carries pages, too.
    /// If there are more, those that were opened last get no new pages, and end once what they carry is
    /// acknowledged ([`SourceEvent::StreamDead`]).
    pub fn set_data_streams(&mut self, streams: usize) {
        self.data_streams = streams;
    }

    /// How many pages a batch may have from now on, if the destination takes as many.
    pub fn set_batch_pages(&mut self, pages: NonZeroU64) {
        self.pages.set_batch_pages(pages);
    }

    /// How many bytes of pages a second may go out from now on, over all streams; `None` is as many as the
    /// streams take. The destination may ask for less. It holds while the guest runs: in the last burst the
    /// guest would stand still for it, so there only the sockets' own limits hold.
    pub fn set_limit(&mut self, now: Duration, bytes_per_second: Option<NonZeroU64>) {
        self.pacing.ours = bytes_per_second;
        self.pacing.apply(now);
    }

    /// How many thousandths of a processor pages may take from now on, over all streams; `None` is as many as there are.
    /// As the limit of bytes it holds while the guest runs.
    pub fn set_processor_limit(&mut self, now: Duration, permille: Option<NonZeroU32>) {
        let per_second = permille.map(|permille| NonZeroU64::from(permille).saturating_mul(MICROS));
        self.pacing.processors.set_limit(now, per_second);
    }

    /// A stream takes so much processor time now. What it will take has to be said before it does: whoever draws the next
    /// batch would not know of it.
    pub fn spend_processor_time(&mut self, now: Duration, time: Duration) {
        self.pacing.processors.spend(now, nanoseconds(time));
    }

    /// A stream has taken so much less than it said.
    pub fn regain_processor_time(&mut self, time: Duration) {
        self.pacing.processors.regain(nanoseconds(time));
    }

    /// What the user decides about waiting, from now on.
    pub fn set_timers(&mut self, timers: SourceTimers) {
        self.timers = timers;
    }

    /// Sends the machine's state ahead, while the guest runs. One that is not out yet is replaced.
    /// Once the guest has stopped it does nothing.
    pub fn speculate(&mut self, state: Vec<u8>) {
        if matches!(self.phase, Phase::Live(_)) {
            self.states.send(state);
        }
    }

    /// The record says `Offered`, durably (P6).
    pub fn offered(&mut self) {
        if let Phase::Live(live) = &mut self.phase {
            live.is_offered = true;
        }
    }

    /// The guest is about to stop. Until it does, a page that is on its way goes out again if it is owed, in
    /// full, unless it is in this set: so little is left for the last burst. Pages that the guest writes all the
    /// time would only fill the link with copies of themselves: see [`crate::pba::HotPages`].
    pub fn hurry(&mut self, hot: PageSet) {
        if let Phase::Live(live) = &mut self.phase {
            live.hot = Some(hot);
        }
    }

    /// Begins no new batch, so that the streams run empty while the guest still runs: until the switch, or the end of the
    /// connection.
    pub fn drain(&mut self) {
        if let Phase::Live(live) = &mut self.phase {
            live.is_draining = true;
        }
    }

    /// Whether nothing is on its way into a socket.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        let connection = self.link.connection();
        connection
            .is_none_or(|connection| connection.control.is_idle() && connection.data_is_idle())
    }

    /// The guest has stopped (P7), its last dirty pages are owed, and `state` is what it is. What
    /// follows is one burst, without a round trip.
    ///
    /// # Errors
    /// When there is no durable offer, no connection, or the attempt is past this. The guest may run
    /// on then, and pages go out as before [`Source::hurry`] and [`Source::drain`].
    pub fn switch(&mut self, now: Duration, state: Vec<u8>) -> Result<(), SourceError> {
        let Phase::Live(live) = &mut self.phase else { return Err(SourceError::TooLate) };
        if !live.is_offered {
            return Err(SourceError::NotOffered);
        }
        let carries_pages = self.link.connection().is_some_and(link::Connection::carries_pages);
        if !carries_pages || self.pages.kept.waits_until().is_some() {
            live.go_on();
            return Err(SourceError::NotConnected);
        }
        self.phase = Phase::Switch(std::mem::take(live).switch(now));
        self.states.send(state);
        self.pages.counts.switches += 1;
        Ok(())
    }

    /// Gives the attempt up. The destination is told, if it can be.
    ///
    /// # Errors
    /// When the permit frame was sent, or the attempt is over.
    pub fn abort(&mut self, reason: &str) -> Result<(), SourceError> {
        if !matches!(self.phase, Phase::Live(_) | Phase::Switch(_)) {
            return Err(SourceError::TooLate);
        }
        self.link.push(Message::Abort(Text::new(reason)));
        self.end(SourceEnd::Aborted(Text::new(reason)));
        Ok(())
    }

    /// The next stream that the caller shall connect. Answer with [`Source::handle_connected`] or
    /// [`Source::handle_closed`].
    pub fn poll_connect(&mut self, now: Duration) -> Option<StreamId> {
        if matches!(self.phase, Phase::Over) {
            return None;
        }
        self.link.poll_connect(now, self.data_streams)
    }

    /// A stream is connected.
    pub fn handle_connected(&mut self, now: Duration, stream: StreamId) {
        let settled_below = self.pages.ledger().settled_below();
        if let Some(outgoing) = self.link.connected(now, stream) {
            outgoing.push(Message::Hello { settled_below });
            if stream.is_control()
                && matches!(self.phase, Phase::Live(_))
                && let Some(from) = self.pages.kept.ask(now, stream.connection)
            {
                outgoing.push(Message::Recall { from });
            }
        }
    }

    /// A stream has closed, or could not be connected.
    pub fn handle_closed(&mut self, now: Duration, stream: StreamId) {
        if stream.is_control() {
            let had_streams = self.link.has_streams();
            if self.link.control_closed(now, stream) && had_streams {
                self.connection_lost();
            }
        } else if self.link.data_closed(stream) {
            self.pages.stream_lost(stream);
        }
    }

    /// The header of the next frame of a stream; its payload is to be read and given to
    /// [`Source::handle_frame`].
    ///
    /// # Errors
    /// When it is not the next header of the stream.
    pub fn handle_header(
        &mut self,
        now: Duration,
        stream: StreamId,
        bytes: &HeaderBytes,
    ) -> Result<Header, Fault> {
        let header = self.incoming(stream).and_then(|expected| Ok(expected.check(bytes)?));
        header.inspect_err(|fault| self.blame(now, fault))
    }

    /// A frame has arrived.
    ///
    /// # Errors
    /// When the peer is at fault: the attempt is aborted then, or, in doubt, the connection given up.
    pub fn handle_frame(
        &mut self,
        now: Duration,
        header: Header,
        payload: &[u8],
    ) -> Result<(), Fault> {
        let result = self.take_frame(now, header, payload);
        result.inspect_err(|fault| self.blame(now, fault))
    }

    /// The pages of a draft are read and encoded into `payload_bytes` bytes of payload, and have
    /// these digests. Returns the header to be written in front of the payload; `None` if the stream
    /// is gone, and the payload with it.
    pub fn handle_encoded(
        &mut self,
        now: Duration,
        draft: &Draft,
        digests: &[PageDigest],
        payload_bytes: usize,
    ) -> Option<HeaderBytes> {
        let header = self.link.outgoing(draft.stream)?.header(Kind::Pages, payload_bytes);
        self.pacing.pacer.spend(now, (header.len() + payload_bytes) as u64);
        self.pages.encoded(now, draft, digests, payload_bytes);
        Some(header)
    }

    /// The last frame of a stream is wholly in its socket.
    pub fn handle_written(&mut self, now: Duration, stream: StreamId) {
        if let Some(outgoing) = self.link.outgoing(stream) {
            outgoing.written();
            self.pages.written(now, stream);
        }
    }

    /// A time that [`Source::poll_timeout`] named is reached.
    pub fn handle_timeout(&mut self, now: Duration) {
        if matches!(self.phase, Phase::Over) {
            return;
        }
        if self.link.is_dead(now) {
            self.drop_connection(now);
        }
        while let Some((_, stream)) = self.unanswered().filter(|(at, _)| *at <= now) {
            self.handle_closed(now, stream);
            if !stream.is_control() {
                self.tell(SourceEvent::StreamDead(stream));
            }
        }
        self.link.ping(now);
        self.pages.kept.handle_timeout(now);
        self.pacing.held_until = self.pacing.held_until.filter(|at| *at > now);
        let waited = self.link.down_since.map(|since| now.saturating_sub(since));
        match &mut self.phase {
            Phase::Live(_) if waited.is_some_and(|waited| waited >= self.timers.patience) => {
                let reason = "the destination could not be reached for the time allowed";
                self.abort(reason).expect("the guest runs");
            }
            Phase::Switch(switch) if now >= switch.since + self.timers.switch_budget => {
                self.cancel_switch();
            }
            Phase::Parted(parted) if now >= parted.ask_at => {
                parted.ask_at = now + ASK_EVERY;
                let refuse = now >= parted.since + self.timers.doubt;
                self.link.reply(Message::Ask(Ask { refuse, is_complete: false }));
            }
            _ => {}
        }
    }

    /// When to call [`Source::handle_timeout`], or [`Source::poll_connect`], at the latest.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Duration> {
        let phase = match &self.phase {
            Phase::Live(_) => self.link.down_since.map(|since| since + self.timers.patience),
            Phase::Switch(switch) => Some(switch.since + self.timers.switch_budget),
            Phase::Parted(parted) => Some(parted.ask_at),
            Phase::Over => return None,
        };
        let unanswered = self.unanswered().map(|(at, _)| at);
        let recall = self.pages.kept.waits_until();
        let timers = [phase, self.link.timeout(), unanswered, recall, self.pacing.held_until];
        timers.into_iter().flatten().min()
    }

    /// What has happened.
    pub fn poll_event(&mut self) -> Option<SourceEvent> {
        self.events.pop_front()
    }

    /// The stream that first counts as dead if nothing is acknowledged, and when.
    fn unanswered(&self) -> Option<(Duration, StreamId)> {
        let connection = self.link.connection()?;
        let unanswered = self.pages.unanswered().filter(|(stream, _)| connection.is_quiet(*stream));
        unanswered.map(|(stream, since)| (since + UNANSWERED_AFTER, stream)).min()
    }

    fn take_switch(&mut self) -> Option<Switch> {
        match std::mem::replace(&mut self.phase, Phase::Live(Live::default())) {
            Phase::Switch(switch) => Some(switch),
            other => {
                self.phase = other;
                None
            }
        }
    }

    fn incoming(&mut self, stream: StreamId) -> Result<&mut Expected, Fault> {
        let connection = self.link.connection_mut();
        // The destination speaks on control streams only.
        let connection = connection
            .filter(|connection| StreamId::control(connection.number) == stream)
            .ok_or(Fault::NotOpen(stream))?;
        Ok(&mut connection.incoming)
    }

    fn take_frame(&mut self, now: Duration, header: Header, payload: &[u8]) -> Result<(), Fault> {
        let kind = header.kind();
        self.incoming(header.stream())?;
        let message = Message::parse(kind, payload)?.ok_or(Fault::Unexpected(kind))?;
        self.link.heard(now);
        let is_welcomed = self.link.connection().is_some_and(|connection| connection.is_welcomed);
        if is_welcomed == matches!(message, Message::Welcome { .. }) {
            return Err(Fault::Unexpected(kind));
        }
        match message {
            Message::Welcome { state, applied } => self.welcomed(now, state, &applied)?,
            Message::Acknowledge(ranges) => self.pages.settle(now, &ranges)?,
            Message::Want(ranges) => self.pages.want(&ranges)?,
            Message::Answer { answer, reason } => self.answered(answer, reason)?,
            Message::Limits(limits) => {
                if let Some(pages) = NonZeroU64::new(limits.batch_pages.into()) {
                    self.pages.set_peer_batch_pages(pages);
                }
                self.pacing.peers = NonZeroU64::new(limits.bytes_per_second);
                self.pacing.apply(now);
            }
            Message::Ping { is_echo: false, token } => {
                self.link.reply(Message::Ping { is_echo: true, token });
            }
            Message::Ping { is_echo: true, token } => self.pages.pinged(now, token),
            Message::Kept(part) => {
                self.pages.counts.kept_bytes += payload.len() as u64;
                self.pages.kept.part(now, &part)?;
            }
            Message::Hello { .. }
            | Message::State(_)
            | Message::Announce(_)
            | Message::Permit(_)
            | Message::Ask(_)
            | Message::Abort(_)
            | Message::Recall { .. } => return Err(Fault::Unexpected(kind)),
        }
        Ok(())
    }

    fn welcomed(
        &mut self,
        now: Duration,
        state: u64,
        applied: &[Range<SendNumber>],
    ) -> Result<(), Fault> {
        self.pages.welcomed(now, applied)?;
        let is_first = self.link.connection().is_some_and(|connection| connection.number == 1);
        // On the first connection states went out before the destination was heard.
        if !is_first {
            self.states.welcomed(state, !matches!(self.phase, Phase::Live(_)));
        }
        self.link.welcomed();
        self.tell(SourceEvent::Connected);
        Ok(())
    }

    /// What the destination, or somebody who can read its record, answers. It may come over any
    /// authenticated way: the session's own streams may be gone for good.
    ///
    /// # Errors
    /// When a destination claims to have run the guest without having been given the permit.
    pub fn answered(&mut self, answer: PeerAnswer, reason: Text) -> Result<(), Fault> {
        match (&self.phase, answer) {
            (Phase::Over, _) | (_, PeerAnswer::Undecided) => {}
            (Phase::Parted(_), PeerAnswer::Ran) => self.end(SourceEnd::Ran),
            (Phase::Live(_) | Phase::Switch(_), PeerAnswer::Ran) => {
                return Err(Fault::Unexpected(Kind::Answer));
            }
            (_, PeerAnswer::NeverRan) => self.end(SourceEnd::Refused(reason)),
            (Phase::Parted(_), PeerAnswer::Unknown) => self.tell(SourceEvent::Unknown),
            (Phase::Live(_) | Phase::Switch(_), PeerAnswer::Unknown) => {
                self.end(SourceEnd::Aborted(Text::new("the destination has no such session")));
            }
        }
        Ok(())
    }

    /// The attempt is over. What goes back into the ledger is true for whoever looks at it.
    fn end(&mut self, end: SourceEnd) {
        self.tell(SourceEvent::Over(end));
        self.phase = Phase::Over;
    }

    /// Nothing is told after the end: what becomes of the streams then is nobody's concern.
    fn tell(&mut self, event: SourceEvent) {
        if !matches!(self.phase, Phase::Over) {
            self.events.push_back(event);
        }
    }

    fn blame(&mut self, now: Duration, fault: &Fault) {
        // What a connection that is over still carried is nobody's fault.
        if matches!(fault, Fault::NotOpen(_)) {
            return;
        }
        match self.phase {
            Phase::Live(_) | Phase::Switch(_) => {
                self.abort(&fault.to_string()).expect("the permit frame was not sent");
            }
            // A wrong frame is no answer.
            Phase::Parted(_) => self.drop_connection(now),
            Phase::Over => {}
        }
    }

    fn drop_connection(&mut self, now: Duration) {
        let number = self.link.connection().map(|connection| connection.number);
        if let Some(number) = number {
            self.handle_closed(now, StreamId::control(number));
        }
    }

    fn connection_lost(&mut self) {
        self.pages.connection_lost();
        if let Phase::Live(live) = &mut self.phase {
            live.go_on();
        }
        self.tell(SourceEvent::Disconnected);
        if let Phase::Switch(_) = self.phase {
            self.cancel_switch();
        }
    }

    fn cancel_switch(&mut self) {
        if let Some(switch) = self.take_switch() {
            self.phase = Phase::Live(switch.cancel());
            self.states.cancel();
            self.tell(SourceEvent::SwitchCancelled);
        }
    }

    fn spoke(&mut self, now: Duration, stream: StreamId) {
        if let Some(connection) = self.link.connection_mut().filter(|_| stream.is_control()) {
            connection.spoke_at = now;
        }
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
