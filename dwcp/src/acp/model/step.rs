//! What can happen next.

use super::super::{Actor, Answer, Event, Nonce, Outcome, PermitState, Record, Successor};
use super::rules::Rule;
use super::world::{
    HostIndex, Operator, Phase, Process, Session, SessionIndex, Violation, World, host_name,
    session_id,
};

/// One step of one host, of the network, or of fate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// The destination writes `Prepared` and answers.
    Negotiate(HostIndex, HostIndex),
    /// The source writes `Offered`. The guest runs on.
    Offer(SessionIndex),
    Stop(SessionIndex),
    SendFrame(SessionIndex),
    /// In doubt, with a path open: what is unacknowledged goes out again, the permit frame with it.
    SendFrameAgain(SessionIndex),
    FrameArrives(SessionIndex),
    Withdraw(SessionIndex),
    Take(SessionIndex),
    Refuse(SessionIndex),
    /// The source asks, the destination answers. The answer is on its way.
    Ask(SessionIndex),
    NeverRanArrives(SessionIndex),
    RanArrives(SessionIndex),
    Settle(SessionIndex),
    /// A process that can never run the machine any more ends.
    Leave(HostIndex, usize),
    Reclaim(SessionIndex),
    /// The machine is booted on a host where none of its processes lives.
    Start(HostIndex),
    /// Two hosts show each other their generations.
    Contact(HostIndex, HostIndex),
    Heal(HostIndex, HostIndex),
    Kill(HostIndex, usize),
    /// What is on its way between two hosts arrives late, or is lost.
    Cut(HostIndex, HostIndex, bool),
    LoseRecord(HostIndex),
    Wipe(HostIndex),
    Resolve(HostIndex),
    /// These happen only where a rule is taken away.
    WriteAtLast(HostIndex),
    GiveUpOnSilence(SessionIndex),
    NegotiateAgain(SessionIndex),
}

impl Action {
    /// Whether it is fate's, and not a step that hosts may count on.
    pub(super) fn is_fault(self) -> bool {
        matches!(
            self,
            Self::Kill(..)
                | Self::Cut(..)
                | Self::LoseRecord(_)
                | Self::Wipe(_)
                | Self::Resolve(_)
                | Self::Negotiate(..)
        )
    }
}

/// What could happen, as far as a glance tells; [`World::step`] says what of it can.
pub(super) fn actions(world: &World, without: Option<Rule>) -> Vec<Action> {
    use Action::{Contact, Kill, Leave, Negotiate, NegotiateAgain, Start, WriteAtLast};
    let mut all = Vec::with_capacity(32);
    for session in 0..world.sessions.len() {
        of_session(world, session, without, &mut all);
    }
    for host in 0..world.hosts.len() {
        for process in 0..world.hosts[host].processes.len() {
            all.push(Leave(host, process));
            all.extend((world.budget.kills > 0).then_some(Kill(host, process)));
        }
        if world.budget.sessions > 0 && world.runs_on(host) {
            all.extend((0..world.hosts.len()).map(|other| Negotiate(host, other)));
        }
        all.push(Start(host));
        all.extend((without == Some(Rule::DurableFirst)).then_some(WriteAtLast(host)));
        of_fate(world, host, &mut all);
        all.extend((host + 1..world.hosts.len()).map(|other| Contact(host, other)));
    }
    if without == Some(Rule::SessionsBeginOnce) {
        all.extend((0..world.sessions.len()).map(NegotiateAgain));
    }
    all
}

fn of_session(world: &World, session: SessionIndex, without: Option<Rule>, all: &mut Vec<Action>) {
    use Action::{
        Ask, FrameArrives, GiveUpOnSilence, NeverRanArrives, Offer, RanArrives, Reclaim, Refuse,
        SendFrame, SendFrameAgain, Settle, Stop, Take, Withdraw,
    };
    let on_its_way = &world.sessions[session];
    all.extend(on_its_way.frame.then_some(FrameArrives(session)));
    all.extend(on_its_way.never_ran.then_some(NeverRanArrives(session)));
    all.extend(on_its_way.ran.then_some(RanArrives(session)));
    match world.state(on_its_way.source) {
        Some(PermitState::Held { .. }) => all.push(Offer(session)),
        Some(PermitState::Offered { .. }) => {
            all.extend([Stop, SendFrame, SendFrameAgain, Withdraw, Ask].map(|new| new(session)));
            all.extend([Reclaim(session), GiveUpOnSilence(session)]);
        }
        _ => {}
    }
    match without {
        Some(Rule::OfferedBeforeFrame) => all.push(SendFrame(session)),
        Some(Rule::CompareAndSwap) => all.push(Withdraw(session)),
        _ => {}
    }
    match world.state(on_its_way.destination) {
        Some(PermitState::Prepared { .. }) => all.extend([Take(session), Refuse(session)]),
        Some(PermitState::Offered { .. }) => all.push(Take(session)),
        Some(PermitState::Taken { .. }) => all.push(Settle(session)),
        _ => {}
    }
    all.extend((without == Some(Rule::TakeOnlyPrepared)).then_some(Take(session)));
}

fn of_fate(world: &World, host: HostIndex, all: &mut Vec<Action>) {
    use Action::{Cut, Heal, LoseRecord, Resolve, Wipe};
    let budget = world.budget;
    all.extend((budget.lost_records > 0).then_some(LoseRecord(host)));
    all.extend((budget.wipes > 0).then_some(Wipe(host)));
    all.extend((budget.resolutions > 0).then_some(Resolve(host)));
    for other in host + 1..world.hosts.len() {
        if !world.can_reach(host, other) {
            all.push(Heal(host, other));
        } else if budget.cuts > 0 {
            all.extend([Cut(host, other, false), Cut(host, other, true)]);
        }
    }
}

impl World {
    /// The world after an action, or `None` where it cannot happen.
    pub(super) fn step(&self, action: Action, without: Option<Rule>) -> Option<Self> {
        let mut next = self.clone();
        next.act(action, without)?;
        let is_lost = !next.has_killed && !next.has_memory();
        if is_lost && next.operator != Operator::Wrong && next.violation.is_none() {
            next.violation = Some(Violation::MemoryLost);
        }
        // A step that changes nothing is none.
        (next != *self).then_some(next)
    }

    fn act(&mut self, action: Action, without: Option<Rule>) -> Option<()> {
        match action {
            Action::Negotiate(source, destination) => self.negotiate(source, destination, without),
            Action::Offer(session) => self.offer(session, without),
            Action::Stop(session) => self.stop(session),
            Action::SendFrame(session) => self.send_frame(session, without),
            Action::SendFrameAgain(session) => self.send_frame_again(session),
            Action::FrameArrives(session) => self.frame_arrives(session),
            Action::Withdraw(session) => self.withdraw(session, without),
            Action::Take(session) => self.take(session, without),
            Action::Refuse(session) => self.refuse(session, without),
            Action::Ask(session) => self.ask(session, without),
            Action::NeverRanArrives(session) => {
                self.reachable(session)?;
                std::mem::take(&mut self.sessions[session].never_ran).then_some(())?;
                // An answer that the record has no use for any more is dropped.
                let _ = self.peer_refused(session, without);
                Some(())
            }
            Action::RanArrives(session) => {
                self.reachable(session)?;
                std::mem::take(&mut self.sessions[session].ran).then_some(())?;
                let _ = self.peer_took(session, without);
                Some(())
            }
            Action::Settle(session) => self.settle(session, without),
            Action::Leave(host, process) => self.leave(host, process),
            Action::Reclaim(session) => {
                let host = self.sessions[session].source;
                let event = Event::Reclaim { session: session_id(session) };
                self.apply(host, Actor::Keeper, &event, without)
            }
            Action::Start(host) => self.boot(host, without),
            Action::Contact(one, other) => self.contact(one, other, without),
            Action::WriteAtLast(host) => self.write_at_last(host),
            Action::GiveUpOnSilence(session) => {
                (without == Some(Rule::SilenceIsNoRefusal)).then_some(())?;
                self.reachable(session).is_none().then_some(())?;
                self.peer_refused(session, without)
            }
            Action::NegotiateAgain(session) => self.negotiate_again(session, without),
            fate => self.suffer(fate),
        }
    }

    fn suffer(&mut self, fate: Action) -> Option<()> {
        match fate {
            Action::Heal(one, other) => {
                let before = self.cut.len();
                self.cut.retain(|pair| *pair != (one, other));
                (self.cut.len() < before).then_some(())
            }
            Action::Kill(host, process) => {
                spend(&mut self.budget.kills)?;
                self.host_mut(host).processes.remove(process);
                self.has_killed = true;
                Some(())
            }
            Action::Cut(one, other, is_lost) => {
                self.can_reach(one, other).then_some(())?;
                spend(&mut self.budget.cuts)?;
                self.cut.push((one, other));
                self.cut.sort_unstable();
                for session in self.sessions.iter_mut().filter(|_| is_lost) {
                    let (source, destination) = (session.source, session.destination);
                    if (source.min(destination), source.max(destination)) == (one, other) {
                        (session.frame, session.ran, session.never_ran) = (false, false, false);
                    }
                }
                Some(())
            }
            Action::LoseRecord(host) => {
                spend(&mut self.budget.lost_records)?;
                self.host_mut(host).record.take()?;
                self.has_lost_record = true;
                Some(())
            }
            Action::Wipe(host) => {
                spend(&mut self.budget.wipes)?;
                self.host_mut(host).record.take()?;
                self.host_mut(host).processes.clear();
                (self.has_lost_record, self.has_killed) = (true, true);
                Some(())
            }
            Action::Resolve(host) => self.resolve(host),
            _ => unreachable!("{fate:?} is not fate's"),
        }
    }

    /// The process that offers in an attempt, if it lives.
    fn source_process(&self, session: SessionIndex) -> Option<Process> {
        let host = self.sessions[session].source;
        let runner = match self.state(host)? {
            PermitState::Offered { session: offered, runner, .. } => {
                (*offered == session_id(session)).then_some(*runner)?
            }
            _ => return None,
        };
        self.process(host, runner).cloned()
    }

    /// The process that was started for an attempt at its destination, if it lives.
    fn destination_process(&self, session: SessionIndex) -> Option<Process> {
        let host = self.sessions[session].destination;
        let mut processes = self.hosts[host].processes.iter();
        processes.find(|process| process.born_for == Some(session)).cloned()
    }

    fn reachable(&self, session: SessionIndex) -> Option<()> {
        let Session { source, destination, .. } = self.sessions[session];
        self.can_reach(source, destination).then_some(())
    }

    fn is_on_one_host(&self, session: SessionIndex) -> bool {
        self.sessions[session].source == self.sessions[session].destination
    }

    fn negotiate(
        &mut self,
        source: HostIndex,
        destination: HostIndex,
        without: Option<Rule>,
    ) -> Option<()> {
        self.can_reach(source, destination).then_some(())?;
        (self.budget.has_local || source != destination).then_some(())?;
        let record = self.hosts[source].record.as_ref()?;
        let PermitState::Held { runner: Some(runner) } = record.state else { return None };
        let line = self.process(source, runner).filter(|it| it.phase == Phase::Running)?.line;
        let offered = record.generation;
        // A host moves a machine in one attempt at a time.
        let mut own = (0..).zip(&self.sessions).filter(|(_, it)| it.offerer == runner);
        own.all(|(it, _)| record.outcome(session_id(it)).is_some()).then_some(())?;
        spend(&mut self.budget.sessions)?;
        let session = self.sessions.len();
        self.sessions.push(Session {
            source,
            destination,
            offerer: runner,
            line,
            frame: false,
            ran: false,
            never_ran: false,
        });
        let runner = self.next_nonce(destination);
        // On one host the offer itself names the successor; between hosts there is a second record.
        if source != destination && without != Some(Rule::PreparedBeforeAnswer) {
            let (session, from) = (session_id(session), host_name(source));
            let event = Event::Prepare { session, runner, from, offered };
            self.apply(destination, Actor::Keeper, &event, without)?;
        }
        self.spawn(destination, runner, Some(session), line);
        Some(())
    }

    fn offer(&mut self, session: SessionIndex, without: Option<Rule>) -> Option<()> {
        let Session { source, destination, .. } = self.sessions[session];
        let PermitState::Held { runner: Some(runner) } = *self.state(source)? else { return None };
        let to = if source == destination {
            Successor::Process(self.destination_process(session)?.nonce)
        } else {
            Successor::Host(host_name(destination))
        };
        self.process(source, runner).filter(|process| process.phase == Phase::Running)?;
        let is_mine = self.sessions[session].offerer == runner;
        (is_mine || without == Some(Rule::SessionsBeginOnce)).then_some(())?;
        let event = Event::Offer { session: session_id(session), to };
        self.apply(source, Actor::Process(runner), &event, without)?;
        self.process_mut(source, runner)?.offers = Some(session);
        Some(())
    }

    fn stop(&mut self, session: SessionIndex) -> Option<()> {
        let runner = self.source_process(session).filter(|it| it.phase == Phase::Running)?.nonce;
        let process = self.process_mut(self.sessions[session].source, runner)?;
        process.phase = Phase::Stopped;
        Some(())
    }

    fn send_frame(&mut self, session: SessionIndex, without: Option<Rule>) -> Option<()> {
        self.reachable(session)?;
        let source = self.sessions[session].source;
        let runner = match (self.source_process(session), without) {
            (Some(process), _) => process.nonce,
            (None, Some(Rule::OfferedBeforeFrame)) => self.stop_without_offer(session)?,
            (None, _) => return None,
        };
        let may_run = without == Some(Rule::StoppedBeforeFrame);
        let process = self.process_mut(source, runner)?;
        let is_ready = process.phase == Phase::Stopped || may_run;
        (is_ready && !process.is_frame_sent).then_some(())?;
        process.is_frame_sent = true;
        let line = process.line;
        (self.sessions[session].frame, self.sessions[session].line) = (true, line);
        if without == Some(Rule::MemoryIsKept) {
            self.end(source, runner);
        }
        Some(())
    }

    /// A source that takes the short way: it stops the guest and sends, and writes nothing.
    fn stop_without_offer(&mut self, session: SessionIndex) -> Option<Nonce> {
        let Session { source, offerer: runner, .. } = self.sessions[session];
        let record = self.hosts[source].record.as_ref()?;
        let is_new = record.outcome(session_id(session)).is_none();
        (is_new && record.state == PermitState::Held { runner: Some(runner) }).then_some(())?;
        let process = self.process_mut(source, runner)?;
        process.phase = Phase::Stopped;
        process.offers = Some(session);
        Some(runner)
    }

    fn send_frame_again(&mut self, session: SessionIndex) -> Option<()> {
        self.reachable(session)?;
        self.source_process(session).filter(|process| process.is_frame_sent)?;
        self.sessions[session].frame = true;
        Some(())
    }

    fn frame_arrives(&mut self, session: SessionIndex) -> Option<()> {
        self.reachable(session)?;
        std::mem::take(&mut self.sessions[session].frame).then_some(())?;
        let host = self.sessions[session].destination;
        if let Some(process) = self.destination_process(session)
            && process.phase == Phase::Waiting
        {
            self.process_mut(host, process.nonce)?.phase = Phase::Received;
        }
        Some(())
    }

    fn withdraw(&mut self, session: SessionIndex, without: Option<Rule>) -> Option<()> {
        let host = self.sessions[session].source;
        let mut process = self.source_process(session);
        if without == Some(Rule::CompareAndSwap) {
            // It believes what it once wrote.
            let mine = |it: &&Process| it.offers == Some(session) && it.remembered.is_some();
            process = self.hosts[host].processes.iter().find(mine).cloned();
        }
        let process = process?;
        // On one host the record decides; another host's record cannot be looked into.
        let is_decided_here =
            self.is_on_one_host(session) || without == Some(Rule::NoWithdrawalAfterFrame);
        (!process.is_frame_sent || is_decided_here).then_some(())?;
        let event = Event::Withdraw { session: session_id(session) };
        self.apply(host, Actor::Process(process.nonce), &event, without)?;
        self.resume(host, process.nonce)
    }

    fn resume(&mut self, host: HostIndex, nonce: Nonce) -> Option<()> {
        self.process_mut(host, nonce)?.offers = None;
        self.run(host, nonce);
        Some(())
    }

    fn take(&mut self, session: SessionIndex, without: Option<Rule>) -> Option<()> {
        let host = self.sessions[session].destination;
        let process = self.destination_process(session)?;
        (process.phase == Phase::Received).then_some(())?;
        let line = self.sessions[session].line + 1;
        self.process_mut(host, process.nonce)?.line = line;
        let event = Event::Take { session: session_id(session) };
        match without {
            Some(Rule::DurableFirst) => self.process_mut(host, process.nonce)?.is_unwritten = true,
            Some(Rule::TakeOnlyPrepared) => self.forge_taken(host, session, process.nonce),
            _ => self.apply(host, Actor::Process(process.nonce), &event, without)?,
        }
        self.run(host, process.nonce);
        Some(())
    }

    /// `Taken`, whatever the record said.
    fn forge_taken(&mut self, host: HostIndex, session: SessionIndex, runner: Nonce) {
        let from = Some(host_name(self.sessions[session].source));
        let state = PermitState::Taken { session: session_id(session), runner, from };
        if let Some(record) = &mut self.host_mut(host).record {
            record.state = state;
            record.outcomes.push_back((session_id(session), Outcome::Taken));
        }
    }

    fn refuse(&mut self, session: SessionIndex, without: Option<Rule>) -> Option<()> {
        (without != Some(Rule::TheAskedDecides)).then_some(())?;
        let host = self.sessions[session].destination;
        let live = self.destination_process(session);
        let actor = live.map_or(Actor::Keeper, |process| Actor::Process(process.nonce));
        self.apply(host, actor, &Event::Refuse { session: session_id(session) }, without)
    }

    fn ask(&mut self, session: SessionIndex, without: Option<Rule>) -> Option<()> {
        self.reachable(session)?;
        let Session { source, destination, .. } = self.sessions[session];
        let Some(PermitState::Offered { session: offered, to: Successor::Host(_), .. }) =
            self.state(source)
        else {
            return None;
        };
        (*offered == session_id(session)).then_some(())?;
        let is_alive = !self.hosts[destination].processes.is_empty();
        let record = self.hosts[destination].record.as_ref();
        let answer =
            record.map_or(Answer::Unknown, |record| record.answer(session_id(session), is_alive));
        let refuses = match answer {
            Answer::NeverRan => true,
            Answer::Ran => without == Some(Rule::TakenStaysTaken) && !is_alive,
            Answer::Undecided | Answer::RefuseFirst => without == Some(Rule::RefusedBeforeAnswer),
            Answer::Unknown => without == Some(Rule::UnknownIsNoRefusal),
        };
        self.sessions[session].never_ran |= refuses;
        self.sessions[session].ran |= answer == Answer::Ran && !refuses;
        Some(())
    }

    /// Who speaks for a source: its process, or the keeper once that is dead.
    fn source_actor(&self, session: SessionIndex) -> Actor {
        self.source_process(session).map_or(Actor::Keeper, |process| Actor::Process(process.nonce))
    }

    fn peer_refused(&mut self, session: SessionIndex, without: Option<Rule>) -> Option<()> {
        let host = self.sessions[session].source;
        let actor = self.source_actor(session);
        let event = Event::PeerRefused { session: session_id(session) };
        self.apply(host, actor, &event, without)?;
        if let Actor::Process(nonce) = actor { self.resume(host, nonce) } else { Some(()) }
    }

    fn peer_took(&mut self, session: SessionIndex, without: Option<Rule>) -> Option<()> {
        let host = self.sessions[session].source;
        let actor = self.source_actor(session);
        let event = Event::PeerTook { session: session_id(session) };
        self.apply(host, actor, &event, without)?;
        if let Actor::Process(nonce) = actor {
            self.end(host, nonce);
        }
        Some(())
    }

    fn settle(&mut self, session: SessionIndex, without: Option<Rule>) -> Option<()> {
        let host = self.sessions[session].destination;
        let PermitState::Taken { runner, .. } = *self.state(host)? else { return None };
        let live = self.process(host, runner).map(|process| Actor::Process(process.nonce));
        let event = Event::Settle { session: session_id(session) };
        self.apply(host, live.unwrap_or(Actor::Keeper), &event, without)?;
        if let Some(process) = self.process_mut(host, runner) {
            process.born_for = None;
        }
        Some(())
    }

    /// What the record says about a process's attempt, and what the process is, let it go.
    fn leave(&mut self, host: HostIndex, process: usize) -> Option<()> {
        let Process { nonce, phase, born_for, offers, .. } = self.hosts[host].processes[process];
        let outcome = |session: Option<SessionIndex>| {
            self.hosts[host].record.as_ref()?.outcome(session_id(session?))
        };
        let is_over = match phase {
            Phase::Running => false,
            // A process that only waits loses nothing of the guest.
            Phase::Waiting => true,
            // It holds what may be the only copy, until the record says that it is not.
            Phase::Received => outcome(born_for).is_some(),
            // The old process of a hand-over on one host reads that the new one has taken over.
            Phase::Stopped => outcome(offers) == Some(Outcome::Taken),
        };
        is_over.then(|| self.end(host, nonce))
    }

    fn boot(&mut self, host: HostIndex, without: Option<Rule>) -> Option<()> {
        match without {
            Some(Rule::StartOnlyHeld) => {
                self.host_mut(host).record.as_mut()?.state = PermitState::Held { runner: None };
            }
            Some(Rule::NoRecordNoPermission) if self.hosts[host].record.is_none() => {
                self.apply(host, Actor::Keeper, &Event::Create, without)?;
            }
            _ => {}
        }
        self.start(host, without)
    }

    /// Of two hosts that claim the machine, the one with the older generation stops.
    fn contact(&mut self, one: HostIndex, other: HostIndex, without: Option<Rule>) -> Option<()> {
        self.can_reach(one, other).then_some(())?;
        let (mine, theirs) = (self.claim(one)?, self.claim(other)?);
        if without != Some(Rule::OlderGenerationStops) {
            for (host, peer, own, shown) in [(one, other, mine, theirs), (other, one, theirs, mine)]
            {
                if shown < own {
                    continue;
                }
                let state = self.state(host).cloned();
                self.host_mut(host).processes.clear();
                if state.is_some() {
                    let event = Event::Supersede { by: shown, peer: host_name(peer) };
                    self.apply(host, Actor::Keeper, &event, without)?;
                }
            }
        }
        if self.runs_on(one) && self.runs_on(other) {
            self.violation = Some(Violation::BothAfterContact);
        }
        Some(())
    }

    /// The generation with which a host claims the machine.
    fn claim(&self, host: HostIndex) -> Option<super::super::Generation> {
        use PermitState::{Held, Offered, Taken};
        let claims =
            |record: &&Record| matches!(record.state, Held { .. } | Offered { .. } | Taken { .. });
        match &self.hosts[host].record {
            Some(record) => Some(record).filter(claims).map(|record| record.generation),
            None => {
                let mut processes = self.hosts[host].processes.iter();
                let runs = |process: &&Process| process.phase == Phase::Running;
                processes.find(runs).map(|process| process.generation)
            }
        }
    }

    fn resolve(&mut self, host: HostIndex) -> Option<()> {
        spend(&mut self.budget.resolutions)?;
        let others = (0..self.hosts.len()).filter(|other| *other != host);
        let is_right = others.into_iter().all(|other| self.is_dead(other));
        let waits = |process: &&Process| process.phase == Phase::Stopped;
        let runner = self.hosts[host].processes.iter().find(waits).map(|process| process.nonce);
        let actor = runner.map_or(Actor::Keeper, Actor::Process);
        let above = super::super::Generation::default();
        self.apply(host, actor, &Event::Resolve { runner, above }, None)?;
        // Who was wrong once has undone what the model promises, whatever is said later.
        let stays_right = is_right && self.operator != Operator::Wrong;
        self.operator = if stays_right { Operator::Right } else { Operator::Wrong };
        self.host_mut(host).line = self.newest_line + 1;
        if let Some(nonce) = runner {
            self.process_mut(host, nonce)?.line = self.newest_line + 1;
            self.resume(host, nonce)?;
        }
        Some(())
    }

    /// Whether a host can never run the machine again on its own account: what a person states.
    fn is_dead(&self, host: HostIndex) -> bool {
        use PermitState::{Gone, Prepared, Refused};
        let state = self.state(host);
        let can_never = state
            .is_none_or(|state| matches!(state, Gone { .. } | Prepared { .. } | Refused { .. }));
        self.hosts[host].processes.is_empty() && can_never
    }

    fn write_at_last(&mut self, host: HostIndex) -> Option<()> {
        let unwritten = |process: &&Process| process.is_unwritten;
        let process = self.hosts[host].processes.iter().find(unwritten).cloned()?;
        let session = session_id(process.born_for?);
        self.process_mut(host, process.nonce)?.is_unwritten = false;
        self.apply(host, Actor::Process(process.nonce), &Event::Take { session }, None)
    }

    /// The same attempt is negotiated a second time, and the destination has forgotten its end.
    fn negotiate_again(&mut self, session: SessionIndex, without: Option<Rule>) -> Option<()> {
        (without == Some(Rule::SessionsBeginOnce)).then_some(())?;
        self.reachable(session)?;
        let Session { source, destination, line, .. } = self.sessions[session];
        let offered = self.hosts[source].record.as_ref()?.generation;
        self.host_mut(destination).record.as_mut()?.outcomes.clear();
        let runner = self.next_nonce(destination);
        let (named, from) = (session_id(session), host_name(source));
        let event = Event::Prepare { session: named, runner, from, offered };
        self.apply(destination, Actor::Keeper, &event, without)?;
        self.spawn(destination, runner, Some(session), line);
        Some(())
    }
}

fn spend(budget: &mut u8) -> Option<()> {
    *budget = budget.checked_sub(1)?;
    Some(())
}
