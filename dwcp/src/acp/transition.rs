//! The table: which event may follow which state, by whom, and what it makes of the record. See
//! `SPEC.md`, 7.2.

use super::state::OUTCOMES_MAX;
use super::{
    Actor, Event, Generation, HostName, Nonce, Outcome, PermitState, Record, SessionId, Successor,
    VmId,
};

/// An event that the record does not allow. The record is unchanged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no record. That proves nothing about who runs the machine
    #[error("{event} needs a permit record, and this host has none of this machine")]
    NoRecord {
        /// The event's name.
        event: &'static str,
    },
    /// The state does not allow the event, whoever says it
    #[error("{event} is not possible while the permit is {state}")]
    NotPossible {
        /// The state's name.
        state: &'static str,
        /// The event's name.
        event: &'static str,
    },
    /// The state allows the event to somebody else only
    #[error("{actor} may not do this: {allowed} may")]
    NotYours {
        /// Who tried.
        actor: Actor,
        /// Who may: a process, or the keeper.
        allowed: Actor,
    },
    /// The record is about another attempt
    #[error("session {named} was named, but the record is about {found}")]
    OtherSession {
        /// The attempt named by the event.
        named: SessionId,
        /// The attempt in the record.
        found: SessionId,
    },
    /// The attempt has ended, and an ended attempt does not begin again
    #[error("session {0} has ended: a new attempt needs a new one")]
    SessionEnded(SessionId),
    /// Another host has held the machine since: what is offered is an old copy
    #[error("generation {shown} is older than {known}, which this host knows of")]
    OldGeneration {
        /// What was shown.
        shown: Generation,
        /// What this record knows.
        known: Generation,
    },
    /// A machine that has moved, or was resolved, 2^32 times
    #[error("generation {0} cannot be raised")]
    LastGeneration(Generation),
    /// A record with the last sequence number: nobody has written 2^64 of them
    #[error("the record has the last sequence number there is: it was not written by this program")]
    LastRecord,
    /// A process cannot be its own successor
    #[error("process {0} offers the permit to itself")]
    ToItself(Nonce),
}

/// What an event makes of a record.
struct Change {
    state: PermitState,
    generation: Generation,
    outcome: Option<(SessionId, Outcome)>,
}

impl Record {
    /// The record that follows `current` (`None`: there is none) when `actor` says `event`. This is
    /// the one place that decides it; nothing is read or written here.
    ///
    /// # Errors
    /// When the table does not allow it.
    pub(super) fn next(
        current: Option<&Self>,
        vm: VmId,
        actor: Actor,
        event: &Event,
    ) -> Result<Self, Refusal> {
        let change = match current {
            Some(record) => record.change(actor, event)?,
            None => first(actor, event)?,
        };
        let mut outcomes = current.map(|record| record.outcomes.clone()).unwrap_or_default();
        if let Some(outcome) = change.outcome {
            if outcomes.len() == OUTCOMES_MAX {
                outcomes.pop_front();
            }
            outcomes.push_back(outcome);
        }
        let sequence = current.map_or(Ok(1), Self::next_sequence)?;
        let Change { state, generation, .. } = change;
        Ok(Self { vm, sequence, generation, state, outcomes })
    }

    /// The number of the record after this one.
    ///
    /// # Errors
    /// When there is none.
    pub(super) fn next_sequence(&self) -> Result<u64, Refusal> {
        self.sequence.checked_add(1).ok_or(Refusal::LastRecord)
    }

    fn change(&self, actor: Actor, event: &Event) -> Result<Change, Refusal> {
        use PermitState::{Gone, Held, Offered, Prepared, Refused, Taken};
        match (&self.state, event) {
            (Held { .. }, Event::Start { runner }) => {
                keeper(actor)?;
                self.to(Held { runner: Some(*runner) })
            }
            (Held { runner }, Event::Offer { session, to }) => {
                self.offer(actor, *runner, *session, to)
            }
            (Offered { session, runner, .. }, Event::Withdraw { session: named }) => {
                process(actor, *runner)?;
                same(*session, *named)?;
                let held = Held { runner: Some(*runner) };
                self.ends(held, *session, Outcome::Withdrawn)
            }
            (Offered { session, runner, to }, event) => match to {
                Successor::Process(successor) => {
                    self.between_processes(actor, event, *session, *successor)
                }
                Successor::Host(peer) => self.between_hosts(actor, event, *session, *runner, peer),
            },
            (Prepared { session, runner, from }, Event::Take { session: named }) => {
                process(actor, *runner)?;
                same(*session, *named)?;
                let from = Some(from.clone());
                let taken = Taken { session: *session, runner: *runner, from };
                self.ends(taken, *session, Outcome::Taken)
            }
            (Prepared { session, runner, from }, Event::Refuse { session: named }) => {
                process_or_keeper(actor, *runner)?;
                same(*session, *named)?;
                let refused = Refused { session: *session, from: from.clone() };
                self.ends(refused, *session, Outcome::Refused)
            }
            (Taken { session, runner, .. }, Event::Settle { session: named }) => {
                process_or_keeper(actor, *runner)?;
                same(*session, *named)?;
                self.to(Held { runner: Some(*runner) })
            }
            (Gone { .. } | Refused { .. }, Event::Prepare { .. }) => self.prepare(actor, event),
            (Gone { .. } | Refused { .. }, Event::Resolve { runner, above }) => {
                keeper(actor)?;
                resolved(*runner, self.generation.max(*above))
            }
            (Held { runner }, Event::Supersede { .. }) => self.supersede(actor, *runner, event),
            (Taken { runner, .. }, Event::Supersede { .. }) => {
                self.supersede(actor, Some(*runner), event)
            }
            _ => Err(self.not_possible(event)),
        }
    }

    fn offer(
        &self,
        actor: Actor,
        runner: Option<Nonce>,
        session: SessionId,
        to: &Successor,
    ) -> Result<Change, Refusal> {
        // A record without a runner has nobody who could offer: the keeper starts a process first.
        let runner = runner.ok_or(Refusal::NotYours { actor, allowed: Actor::Keeper })?;
        process(actor, runner)?;
        self.fresh(session)?;
        if *to == Successor::Process(runner) {
            return Err(Refusal::ToItself(runner));
        }
        self.to(PermitState::Offered { session, runner, to: to.clone() })
    }

    fn between_processes(
        &self,
        actor: Actor,
        event: &Event,
        session: SessionId,
        successor: Nonce,
    ) -> Result<Change, Refusal> {
        match event {
            Event::Take { session: named } => {
                process(actor, successor)?;
                same(session, *named)?;
                let taken = PermitState::Taken { session, runner: successor, from: None };
                self.ends(taken, session, Outcome::Taken)
            }
            Event::Reclaim { session: named } => {
                keeper(actor)?;
                same(session, *named)?;
                self.ends(PermitState::Held { runner: None }, session, Outcome::Withdrawn)
            }
            _ => Err(self.not_possible(event)),
        }
    }

    fn between_hosts(
        &self,
        actor: Actor,
        event: &Event,
        session: SessionId,
        runner: Nonce,
        peer: &HostName,
    ) -> Result<Change, Refusal> {
        process_or_keeper(actor, runner)?;
        // The attempt must not be offered again under its name: answers about it may be on their way.
        let overruled = |change| Change { outcome: Some((session, Outcome::Overruled)), ..change };
        match event {
            Event::PeerRefused { session: named } => {
                same(session, *named)?;
                self.ends(PermitState::Held { runner: Some(runner) }, session, Outcome::Refused)
            }
            Event::PeerTook { session: named } => {
                same(session, *named)?;
                let gone = PermitState::Gone { session: Some(session), to: peer.clone() };
                let mut change = self.ends(gone, session, Outcome::Taken)?;
                change.generation = raised(self.generation, Generation::after_move)?;
                Ok(change)
            }
            Event::Resolve { runner, above } => {
                resolved(*runner, self.generation.max(*above)).map(overruled)
            }
            Event::Supersede { .. } => self.supersede(actor, Some(runner), event).map(overruled),
            _ => Err(self.not_possible(event)),
        }
    }

    fn prepare(&self, actor: Actor, event: &Event) -> Result<Change, Refusal> {
        let change = first(actor, event)?;
        if let Event::Prepare { session, offered, .. } = event {
            self.fresh(*session)?;
            // A refused attempt may be tried again from the same place; after `Gone`, the record's
            // generation is that of the host which has the machine, and so must the source's be.
            let is_old = match self.state {
                PermitState::Gone { .. } => change.generation <= self.generation,
                _ => change.generation < self.generation,
            };
            if is_old {
                return Err(Refusal::OldGeneration { shown: *offered, known: self.generation });
            }
        }
        Ok(change)
    }

    fn supersede(
        &self,
        actor: Actor,
        runner: Option<Nonce>,
        event: &Event,
    ) -> Result<Change, Refusal> {
        let Event::Supersede { by, peer } = event else {
            return Err(self.not_possible(event));
        };
        runner.map_or_else(|| keeper(actor), |runner| process_or_keeper(actor, runner))?;
        // Equal generations of two hosts come from two persons' statements. Nobody can prove then
        // who may run the machine, so both stop.
        if *by < self.generation {
            return Err(Refusal::OldGeneration { shown: *by, known: self.generation });
        }
        let state = PermitState::Gone { session: None, to: peer.clone() };
        Ok(Change { state, generation: *by, outcome: None })
    }

    fn fresh(&self, session: SessionId) -> Result<(), Refusal> {
        match self.outcome(session) {
            Some(_) => Err(Refusal::SessionEnded(session)),
            None => Ok(()),
        }
    }

    #[allow(
        clippy::unnecessary_wraps,
        reason = "an arm of the table, beside those that can refuse"
    )]
    fn to(&self, state: PermitState) -> Result<Change, Refusal> {
        Ok(Change { state, generation: self.generation, outcome: None })
    }

    fn ends(
        &self,
        state: PermitState,
        session: SessionId,
        outcome: Outcome,
    ) -> Result<Change, Refusal> {
        Ok(Change { outcome: Some((session, outcome)), ..self.to(state)? })
    }

    fn not_possible(&self, event: &Event) -> Refusal {
        Refusal::NotPossible { state: self.state.name(), event: event.name() }
    }
}

/// What may happen where there is no record.
fn first(actor: Actor, event: &Event) -> Result<Change, Refusal> {
    let (state, generation) = match event {
        Event::Create => (PermitState::Held { runner: None }, Generation::default()),
        Event::Prepare { session, runner, from, offered } => {
            let (session, runner, from) = (*session, *runner, from.clone());
            let generation = raised(*offered, Generation::after_move)?;
            (PermitState::Prepared { session, runner, from }, generation)
        }
        Event::Resolve { runner, above } => {
            keeper(actor)?;
            return resolved(*runner, *above);
        }
        _ => return Err(Refusal::NoRecord { event: event.name() }),
    };
    keeper(actor)?;
    Ok(Change { state, generation, outcome: None })
}

fn resolved(runner: Option<Nonce>, above: Generation) -> Result<Change, Refusal> {
    let generation = raised(above, Generation::after_resolution)?;
    Ok(Change { state: PermitState::Held { runner }, generation, outcome: None })
}

fn raised(
    generation: Generation,
    raise: impl Fn(Generation) -> Option<Generation>,
) -> Result<Generation, Refusal> {
    raise(generation).ok_or(Refusal::LastGeneration(generation))
}

fn keeper(actor: Actor) -> Result<(), Refusal> {
    match actor {
        Actor::Keeper => Ok(()),
        Actor::Process(_) => Err(Refusal::NotYours { actor, allowed: Actor::Keeper }),
    }
}

fn process(actor: Actor, allowed: Nonce) -> Result<(), Refusal> {
    let allowed = Actor::Process(allowed);
    if actor == allowed { Ok(()) } else { Err(Refusal::NotYours { actor, allowed }) }
}

fn process_or_keeper(actor: Actor, allowed: Nonce) -> Result<(), Refusal> {
    keeper(actor).or_else(|_| process(actor, allowed))
}

fn same(found: SessionId, named: SessionId) -> Result<(), Refusal> {
    if found == named { Ok(()) } else { Err(Refusal::OtherSession { named, found }) }
}

#[cfg(test)]
mod tests;
