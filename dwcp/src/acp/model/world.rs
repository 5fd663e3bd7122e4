//! What there is: hosts with records and processes, attempts with what is on its way, and ghosts,
//! which no host can see, and by which the model knows what is true.

use std::collections::VecDeque;
use std::rc::Rc;

use super::super::{
    Actor, Event, Generation, HostName, Nonce, PermitState, Record, SessionId, VmId,
};
use super::rules::Rule;

pub(super) const VM: VmId = VmId::new([7; 16]).unwrap();

/// A host, by its place in [`World::hosts`].
pub(super) type HostIndex = usize;

/// An attempt, by its place in [`World::sessions`].
pub(super) type SessionIndex = usize;

pub(super) fn session_id(session: SessionIndex) -> SessionId {
    SessionId::new([1 + session as u8; 16]).unwrap()
}

pub(super) fn host_name(host: HostIndex) -> HostName {
    HostName::new(["a", "b", "c"][host]).unwrap()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Phase {
    Running,
    /// Stopped for the switch. The memory is frozen.
    Stopped,
    /// At a destination, before the permit frame.
    Waiting,
    /// At a destination: the permit frame is there, and so everything before it.
    Received,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Process {
    pub(super) nonce: Nonce,
    pub(super) phase: Phase,
    /// The attempt that the process was started for, until what it took is settled.
    pub(super) born_for: Option<SessionIndex>,
    /// The attempt in which it offers the permit.
    pub(super) offers: Option<SessionIndex>,
    pub(super) is_frame_sent: bool,
    /// The generation that the process knows without its record.
    pub(super) generation: Generation,
    /// Ghost: how many times the guest's memory had changed hands when this process got it.
    pub(super) line: u8,
    /// What this process last knew of the record. Kept only where compare-and-swap is taken away.
    pub(super) remembered: Option<Record>,
    /// Whether it runs on a permit that it has not written yet. Only where the rule is taken away.
    pub(super) is_unwritten: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Host {
    pub(super) record: Option<Record>,
    pub(super) processes: Vec<Process>,
    /// Nonces used so far.
    pub(super) nonces: u8,
    /// Ghost: the newest line that has run here.
    pub(super) line: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Session {
    pub(super) source: HostIndex,
    pub(super) destination: HostIndex,
    /// The process that negotiated it.
    pub(super) offerer: Nonce,
    /// Ghost: the line of the memory that is offered.
    pub(super) line: u8,
    /// What is on its way: the permit frame, and answers.
    pub(super) frame: bool,
    pub(super) ran: bool,
    pub(super) never_ran: bool,
}

/// How often each fault may still happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Budget {
    /// Whether a machine may also be handed to another process on its host.
    pub(super) has_local: bool,
    pub(super) sessions: u8,
    pub(super) kills: u8,
    pub(super) cuts: u8,
    pub(super) lost_records: u8,
    pub(super) wipes: u8,
    pub(super) resolutions: u8,
}

/// What a person has said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Operator {
    Silent,
    Right,
    Wrong,
}

/// A promise that was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Violation {
    /// Two processes run the machine.
    TwoRunners,
    /// A copy runs although a newer one has run.
    Fork,
    /// Nothing was killed, and the guest's memory is nowhere.
    MemoryLost,
    /// Two hosts have met, and both still run the machine.
    BothAfterContact,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct World {
    /// Shared between worlds until one of them changes it: most steps touch one host.
    pub(super) hosts: Vec<Rc<Host>>,
    pub(super) sessions: Vec<Session>,
    /// Pairs of hosts, the lower one first, that cannot reach each other.
    pub(super) cut: Vec<(HostIndex, HostIndex)>,
    pub(super) budget: Budget,
    pub(super) operator: Operator,
    /// Ghost: the newest line that has ever run.
    pub(super) newest_line: u8,
    /// Ghost: whether a process was killed.
    pub(super) has_killed: bool,
    /// Ghost: whether a record is gone that once was there.
    pub(super) has_lost_record: bool,
    pub(super) violation: Option<Violation>,
}

impl World {
    /// Host 0 runs the machine, the others have never heard of it.
    pub(super) fn new(hosts: usize, budget: Budget) -> Self {
        let empty = Host { record: None, processes: Vec::new(), nonces: 0, line: 0 };
        let mut world = Self {
            hosts: std::iter::repeat_with(|| Rc::new(empty.clone())).take(hosts).collect(),
            sessions: Vec::new(),
            cut: Vec::new(),
            budget,
            operator: Operator::Silent,
            newest_line: 0,
            has_killed: false,
            has_lost_record: false,
            violation: None,
        };
        world.apply(0, Actor::Keeper, &Event::Create, None).expect("a new machine");
        world.start(0, None).expect("a held permit");
        world
    }

    /// Changes a host's record by the table. `None` where it refuses.
    pub(super) fn apply(
        &mut self,
        host: HostIndex,
        actor: Actor,
        event: &Event,
        without: Option<Rule>,
    ) -> Option<()> {
        let is_lock_free = self.hosts[host].processes.is_empty();
        if actor == Actor::Keeper && !is_lock_free && without != Some(Rule::DeathIsProven) {
            return None;
        }
        let mut current = self.hosts[host].record.clone();
        if without == Some(Rule::CompareAndSwap)
            && let Actor::Process(nonce) = actor
            && let Some(remembered) = &self.process(host, nonce)?.remembered
        {
            current = Some(remembered.clone());
        }
        let mut next = Record::next(current.as_ref(), VM, actor, event).ok()?;
        // Two ways to one state are one state, however often they wrote.
        next.sequence = 0;
        let forgets = matches!(event, Event::Settle { .. } | Event::Prepare { .. });
        if forgets && without == Some(Rule::EndsAreRemembered) {
            next.outcomes = VecDeque::new();
        }
        if let Actor::Process(nonce) = actor {
            let remembers = without == Some(Rule::CompareAndSwap);
            let process = self.process_mut(host, nonce)?;
            process.generation = next.generation;
            process.remembered = remembers.then(|| next.clone());
        }
        self.host_mut(host).record = Some(next);
        Some(())
    }

    /// The keeper starts a process that boots the machine from its disks.
    pub(super) fn start(&mut self, host: HostIndex, without: Option<Rule>) -> Option<()> {
        let runner = self.next_nonce(host);
        self.apply(host, Actor::Keeper, &Event::Start { runner }, without)?;
        let line = self.hosts[host].line;
        let process = self.spawn(host, runner, None, line);
        self.run(host, process);
        Some(())
    }

    pub(super) fn next_nonce(&self, host: HostIndex) -> Nonce {
        let mut bytes = [0; 16];
        bytes[0] = 1 + host as u8;
        bytes[1] = self.hosts[host].nonces;
        Nonce::new(bytes).unwrap()
    }

    /// Adds a process that does not run yet.
    pub(super) fn spawn(
        &mut self,
        host: HostIndex,
        nonce: Nonce,
        born_for: Option<SessionIndex>,
        line: u8,
    ) -> Nonce {
        let host = self.host_mut(host);
        host.nonces += 1;
        host.processes.push(Process {
            nonce,
            phase: Phase::Waiting,
            born_for,
            offers: None,
            is_frame_sent: false,
            generation: host.record.as_ref().map_or_else(Generation::default, |r| r.generation),
            line,
            remembered: None,
            is_unwritten: false,
        });
        nonce
    }

    /// A process starts to execute the guest, and the ghosts look whether it may.
    pub(super) fn run(&mut self, host: HostIndex, nonce: Nonce) {
        let process = self.process_mut(host, nonce).expect("a live process");
        process.phase = Phase::Running;
        process.is_frame_sent = false;
        let line = process.line;
        let newest = self.newest_line;
        self.host_mut(host).line = line;
        self.newest_line = newest.max(line);
        if self.operator == Operator::Wrong {
            return;
        }
        if self.runners() > 1 {
            self.violation = Some(Violation::TwoRunners);
        } else if line < newest {
            self.violation = Some(Violation::Fork);
        }
    }

    pub(super) fn host_mut(&mut self, host: HostIndex) -> &mut Host {
        Rc::make_mut(&mut self.hosts[host])
    }

    pub(super) fn process(&self, host: HostIndex, nonce: Nonce) -> Option<&Process> {
        self.hosts[host].processes.iter().find(|process| process.nonce == nonce)
    }

    pub(super) fn process_mut(&mut self, host: HostIndex, nonce: Nonce) -> Option<&mut Process> {
        self.host_mut(host).processes.iter_mut().find(|process| process.nonce == nonce)
    }

    pub(super) fn end(&mut self, host: HostIndex, nonce: Nonce) {
        self.host_mut(host).processes.retain(|process| process.nonce != nonce);
    }

    pub(super) fn state(&self, host: HostIndex) -> Option<&PermitState> {
        self.hosts[host].record.as_ref().map(Record::state)
    }

    pub(super) fn runs_on(&self, host: HostIndex) -> bool {
        self.hosts[host].processes.iter().any(|process| process.phase == Phase::Running)
    }

    pub(super) fn runners(&self) -> usize {
        let processes = self.hosts.iter().flat_map(|host| &host.processes);
        processes.filter(|process| process.phase == Phase::Running).count()
    }

    pub(super) fn can_reach(&self, one: HostIndex, other: HostIndex) -> bool {
        !self.cut.contains(&(one.min(other), one.max(other)))
    }

    /// Whether a live process has the guest's memory.
    pub(super) fn has_memory(&self) -> bool {
        let mut processes = self.hosts.iter().flat_map(|host| &host.processes);
        processes.any(|process| process.phase != Phase::Waiting)
    }

    /// Whether one process runs the machine and no host is between two states.
    pub(super) fn is_at_rest(&self) -> bool {
        let is_decided = |host: &Rc<Host>| {
            !matches!(
                host.record.as_ref().map(Record::state),
                Some(
                    PermitState::Offered { .. }
                        | PermitState::Prepared { .. }
                        | PermitState::Taken { .. }
                )
            )
        };
        self.runners() == 1 && self.hosts.iter().all(is_decided)
    }

    /// Whether the hosts must be able to come to rest by themselves.
    pub(super) fn must_recover(&self) -> bool {
        !self.has_lost_record && self.operator == Operator::Silent
    }
}
