//! Moves between hosts, as the loop sees them.

use std::io;
use std::os::fd::OwnedFd;

use super::{Guest, MachineProcess, RoleError};
use crate::ipc::Channel;
use crate::jail::ThreadKind;
use crate::migrate::{self, Description, MigrateError, MigrateOrder, PrepareOrder};
use crate::role::job::Job;
use crate::role::order::Report;
use crate::role::start::{self, OrderError};
use crate::state::MachineState;
use crate::vm::Running;

impl MachineProcess {
    /// What another host must know of the machine.
    pub(super) fn describe(&mut self, guest: &Guest) -> Result<Report, String> {
        let (Some(parts), Some(config), Some(resident)) =
            (guest.parts(), guest.config(), self.resident.as_mut())
        else {
            return Err(OrderError::NoGuest.to_string());
        };
        let generation = resident.permit.generation().map_err(|error| error.to_string())?;
        Ok(Report::Description(Box::new(Description {
            config,
            cpuid: parts.cpuid.saved(),
            sections: MachineState::sections(),
            digest_key: *resident.digest_key.secret_bytes(),
            generation: (generation.resolutions, generation.moves),
        })))
    }

    /// Starts a move to another host. Whatever can fail comes before the machine is given away.
    pub(super) fn start_migration(
        &mut self,
        order: Box<MigrateOrder>,
        mut descriptors: Vec<OwnedFd>,
        running: Running,
    ) -> Result<(), RoleError> {
        let sockets = descriptors.pop().ok_or_else(|| "no socket".to_owned());
        let ready = sockets.and_then(|sockets| {
            Ok((Channel::from(sockets), self.worker("migration", Some(ThreadKind::Mover))?))
        });
        match ready {
            Ok((sockets, worker)) => {
                let meter = self.new_meter();
                self.give(worker, Job::Migrate { running, order, sockets, meter });
                Ok(())
            }
            Err(why) => {
                self.guest = Guest::Running(running);
                self.report(&Report::Declined { why })
            }
        }
    }

    /// Becomes the destination of a move: builds the machine, and waits for its guest.
    pub(super) fn prepare(
        &mut self,
        order: &PrepareOrder,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(), RoleError> {
        let prepared = self.take_opened().and_then(|opened| {
            let prepared = start::prepare(order, descriptors, opened)?;
            // It restores a machine, which else the device loop does.
            let worker = self.worker("arrival", None).map_err(io::Error::other)?;
            Ok((prepared, worker))
        });
        match prepared {
            Ok(((arrival, resident), worker)) => {
                let (arrival, meter) = (Box::new(arrival), self.new_meter());
                self.resident = Some(resident);
                self.give(worker, Job::Arrive { arrival, meter });
                self.report(&Report::Prepared)
            }
            Err(error) => self.report_start(Err(error)),
        }
    }

    pub(super) fn migration_returned(
        &mut self,
        outcome: migrate::Outcome,
    ) -> Result<(), RoleError> {
        match outcome {
            migrate::Outcome::Moved(report) => {
                self.is_done = true;
                self.report(&Report::Migrated(Box::new(report)))
            }
            migrate::Outcome::Stayed { running, why } => {
                self.guest = Guest::Running(running);
                self.report(&Report::MigrationFailed { why: why.to_string() })?;
                if self.ended_while_busy { self.end_if_exited() } else { Ok(()) }
            }
            migrate::Outcome::Ended { paused } => {
                self.guest = Guest::Paused(paused);
                self.end_if_exited()
            }
            migrate::Outcome::Departed { frozen, why } => {
                self.guest = Guest::Departed(frozen);
                self.report(&Report::Departed { why: why.to_string() })
            }
        }
    }

    pub(super) fn arrival_returned(
        &mut self,
        outcome: Result<Running, MigrateError>,
    ) -> Result<(), RoleError> {
        let outcome = outcome.map_err(OrderError::from).map(|running| {
            let resident = self.resident.take().expect("it came back with the guest");
            self.watch_guest(&resident, running.parts());
            self.resident = Some(resident);
            self.guest = Guest::Running(running);
        });
        self.report_start(outcome)
    }
}
