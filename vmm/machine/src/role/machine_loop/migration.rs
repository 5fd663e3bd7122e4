//! Moves between hosts, as the loop sees them.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use dwcp::digest::DigestKey;
use dwcp::transport::Door;

use super::{Business, Guest, MachineProcess, RoleError};
use crate::ipc::Channel;
use crate::jail::ThreadKind;
use crate::migrate::{
    self, ArrivalReport, Description, Dialler, KeepOrder, MigrateError, MigrateOrder, PrepareOrder,
    SurveyOrder, bring_in,
};
use crate::role::job::Job;
use crate::role::order::Report;
use crate::role::start::{self, OrderError};
use crate::state::MachineState;
use crate::vm::{Paused, Running};

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
            let dialler =
                Dialler::new(Channel::from(sockets)).map_err(|error| error.to_string())?;
            Ok((Arc::new(dialler), self.worker("migration", Some(ThreadKind::Mover))?))
        });
        match ready {
            Ok((dialler, worker)) => {
                let meter = self.new_meter();
                let (session, stays) = (order.session, order.stays);
                let business = Business::Leaving { session, dialler: Arc::clone(&dialler), stays };
                self.give(worker, Job::Migrate { running, order, dialler, meter }, business);
                Ok(())
            }
            Err(why) => {
                self.guest = Guest::Running(running);
                self.report(&Report::Declined { why })
            }
        }
    }

    /// Looks at the guest, for a move that may come.
    pub(super) fn start_survey(
        &mut self,
        order: Box<SurveyOrder>,
        running: Running,
    ) -> Result<(), RoleError> {
        // Whoever asks waits for the answer: not for minutes.
        let is_whole = self.loader.as_ref().is_none_or(|loader| loader.completion().is_there());
        let is_whole =
            is_whole.then_some(()).ok_or_else(|| "its memory is still being read".into());
        // What it does is the beginning of a move.
        match is_whole.and_then(|()| self.worker("survey", Some(ThreadKind::Mover))) {
            Ok(worker) => {
                let meter = self.new_meter();
                self.give(worker, Job::Survey { running, order, meter }, Business::Here);
                Ok(())
            }
            Err(why) => {
                self.guest = Guest::Running(running);
                self.report(&Report::SurveyFailed { why })
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
            let (arrival, resident, sockets) = start::prepare(order, descriptors, opened)?;
            serve(sockets, arrival.door())?;
            // It restores a machine, which else the device loop does.
            let worker = self.worker("arrival", None).map_err(io::Error::other)?;
            Ok((arrival, resident, worker))
        });
        match prepared {
            Ok((arrival, resident, worker)) => {
                let (arrival, meter) = (Box::new(arrival), self.new_meter());
                let business =
                    Business::Arriving { session: arrival.session(), door: arrival.door() };
                self.resident = Some(resident);
                self.give(worker, Job::Arrive { arrival, meter }, business);
                self.report(&Report::Prepared)
            }
            Err(error) => self.report_start(Err(error)),
        }
    }

    pub(super) fn migration_returned(
        &mut self,
        outcome: migrate::Outcome,
    ) -> Result<(), RoleError> {
        let stays = matches!(&self.guest, Guest::Busy(Business::Leaving { stays: true, .. }));
        match outcome {
            migrate::Outcome::Moved { report, frozen } => {
                // The permit's lock goes with it: the machine may come back at once.
                match self.resident.take() {
                    // Nobody would come for it: its successor finds a permit that is not held, and asks no more.
                    Some(resident) if stays && !self.control.is_gone() => {
                        self.guest = Guest::Moved(frozen, resident.digest_key);
                    }
                    _ => self.is_done = true,
                }
                self.report(&Report::Migrated(report))
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
        outcome: Result<(Running, ArrivalReport), MigrateError>,
    ) -> Result<(), RoleError> {
        match outcome {
            Ok((running, report)) => {
                let resident = self.resident.take().expect("it came back with the guest");
                self.watch_guest(&resident, running.parts());
                self.resident = Some(resident);
                self.guest = Guest::Running(running);
                self.report(&Report::Arrived(Box::new(report)))
            }
            Err(error) => self.report_start(Err(error.into())),
        }
    }

    /// Writes down what is left of a machine that has moved. Nothing else is done meanwhile, and nothing afterwards.
    pub(super) fn keep_image(
        &mut self,
        order: KeepOrder,
        mut descriptors: Vec<OwnedFd>,
        frozen: &Paused,
        digest_key: &DigestKey,
    ) -> Result<(), RoleError> {
        self.is_done = true;
        let kept = match descriptors.pop() {
            Some(file) => {
                let is_wanted = || !self.control.is_gone();
                let ram = Arc::clone(frozen.ram());
                let kept = migrate::keep(order, file.into(), ram, digest_key, &is_wanted);
                kept.map_err(|error| error.to_string())
            }
            None => Err(OrderError::Descriptors(0).to_string()),
        };
        self.report(&match kept {
            Ok(report) => Report::ImageKept(report),
            Err(why) => Report::ImageNotKept { why },
        })
    }

    /// A new keeper connects and brings in the sockets of a move that is under way.
    pub(super) fn replace_sockets(&self, mut descriptors: Vec<OwnedFd>) {
        let Some(sockets) = descriptors.pop().map(Channel::from) else { return };
        let replaced = match &self.guest {
            Guest::Busy(Business::Leaving { dialler, .. }) => dialler.replace(sockets),
            Guest::Busy(Business::Arriving { door, .. }) => serve(sockets, door.clone()),
            _ => Ok(()),
        };
        if let Err(error) = replaced {
            // The move goes on, and is given up if it needs sockets that nobody gives it.
            tracing::error!(%error, "the sockets of a new keeper are not used");
        }
    }
}

/// Brings in what a keeper sends: a thread that ends when the keeper closes its end.
fn serve(sockets: Channel, door: Door) -> io::Result<()> {
    let body = move || bring_in(&sockets, &door);
    std::thread::Builder::new().name("dwcp-door".into()).spawn(body).map(drop)
}
