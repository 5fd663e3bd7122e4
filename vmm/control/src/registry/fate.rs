//! [`Fate`]: what became of a machine, and how an attendant finds that out.

use std::sync::Arc;

use dwcp::acp::{self, PermitState, SessionId, Successor};
use machine::{Death, GuestEnd, SuperviseError, Supervised};

use super::attendant::Attendant;
use super::record::Moved;
use super::restart::Way;
use crate::api::{ApiError, Ended, Timestamp};
use crate::operations::{Outcome, Pending};

/// What became of a machine, and the operation that is over with it.
#[derive(Debug)]
pub(super) struct Fate {
    pub(super) what: What,
    pub(super) last: Last,
}

/// What became of a machine.
#[derive(Debug)]
pub(super) enum What {
    /// Its guest ended, or its process.
    Ended { way: Way, ended: Ended },
    /// It lives on without this daemon.
    Left,
    /// It runs on another host.
    Moved(Moved),
    /// It was to come from another host, and never will in this attempt.
    NeverCame,
    /// Its process died after it had offered its guest to another host: that one's record says what became of it.
    InDoubt { session: [u8; 16], peer: String, ended: Ended },
}

/// An operation that ends with the machine, and what it came to. It does when the machine is seen to be stopped, not before:
/// whoever waited for it goes on with that.
pub(super) type Last = Option<Box<(Arc<Pending>, Result<Outcome, ApiError>)>>;

impl Fate {
    /// The same, when an operation is over with it.
    pub(super) fn with(self, operation: Arc<Pending>, outcome: Result<Outcome, ApiError>) -> Self {
        Self { last: Some(Box::new((operation, outcome))), ..self }
    }
}

impl From<What> for Fate {
    fn from(what: What) -> Self {
        Self { what, last: None }
    }
}

impl Attendant {
    /// Ends the guest.
    pub(super) fn stop(&self, machine: Supervised) -> Fate {
        self.should_run(false);
        let how = match machine.stop() {
            Ok(()) => GuestEnd::Stopped.to_string(),
            // It ended by itself in the same moment, or hangs and was killed.
            Err(error) => error.to_string(),
        };
        // One that had departed may run elsewhere.
        self.fate_of_dead(Way::Stopped, Ended { at: Timestamp::now(), how, failed: false })
    }

    /// The guest ended as a guest may.
    pub(super) fn ended(&self, machine: Supervised, end: GuestEnd) -> Fate {
        machine.into_process().bury();
        let ended = Ended { at: Timestamp::now(), how: end.to_string(), failed: false };
        What::Ended { way: end.into(), ended }.into()
    }

    /// The guest ended otherwise, or its process is lost.
    pub(super) fn lost(&self, machine: Supervised, error: SuperviseError) -> Fate {
        let death = machine.into_process().bury();
        let (how, end) = match error {
            SuperviseError::GuestEnded { how, end } => (how, end),
            _ => (self.how_it_ended(death), GuestEnd::Failed),
        };
        let failed = !end.is_orderly();
        self.fate_of_dead(end.into(), Ended { at: Timestamp::now(), how, failed })
    }

    pub(super) fn ended_unseen(&self) -> Ended {
        Ended { at: Timestamp::now(), how: self.how_it_ended(None), failed: true }
    }

    /// No process of it lives: what its permit record says counts.
    pub(super) fn fate_of_dead(&self, way: Way, ended: Ended) -> Fate {
        let home = self.entry.home();
        let record = self.entry.record();
        let arrival = record.arrival.as_ref().and_then(|attempt| SessionId::new(attempt.session));
        let permit = home.permit_record();
        if let Some(arrival) = arrival {
            // It has come exactly if the permit was taken in this attempt; what cannot be read proves nothing.
            let has_come = permit
                .as_ref()
                .is_ok_and(|permit| permit.outcome(arrival) == Some(acp::Outcome::Taken));
            if !has_come {
                self.refuse(arrival);
                return What::NeverCame.into();
            }
            self.has_come();
        }
        match permit.map(|permit| permit.state().clone()) {
            Ok(PermitState::Offered { session, to: Successor::Host(peer), .. }) => {
                let (session, peer) = (session.bytes(), peer.as_str().to_owned());
                What::InDoubt { session, peer, ended }.into()
            }
            Ok(PermitState::Gone { to, .. }) if record.departure.is_some() => {
                let moved = Moved { to: to.as_str().to_owned(), at: Timestamp::now() };
                What::Moved(moved).into()
            }
            _ => {
                self.note_no_departure();
                What::Ended { way, ended }.into()
            }
        }
    }

    /// Why a process that said nothing has gone, as far as anybody knows.
    fn how_it_ended(&self, death: Option<Death>) -> String {
        match (self.entry.home().guest_end(), death) {
            (Ok(Some((how, _))), _) => how,
            (_, Some(death)) => format!("its process is gone: {death}"),
            (_, None) => {
                "its process has gone without a word: it was killed, or it crashed".to_owned()
            }
        }
    }

    /// It will not come in this attempt: its record says so before anybody is told.
    fn refuse(&self, session: SessionId) {
        let refused = self.entry.home().keeper().and_then(|mut keeper| {
            // Where it was never prepared, there is nothing to refuse.
            match keeper.record() {
                Ok(record) if matches!(record.state(), PermitState::Prepared { .. }) => {
                    Ok(keeper.refuse(session)?)
                }
                _ => Ok(()),
            }
        });
        if let Err(error) = refused {
            tracing::info!(%error, "the permit record refuses when it is asked");
        }
    }

    /// It has come from another host, and this daemon notes it late.
    fn has_come(&self) {
        self.shared.kept.discard(self.entry.id());
        let noted = self.entry.change(|record| {
            record.arrival = None;
            record.moved = None;
            record.should_run = true;
        });
        if let Err(error) = noted {
            tracing::error!(%error, "that a machine has come is not written");
        }
    }

    pub(super) fn note_no_departure(&self) {
        if let Err(error) = self.entry.change(|record| record.departure = None) {
            tracing::error!(%error, "that a move is over is not written");
        }
    }
}
