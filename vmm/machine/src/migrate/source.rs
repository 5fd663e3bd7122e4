//! The source's script.

use std::io;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dwcp::acp::{HostName, SessionId};
use dwcp::digest::Root;
use dwcp::hde::{Tier, Tiers};
use dwcp::ledger::Ledger;
use dwcp::page::{Gfn, PageRun};
use dwcp::pba::{HotPages, Stop};
use dwcp::session::{Agreement, Source, SourceCounts, SourceEnd, SourceEvent, SourceTimers};
use dwcp::transport::{
    KeyPair, LinkEvent, PAGES_PROTOCOL, PublicKey, SourceLink, SourceSide, SourceTerms, TlsClient,
};
use dwcp::wire::{PeerAnswer, StreamId, Text};

use super::audit::audit;
use super::brake::Brake;
use super::pace::{Pace, processors};
use super::sockets::Dialler;
use super::survey::content;
use super::{Audit, AuditReport, MigrateError, MigrateOrder, MoveLimits, MoveReport};
use crate::clock::{boot_id, realtime_ns};
use crate::dirty::DirtyLog;
use crate::fault::{Step, reached};
use crate::handover::{Blackout, Cause, Resident};
use crate::jail::{self, ThreadKind};
use crate::memory::GuestRam;
use crate::meter::{LimitChange, Meter, MovePhase, MoveProgress, PeerWord, Word};
use crate::snapshot::SavedMoment;
use crate::vm::{Paused, Running, VmError};

/// How often it is looked whether somebody has cancelled, and what the link does.
const TURN: Duration = Duration::from_millis(50);
/// How often the dirty log is harvested while the guest runs on to its stop.
const SETTLING_HARVEST: Duration = Duration::from_millis(10);
/// How long what is on its way may take to arrive before the guest stops all the same.
const SETTLING_MAX: Duration = Duration::from_secs(5);
/// Beyond the downtime that is allowed: then the guest runs on, and it is tried again.
const SWITCH_GRACE: Duration = Duration::from_secs(2);
/// In doubt: after this the destination is asked to refuse, unless it has taken the permit.
const DOUBT: Duration = Duration::from_secs(30);
/// How long the last frame of an attempt that was given up may take.
const FAREWELL: Duration = Duration::from_secs(1);
/// Memory for the content of pages that differences are made to: a 32nd of the guest's, and at most this.
const SHADOW_MAX: u64 = 256 << 20;

/// A move in progress, seen from the process that gives the guest away.
pub(crate) struct Emigration<'a> {
    resident: &'a mut Resident,
    session: SessionId,
    to: HostName,
    link: SourceLink,
    pace: Pace,
    brake: Brake,
    meter: &'a Meter,
    began: Instant,
    rounds: u32,
    forecast: Option<Duration>,
    how_audited: Audit,
    /// For how long the guest stood still so that its state could be sent ahead.
    looked: Duration,
    /// Why the last connection ended that did not end as it should.
    trouble: Option<String>,
}

/// How a move ended for its source.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The guest runs at the destination; nothing of it may run here again.
    Moved { report: Box<MoveReport>, frozen: Paused },
    /// The guest goes on here.
    Stayed { running: Running, why: MigrateError },
    /// The guest ended while it was being moved.
    Ended { paused: Paused },
    /// The record could not be made to say what became of the move: the guest never runs here again.
    Departed { frozen: Paused, why: MigrateError },
}

/// What the streams need of the machine.
struct Side {
    ram: Arc<GuestRam>,
    dialler: Arc<Dialler>,
}

impl SourceSide for Side {
    fn dial(&self, stream: StreamId) -> io::Result<TcpStream> {
        self.dialler.dial(stream)
    }

    fn read(&self, run: PageRun, content: &mut [u8]) -> io::Result<()> {
        self.ram.read_run(run, content).map_err(io::Error::other)
    }

    fn begin_thread(&self) {
        jail::narrow(ThreadKind::Stream);
    }
}

/// Where the guest is when something has failed. Boxed: the way that succeeds pays nothing.
enum Failure {
    Running(Box<Running>, MigrateError),
    Paused(Box<Paused>, MigrateError),
}

impl<'a> Emigration<'a> {
    /// Whatever can fail before the machine is given away.
    ///
    /// # Errors
    /// When the order is not usable, or the system has no thread left.
    pub(crate) fn new(
        order: &MigrateOrder,
        dialler: Arc<Dialler>,
        resident: &'a mut Resident,
        ram: &Arc<GuestRam>,
        meter: &'a Meter,
    ) -> Result<Self, MigrateError> {
        let session = SessionId::new(order.session).ok_or(MigrateError::Order("session"))?;
        let to = HostName::new(&order.to).ok_or(MigrateError::Order("name of a host"))?;
        let own = KeyPair::from_pkcs8(&order.keys.own)?;
        let memory: Vec<_> = ram.layout().regions().map(|region| region.run()).collect();
        let bytes: u64 = memory.iter().map(|run| run.bytes()).sum();
        let terms = SourceTerms {
            agreement: Agreement { session, key: resident.digest_key.clone(), memory },
            timers: timers(order.limits),
            tls: TlsClient::new(&own, Arc::new(PublicKey::new(order.keys.peer)), PAGES_PROTOCOL),
            shadow_bytes: usize::try_from((bytes / 32).min(SHADOW_MAX)).unwrap_or(0),
            tiers: Tiers::ALL,
            recalls: order.recalls,
        };
        // Not `available_parallelism`, which reads files of control groups: here nothing is opened.
        let limit = Gfn(ram.layout().frame_limit());
        let pace = Pace::new(order.limits, limit, processors());
        let side = Side { ram: Arc::clone(ram), dialler };
        let link = SourceLink::start(terms, Arc::new(side))?;
        let emigration = Self {
            resident,
            session,
            to,
            link,
            pace,
            brake: Brake::default(),
            meter,
            began: Instant::now(),
            rounds: 0,
            forecast: None,
            how_audited: order.limits.audit,
            looked: Duration::ZERO,
            trouble: None,
        };
        emigration.apply(order.limits);
        Ok(emigration)
    }

    /// The link keeps to these limits.
    fn apply(&self, limits: MoveLimits) {
        let cpu = limits.cpu_permille;
        self.link.with(|source, now| {
            source.set_limit(now, limits.bandwidth);
            source.set_processor_limit(now, cpu);
            source.set_timers(timers(limits));
        });
    }

    /// A person wants other limits.
    fn change(&mut self, change: LimitChange) {
        let limits = self.pace.limits().changed_by(change);
        tracing::info!(?limits, "the move has other limits");
        self.pace.set_limits(limits, self.rounds);
        self.apply(limits);
    }

    /// Before each turn: what was left for it, and how fast the guest may run. While the destination is out of reach nothing
    /// is gained by holding it.
    fn steer(&mut self, running: &Running) {
        while let Some(change) = self.meter.take_limits() {
            self.change(change);
        }
        let is_waiting = self.link.with(|source, _| source.waiting_since().is_some());
        if !self.brake.set(running, if is_waiting { 0 } else { self.pace.throttle() }) {
            self.pace.cannot_hold();
        }
    }

    /// Moves `running`, and comes back when it is known who has it.
    pub(crate) fn run(mut self, running: Running) -> Outcome {
        let mut running = running;
        let mut log = match running.start_dirty_log() {
            Ok(log) => log,
            Err(error) => return self.stay(running, error.into()),
        };
        if let Err(why) = self.begin(running.ram(), log.as_mut()) {
            return self.go_on(Failure::Running(Box::new(running), why));
        }
        loop {
            let stop = match self.until_offered(&running, log.as_mut()) {
                Ok(stop) => stop,
                Err(why) => return self.go_on(Failure::Running(Box::new(running), why)),
            };
            if self.pace.is_worth_a_look(&self.link, running.state_bytes()) {
                running = match self.look(running) {
                    Ok(running) => running,
                    Err(failure) => return self.go_on(failure),
                };
            }
            if let Err(why) = self.settle(&running, log.as_mut(), &stop) {
                return self.go_on(Failure::Running(Box::new(running), why));
            }
            self.forecast = Some(stop.blackout);
            self.show(MovePhase::Switch);
            let mut blackout = Blackout::begin();
            let paused = running.pause();
            blackout.mark(Cause::Pause);
            self.brake.release();
            reached(Step::MovePaused);
            let before = self.link.with(|source, _| source.counts());
            match self.switch(&paused, log.as_mut(), &mut blackout) {
                Ok(true) => return self.in_doubt(paused, blackout, before),
                // The connection was cut, or it took too long: the guest runs on, and it is tried again.
                Ok(false) => {
                    self.resident.console.attach(paused.console());
                    running = paused.resume();
                }
                Err(why) => return self.go_on(Failure::Paused(Box::new(paused), why)),
            }
        }
    }

    /// Everything that is not a hole is owed from here on.
    fn begin(
        &mut self,
        ram: &GuestRam,
        log: &mut (dyn DirtyLog + Send),
    ) -> Result<(), MigrateError> {
        reached(Step::MoveStart);
        self.pace.begin(&self.link);
        // A new bitmap names every page, and a ring none. If that were heard after the first round only, all of them
        // would go twice. It is heard before it is asked what is a hole: what fills one from here on is in the log.
        log.harvest(&mut Ledger::new(Gfn(ram.layout().frame_limit())))?;
        for run in content(ram)? {
            let owed = self.link.with(|source, _| source.owe(run));
            owed.map_err(|error| MigrateError::Aborted(error.to_string()))?;
        }
        Ok(())
    }

    /// While the guest runs: rounds, and the offer.
    fn until_offered(
        &mut self,
        running: &Running,
        log: &mut (dyn DirtyLog + Send),
    ) -> Result<Stop, MigrateError> {
        let stop = loop {
            self.rounds += 1;
            self.meter.begin_round(self.rounds);
            if let Some(after) = self.pace.probe_after() {
                self.probe(running, log, after)?;
            }
            self.until(running, |link, within| link.wait(within, is_sent))?;
            reached(Step::MoveCopied);
            let words = self.harvest(running.ram(), log)?;
            self.pace.harvested(&words, self.brake.held());
            if let Some(stop) = self.pace.stop(&self.link, self.rounds)? {
                break stop;
            }
        };
        // It stands already if a switch was cancelled.
        if !self.resident.permit.is_offered(self.session)? {
            self.resident.permit.offer_to_host(self.session, self.to.clone())?;
        }
        reached(Step::MoveOffered);
        self.link.with(|source, _| source.offered());
        Ok(stop)
    }

    /// Sends the machine's state ahead, for which the guest stands still for as long as it takes to read it: what is left
    /// for the blackout is what changes until then.
    fn look(&mut self, running: Running) -> Result<Running, Failure> {
        let began = Instant::now();
        let paused = running.pause();
        let moment = match moment(&paused) {
            Ok(moment) if paused.exit().is_none() => moment,
            Ok(_) => return Err(Failure::Paused(Box::new(paused), MigrateError::GuestEnded)),
            Err(why) => return Err(Failure::Paused(Box::new(paused), why)),
        };
        let running = paused.resume();
        let stood = began.elapsed();
        tracing::debug!(?stood, bytes = moment.len(), "the state is sent ahead");
        self.looked += stood;
        self.link.with(|source, _| source.speculate(moment));
        Ok(running)
    }

    /// What comes before a stop: what is on its way arrives, if that is to come first, and no new batch begins.
    fn settle(
        &mut self,
        running: &Running,
        log: &mut (dyn DirtyLog + Send),
        stop: &Stop,
    ) -> Result<(), MigrateError> {
        if stop.settles_first {
            self.until_settled(running, log)?;
        }
        self.link.with(|source, _| source.drain());
        Ok(())
    }

    /// Looks, so long into a round, what the guest has written: it is sent in this round, too, as far as it was not owed
    /// anyway.
    fn probe(
        &mut self,
        running: &Running,
        log: &mut (dyn DirtyLog + Send),
        after: Duration,
    ) -> Result<(), MigrateError> {
        let at = Instant::now() + after;
        self.until(running, |link, within| {
            let within = within.min(at.saturating_duration_since(Instant::now()));
            link.wait(within, |source| is_sent(source) || Instant::now() >= at)
        })?;
        if !self.link.with(|source, _| is_sent(source)) {
            let words = self.harvest(running.ram(), log)?;
            self.pace.probed(&words, self.brake.held());
        }
        Ok(())
    }

    /// Waits for what `wait` waits for; none of its events ends the attempt.
    fn until(
        &mut self,
        running: &Running,
        wait: impl Fn(&SourceLink, Duration) -> Option<LinkEvent<SourceEvent>>,
    ) -> Result<(), MigrateError> {
        loop {
            self.steer(running);
            let began = Instant::now();
            let event = wait(&self.link, TURN);
            let is_late = event.is_none() && began.elapsed() >= TURN;
            let (sent, owed) =
                self.link.with(|source, _| (source.counts().pages_sent, source.ledger().owed()));
            let done = self.meter.progress().pages_done;
            self.meter
                .advance(sent.saturating_sub(done), owed)
                .map_err(|_| MigrateError::Cancelled)?;
            self.pace.rethink(&self.link);
            self.show(MovePhase::Live);
            match event {
                Some(event) => self.heard(event)?,
                None if is_late => {}
                None => return Ok(()),
            }
        }
    }

    /// An event while the guest runs.
    fn heard(&mut self, event: LinkEvent<SourceEvent>) -> Result<(), MigrateError> {
        match event {
            LinkEvent::Session(SourceEvent::Over(end)) => Err(self.ended(end)),
            LinkEvent::Session(SourceEvent::Connected) => {
                self.trouble = None;
                Ok(())
            }
            LinkEvent::Session(event) => {
                tracing::debug!(?event, "migration");
                Ok(())
            }
            LinkEvent::StreamEnded { stream, why } => {
                tracing::debug!(%stream, why, "a stream of the migration ended");
                // Data streams end with it, and have nothing to say about why.
                if stream.is_control() {
                    self.trouble = Some(why);
                }
                Ok(())
            }
            LinkEvent::Turned { why } => {
                tracing::debug!(why, "a connection was turned away");
                Ok(())
            }
        }
    }

    /// Moves what was written since the last harvest to the source; returns that as a bitmap.
    fn harvest(
        &self,
        ram: &GuestRam,
        log: &mut (dyn DirtyLog + Send),
    ) -> Result<Vec<u64>, MigrateError> {
        let mut found = Ledger::new(Gfn(ram.layout().frame_limit()));
        log.harvest(&mut found)?;
        let words = found.owed_pages().words().to_vec();
        let owed = self.link.with(|source, _| source.owe_words(Gfn(0), &words));
        owed.map_err(|error| MigrateError::Aborted(error.to_string()))?;
        Ok(words)
    }

    /// Lets what is on its way arrive before the guest stops. What it writes meanwhile goes out at once.
    fn until_settled(
        &mut self,
        running: &Running,
        log: &mut (dyn DirtyLog + Send),
    ) -> Result<(), MigrateError> {
        let limit = Gfn(running.ram().layout().frame_limit());
        let mut hot = HotPages::new(limit);
        let below = self.link.with(|source, _| source.ledger().next_number());
        let end = Instant::now() + SETTLING_MAX;
        while Instant::now() < end {
            self.steer(running);
            let event =
                self.link.wait(SETTLING_HARVEST, |source| source.ledger().settled_below() >= below);
            if let Some(event) = event {
                self.heard(event)?;
                continue;
            }
            let (settled, is_drained) =
                self.link.with(|source, _| (source.ledger().settled_below(), source.is_drained()));
            if settled >= below {
                break;
            }
            if is_drained {
                let words = self.harvest(running.ram(), log)?;
                hot.observe(&words).map_err(|error| MigrateError::Aborted(error.to_string()))?;
                let pages = hot.pages().clone();
                self.link.with(|source, _| source.hurry(pages));
            }
        }
        Ok(())
    }

    /// While the guest stands still: everything up to the permit frame. False if the guest is to run on.
    fn switch(
        &mut self,
        paused: &Paused,
        log: &mut (dyn DirtyLog + Send),
        blackout: &mut Blackout,
    ) -> Result<bool, MigrateError> {
        if paused.exit().is_some() {
            return Err(MigrateError::GuestEnded);
        }
        self.resident.console.detach();
        blackout.mark(Cause::Drain);
        let moment = moment(paused)?;
        blackout.mark(Cause::State);
        reached(Step::MoveSaved);
        self.harvest(paused.ram(), log)?;
        blackout.mark(Cause::Harvest);
        #[cfg(feature = "fault-injection")]
        crate::fault::slow_switch();
        if self.link.with(|source, now| source.switch(now, moment)).is_err() {
            return Ok(false);
        }
        loop {
            match self.link.next_event(TURN) {
                Some(LinkEvent::Session(SourceEvent::Parted)) => {
                    blackout.mark(Cause::Copy);
                    reached(Step::MovePermitSent);
                    return Ok(true);
                }
                Some(LinkEvent::Session(SourceEvent::SwitchCancelled)) => return Ok(false),
                Some(event) => self.heard(event)?,
                None => {}
            }
        }
    }

    /// The permit frame is out: only an answer ends this.
    fn in_doubt(mut self, paused: Paused, mut blackout: Blackout, before: SourceCounts) -> Outcome {
        let root = self.link.with(|source, _| source.root()).map_or([0; 64], Root::to_bytes);
        let end = loop {
            self.show(MovePhase::InDoubt);
            match self.meter.take_word() {
                Some(Word::Answered(word)) => self.answered(word),
                Some(Word::Limits(change)) => self.change(change),
                Some(Word::Resolved { above }) => match self.resident.permit.resolve(above) {
                    Ok(()) => return self.stay(paused.resume(), MigrateError::Resolved),
                    Err(error) => tracing::error!(%error, "the doubt is not ended"),
                },
                None => {}
            }
            match self.link.next_event(TURN) {
                Some(LinkEvent::Session(SourceEvent::Over(end))) => break end,
                Some(LinkEvent::Session(SourceEvent::Unknown)) => {
                    tracing::warn!(
                        "the destination knows nothing of the session; the doubt remains"
                    );
                }
                Some(event) => drop(self.heard(event)),
                None => {}
            }
        };
        match end {
            SourceEnd::Ran => {
                blackout.mark(Cause::Wire);
                reached(Step::MoveAnswered);
                match self.resident.permit.peer_took(self.session) {
                    Ok(()) => {
                        self.show(MovePhase::Settle);
                        let mut report = self.report(blackout, before, root);
                        report.audit = self.audit(&paused);
                        Outcome::Moved { report: Box::new(report), frozen: paused }
                    }
                    // It runs there, whatever the record says here.
                    Err(error) => Outcome::Departed { frozen: paused, why: error.into() },
                }
            }
            end => match self.resident.permit.peer_refused(self.session) {
                Ok(()) => {
                    let running = paused.resume();
                    let why = self.ended(end);
                    self.stay(running, why)
                }
                Err(error) => Outcome::Departed { frozen: paused, why: error.into() },
            },
        }
    }

    /// The guest is gone: what is left of it shows whether everything was sent.
    fn audit(&self, paused: &Paused) -> AuditReport {
        let key = &self.resident.digest_key;
        let audited = audit(self.how_audited, self.session, &self.link, key, paused.ram());
        audited.unwrap_or_else(|error| {
            tracing::error!(%error, "the memory that is left cannot be looked at");
            AuditReport::default()
        })
    }

    /// What the destination's keeper says, since the streams may be gone for good.
    fn answered(&self, word: PeerWord) {
        let (answer, why) = match word {
            PeerWord::Ran => (PeerAnswer::Ran, ""),
            PeerWord::NeverRan => {
                (PeerAnswer::NeverRan, "its process there is dead, or gave it up")
            }
            PeerWord::Unknown => (PeerAnswer::Unknown, ""),
        };
        if let Err(fault) = self.link.with(|source, _| source.answered(answer, Text::new(why))) {
            tracing::warn!(%fault, "what the destination's host says makes no sense");
        }
    }

    /// Says how far it is.
    fn show(&self, phase: MovePhase) {
        let (bytes_sent, waiting, estimate) = self.link.with(|source, now| {
            let waiting = source.waiting_since().map(|since| now.saturating_sub(since));
            (source.counts().payload_bytes, waiting, source.link().estimate())
        });
        self.meter.moves(MoveProgress {
            phase,
            bytes_sent,
            bytes_per_second: estimate.map(|estimate| estimate.bytes_per_second),
            round_trip: estimate.map(|estimate| estimate.round_trip),
            forecast: self.pace.forecast(),
            streams: u32::try_from(self.pace.streams()).unwrap_or(u32::MAX),
            waiting,
            throttle: self.brake.share(),
            limits: self.pace.limits().live(),
        });
    }

    fn report(&self, blackout: Blackout, before: SourceCounts, root: [u8; 64]) -> MoveReport {
        let counts = self.link.with(|source, _| source.counts());
        MoveReport {
            blackout,
            forecast: self.forecast,
            rounds: self.rounds,
            pages_sent: counts.pages_sent,
            payload_bytes: counts.payload_bytes,
            payload_bytes_paused: counts.payload_bytes - before.payload_bytes,
            state_bytes: counts.state_bytes,
            state_bytes_paused: counts.state_bytes - before.state_bytes,
            looked: self.looked,
            pages_again: counts.pages_lost + counts.pages_wanted,
            pages_kept: self.link.tiers().of(Tier::Kept).pages,
            kept_bytes: counts.kept_bytes,
            connections: counts.connections,
            total: self.began.elapsed(),
            round_trip: self
                .link
                .with(|source, _| source.link().estimate())
                .map(|of| of.round_trip),
            root,
            audit: AuditReport::default(),
            throttle: self.brake.report(),
            plan: self.pace.plan(),
        }
    }

    /// The one failure path while the permit is here: the guest goes on at once, and the destination is told.
    fn go_on(mut self, failure: Failure) -> Outcome {
        self.brake.release();
        let (running, why) = match failure {
            Failure::Running(running, why) => (*running, why),
            Failure::Paused(paused, _) if paused.exit().is_some() => {
                self.give_up("the guest has ended");
                return Outcome::Ended { paused: *paused };
            }
            Failure::Paused(paused, why) => (paused.resume(), why),
        };
        self.give_up(&why.to_string());
        self.stay(running, why)
    }

    fn give_up(&mut self, why: &str) {
        // Refused where the attempt is over already.
        let _ = self.link.with(|source, _| source.abort(why));
        let end = Instant::now() + FAREWELL;
        while Instant::now() < end && !self.link.with(|source, _| source.is_drained()) {
            let _ = self.link.wait(TURN, Source::is_drained);
        }
        // If an offer stands in the record, it is worthless without a permit frame. If none does, there is nothing to
        // withdraw, and the table says so.
        let _ = self.resident.permit.withdraw(self.session);
    }

    fn stay(&self, running: Running, why: MigrateError) -> Outcome {
        self.resident.console.attach(running.console());
        if let Err(error) = running.stop_dirty_log() {
            tracing::warn!(%error, "the dirty log stays on; the guest runs slower");
        }
        Outcome::Stayed { running, why }
    }

    /// Why it did not move.
    fn ended(&self, end: SourceEnd) -> MigrateError {
        match end {
            SourceEnd::Refused(why) => MigrateError::Refused(why.to_string()),
            SourceEnd::Aborted(why) => MigrateError::Aborted(match &self.trouble {
                Some(trouble) => format!("{why} ({trouble})"),
                None => why.to_string(),
            }),
            SourceEnd::Ran => MigrateError::Aborted("it runs at the destination".to_owned()),
        }
    }
}

/// What the machine is just now, besides its memory.
fn moment(paused: &Paused) -> Result<Vec<u8>, MigrateError> {
    let realtime_ns = realtime_ns();
    let state = paused.save()?.encode().map_err(VmError::from)?;
    Ok(SavedMoment { realtime_ns, boot_id: boot_id(), state }.encode())
}

/// Whether all that a round owes is on its way.
fn is_sent(source: &Source) -> bool {
    source.ledger().owed() == 0 && source.waiting_since().is_none()
}

/// How long what is waited for.
fn timers(limits: MoveLimits) -> SourceTimers {
    SourceTimers {
        patience: limits.patience,
        switch_budget: limits.max_downtime + SWITCH_GRACE,
        doubt: DOUBT,
    }
}
