//! The thread that owns a machine's process.
//!
//! ```text
//!  start, restore, adopt, arrive ──► attend ──► the guest has ended ──► again? ──► retire
//!                              │  ▲                               └─ wait ──► start
//!                              ▼  │
//!                           obey a command
//! ```

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use machine::{RestoreOptions, RestoreReport, SuperviseError, Supervised, Woken};
use tokio::sync::oneshot;

use super::arrivals::Arriving;
use super::bell::Bell;
use super::command::Command;
use super::departures::Departed;
use super::doubt::Doubted;
use super::entry::{Entry, started};
use super::fate::{Fate, Last, What};
use super::images;
use super::machines::Machines;
use super::record::Moved;
use super::restart::{Backoff, Way};
use super::shared::Shared;
use crate::api::{
    ApiError, Boot, Ended, ErrorCode, EventKind, MachineState, RestoreOutcome, Timestamp,
};
use crate::metrics::{End as EndMetric, EndLabel};
use crate::operations::{Outcome, Pending};
use crate::spec;

/// How a machine comes to have a process.
#[derive(Debug)]
pub(super) enum Beginning {
    /// Somebody starts it.
    Start(Arc<Pending>),
    /// It was found alive.
    Adopt,
    /// Its restart policy starts it.
    Restart,
    /// It comes from another host.
    Arrive(Box<Arriving>),
}

/// Attends to one machine until it has no process any more.
#[derive(Debug)]
pub(super) struct Attendant {
    pub(super) entry: Arc<Entry>,
    pub(super) shared: Arc<Shared>,
    pub(super) machines: Machines,
    pub(super) commands: Receiver<Command>,
    pub(super) arrived: Bell,
}

/// A machine that somebody wants to be stopped.
struct Stopping {
    operation: Arc<Pending>,
    until: Instant,
}

impl Attendant {
    pub(super) fn run(self, mut beginning: Beginning) {
        let mut backoff = Backoff::new(self.shared.limits.restart_backoff_max);
        loop {
            let began = Instant::now();
            let fate = match self.bring_up(&beginning) {
                Ok(machine) => self.attend(machine),
                Err(fate) => fate,
            };
            let Fate { what, mut last } = fate;
            let (way, ended) = match what {
                What::Ended { way, ended } => (way, ended),
                What::Left => return self.end_last(&mut last),
                What::Moved(moved) => return self.has_moved(moved, last),
                What::NeverCame => return self.never_came(last),
                What::InDoubt { session, peer, ended } => {
                    self.end_last(&mut last);
                    match self.doubt(session, &peer) {
                        Doubted::Ran(moved) => return self.has_moved(moved, None),
                        Doubted::Here => (Way::Failed, ended),
                        Doubted::Left => return,
                    }
                }
            };
            self.note(way, &ended);
            let policy = self.entry.record().spec.restart;
            let wait = backoff.after(policy, way, began.elapsed());
            let Some(wait) = wait.filter(|_| self.entry.record().should_run) else {
                return self.retire(ended, last);
            };
            // Whoever waits for it does not wait for the machine's next start.
            self.end_last(&mut last);
            self.entry.has_process(None);
            self.entry.set_state(MachineState::Waiting, Some(ended.clone()));
            match self.rest(wait) {
                Rest::Over => {}
                Rest::Stop(operation) => {
                    return self.retire(ended, Some(Box::new((operation, Ok(Outcome::Plain)))));
                }
                Rest::Leave => return,
            }
            self.entry.was_restarted();
            self.shared.metrics.restarts.inc();
            beginning = Beginning::Restart;
        }
    }

    /// Gets the machine a process, or finds it.
    fn bring_up(&self, beginning: &Beginning) -> Result<Supervised, Fate> {
        let outcome = match beginning {
            Beginning::Start(_) | Beginning::Restart => {
                self.entry.set_state(MachineState::Starting, None);
                self.start().map(|(machine, outcome)| (machine, MachineState::Running, outcome))
            }
            Beginning::Adopt => match self.adopt() {
                Ok(Some((machine, state))) => Ok((machine, state, Outcome::Plain)),
                Ok(None) => return Err(self.fate_of_dead(Way::Failed, self.ended_unseen())),
                Err(error) => Err(error),
            },
            Beginning::Arrive(arriving) => {
                self.entry.set_state(MachineState::Arriving, None);
                match self.arrive(arriving) {
                    Ok((machine, outcome)) => Ok((machine, MachineState::Running, outcome)),
                    Err(error) => {
                        let operation = Arc::clone(&arriving.operation);
                        // Its process is dead, or never was: the record says whether the guest has run here.
                        let ended = Ended { how: error.message.clone(), ..self.ended_unseen() };
                        let fate = self.fate_of_dead(Way::Failed, ended);
                        return Err(fate.with(operation, Err(error)));
                    }
                }
            }
        };
        let outcome = outcome.and_then(|(machine, state, outcome)| {
            let process = machine.process();
            match process.ender() {
                Ok(ender) => {
                    self.entry.has_process(Some((process.id(), ender)));
                    Ok((machine, state, outcome))
                }
                Err(error) => {
                    machine.into_process().bury();
                    Err(ApiError::internal(error))
                }
            }
        });
        match outcome {
            Ok((machine, state, outcome)) => {
                self.entry.set_state(state, None);
                match beginning {
                    Beginning::Start(operation) => self.end(operation, Ok(outcome)),
                    Beginning::Arrive(arriving) => self.end(&arriving.operation, Ok(outcome)),
                    Beginning::Adopt | Beginning::Restart => {}
                }
                Ok(machine)
            }
            Err(error) => {
                let how = error.message.clone();
                let ended = Ended { at: Timestamp::now(), how, failed: true };
                let fate = Fate::from(What::Ended { way: Way::Failed, ended });
                Err(match beginning {
                    Beginning::Start(operation) => {
                        // What cannot be started by hand is not tried again by itself.
                        self.should_run(false);
                        fate.with(Arc::clone(operation), Err(error))
                    }
                    Beginning::Arrive(arriving) => {
                        fate.with(Arc::clone(&arriving.operation), Err(error))
                    }
                    Beginning::Adopt | Beginning::Restart => fate,
                })
            }
        }
    }

    fn start(&self) -> Result<(Supervised, Outcome), ApiError> {
        let record = self.entry.record();
        let shape = spec::check(&record.spec)?;
        let home = self.entry.home();
        self.shared.with_executable(shape.dirty_log, |executable| {
            let files = &self.shared.files;
            let images = match &record.spec.boot {
                Boot::Oracle { options } => {
                    images::oracle(self.shared.oracle, record.spec.cpus, options)
                        .map_err(ApiError::internal)?
                }
                Boot::Kernel { kernel, initrd, command_line } => {
                    images::kernel(files, kernel, initrd.as_deref(), command_line)?
                }
                Boot::Snapshot { file, key_file, lazy } => {
                    let opened = files.open(file)?;
                    let key = images::key(files, key_file.as_deref())?;
                    let options = RestoreOptions { key: key.as_ref(), is_lazy: *lazy };
                    let restored = home.restore(executable, &opened.path, options);
                    let (machine, console, report) = restored.map_err(|error| failed(&error))?;
                    let machine = self.started(machine, console)?;
                    let RestoreReport { bytes, pages, total_ns, is_lazy: lazy } = report;
                    let outcome = RestoreOutcome { bytes, pages, total_ns, lazy };
                    return Ok((machine, Outcome::Restore(outcome)));
                }
            };
            let (machine, console) =
                home.boot(executable, shape.config, &images).map_err(|error| failed(&error))?;
            Ok((self.started(machine, console)?, Outcome::Plain))
        })
    }

    /// What follows when a guest runs. One that cannot be attended to is ended: it would run on unseen.
    fn started(&self, machine: Supervised, console: UnixStream) -> Result<Supervised, ApiError> {
        if let Err(error) = self.connect(console) {
            machine.into_process().bury();
            return Err(error);
        }
        if let Err(error) = self.entry.change(started) {
            tracing::error!(%error, "when a guest was started is not written");
        }
        Ok(machine)
    }

    pub(super) fn connect(&self, console: UnixStream) -> Result<(), ApiError> {
        let Shared { runtime, metrics, .. } = &*self.shared;
        let connected = self.entry.console().connect(console, runtime, Arc::clone(metrics));
        connected.map_err(ApiError::internal)
    }

    /// Obeys commands until the guest has ended.
    fn attend(&self, mut machine: Supervised) -> Fate {
        let mut stopping: Option<Stopping> = None;
        let fate = loop {
            // Before its reports are heard: those of a move that was found under way are for whoever goes on with it.
            match self.obey_all(machine, &mut stopping) {
                Ok(kept) => machine = kept,
                Err(fate) => break fate,
            }
            let until = stopping.as_ref().map(|stopping| stopping.until);
            match machine.wait_or(self.arrived.as_fd(), until) {
                Ok(Woken::GuestEnded(end)) => break self.ended(machine, end),
                Ok(Woken::Late) => break self.stop(machine),
                Ok(Woken::Other) => {
                    self.arrived.silence();
                }
                Err(error) => break self.lost(machine, error),
            }
        };
        match stopping {
            Some(Stopping { operation, .. }) => fate.with(operation, Ok(Outcome::Plain)),
            None => fate,
        }
    }

    /// Obeys what has arrived.
    fn obey_all(
        &self,
        mut machine: Supervised,
        stopping: &mut Option<Stopping>,
    ) -> Result<Supervised, Fate> {
        while let Ok(command) = self.commands.try_recv() {
            let outcome = match command {
                Command::Leave => return Err(What::Left.into()),
                Command::Stop { operation, timeout } => {
                    match self.begin_stop(&machine, operation, timeout) {
                        Ok(begun) => {
                            *stopping = Some(begun);
                            Ok(())
                        }
                        Err(operation) => {
                            let fate = self.stop(machine);
                            return Err(fate.with(operation, Ok(Outcome::Plain)));
                        }
                    }
                }
                Command::Migrate { operation, request } => {
                    let (outcome, departed) = self.migrate(&machine, &operation, &request);
                    machine = self.after_move(machine, &operation, outcome, departed)?;
                    Ok(())
                }
                Command::GoOnMigrating { operation } => {
                    let (outcome, departed) = self.go_on_migrating(&machine, &operation);
                    machine = self.after_move(machine, &operation, outcome, departed)?;
                    // A guest that stayed has the console of a keeper who is gone.
                    self.reconnect(&machine)
                }
                command => self.obey(&mut machine, command),
            };
            if let Err(error) = outcome {
                return Err(self.lost(machine, error));
            }
        }
        Ok(machine)
    }

    /// Obeys one command. An error is the machine's end.
    fn obey(&self, machine: &mut Supervised, command: Command) -> Result<(), SuperviseError> {
        match command {
            Command::Describe(reply) => tell(reply, machine.describe()),
            // Nobody waits for it any more.
            Command::Survey(_, reply) if reply.is_closed() => Ok(()),
            Command::Survey(order, reply) => tell(reply, machine.survey(&order)),
            Command::Pause(reply) => {
                let outcome = machine.pause();
                self.answer(reply, outcome, Some(MachineState::Paused))
            }
            Command::Resume(reply) => {
                let outcome = machine.resume();
                self.answer(reply, outcome, Some(MachineState::Running))
            }
            Command::PressPowerButton(reply) => {
                let outcome = machine.press_power_button();
                self.answer(reply, outcome, None)
            }
            Command::Snapshot { operation, request } => {
                let (outcome, fatal) = self.snapshot(machine, &operation, &request);
                self.end(&operation, outcome);
                fatal.map_or(Ok(()), Err)
            }
            Command::HandOver { operation, form } => {
                let (outcome, fatal) = self.hand_over(machine, &operation, form);
                self.end(&operation, outcome);
                fatal.map_or(Ok(()), Err)
            }
            Command::Stop { .. }
            | Command::Migrate { .. }
            | Command::GoOnMigrating { .. }
            | Command::Leave => Ok(()),
        }
    }

    /// What follows from how a move went.
    fn after_move(
        &self,
        machine: Supervised,
        operation: &Arc<Pending>,
        outcome: Result<Outcome, ApiError>,
        departed: Departed,
    ) -> Result<Supervised, Fate> {
        match departed {
            Departed::Stayed => {
                self.end(operation, outcome);
                Ok(machine)
            }
            Departed::Moved(moved) => {
                self.keep(machine);
                Err(Fate::from(What::Moved(moved)).with(Arc::clone(operation), outcome))
            }
            Departed::Lost(error) => {
                tracing::warn!(%error, machine = %self.entry.name(), "its process is lost while it moves");
                let fate = self.lost(machine, error);
                // It may have gone there before its process died here.
                let has_moved = matches!(fate.what, What::Moved(_));
                let outcome = if has_moved { Ok(Outcome::Plain) } else { outcome };
                Err(fate.with(Arc::clone(operation), outcome))
            }
        }
    }

    fn reconnect(&self, machine: &Supervised) -> Result<(), SuperviseError> {
        let console = machine.new_console()?;
        if let Err(error) = self.connect(console) {
            tracing::error!(%error, "the guest has no console");
        }
        Ok(())
    }

    /// Answers a quick command.
    fn answer(
        &self,
        reply: super::command::Reply,
        outcome: Result<(), SuperviseError>,
        state: Option<MachineState>,
    ) -> Result<(), SuperviseError> {
        let (answer, fatal) = match outcome {
            Ok(()) => {
                if let Some(state) = state {
                    self.entry.set_state(state, None);
                }
                (Ok(()), None)
            }
            Err(error) => sort(error),
        };
        // Whoever asked may have gone.
        let _ = reply.send(answer);
        fatal.map_or(Ok(()), Err)
    }

    /// Presses the power button, if the guest can hear it; else the operation is given back.
    fn begin_stop(
        &self,
        machine: &Supervised,
        operation: Arc<Pending>,
        timeout: Duration,
    ) -> Result<Stopping, Arc<Pending>> {
        self.should_run(false);
        let can_hear = self.entry.state() == MachineState::Running
            && !matches!(self.entry.record().spec.boot, Boot::Oracle { .. });
        if timeout.is_zero() || !can_hear || machine.press_power_button().is_err() {
            return Err(operation);
        }
        self.entry.set_state(MachineState::Stopping, None);
        Ok(Stopping { operation, until: Instant::now() + timeout })
    }

    fn note(&self, way: Way, ended: &Ended) {
        tracing::info!(machine = %self.entry.name(), ?way, how = ended.how, "the guest has ended");
        let end = if ended.failed { EndMetric::Failed } else { EndMetric::Orderly };
        self.shared.metrics.guest_ends.get_or_create(&EndLabel { end }).inc();
        let noted = self.entry.change(|record| record.ended = Some(ended.clone()));
        if let Err(error) = noted {
            tracing::error!(%error, "how a guest ended is not written");
        }
    }

    /// Notes whether the machine is to run, for a daemon that comes later.
    pub(super) fn should_run(&self, should_run: bool) {
        if let Err(error) = self.entry.change(|record| record.should_run = should_run) {
            tracing::error!(%error, "whether a machine is to run is not written");
        }
    }

    pub(super) fn end(&self, operation: &Pending, outcome: Result<Outcome, ApiError>) {
        self.entry.is_free();
        self.shared.end(operation, outcome);
    }

    /// Ends the operation that is over with the machine's fate, if there is one.
    fn end_last(&self, last: &mut Last) {
        if let Some(last) = last.take() {
            let (operation, outcome) = *last;
            self.end(&operation, outcome);
        }
    }

    /// Waits before the next start; commands are answered meanwhile.
    fn rest(&self, wait: Duration) -> Rest {
        let end = Instant::now() + wait;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.commands.recv_timeout(left) {
                Err(RecvTimeoutError::Timeout) => return Rest::Over,
                Err(RecvTimeoutError::Disconnected) | Ok(Command::Leave) => return Rest::Leave,
                Ok(Command::Stop { operation, .. }) => {
                    self.should_run(false);
                    return Rest::Stop(operation);
                }
                Ok(command) => {
                    self.entry.is_free();
                    let why = format!("machine {} waits to be started again", self.entry.name());
                    command.refuse(ApiError::new(ErrorCode::Conflict, why), &self.shared);
                }
            }
        }
    }

    /// It runs on another host.
    fn has_moved(self, moved: Moved, last: Last) {
        tracing::info!(machine = %self.entry.name(), to = moved.to, "the machine has moved");
        let noted = self.entry.change(|record| {
            record.should_run = false;
            record.started_at = None;
            record.departure = None;
            record.moved = Some(moved);
        });
        if let Err(error) = noted {
            tracing::error!(%error, "that a machine has moved is not written");
        }
        self.leave_off(None, last);
    }

    /// It was to come, and never will in this attempt: what was made for it goes.
    fn never_came(self, last: Last) {
        tracing::info!(machine = %self.entry.name(), "the machine did not come");
        let arrival = self.entry.record().arrival;
        if arrival.is_some_and(|attempt| attempt.is_new) {
            self.machines.discard(&self.entry);
            let machine = self.entry.name().clone();
            self.shared.events.publish(EventKind::MachineDeleted { machine });
        } else if let Err(error) = self.entry.change(|record| record.arrival = None) {
            tracing::error!(%error, "that a machine did not come is not written");
        }
        self.leave_off(None, last);
    }

    fn retire(self, ended: Ended, last: Last) {
        self.should_run(false);
        self.leave_off(Some(ended), last);
    }

    /// Nobody attends to it any more.
    fn leave_off(self, ended: Option<Ended>, mut last: Last) {
        self.entry.retire(ended);
        // Nothing can be posted any more; what was posted before is answered.
        for command in self.commands.try_iter() {
            let why = format!("the guest of machine {} is not here any more", self.entry.name());
            command.refuse(ApiError::new(ErrorCode::Conflict, why), &self.shared);
        }
        self.end_last(&mut last);
    }
}

/// How a wait has ended.
enum Rest {
    Over,
    Stop(Arc<Pending>),
    Leave,
}

/// Answers what was asked of a machine. Whoever asked may have gone.
fn tell<T>(
    reply: oneshot::Sender<Result<Box<T>, ApiError>>,
    outcome: Result<T, SuperviseError>,
) -> Result<(), SuperviseError> {
    let (answer, fatal) = match outcome {
        Ok(found) => (Ok(Box::new(found)), None),
        Err(error) => (Err(failed(&error)), sort(error).1),
    };
    let _ = reply.send(answer);
    fatal.map_or(Ok(()), Err)
}

/// What an error means for whoever asked, and whether it is the machine's end.
pub(super) fn sort(error: SuperviseError) -> (Result<(), ApiError>, Option<SuperviseError>) {
    use SuperviseError as E;
    let answer = Err(failed(&error));
    let is_fatal = matches!(error, E::Lost { .. } | E::GuestEnded { .. } | E::Unexpected(_));
    (answer, is_fatal.then_some(error))
}

pub(super) fn failed(error: &SuperviseError) -> ApiError {
    use SuperviseError as E;
    let code = match error {
        E::Snapshot(_) => ErrorCode::File,
        E::Refused(_) => ErrorCode::Conflict,
        E::Start(_) => ErrorCode::Internal,
        _ => ErrorCode::MachineFailed,
    };
    ApiError::new(code, error.to_string())
}
