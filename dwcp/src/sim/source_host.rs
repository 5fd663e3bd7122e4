//! [`SourceProcess`]: the machine process that has the guest, and moves it.

use std::collections::BTreeSet;
use std::num::NonZeroU64;
use std::time::Duration;

use super::checker::Frozen;
use super::guest::Guest;
use super::network::{Network, Side};
use super::scenario::Scenario;
use super::storage::{self, Storage};
use crate::acp::{Actor, Event, HostName, Nonce, PermitState, SessionId, Successor, VmId};
use crate::amst::StreamCount;
use crate::digest::{DigestKey, ShortDigest};
use crate::hde::{Base, Encoder, Ladder, LadderStep, Offer, Sending, Shadow};
use crate::ledger::SendNumber;
use crate::page::Gfn;
use crate::pba::{
    Debt, Decision, DirtyEstimator, EncodedBatch, EncoderEstimator, HotPages, Outlook, decide,
};
use crate::session::{Agreement, Draft, Source, SourceEnd, SourceEvent, SourceTimers, Transmit};
use crate::wire::{HEADER_BYTES, StreamId};

/// Rounds after which the switch comes, however much is dirtied: nobody is here to be asked.
const ROUNDS_MAX: u32 = 12;
/// The same, while there is hope.
const HOPEFUL_ROUNDS_MAX: u32 = 40;

/// How often the dirty log is harvested while the guest runs on to its stop. What it writes in the last of these is
/// in the burst; but every 4 ms, a guest that writes once a millisecond stood still 7 ms longer, 200 ms away.
const SETTLING_HARVEST: Duration = Duration::from_millis(10);

pub(super) struct SourceProcess {
    pub(super) guest: Guest,
    pub(super) nonce: Nonce,
    pub(super) session: Option<Attempt>,
    rounds: u32,
}

/// One attempt, with what a process has for it.
pub(super) struct Attempt {
    pub(super) id: SessionId,
    pub(super) source: Source,
    pub(super) in_doubt: bool,
    key: DigestKey,
    open: BTreeSet<StreamId>,
    encoder: Encoder,
    shadow: Shadow,
    step: LadderStep,
    step_index: usize,
    predictor: Option<Predictor>,
    streams: Option<StreamCount>,
    settles_first: bool,
    may_settle: bool,
    settling: Option<Settling>,
    is_offered: bool,
    wants_switch: bool,
    pages_at_switch: u64,
    speculates: bool,
    /// What the record must be made to say before anything else happens.
    end: Option<SourceEnd>,
}

/// What a forecast is made of.
struct Predictor {
    dirty: DirtyEstimator,
    encoders: EncoderEstimator,
    harvested_at: Duration,
    budget: Duration,
}

/// The guest runs on until all that went out before the decision to stop it is acknowledged, and the burst has
/// the link to itself. What the guest writes meanwhile goes out at once.
struct Settling {
    /// The first number that was drawn after the decision.
    below: SendNumber,
    hot: HotPages,
    harvested_at: Duration,
}

/// How an attempt ended for its process.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum SourceOutcome {
    /// The memory may be let go.
    Gone,
    /// The guest runs here.
    Stays,
}

struct Bases<'a> {
    draft: &'a Draft,
    shadow: &'a Shadow,
}

impl Offer for Bases<'_> {
    fn kept(&self, gfn: Gfn) -> Option<ShortDigest> {
        let index = self.draft.batch.sends().position(|(of, _)| of == gfn)?;
        self.draft.kept.get(index).copied().flatten()
    }

    fn base(&self, gfn: Gfn) -> Option<Base<'_>> {
        let index = self.draft.batch.sends().position(|(of, _)| of == gfn)?;
        self.shadow.get(gfn, self.draft.bases[index]?)
    }
}

impl SourceProcess {
    pub(super) fn new(guest: Guest, nonce: Nonce) -> Self {
        Self { guest, nonce, session: None, rounds: 0 }
    }

    /// Rounds of the attempt.
    pub(super) fn rounds(&self) -> u32 {
        self.rounds
    }

    /// Whether nothing can be sent.
    pub(super) fn is_waiting(&self) -> bool {
        let attempt = self.session.as_ref();
        attempt.is_none_or(|attempt| attempt.source.waiting_since().is_some())
    }

    /// Begins an attempt, in which everything is owed. The destination's host has said whether it has kept anything.
    pub(super) fn start(
        &mut self,
        now: Duration,
        agreement: &Agreement,
        scenario: &Scenario,
        has_kept: bool,
    ) {
        let timers = SourceTimers {
            patience: Duration::from_secs(60),
            switch_budget: scenario.switch_budget,
            ..SourceTimers::default()
        };
        let mut source = Source::new(now, agreement, timers);
        if has_kept && scenario.tiers.known {
            source.recall();
        }
        let streams = scenario.adapts_streams.then(|| StreamCount::new(scenario.data_streams));
        let first = streams.as_ref().map_or(scenario.data_streams, StreamCount::count);
        source.set_data_streams(first);
        let pages = NonZeroU64::new(scenario.batch_pages).expect("a scenario's batch");
        source.set_batch_pages(pages);
        for run in &agreement.memory {
            source.owe(*run).expect("the guest's memory");
        }
        // What was dirty before the attempt is owed anyway.
        self.guest.take_dirty();
        self.rounds = 0;
        let limit = agreement.memory.last().expect("a guest has memory").end();
        self.session = Some(Attempt {
            id: agreement.session,
            source,
            in_doubt: false,
            key: agreement.key.clone(),
            open: BTreeSet::new(),
            encoder: Encoder::new(),
            shadow: Shadow::new(scenario.shadow_bytes),
            step: LadderStep { tiers: scenario.tiers, ..Ladder::step(scenario.ladder_step) },
            step_index: scenario.ladder_step,
            predictor: scenario.downtime.map(|budget| Predictor {
                dirty: DirtyEstimator::new(limit),
                encoders: EncoderEstimator::new(),
                harvested_at: now,
                budget,
            }),
            streams,
            settles_first: scenario.settles_first,
            may_settle: scenario.may_settle,
            settling: None,
            is_offered: false,
            wants_switch: false,
            pages_at_switch: scenario.pages_at_switch,
            speculates: scenario.speculates,
            end: None,
        });
    }

    /// Does everything that can be done now.
    pub(super) fn drive(
        &mut self,
        now: Duration,
        net: &mut impl Network,
        storage: &Storage,
        vm: VmId,
        frozen: &mut Option<Frozen>,
    ) -> Option<SourceOutcome> {
        self.policy(now, storage, vm, frozen);
        let attempt = self.session.as_mut()?;
        while let Some(stream) = attempt.source.poll_connect(now) {
            net.connect(now, stream);
        }
        let streams: Vec<StreamId> = attempt.open.iter().copied().collect();
        for stream in streams {
            while let Some(transmit) = attempt.source.poll_transmit(now, stream) {
                if let Some(frame) = attempt.frame(now, transmit, &self.guest) {
                    net.write(now, Side::Source, stream, frame);
                }
            }
        }
        while let Some(event) = attempt.source.poll_event() {
            match event {
                SourceEvent::Connected | SourceEvent::Unknown => {}
                SourceEvent::Disconnected => {
                    for stream in std::mem::take(&mut attempt.open) {
                        net.close(now, Side::Source, stream);
                    }
                }
                SourceEvent::StreamDead(stream) => {
                    attempt.open.remove(&stream);
                    net.close(now, Side::Source, stream);
                }
                SourceEvent::SwitchCancelled => {
                    self.guest.is_running = true;
                    self.rounds = 0;
                    attempt.wants_switch = false;
                    attempt.settling = None;
                }
                SourceEvent::Parted => attempt.in_doubt = true,
                SourceEvent::Over(end) => attempt.end = Some(end),
            }
        }
        self.conclude(now, net, storage, vm)
    }

    /// Makes the record say how it ended, and only then acts on it.
    fn conclude(
        &mut self,
        now: Duration,
        net: &mut impl Network,
        storage: &Storage,
        vm: VmId,
    ) -> Option<SourceOutcome> {
        let attempt = self.session.as_mut()?;
        let (end, session) = (attempt.end.as_ref()?, attempt.id);
        // The last frame, if there is one, goes out first.
        if !attempt.source.is_drained() && !attempt.in_doubt {
            return None;
        }
        let (event, is_made): (_, fn(&PermitState) -> bool) = match end {
            SourceEnd::Ran => {
                (Event::PeerTook { session }, |state| matches!(state, PermitState::Gone { .. }))
            }
            SourceEnd::Refused(_) => {
                (Event::PeerRefused { session }, |state| matches!(state, PermitState::Held { .. }))
            }
            SourceEnd::Aborted(_) => {
                (Event::Withdraw { session }, |state| matches!(state, PermitState::Held { .. }))
            }
        };
        let actor = Actor::Process(self.nonce);
        if !storage::ensure(storage, vm, actor, &event, is_made).expect("the source's record") {
            return None;
        }
        for stream in std::mem::take(&mut attempt.open) {
            net.close(now, Side::Source, stream);
        }
        let outcome = match end {
            SourceEnd::Ran => SourceOutcome::Gone,
            SourceEnd::Refused(_) | SourceEnd::Aborted(_) => {
                self.guest.is_running = true;
                SourceOutcome::Stays
            }
        };
        Some(outcome)
    }

    /// What a user's limits would decide: rounds, and the switch once a round is small.
    fn policy(&mut self, now: Duration, storage: &Storage, vm: VmId, frozen: &mut Option<Frozen>) {
        let Some(attempt) = self.session.as_mut().filter(|attempt| attempt.end.is_none()) else {
            return;
        };
        if attempt.in_doubt || !self.guest.is_running || attempt.source.waiting_since().is_some() {
            return;
        }
        attempt.adapt_streams(now);
        if attempt.source.ledger().owed() == 0 && !attempt.wants_switch {
            let dirty = attempt.harvest(&mut self.guest);
            if attempt.speculates {
                attempt.source.speculate(self.guest.state());
            }
            self.rounds += 1;
            attempt.wants_switch = attempt.is_time(now, &dirty, self.rounds);
        }
        if attempt.wants_switch && !attempt.is_offered {
            let to = Successor::Host(HostName::new("destination").expect("a name"));
            let (session, actor) = (attempt.id, Actor::Process(self.nonce));
            let is_made = |state: &PermitState| matches!(state, PermitState::Offered { .. });
            let event = Event::Offer { session, to };
            attempt.is_offered =
                storage::ensure(storage, vm, actor, &event, is_made).expect("a holder may offer");
            if attempt.is_offered {
                attempt.source.offered();
            }
        }
        if attempt.wants_switch && attempt.is_offered && attempt.settle(now, &mut self.guest) {
            attempt.source.drain();
            if attempt.source.is_drained() {
                self.guest.is_running = false;
                attempt.harvest(&mut self.guest);
                let state = self.guest.state();
                match attempt.source.switch(now, state.clone()) {
                    Ok(()) => {
                        let memory = self.guest.memory.clone();
                        let payload_bytes = attempt.source.counts().payload_bytes;
                        *frozen = Some(Frozen { memory, state, payload_bytes });
                    }
                    Err(_) => self.guest.is_running = true,
                }
            }
        }
    }
}

impl Attempt {
    pub(super) fn connected(&mut self, now: Duration, stream: StreamId) {
        self.open.insert(stream);
        self.source.handle_connected(now, stream);
    }

    pub(super) fn closed(&mut self, now: Duration, stream: StreamId) {
        self.open.remove(&stream);
        self.source.handle_closed(now, stream);
    }

    pub(super) fn arrived(&mut self, now: Duration, stream: StreamId, frame: &[u8]) {
        let (header, payload) = frame.split_first_chunk::<HEADER_BYTES>().expect("a frame");
        if let Ok(header) = self.source.handle_header(now, stream, header) {
            // A fault shows in what the source does next; a correct peer makes none.
            self.source.handle_frame(now, header, payload).expect("a correct peer");
        }
    }

    fn adapt_streams(&mut self, now: Duration) {
        let Some(streams) = &mut self.streams else { return };
        let link = self.source.link();
        if let Some(estimate) = link.estimate() {
            streams.observe(now, link.delivered(), estimate.round_trip, link.is_limited());
        }
        self.source.set_data_streams(streams.count());
    }

    /// Whether the guest is to stop after this harvest.
    fn is_time(&mut self, now: Duration, dirty: &[u64], rounds: u32) -> bool {
        let owed_pages = self.source.ledger().owed();
        let Some(predictor) = &mut self.predictor else {
            return owed_pages <= self.pages_at_switch || rounds >= ROUNDS_MAX;
        };
        predictor.dirty.observe(now - predictor.harvested_at, dirty);
        predictor.harvested_at = now;
        // A link over which nothing was acknowledged yet, and a guest that owes nothing more.
        let Some(link) = self.source.link().estimate() else { return rounds >= ROUNDS_MAX };
        let outlook = Outlook {
            link,
            dirty: &predictor.dirty,
            guest_speed: 1.0,
            live_bytes_per_second: f64::INFINITY,
            bytes_per_page: predictor.encoders.bytes_per_page(self.step_index),
            pages_per_second: f64::INFINITY,
            overhead: Duration::ZERO,
        };
        let unacknowledged_bytes = self.source.link().unacknowledged();
        let debt = Debt { owed_pages, unacknowledged_bytes };
        let (stop, is_time) = match decide(&outlook, debt, predictor.budget) {
            Decision::Stop(stop) => (stop, true),
            Decision::Continue(_) => (outlook.stop(debt), rounds >= HOPEFUL_ROUNDS_MAX),
            Decision::Stuck(_) => (outlook.stop(debt), rounds >= ROUNDS_MAX),
        };
        self.settles_first = stop.settles_first && self.may_settle;
        is_time
    }

    /// What the guest has written since the last time is owed; returns that as a bitmap.
    fn harvest(&mut self, guest: &mut Guest) -> Vec<u64> {
        let dirty = guest.take_dirty();
        self.source.owe_words(Gfn(0), &dirty).expect("the guest's pages");
        dirty
    }

    /// Lets what is on its way arrive, if that is to come before the guest stops; whether it has.
    fn settle(&mut self, now: Duration, guest: &mut Guest) -> bool {
        if !self.settles_first {
            return true;
        }
        if self.predictor.is_none() {
            self.source.drain();
            return self.source.ledger().in_flight() == 0;
        }
        let (below, limit) =
            (self.source.ledger().next_number(), self.source.ledger().owed_pages().limit());
        let begin = || Settling { below, hot: HotPages::new(limit), harvested_at: Duration::ZERO };
        let settling = self.settling.get_or_insert_with(begin);
        if self.source.ledger().settled_below() >= settling.below {
            return true;
        }
        if now >= settling.harvested_at + SETTLING_HARVEST && self.source.is_drained() {
            settling.harvested_at = now;
            let dirty = guest.take_dirty();
            settling.hot.observe(&dirty).expect("the guest's pages");
            self.source.hurry(settling.hot.pages().clone());
            self.source.owe_words(Gfn(0), &dirty).expect("the guest's pages");
        }
        false
    }

    fn frame(&mut self, now: Duration, transmit: Transmit, guest: &Guest) -> Option<Vec<u8>> {
        let draft = match transmit {
            Transmit::Frame(frame) => return Some(frame),
            Transmit::Pages(draft) => draft,
        };
        let mut content = Vec::new();
        for run in draft.batch.runs() {
            content.extend(guest.memory.run(*run));
        }
        let sending = Sending {
            key: &self.key,
            batch: &draft.batch,
            content: &content,
            settled_below: draft.settled_below,
        };
        let mut frame = vec![0; HEADER_BYTES];
        let bases = Bases { draft: &draft, shadow: &self.shadow };
        let encoded = if draft.is_in_full {
            self.encoder.encode(&sending, &self.step, &(), &mut frame)
        } else {
            self.encoder.encode(&sending, &self.step, &bases, &mut frame)
        };
        let payload_bytes = frame.len() - HEADER_BYTES;
        if let Some(predictor) = &mut self.predictor {
            predictor.encoders.observe(&EncodedBatch {
                step: self.step_index,
                tiers: encoded.tiers,
                bytes: payload_bytes as u64,
                // Computing costs nothing here.
                took: Duration::ZERO,
            });
        }
        let header = self.source.handle_encoded(now, &draft, encoded.digests, payload_bytes)?;
        frame[..HEADER_BYTES].copy_from_slice(&header);
        for ((gfn, number), page) in draft.batch.sends().zip(content.as_chunks().0) {
            self.shadow.insert(gfn, number, page);
        }
        Some(frame)
    }
}
