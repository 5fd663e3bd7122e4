//! [`DestinationProcess`]: the machine process that waits for the guest.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::time::Duration;

use super::guest::Memory;
use super::kept::KeptStore;
use super::network::{Network, Side};
use super::storage::{self, Storage};
use crate::acp::{Actor, Event, Nonce, PermitState, SessionId, VmId};
use crate::digest::DigestKey;
use crate::hde::{Decoder, Held, Tier};
use crate::ledger::SendNumber;
use crate::page::{Gfn, Page, PageRun};
use crate::session::{
    Agreement, DecodedPages, Destination, DestinationEvent, DestinationTimers, GuestPages,
};
use crate::wire::{HEADER_BYTES, Kind, Message, StreamId};

pub(super) struct DestinationProcess {
    pub(super) nonce: Nonce,
    pub(super) session: SessionId,
    pub(super) destination: Destination,
    pub(super) memory: Memory,
    pub(super) is_running: bool,
    /// The final state, once everything has arrived.
    pub(super) state: Option<Vec<u8>>,
    pub(super) cannot_restore: bool,
    key: DigestKey,
    decoder: Decoder,
    open: BTreeSet<StreamId>,
    /// Why it refuses, or has refused.
    pub(super) reason: Option<String>,
    has_refused: bool,
}

impl GuestPages for Memory {
    type Error = Infallible;

    fn write(&mut self, run: PageRun, content: &[u8]) -> Result<(), Infallible> {
        self.run_mut(run).copy_from_slice(content);
        Ok(())
    }
}

struct Holdings<'a> {
    destination: &'a Destination,
    memory: &'a Memory,
    kept: Option<&'a KeptStore>,
}

impl Held for Holdings<'_> {
    fn copy_base(&self, gfn: Gfn, number: SendNumber, into: &mut Page) -> bool {
        let holds = self.destination.holds(gfn, number);
        if holds {
            into.copy_from_slice(self.memory.page(gfn));
        }
        holds
    }

    fn copy_kept(&self, gfn: Gfn, into: &mut Page) -> bool {
        self.kept.is_some_and(|kept| kept.copy(gfn, into))
    }
}

impl DestinationProcess {
    pub(super) fn new(
        now: Duration,
        agreement: &Agreement,
        nonce: Nonce,
        kept: Option<&KeptStore>,
    ) -> Self {
        let timers = DestinationTimers { patience: Duration::from_secs(120) };
        let mut destination = Destination::new(now, agreement, timers);
        if let Some(list) = kept.and_then(|kept| kept.open(&agreement.key)) {
            destination.keep(list);
        }
        Self {
            nonce,
            session: agreement.session,
            destination,
            memory: Memory::new(agreement.memory.last().expect("a guest has memory").end()),
            is_running: false,
            state: None,
            cannot_restore: false,
            key: agreement.key.clone(),
            decoder: Decoder::new(),
            open: BTreeSet::new(),
            reason: None,
            has_refused: false,
        }
    }

    pub(super) fn arrived(
        &mut self,
        now: Duration,
        stream: StreamId,
        frame: &[u8],
        kept: Option<&KeptStore>,
    ) {
        let (bytes, payload) = frame.split_first_chunk::<HEADER_BYTES>().expect("a frame");
        if !self.open.contains(&stream) {
            if self.destination.handle_hello(now, bytes, payload).is_ok() {
                self.open.insert(stream);
            }
            return;
        }
        let Ok(header) = self.destination.handle_header(stream, bytes) else { return };
        if let (Some(kept), Ok(Some(Message::Recall { from }))) =
            (kept, Message::parse(header.kind(), payload))
        {
            kept.count(|counts| {
                counts.recalls += 1;
                counts.resumed += u64::from(from > Gfn(0));
            });
        }
        if header.kind() != Kind::Pages {
            self.destination.handle_frame(now, header, payload).expect("a correct peer");
            return;
        }
        let holdings = Holdings { destination: &self.destination, memory: &self.memory, kept };
        match self.decoder.decode(&self.key, payload, &holdings) {
            Ok(decoded) => {
                let found = decoded.tiers.of(Tier::Kept).pages;
                kept.into_iter().for_each(|kept| kept.count(|counts| counts.pages += found));
                let pages = DecodedPages::from(decoded);
                let taken = self.destination.handle_pages(now, header, &pages, &mut self.memory);
                taken.expect("a correct peer");
            }
            Err(error) => {
                let wanted = error.wanted().unwrap_or_else(|| panic!("a correct peer: {error}"));
                let missing = self.destination.handle_missing(header, wanted);
                missing.expect("a correct peer");
            }
        }
    }

    pub(super) fn closed(&mut self, now: Duration, stream: StreamId) {
        self.open.remove(&stream);
        self.destination.handle_closed(now, stream);
    }

    /// Does everything that can be done now. Returns whether the guest has just begun to run.
    pub(super) fn drive(
        &mut self,
        now: Duration,
        net: &mut impl Network,
        storage: &Storage,
        vm: VmId,
    ) -> bool {
        while let Some(event) = self.destination.poll_event() {
            match event {
                DestinationEvent::Disconnected { connection } => {
                    for stream in std::mem::take(&mut self.open) {
                        if stream.connection == connection {
                            net.close(now, Side::Destination, stream);
                        } else {
                            self.open.insert(stream);
                        }
                    }
                }
                DestinationEvent::Populate(_) => {}
                DestinationEvent::Ready { state } if self.cannot_restore => {
                    drop(state);
                    self.reason = Some("the machine cannot be restored".to_owned());
                }
                DestinationEvent::Ready { state } => self.state = Some(state),
                DestinationEvent::Refuse(reason) => self.reason = Some(reason.to_string()),
            }
        }
        let has_taken = self.decide(storage, vm);
        for stream in self.open.clone() {
            while let Some(frame) = self.destination.poll_transmit(now, stream) {
                net.write(now, Side::Destination, stream, frame);
            }
        }
        has_taken
    }

    /// Makes the record say what is decided, and only then acts on it.
    fn decide(&mut self, storage: &Storage, vm: VmId) -> bool {
        let (session, nonce) = (self.session, self.nonce);
        let actor = Actor::Process(nonce);
        if let Some(reason) = self.reason.as_ref() {
            if self.has_refused {
                return false;
            }
            let is_made = |state: &PermitState| matches!(state, PermitState::Refused { .. });
            let event = Event::Refuse { session };
            if storage::ensure(storage, vm, actor, &event, is_made) == Ok(true) {
                self.destination.refused(reason);
                self.has_refused = true;
            }
            return false;
        }
        if self.state.is_none() || self.is_running {
            return false;
        }
        let is_made = |state: &PermitState| storage::is_taken(state, session, nonce);
        if storage::ensure(storage, vm, actor, &Event::Take { session }, is_made) == Ok(true) {
            self.is_running = true;
            self.destination.taken();
        }
        self.is_running
    }
}
