//! A machine that another daemon has left: its attendant finds it, and goes on with what was being done.

use std::sync::Arc;

use machine::{Adopted, AdoptedMachine, GuestStatus, Prepared, Supervised};

use super::attendant::{Attendant, failed};
use super::command::Command;
use super::entry::started;
use crate::api::{ApiError, MachineState};

impl Attendant {
    /// None if none of its processes is there any more.
    pub(super) fn adopt(&self) -> Result<Option<(Supervised, MachineState)>, ApiError> {
        let adopted = self.entry.home().adopt().map_err(|error| failed(&error))?;
        let adopted = match adopted {
            Some(Adopted::Machine(adopted)) => adopted,
            Some(Adopted::Arriving(prepared, session)) => {
                return self.adopt_arriving(prepared, session);
            }
            None => return Ok(None),
        };
        let AdoptedMachine { machine, console, guest, .. } = adopted;
        if let Some(console) = console {
            self.connect(console)?;
        }
        let state = match guest {
            GuestStatus::Paused => MachineState::Paused,
            GuestStatus::Departed => MachineState::Departed,
            _ => MachineState::Running,
        };
        if guest == GuestStatus::Leaving {
            self.finds_move();
        } else if guest == GuestStatus::Departed {
            // Its record may be in doubt: what is known of the attempt is kept.
        } else if let Err(error) = self.entry.change(|record| {
            // What was under way is over, and the guest is here.
            record.departure = None;
            record.moved = None;
            if record.arrival.take().is_some() {
                record.should_run = true;
                started(record);
            }
        }) {
            tracing::error!(%error, "that a move is over is not written");
        }
        Ok(Some((machine, state)))
    }

    /// A machine that waits for its guest goes on waiting, with another daemon.
    fn adopt_arriving(
        &self,
        prepared: Prepared,
        session: [u8; 16],
    ) -> Result<Option<(Supervised, MachineState)>, ApiError> {
        self.entry.set_state(MachineState::Arriving, None);
        let id = self.entry.record().arrival.map(|arrival| arrival.operation);
        let id = id.unwrap_or_else(|| crate::random::hex(&session));
        let name = self.entry.name().clone();
        let operations = &self.shared.operations;
        let operation = operations.begin(id, "machines.arrive", Some(name), true);
        self.shared.arrivals.opens(session, prepared.door());
        match self.wait_for_guest(prepared, session, &operation) {
            Ok((machine, outcome)) => {
                self.shared.end(&operation, Ok(outcome));
                self.connect(machine.new_console().map_err(|error| failed(&error))?)?;
                Ok(Some((machine, MachineState::Running)))
            }
            Err(error) => {
                self.shared.end(&operation, Err(error));
                // The record says the rest.
                Ok(None)
            }
        }
    }

    /// The first thing to do is to go on with a move that was under way.
    fn finds_move(&self) {
        let Some(attempt) = self.entry.record().departure else { return };
        let name = self.entry.name().clone();
        let operations = &self.shared.operations;
        let operation =
            operations.begin(attempt.operation.clone(), "machines.migrate", Some(name), true);
        let command = Command::GoOnMigrating { operation: Arc::clone(&operation) };
        if let Err(error) = self.entry.begin("moved", attempt.operation, command) {
            self.shared.end(&operation, Err(error));
        }
    }
}
