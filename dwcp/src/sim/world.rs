//! The world: two hosts, and everything that happens to them.

use std::num::NonZeroU64;
use std::time::Duration;

use super::checker::{self, Census, Frozen, Violation};
use super::destination_host::DestinationProcess;
use super::guest::Guest;
use super::kept::{KeptCounts, KeptStore};
use super::network::{NetEvent, Network, Side};
use super::pipes::Pipes;
use super::rng::Rng;
use super::scenario::{Fault, Scenario, Transport, When};
use super::source_host::{Attempt, SourceOutcome, SourceProcess};
use super::storage::{self, Storage};
use super::tcp::Tcp;
use crate::acp::{Actor, Answer, Event, Generation, HostName, Nonce, PermitState, SessionId, VmId};
use crate::digest::DigestKey;
use crate::session::{Agreement, SourceCounts};
use crate::wire::{PeerAnswer, Text};

/// Attempts after which a user would give up. Faults are over by then.
const ATTEMPTS_MAX: u32 = 6;

/// Steps after which a run counts as hung: over TCP, each packet is one.
const STEPS_MAX: u64 = 2_000_000;

/// Virtual time after which it does.
const TIME_MAX: Duration = Duration::from_mins(30);

/// How often the guest gets to run, and the daemons look around.
const TICK: Duration = Duration::from_millis(1);

/// While nothing can be sent, what the guest does matters less.
const SLOW_TICK: Duration = Duration::from_millis(50);
const DAEMON_TICK: Duration = Duration::from_millis(500);

/// Who has the machine when everything has come to rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It runs at the destination.
    Moved,
    /// It runs at the source, where it was killed and started anew.
    Restarted,
    /// The destination's process was killed after it had taken the permit.
    DiedThere,
}

/// How a run went.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    /// Who has the machine.
    pub ending: Ending,
    /// Attempts that were made.
    pub attempts: u32,
    /// Time until everything had come to rest.
    pub duration: Duration,
    /// From the guest's stop to its start at the destination, in the attempt that succeeded.
    pub blackout: Option<Duration>,
    /// Bytes of pages that had to go in that time.
    pub burst_bytes: u64,
    /// Frames that arrived.
    pub frames: u64,
    /// What the last attempt cost.
    pub counts: SourceCounts,
    /// Rounds that it took while the guest ran.
    pub rounds: u32,
    /// What came of what the destination's host had kept.
    pub kept: KeptCounts,
}

/// Runs a scenario until everything has come to rest.
///
/// # Errors
/// When something was not as it must be.
pub fn run(scenario: &Scenario) -> Result<Report, Violation> {
    let seed = Rng::new(scenario.seed).next();
    match scenario.transport {
        Transport::Frames => run_over(scenario, Pipes::new(scenario.link(), seed)),
        Transport::Tcp => run_over(scenario, Tcp::new(scenario, seed)),
    }
}

fn run_over(scenario: &Scenario, net: impl Network) -> Result<Report, Violation> {
    let mut world = World::new(scenario, net);
    for _ in 0..STEPS_MAX {
        if let Some(ending) = world.step()? {
            return Ok(world.report(ending));
        }
        if world.now > TIME_MAX {
            break;
        }
    }
    Err(Violation(format!("nothing has come of it: {}", world.describe())))
}

struct World<'a, N> {
    scenario: &'a Scenario,
    now: Duration,
    rng: Rng,
    vm: VmId,
    net: N,
    faults: Vec<(When, Fault)>,
    heal_at: Option<Duration>,
    guest_at: Duration,
    daemons_at: Duration,
    attempts: u32,
    agreement: Agreement,
    source_storage: Storage,
    source: Option<SourceProcess>,
    /// The machine was started anew on the source's host.
    restarted: bool,
    destination_storage: Storage,
    kept: Option<KeptStore>,
    destination: Option<DestinationProcess>,
    frozen: Option<Frozen>,
    frozen_at: Duration,
    blackout: Option<Duration>,
    source_killed: bool,
    destination_killed_running: bool,
    counts: SourceCounts,
    rounds: u32,
}

impl<'a, N: Network> World<'a, N> {
    fn new(scenario: &'a Scenario, net: N) -> Self {
        let mut rng = Rng::new(scenario.seed);
        let vm = VmId::new(rng.bytes()).expect("not zeros");
        let (source_storage, destination_storage) = (Storage::new(), Storage::new());
        let nonce = Nonce::new(rng.bytes()).expect("not zeros");
        let keeper = Actor::Keeper;
        for event in [Event::Create, Event::Start { runner: nonce }] {
            let made = storage::ensure(&source_storage, vm, keeper, &event, |_| false);
            made.expect("a new machine");
        }
        let mut guest = Guest::new(&scenario.memory, scenario.state_bytes, rng.next());
        let kept = scenario.kept.map(|rewritten| {
            let kept = KeptStore::new(&guest.memory, &scenario.memory);
            guest.rewrite(rewritten, !scenario.seed);
            kept
        });
        let agreement = agreement(&mut rng, scenario);
        let mut world = Self {
            scenario,
            now: Duration::ZERO,
            rng,
            vm,
            net,
            faults: scenario.faults.clone(),
            heal_at: None,
            guest_at: TICK,
            daemons_at: DAEMON_TICK,
            attempts: 0,
            agreement,
            source_storage,
            source: Some(SourceProcess::new(guest, nonce)),
            restarted: false,
            destination_storage,
            kept,
            destination: None,
            frozen: None,
            frozen_at: Duration::ZERO,
            blackout: None,
            source_killed: false,
            destination_killed_running: false,
            counts: SourceCounts::default(),
            rounds: 0,
        };
        world.new_attempt();
        world
    }

    fn report(&self, ending: Ending) -> Report {
        Report {
            ending,
            attempts: self.attempts,
            duration: self.now,
            blackout: self.blackout,
            burst_bytes: self
                .frozen
                .as_ref()
                .map_or(0, |frozen| self.counts.payload_bytes.saturating_sub(frozen.payload_bytes)),
            frames: self.net.delivered(),
            counts: self.counts,
            rounds: self.rounds,
            kept: self.kept.as_ref().map(KeptStore::counts).unwrap_or_default(),
        }
    }

    fn describe(&self) -> String {
        let state = |storage| storage::load(storage, self.vm).map(|record| record.state().clone());
        format!(
            "at {:?}, attempt {}, source record {:?}, destination record {:?}, {:?}",
            self.now,
            self.attempts,
            state(&self.source_storage),
            state(&self.destination_storage),
            self.census(),
        )
    }

    /// One moment: everything that can be done now, then on to the next.
    fn step(&mut self) -> Result<Option<Ending>, Violation> {
        self.drive()?;
        self.census().check()?;
        if let Some(ending) = self.ending() {
            return Ok(Some(ending));
        }
        self.advance();
        self.due_faults();
        while let Some(event) = self.next_net_event() {
            self.deliver(event);
            self.drive()?;
            self.census().check()?;
        }
        let now = self.now;
        if let Some(attempt) = self.attempt_mut() {
            attempt.source.handle_timeout(now);
        }
        if let Some(process) = &mut self.destination {
            process.destination.handle_timeout(self.now);
        }
        Ok(None)
    }

    fn census(&self) -> Census {
        let source = self.source.as_ref();
        let destination = self.destination.as_ref();
        Census {
            source_runs: source.is_some_and(|source| source.guest.is_running),
            destination_runs: destination.is_some_and(|destination| destination.is_running),
            restarted: self.restarted,
            is_somewhere: source.is_some()
                || destination.is_some_and(|destination| destination.is_running),
            was_killed: self.source_killed || self.destination_killed_running,
        }
    }

    /// Whether everything has come to rest: one host has the machine, and the other knows.
    fn ending(&self) -> Option<Ending> {
        if self.source.is_some() || self.heal_at.is_some() {
            return None;
        }
        let source = storage::load(&self.source_storage, self.vm)?;
        let is_gone = matches!(source.state(), PermitState::Gone { .. });
        if self.restarted {
            return Some(Ending::Restarted);
        }
        match &self.destination {
            Some(process) if process.is_running && is_gone => Some(Ending::Moved),
            None if is_gone && self.destination_killed_running => Some(Ending::DiedThere),
            _ => None,
        }
    }

    fn drive(&mut self) -> Result<(), Violation> {
        self.drive_source()?;
        self.drive_destination()
    }

    fn drive_source(&mut self) -> Result<(), Violation> {
        let Some(process) = &mut self.source else { return Ok(()) };
        let was_running = process.guest.is_running;
        let (net, storage) = (&mut self.net, &self.source_storage);
        let outcome = process.drive(self.now, net, storage, self.vm, &mut self.frozen);
        if was_running && !process.guest.is_running {
            self.frozen_at = self.now;
        }
        if let Some(attempt) = &process.session {
            self.counts = attempt.source.counts();
            self.rounds = process.rounds();
            checker::check_resent(&self.counts)?;
        }
        match outcome {
            Some(SourceOutcome::Gone) => self.source = None,
            Some(SourceOutcome::Stays) => {
                process.session = None;
                if self.attempts >= ATTEMPTS_MAX {
                    let state = self.describe();
                    return Err(Violation(format!("no attempt has succeeded: {state}")));
                }
                self.end_destination();
            }
            None => {}
        }
        Ok(())
    }

    fn drive_destination(&mut self) -> Result<(), Violation> {
        let Some(process) = &mut self.destination else { return Ok(()) };
        let has_taken = process.drive(self.now, &mut self.net, &self.destination_storage, self.vm);
        checker::check_reason(process.reason.as_deref())?;
        if has_taken {
            let state = process.state.as_deref();
            checker::check_identity(self.frozen.as_ref(), &process.memory, state)?;
            self.blackout = Some(self.now - self.frozen_at);
        }
        Ok(())
    }

    /// A new attempt, with a new process at the destination, prepared by its daemon.
    fn new_attempt(&mut self) {
        self.agreement = agreement(&mut self.rng, self.scenario);
        let runner = Nonce::new(self.rng.bytes()).expect("not zeros");
        let session = self.agreement.session;
        let from = HostName::new("source").expect("a name");
        let record = storage::load(&self.source_storage, self.vm);
        let offered = record.map_or(Generation::default(), |record| record.generation());
        let event = Event::Prepare { session, runner, from, offered };
        let is_made = |state: &PermitState| matches!(state, PermitState::Prepared { session: made, .. } if *made == session);
        let storage = &self.destination_storage;
        let prepared = storage::ensure(storage, self.vm, Actor::Keeper, &event, is_made);
        // An attempt that has not ended there yet is ended first, by the daemon's next round.
        if prepared != Ok(true) {
            return;
        }
        let Some(source) = &mut self.source else { return };
        self.attempts += 1;
        self.net.forget_all();
        source.start(self.now, &self.agreement, self.scenario, self.kept.is_some());
        let kept = self.kept.as_ref();
        self.destination = Some(DestinationProcess::new(self.now, &self.agreement, runner, kept));
    }

    /// The daemon ends a process that waits for an attempt that is over, and makes sure that it can
    /// never run.
    fn end_destination(&mut self) {
        let Some(process) = self.destination.take_if(|process| !process.is_running) else { return };
        self.refuse_by_keeper(process.session);
    }

    /// Whether the record says `Refused` of the session, after the keeper has done what it can.
    fn refuse_by_keeper(&mut self, session: SessionId) -> bool {
        let is_made = |state: &PermitState| matches!(state, PermitState::Refused { .. });
        let (storage, event) = (&self.destination_storage, Event::Refuse { session });
        storage::ensure(storage, self.vm, Actor::Keeper, &event, is_made) == Ok(true)
    }

    /// On to the moment at which something happens.
    fn advance(&mut self) {
        let attempt = self.source.as_ref().and_then(|source| source.session.as_ref());
        let destination = self.destination.as_ref();
        let fault = self.faults.iter().filter_map(|(when, _)| match when {
            When::After(at) => Some(*at),
            When::Frame(_) => None,
        });
        let runs = self.source.as_ref().is_some_and(|source| source.guest.is_running);
        let next = [
            attempt.and_then(|attempt| attempt.source.poll_timeout()),
            destination.and_then(|process| process.destination.poll_timeout()),
            self.net.next_time(),
            self.heal_at,
            runs.then_some(self.guest_at),
            Some(self.daemons_at),
            fault.min(),
        ];
        let next = next.into_iter().flatten().min().expect("the daemons always look around");
        self.now = self.now.max(next);
        if self.heal_at.is_some_and(|at| at <= self.now) {
            self.net.heal();
            self.heal_at = None;
        }
        if self.now >= self.guest_at {
            self.run_guest();
        }
        if self.now >= self.daemons_at {
            self.daemons_at = self.now + DAEMON_TICK;
            self.daemons();
        }
    }

    fn run_guest(&mut self) {
        let mut tick = TICK;
        if let Some(source) = self.source.as_mut().filter(|source| source.guest.is_running) {
            source.guest.run(self.scenario.writes_per_ms);
            if source.is_waiting() {
                tick = SLOW_TICK;
            }
        }
        self.guest_at = self.now + tick;
    }

    fn due_faults(&mut self) {
        while let Some(index) = self.faults.iter().position(|(when, _)| match when {
            When::After(at) => *at <= self.now,
            When::Frame(_) => false,
        }) {
            let (_, fault) = self.faults.remove(index);
            self.strike(fault);
        }
    }

    /// What the network brings now. A fault that waits for this frame comes first, and may take it.
    fn next_net_event(&mut self) -> Option<NetEvent> {
        let next = self.net.delivered();
        while let Some(index) = self.faults.iter().position(|(when, _)| *when == When::Frame(next))
        {
            if self.net.next_time().is_none_or(|at| at > self.now) {
                break;
            }
            let (_, fault) = self.faults.remove(index);
            self.strike(fault);
        }
        self.net.poll(self.now)
    }

    fn strike(&mut self, fault: Fault) {
        match fault {
            Fault::Cut(pause) => {
                self.net.cut(self.now);
                let heal_at = self.now + pause;
                self.heal_at = Some(self.heal_at.map_or(heal_at, |at| at.max(heal_at)));
            }
            Fault::StreamDies => {
                let streams = self.net.streams();
                if !streams.is_empty() {
                    let index = self.rng.below(0..streams.len() as u64) as usize;
                    self.net.kill_stream(self.now, streams[index]);
                }
            }
            Fault::Clog(pause) => {
                if let Some(stream) = self.net.streams().first() {
                    self.net.clog(self.now, *stream, pause);
                }
            }
            Fault::KillSource => self.kill_source(),
            Fault::KillDestination => {
                if let Some(process) = self.destination.take() {
                    self.destination_killed_running |= process.is_running;
                    self.close_all(Side::Destination);
                }
            }
            Fault::TearSource(bytes) => self.source_storage.tear_next_write(bytes),
            Fault::TearDestination(bytes) => self.destination_storage.tear_next_write(bytes),
            Fault::CannotRestore => {
                if let Some(process) = &mut self.destination {
                    process.cannot_restore = true;
                }
            }
            Fault::Abort => {
                if let Some(attempt) = self.attempt_mut() {
                    // Too late is an answer, too.
                    attempt.source.abort("the user gave up").unwrap_or_default();
                }
            }
            Fault::Streams(count) => {
                if let Some(attempt) = self.attempt_mut() {
                    attempt.source.set_data_streams(count);
                }
            }
            Fault::Limit(bytes_per_second) => {
                let now = self.now;
                if let Some(attempt) = self.attempt_mut() {
                    attempt.source.set_limit(now, NonZeroU64::new(bytes_per_second));
                }
            }
            Fault::RotKept(per_mille) => {
                let rng = &mut self.rng;
                self.kept.iter_mut().for_each(|kept| kept.rot(per_mille, rng));
            }
            Fault::LoseKept => self.kept.iter_mut().for_each(KeptStore::lose),
        }
    }

    fn attempt_mut(&mut self) -> Option<&mut Attempt> {
        self.source.as_mut()?.session.as_mut()
    }

    fn kill_source(&mut self) {
        if self.source.take().is_some() {
            self.source_killed = true;
            self.close_all(Side::Source);
        }
    }

    /// The kernel closes what a dead process had open.
    fn close_all(&mut self, side: Side) {
        for stream in self.net.streams() {
            self.net.close(self.now, side, stream);
        }
    }

    fn deliver(&mut self, event: NetEvent) {
        let now = self.now;
        let attempt = self.source.as_mut().and_then(|source| source.session.as_mut());
        match event {
            NetEvent::Connected(stream) => match (attempt, &self.destination) {
                (Some(attempt), Some(_)) => attempt.connected(now, stream),
                // Nobody listens.
                (Some(attempt), None) => attempt.closed(now, stream),
                (None, _) => {}
            },
            NetEvent::Closed(Side::Source, stream) => {
                attempt.into_iter().for_each(|attempt| attempt.closed(now, stream));
            }
            NetEvent::Closed(Side::Destination, stream) => {
                self.destination.iter_mut().for_each(|process| process.closed(now, stream));
            }
            NetEvent::Frame(Side::Source, stream, frame) => {
                attempt.into_iter().for_each(|attempt| attempt.arrived(now, stream, &frame));
            }
            NetEvent::Frame(Side::Destination, stream, frame) => {
                let kept = self.kept.as_ref();
                let process = self.destination.as_mut();
                process.into_iter().for_each(|process| process.arrived(now, stream, &frame, kept));
            }
            NetEvent::Written(Side::Source, stream) => {
                attempt.into_iter().for_each(|attempt| attempt.source.handle_written(now, stream));
            }
            NetEvent::Written(Side::Destination, stream) => {
                let process = self.destination.as_mut();
                process.into_iter().for_each(|process| process.destination.handle_written(stream));
            }
        }
    }

    /// What the daemons do beside the machines: they talk, when the link is up, and look after what
    /// a dead process has left.
    fn daemons(&mut self) {
        let has_attempt = self.source.as_ref().is_some_and(|source| source.session.is_some());
        if self.source.is_some() && !has_attempt && self.net.is_up() {
            self.retry_attempt();
        }
        if self.destination.is_none() && self.net.is_up() {
            self.answer_for_the_dead();
        }
        if self.source.is_none() && self.source_killed && !self.restarted {
            self.recover_source();
        }
        self.settle();
    }

    fn retry_attempt(&mut self) {
        self.end_destination();
        let record = storage::load(&self.destination_storage, self.vm);
        match record.as_ref().map(|record| record.state().clone()) {
            Some(PermitState::Prepared { session, .. }) => {
                self.refuse_by_keeper(session);
            }
            _ if self.destination.is_none() => self.new_attempt(),
            _ => {}
        }
    }

    /// The destination's process is dead. Its daemon answers by the record (7.4).
    fn answer_for_the_dead(&mut self) {
        let session = self.agreement.session;
        let Some(answer) = self.answer_by_record(session, false) else { return };
        let attempt = self.source.as_mut().and_then(|source| source.session.as_mut());
        if let Some(attempt) = attempt.filter(|attempt| attempt.id == session) {
            let reason = Text::new("its process has died");
            attempt.source.answered(answer, reason).expect("a correct peer");
        }
    }

    fn answer_by_record(&mut self, session: SessionId, is_alive: bool) -> Option<PeerAnswer> {
        let record = storage::load(&self.destination_storage, self.vm)?;
        match record.answer(session, is_alive) {
            Answer::RefuseFirst => self.refuse_by_keeper(session).then_some(PeerAnswer::NeverRan),
            answer => PeerAnswer::of(answer),
        }
    }

    /// The source's process is dead, and the guest's memory with it. The machine may start anew where
    /// the record says `Held`, and nowhere else (P4).
    fn recover_source(&mut self) {
        let Some(record) = storage::load(&self.source_storage, self.vm) else { return };
        let session = self.agreement.session;
        match record.state() {
            PermitState::Held { .. } => {
                let runner = Nonce::new(self.rng.bytes()).expect("not zeros");
                let (storage, event) = (&self.source_storage, Event::Start { runner });
                let started = storage::ensure(storage, self.vm, Actor::Keeper, &event, |_| false);
                self.restarted = started == Ok(true);
                // The attempt is over. Its destination hears that, or runs out of patience.
                if self.restarted && self.net.is_up() {
                    self.end_destination();
                }
            }
            PermitState::Offered { .. } if self.net.is_up() => {
                if let Some(process) = &mut self.destination {
                    process.destination.refuse("the source's process has died");
                }
                let is_alive = self.destination.is_some();
                let event = match self.answer_by_record(session, is_alive) {
                    Some(PeerAnswer::Ran) => Event::PeerTook { session },
                    Some(PeerAnswer::NeverRan) => Event::PeerRefused { session },
                    _ => return,
                };
                let storage = &self.source_storage;
                // Not certain: the next round sees.
                let _ = storage::ensure(storage, self.vm, Actor::Keeper, &event, |_| false);
            }
            _ => {}
        }
    }

    /// What was taken is simply held from now on.
    fn settle(&mut self) {
        let Some(process) = self.destination.as_ref().filter(|process| process.is_running) else {
            return;
        };
        let (session, actor) = (process.session, Actor::Process(process.nonce));
        let is_made = |state: &PermitState| matches!(state, PermitState::Held { .. });
        let (storage, event) = (&self.destination_storage, Event::Settle { session });
        storage::ensure(storage, self.vm, actor, &event, is_made).expect("what was taken settles");
    }
}

fn agreement(rng: &mut Rng, scenario: &Scenario) -> Agreement {
    Agreement {
        session: SessionId::new(rng.bytes()).expect("not zeros"),
        key: DigestKey::new(rng.bytes()),
        memory: scenario.memory.clone(),
    }
}
