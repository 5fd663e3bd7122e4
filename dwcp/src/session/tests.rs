//! Both sides, frame by frame, with nothing between them.

use std::convert::Infallible;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::digest::{DigestKey, PageDigest, Root, ShortDigest};
use crate::hde::{Base, Decoder, Encoder, Held, Ladder, Offer, Sending, Shadow, Tier, TierCounts};
use crate::ledger::SendNumber;
use crate::page::{PAGE_BYTES, PAGE_SIZE, Page};
use crate::page_set::PageSet;
use crate::wire::{
    Ask, HEADER_BYTES, Header, HeaderError, Kind, Limits, Message, PeerAnswer, Permit, StatePart,
    StreamId, Text,
};

const SESSION: SessionId = SessionId::new([7; 16]).unwrap();
const LIMIT: u64 = 128;

/// Place `place` of connection `connection`.
const fn stream(connection: u16, place: u16) -> StreamId {
    StreamId { connection, place }
}

const CONTROL: StreamId = StreamId::control(1);

fn run(first: u64, pages: u64) -> PageRun {
    PageRun::new(Gfn(first), pages).unwrap()
}

fn agreement() -> Agreement {
    let memory = vec![run(0, 64), run(96, 32)];
    Agreement { session: SESSION, key: DigestKey::new([3; 32]), memory }
}

struct Memory(Vec<Page>);

impl Memory {
    fn new() -> Self {
        Self(vec![[0; PAGE_BYTES]; LIMIT as usize])
    }
}

impl GuestPages for Memory {
    type Error = Infallible;

    fn write(&mut self, run: PageRun, content: &[u8]) -> Result<(), Infallible> {
        for (gfn, page) in run.frames().zip(content.as_chunks().0) {
            self.0[gfn.0 as usize] = *page;
        }
        Ok(())
    }
}

struct Pair {
    now: Duration,
    source: Source,
    destination: Destination,
    guest: Memory,
    memory: Memory,
    shadow: Shadow,
    encoder: Encoder,
    decoder: Decoder,
    /// Of the last batch that was encoded.
    tiers: TierCounts,
    /// What the destination's host has kept.
    kept: Option<Arc<Kept>>,
}

/// A kept image: pages, and what was told of them.
#[derive(Debug)]
struct Kept {
    pages: Vec<Page>,
    told: Vec<Page>,
}

impl KeptImage for Kept {
    fn digest(&self, gfn: Gfn) -> PageDigest {
        let page = &self.told[gfn.0 as usize];
        if *page == [0; PAGE_BYTES] {
            return PageDigest::ZERO;
        }
        agreement().key.digest(gfn.0 * PAGE_SIZE, page)
    }
}

struct Bases<'a>(&'a Draft, &'a Shadow);

impl Offer for Bases<'_> {
    fn kept(&self, gfn: Gfn) -> Option<ShortDigest> {
        let at = self.0.batch.sends().position(|(of, _)| of == gfn)?;
        self.0.kept.get(at).copied().flatten()
    }

    fn base(&self, gfn: Gfn) -> Option<Base<'_>> {
        let at = self.0.batch.sends().position(|(of, _)| of == gfn)?;
        self.1.get(gfn, self.0.bases[at].filter(|_| !self.0.is_in_full)?)
    }
}

struct Holdings<'a>(&'a Destination, &'a Memory, Option<&'a Kept>);

impl Held for Holdings<'_> {
    fn copy_base(&self, gfn: Gfn, number: SendNumber, into: &mut Page) -> bool {
        *into = self.1.0[gfn.0 as usize];
        self.0.holds(gfn, number)
    }

    fn copy_kept(&self, gfn: Gfn, into: &mut Page) -> bool {
        self.2.map(|kept| *into = kept.pages[gfn.0 as usize]).is_some()
    }
}

impl Pair {
    /// Both sides, connected by a control stream, on which nothing was said yet.
    fn new() -> Self {
        Self::with_kept(false, None)
    }

    /// The same; the source may have heard that something is kept, and the destination may keep something.
    fn with_kept(recalls: bool, kept: Option<Kept>) -> Self {
        let (now, agreement) = (Duration::from_secs(100), agreement());
        let mut source = Source::new(now, &agreement, SourceTimers::default());
        if recalls {
            source.recall();
        }
        let mut destination = Destination::new(now, &agreement, DestinationTimers::default());
        let kept = kept.map(Arc::new);
        if let Some(kept) = &kept {
            destination.keep(Arc::clone(kept) as Arc<dyn KeptImage>);
        }
        assert_eq!(source.poll_connect(now), Some(CONTROL));
        source.handle_connected(now, CONTROL);
        Self {
            now,
            source,
            destination,
            guest: Memory::new(),
            memory: Memory::new(),
            shadow: Shadow::new(1 << 20),
            encoder: Encoder::new(),
            decoder: Decoder::new(),
            tiers: TierCounts::default(),
            kept,
        }
    }

    /// Both sides, which have greeted each other.
    fn greeted() -> Self {
        let mut pair = Self::new();
        pair.exchange(CONTROL);
        assert_eq!(pair.source.waiting_since(), None);
        assert_eq!(pair.source.poll_event(), Some(SourceEvent::Connected));
        pair
    }

    /// The guest writes a page: a little of it, so that a delta pays.
    fn write(&mut self, gfn: u64, value: u8) {
        let page = &mut self.guest.0[gfn as usize];
        if page[1] == 0 {
            (0..PAGE_BYTES).for_each(|at| page[at] = (at * 7 / 3 % 251) as u8 ^ gfn as u8 | 1);
        }
        page[0] = value;
        self.source.owe(run(gfn, 1)).unwrap();
    }

    /// The source's next frame on a stream, which its socket takes.
    fn send(&mut self, stream: StreamId) -> Option<Vec<u8>> {
        let frame = match self.source.poll_transmit(self.now, stream)? {
            Transmit::Frame(frame) => frame,
            Transmit::Pages(draft) => self.encode(&draft),
        };
        self.source.handle_written(self.now, stream);
        Some(frame)
    }

    fn encode(&mut self, draft: &Draft) -> Vec<u8> {
        let pages = draft.batch.sends().map(|(gfn, _)| self.guest.0[gfn.0 as usize]);
        let content: Vec<u8> = pages.flatten().collect();
        let key = agreement().key;
        let sending = Sending {
            key: &key,
            batch: &draft.batch,
            content: &content,
            settled_below: draft.settled_below,
        };
        let mut frame = vec![0; HEADER_BYTES];
        let (step, bases) = (Ladder::step(2), Bases(draft, &self.shadow));
        let encoded = self.encoder.encode(&sending, &step, &bases, &mut frame);
        self.tiers = encoded.tiers;
        let payload_bytes = frame.len() - HEADER_BYTES;
        let header =
            self.source.handle_encoded(self.now, draft, encoded.digests, payload_bytes).unwrap();
        frame[..HEADER_BYTES].copy_from_slice(&header);
        for ((gfn, number), page) in draft.batch.sends().zip(content.as_chunks().0) {
            self.shadow.insert(gfn, number, page);
        }
        frame
    }

    /// A frame reaches the destination.
    fn arrive(&mut self, stream: StreamId, frame: &[u8]) -> Result<(), Fault> {
        let (bytes, payload) = frame.split_first_chunk().unwrap();
        if Header::parse(bytes)?.kind() == Kind::Hello {
            let opened = self.destination.handle_hello(self.now, bytes, payload)?;
            assert_eq!(opened, stream);
            return Ok(());
        }
        let header = self.destination.handle_header(stream, bytes)?;
        if header.kind() != Kind::Pages {
            return self.destination.handle_frame(self.now, header, payload);
        }
        let holdings = Holdings(&self.destination, &self.memory, self.kept.as_deref());
        match self.decoder.decode(&agreement().key, payload, &holdings) {
            Ok(decoded) => {
                let pages = DecodedPages::from(decoded);
                self.destination.handle_pages(self.now, header, &pages, &mut self.memory)
            }
            Err(error) => match error.wanted() {
                Some(numbers) => self.destination.handle_missing(header, numbers),
                None => {
                    self.destination.handle_undecodable(&error.to_string());
                    Err(Fault::Pages(error.to_string()))
                }
            },
        }
    }

    /// The destination's next frame on a control stream, which its socket takes.
    fn reply(&mut self, control: StreamId) -> Option<Vec<u8>> {
        let frame = self.destination.poll_transmit(self.now, control)?;
        self.destination.handle_written(control);
        Some(frame)
    }

    /// A frame reaches the source.
    fn hear(&mut self, control: StreamId, frame: &[u8]) -> Result<(), Fault> {
        let (bytes, payload) = frame.split_first_chunk().unwrap();
        let header = self.source.handle_header(self.now, control, bytes)?;
        self.source.handle_frame(self.now, header, payload)
    }

    /// Everything that waits on a stream goes over, and what is said to it comes back.
    fn exchange(&mut self, stream: StreamId) {
        let control = StreamId::control(stream.connection);
        loop {
            let mut moved = false;
            while let Some(frame) = self.send(stream) {
                self.arrive(stream, &frame).unwrap();
                moved = true;
            }
            while let Some(frame) = self.reply(control) {
                self.hear(control, &frame).unwrap();
                moved = true;
            }
            if !moved {
                return;
            }
        }
    }

    /// A data stream, joined to the session.
    fn open(&mut self, stream: StreamId) {
        let place: usize = stream.place.into();
        self.source.set_data_streams(place);
        while let Some(opened) = self.source.poll_connect(self.now) {
            self.source.handle_connected(self.now, opened);
            let hello = self.send(opened).unwrap();
            self.arrive(opened, &hello).unwrap();
        }
        assert!(self.source.poll_transmit(self.now, stream).is_none(), "nothing is owed");
    }

    /// The connection ends at both sides, and the next one is made.
    fn reconnect(&mut self, number: u16) -> StreamId {
        let old = StreamId::control(number - 1);
        self.source.handle_closed(self.now, old);
        self.destination.handle_closed(self.now, old);
        self.reconnect_from_source(number)
    }

    /// Stops the guest and begins the switch.
    fn switch(&mut self) {
        self.source.offered();
        self.source.switch(self.now, b"the final state".to_vec()).unwrap();
    }

    fn source_events(&mut self) -> Vec<SourceEvent> {
        std::iter::from_fn(|| self.source.poll_event()).collect()
    }

    fn destination_events(&mut self) -> Vec<DestinationEvent> {
        std::iter::from_fn(|| self.destination.poll_event()).collect()
    }

    fn reconnect_from_source(&mut self, number: u16) -> StreamId {
        self.now += Duration::from_secs(5);
        let control = StreamId::control(number);
        assert_eq!(self.source.poll_connect(self.now), Some(control));
        self.source.handle_connected(self.now, control);
        control
    }
}

/// A frame that neither side would make.
fn forge(stream: StreamId, sequence: u64, message: &Message<'_>) -> Vec<u8> {
    let mut payload = Vec::new();
    message.write_to(&mut payload);
    let length = payload.len() as u32;
    let header = Header::new(message.kind(), length, SESSION, stream, sequence).unwrap();
    [&header.to_bytes()[..], &payload].concat()
}

#[test]
fn page_seven_survives_a_dead_stream() {
    let mut pair = Pair::greeted();
    let (a, b, c) = (stream(1, 1), stream(1, 2), stream(1, 3));
    pair.open(b);
    // Sends 1 to 40 are of other pages.
    (10..50).for_each(|gfn| pair.write(gfn, 1));
    pair.exchange(a);
    assert_eq!(pair.source.ledger().next_number(), SendNumber(41));

    pair.write(7, 41);
    let on_b = pair.send(b).expect("page 7 as send 41");
    assert_eq!(pair.source.ledger().latest_send(Gfn(7)), Some(SendNumber(41)));
    pair.write(7, 58);
    assert!(pair.send(a).is_none(), "one send of a page is on its way");
    (96..112).for_each(|gfn| pair.write(gfn, 1));
    pair.exchange(a); // sends 42 to 57
    pair.source.handle_closed(pair.now, b);

    let on_a = pair.send(a).expect("page 7 again, as send 58");
    assert_eq!(pair.source.ledger().latest_send(Gfn(7)), Some(SendNumber(58)));
    assert_eq!(pair.tiers.of(Tier::Delta).pages, 0, "41 may not have arrived");
    pair.arrive(a, &on_a).unwrap();
    assert_eq!(pair.memory.0[7][0], 58);
    pair.exchange(CONTROL);
    assert_eq!(pair.source.ledger().held_send(Gfn(7)), Some(SendNumber(58)));

    (50..54).for_each(|gfn| pair.write(gfn, 1));
    pair.exchange(a); // sends 59 to 62
    pair.write(7, 63);
    pair.source.set_data_streams(2);
    assert_eq!(pair.source.poll_connect(pair.now), Some(c), "the dead one is replaced");
    pair.source.handle_connected(pair.now, c);
    let hello = pair.send(c).unwrap();
    pair.arrive(c, &hello).unwrap();
    let on_c = pair.send(c).expect("page 7 as send 63");
    assert_eq!(pair.tiers.of(Tier::Delta).pages, 1, "on its base 58");
    pair.arrive(c, &on_c).unwrap();
    assert_eq!(pair.memory.0[7][0], 63);

    pair.arrive(b, &on_b).expect("the destination does not know yet that the stream is dead");
    assert_eq!(pair.memory.0[7], pair.guest.0[7], "a late copy of 41 is dropped");
    assert_eq!(pair.destination.counts().pages_dropped, 1);
    pair.exchange(CONTROL);
    assert!(pair.source.ledger().is_settled());
}

#[test]
fn a_move_is_one_burst_and_one_answer() {
    let mut pair = Pair::greeted();
    pair.open(stream(1, 1));
    (0..64).for_each(|gfn| pair.write(gfn, 1));
    pair.source.speculate(b"a state ahead".to_vec());
    pair.exchange(CONTROL);
    pair.write(3, 2);
    pair.write(100, 2);
    pair.switch();

    // Data first: the permit frame waits until it is in its socket.
    let pages = pair.source.poll_transmit(pair.now, stream(1, 1)).expect("the last pages");
    let Transmit::Pages(draft) = pages else { panic!("pages") };
    let state = pair.send(CONTROL).expect("the final state");
    assert!(pair.send(CONTROL).is_none(), "a stream is busy");
    let frame = pair.encode(&draft);
    assert!(pair.send(CONTROL).is_none(), "the frame is not in the socket");
    pair.source.handle_written(pair.now, stream(1, 1));
    let permit = pair.send(CONTROL).expect("the permit frame");
    assert_eq!(Header::parse(permit.first_chunk().unwrap()).unwrap().kind(), Kind::Permit);
    assert_eq!(pair.source_events(), [SourceEvent::Parted]);
    assert_eq!(pair.source.abort("too late"), Err(SourceError::TooLate));

    // It may overtake the pages.
    pair.arrive(CONTROL, &state).unwrap();
    pair.arrive(CONTROL, &permit).unwrap();
    assert_eq!(pair.destination_events(), []);
    pair.arrive(stream(1, 1), &frame).unwrap();
    let ready = DestinationEvent::Ready { state: b"the final state".to_vec() };
    assert_eq!(pair.destination_events(), [ready]);
    assert!(pair.memory.0 == pair.guest.0);

    pair.destination.taken();
    pair.exchange(CONTROL);
    assert_eq!(pair.source_events(), [SourceEvent::Over(SourceEnd::Ran)]);
    let root = pair.source.root();
    assert!(root.is_some() && root == pair.destination.root(), "the answer does not take it away");
}

#[test]
fn what_was_applied_before_a_cut_is_not_sent_again() {
    let mut pair = Pair::greeted();
    pair.source.set_batch_pages(NonZeroU64::new(8).unwrap());
    (0..32).for_each(|gfn| pair.write(gfn, 1));
    let frames: Vec<_> = std::iter::from_fn(|| pair.send(CONTROL)).collect();
    assert_eq!(frames.len(), 4);
    // Two arrive, and no acknowledgement comes back.
    frames[..2].iter().for_each(|frame| pair.arrive(CONTROL, frame).unwrap());
    assert_eq!(pair.source.ledger().in_flight(), 32);
    let control = pair.reconnect(2);
    assert!(pair.arrive(CONTROL, &frames[2]).is_err(), "its connection is over");
    assert_eq!(pair.destination_events(), [DestinationEvent::Disconnected { connection: 1 }]);
    let hello = pair.send(control).unwrap();
    assert!(pair.send(control).is_none(), "nothing goes out before the Welcome");
    pair.arrive(control, &hello).unwrap();
    let welcome = pair.reply(control).unwrap();
    pair.hear(control, &welcome).unwrap();
    assert_eq!((pair.source.ledger().owed(), pair.source.counts().pages_lost), (16, 16));
    pair.exchange(control);
    assert!(pair.source.ledger().is_settled() && pair.memory.0 == pair.guest.0);
    assert_eq!(pair.source.counts().pages_sent, 48);
}

#[test]
fn in_doubt_everything_unacknowledged_goes_out_again_and_then_the_permit_frame() {
    let mut pair = Pair::greeted();
    pair.write(1, 1);
    pair.switch();
    while pair.send(CONTROL).is_some() {} // all of it is lost
    let control = pair.reconnect(2);
    assert_eq!(pair.source_events(), [SourceEvent::Parted, SourceEvent::Disconnected]);
    pair.exchange(control);
    let ready = DestinationEvent::Ready { state: b"the final state".to_vec() };
    assert!(pair.destination_events().contains(&ready));
    pair.destination.taken();
    // The answer is lost with the connection, and given again unasked.
    let control = pair.reconnect(3);
    pair.exchange(control);
    assert!(pair.source_events().contains(&SourceEvent::Over(SourceEnd::Ran)));
}

#[test]
fn doubt_ends_by_a_refusal_that_is_durable() {
    let mut pair = Pair::greeted();
    let data = stream(1, 1);
    pair.open(data);
    pair.write(1, 1);
    pair.switch();
    pair.send(data).expect("a page that is held up on its way");
    let reason = "the source asked to refuse";
    let mut waited = 0;
    let refuse = loop {
        pair.exchange(CONTROL);
        match &pair.destination_events()[..] {
            [] => {}
            [event] => break event.clone(),
            events => panic!("{events:?}"),
        }
        waited += 1;
        assert!(waited < 60, "the doubt has to end");
        pair.now += Duration::from_secs(1);
        pair.source.handle_timeout(pair.now);
    };
    assert_eq!(refuse, DestinationEvent::Refuse(Text::new(reason)));
    assert_eq!(waited, SourceTimers::default().doubt.as_secs());
    assert_eq!(pair.source_events(), [SourceEvent::Parted], "no answer before it is durable");
    pair.destination.refused(reason);
    pair.exchange(CONTROL);
    let over = SourceEvent::Over(SourceEnd::Refused(Text::new(reason)));
    assert_eq!(pair.source_events(), [over]);
    // Whoever asks again, over another connection, hears the same.
    let control = StreamId::control(2);
    pair.arrive(control, &forge(control, 0, &Message::Hello { settled_below: SendNumber(1) }))
        .unwrap();
    let replies: Vec<_> = std::iter::from_fn(|| pair.reply(control)).collect();
    let kinds =
        replies.iter().map(|frame| Header::parse(frame.first_chunk().unwrap()).unwrap().kind());
    assert_eq!(kinds.collect::<Vec<_>>(), [Kind::Welcome, Kind::Answer]);
}

#[test]
fn content_that_is_not_there_is_sent_in_full() {
    let mut pair = Pair::greeted();
    pair.write(5, 1);
    pair.exchange(CONTROL);
    pair.write(5, 2);
    let delta = pair.send(CONTROL).unwrap();
    assert_eq!(pair.tiers.of(Tier::Delta).pages, 1);
    // The destination's memory is not what it was: a base that rots is found, and mended.
    pair.memory.0[5][9] ^= 1;
    pair.arrive(CONTROL, &delta).unwrap();
    assert_eq!(pair.memory.0[5][0], 1, "nothing of it is applied");
    pair.exchange(CONTROL);
    assert!(pair.memory.0 == pair.guest.0);
    assert_eq!(pair.tiers.of(Tier::Delta).pages, 0);
    assert_eq!(pair.source.counts().pages_wanted, 1);
}

#[test]
fn pages_of_zeros_are_written_only_where_something_else_was() {
    let mut pair = Pair::greeted();
    let untouched = [9; PAGE_BYTES];
    pair.memory.0[6] = untouched;
    pair.write(5, 1);
    pair.source.owe(run(6, 1)).unwrap();
    pair.write(7, 1);
    pair.exchange(CONTROL);
    assert_eq!(pair.destination.counts().pages_applied, 3);
    assert!(pair.memory.0[6] == untouched && pair.memory.0[5] == pair.guest.0[5]);
    assert!(pair.memory.0[7] == pair.guest.0[7]);
    pair.write(6, 1);
    pair.exchange(CONTROL);
    pair.guest.0[6].fill(0);
    pair.source.owe(run(6, 1)).unwrap();
    pair.exchange(CONTROL);
    assert!(pair.memory.0 == pair.guest.0);
}

#[test]
fn memory_that_differs_when_all_is_acknowledged_is_refused_at_once() {
    let mut pair = Pair::greeted();
    pair.write(5, 1);
    pair.switch();
    let wrong = Permit { state: 1, root: Root::from_bytes(&[9; 64]) };
    while let Some(frame) = pair.send(CONTROL) {
        let header = Header::parse(frame.first_chunk().unwrap()).unwrap();
        if header.kind() == Kind::Permit {
            let forged = forge(CONTROL, 3, &Message::Permit(wrong));
            pair.arrive(CONTROL, &forged).unwrap();
        } else {
            pair.arrive(CONTROL, &frame).unwrap();
        }
    }
    assert_eq!(pair.destination_events(), []);
    while let Some(frame) = pair.reply(CONTROL) {
        pair.hear(CONTROL, &frame).unwrap();
    }
    let ask = pair.send(CONTROL).expect("everything is acknowledged");
    pair.arrive(CONTROL, &ask).unwrap();
    let reason = Text::new("memory or state differ from what the source has sent");
    assert_eq!(pair.destination_events(), [DestinationEvent::Refuse(reason)]);
}

#[test]
fn an_abort_leaves_the_ledger_true_and_tells_the_destination() {
    let mut pair = Pair::greeted();
    pair.write(5, 1);
    pair.source.abort("the user\ngave up").unwrap();
    pair.exchange(CONTROL);
    assert!(pair.source.is_drained());
    let why = Text::new("the user gave up");
    assert_eq!(pair.source_events(), [SourceEvent::Over(SourceEnd::Aborted(why))]);
    let reason = Text::new("the source gave up: the user gave up");
    assert_eq!(pair.destination_events(), [DestinationEvent::Refuse(reason)]);
    assert_eq!((pair.source.ledger().owed(), pair.source.poll_timeout()), (1, None));
    assert_eq!(pair.source.poll_connect(pair.now + Duration::from_hours(1)), None);
    pair.source.handle_timeout(pair.now + Duration::from_hours(1));
    assert_eq!(pair.source_events(), []);
}

#[test]
fn silence_ends_a_connection_and_pings_prevent_it() {
    let mut pair = Pair::greeted();
    for _ in 0..60 {
        pair.now += Duration::from_secs(1);
        pair.source.handle_timeout(pair.now);
        pair.destination.handle_timeout(pair.now);
        pair.exchange(CONTROL);
    }
    assert_eq!((pair.source_events(), pair.destination_events()), (vec![], vec![]));
    assert!(pair.source.poll_timeout().unwrap() > pair.now);
    pair.now += Duration::from_secs(8);
    pair.source.handle_timeout(pair.now);
    pair.destination.handle_timeout(pair.now);
    assert_eq!(pair.source_events(), [SourceEvent::Disconnected]);
    assert_eq!(pair.destination_events(), [DestinationEvent::Disconnected { connection: 1 }]);
    assert!(pair.source.waiting_since().is_some() && pair.destination.waiting_since().is_some());
}

#[test]
fn patience_ends_at_both_sides() {
    let mut pair = Pair::greeted();
    pair.source.handle_closed(pair.now, CONTROL);
    pair.destination.handle_closed(pair.now, CONTROL);
    pair.source_events();
    pair.destination_events();
    pair.now += DestinationTimers::default().patience.max(SourceTimers::default().patience);
    pair.source.handle_timeout(pair.now);
    pair.destination.handle_timeout(pair.now);
    let events = pair.source_events();
    assert!(matches!(&events[..], [SourceEvent::Over(SourceEnd::Aborted(_))]), "{events:?}");
    let events = pair.destination_events();
    assert!(matches!(&events[..], [DestinationEvent::Refuse(_)]), "{events:?}");
    assert_eq!(pair.destination.poll_timeout(), None, "it has nothing to wait for");
}

#[test]
fn failures_to_connect_wait_ever_longer() {
    let mut pair = Pair::greeted();
    let mut control = CONTROL;
    let mut pauses = Vec::new();
    for _ in 0..8 {
        pair.source.handle_closed(pair.now, control);
        assert_eq!(pair.source.poll_connect(pair.now), None);
        let at = pair.source.poll_timeout().unwrap();
        pauses.push((at - pair.now).as_millis());
        pair.now = at;
        control = pair.source.poll_connect(pair.now).expect("it is time");
        assert_eq!(control, StreamId::control(2), "a connection that was not made has no number");
    }
    assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
}

#[test]
fn a_stream_that_never_acknowledges_is_given_up() {
    let mut pair = Pair::greeted();
    let data = stream(1, 1);
    pair.open(data);
    pair.write(5, 1);
    assert!(pair.send(data).is_some());
    for _ in 0..14 {
        pair.now += Duration::from_secs(1);
        pair.source.handle_timeout(pair.now);
        pair.exchange(CONTROL);
    }
    assert_eq!((pair.source_events(), pair.source.ledger().in_flight()), (vec![], 1));
    pair.now += Duration::from_secs(1);
    pair.source.handle_timeout(pair.now);
    assert_eq!(pair.source_events(), [SourceEvent::StreamDead(data)]);
    assert_eq!(pair.source.ledger().owed(), 1);
}

#[test]
fn a_destination_populates_what_is_announced_and_exists() {
    let mut pair = Pair::greeted();
    let announce = |runs| Message::Announce(runs);
    let frame = forge(CONTROL, 1, &announce(vec![run(0, 64), run(100, 2)]));
    pair.arrive(CONTROL, &frame).unwrap();
    let populate = [run(0, 64), run(100, 2)].map(DestinationEvent::Populate);
    assert_eq!(pair.destination_events(), populate);
    let frame = forge(CONTROL, 2, &announce(vec![run(60, 10)]));
    assert_eq!(pair.arrive(CONTROL, &frame), Err(Fault::NoMemory(run(60, 10))));
}

/// What a faulty source sends, and what the destination finds.
/// What a faulty destination sends, and what the source finds: before the permit frame it gives up,
/// in doubt it ends the connection.
#[test]
fn a_worker_whose_stream_is_gone_drops_what_it_encoded() {
    let mut pair = Pair::greeted();
    let data = stream(1, 1);
    pair.open(data);
    pair.write(5, 1);
    let Some(Transmit::Pages(draft)) = pair.source.poll_transmit(pair.now, data) else {
        panic!("a page is owed");
    };
    assert!(!pair.source.is_drained());
    pair.source.handle_closed(pair.now, data);
    assert_eq!(pair.source.handle_encoded(pair.now, &draft, &[], 10), None);
    pair.source.handle_written(pair.now, data);
    assert_eq!(pair.source.ledger().owed(), 1);
}

#[test]
fn nothing_is_told_after_the_end() {
    let mut pair = Pair::greeted();
    pair.source.abort("the user gave up").unwrap();
    pair.exchange(CONTROL);
    pair.source.handle_closed(pair.now, CONTROL);
    let end = SourceEnd::Aborted(Text::new("the user gave up"));
    assert_eq!(pair.source_events(), [SourceEvent::Over(end)]);
}

mod dialling;
mod kept;
mod limits;
mod peers_at_fault;
mod switch;
