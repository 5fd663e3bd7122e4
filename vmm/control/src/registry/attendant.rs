//! The thread that owns a machine's process.
//!
//! ```text
//!  start, restore, adopt ──► attend ──► the guest has ended ──► again? ──► retire
//!                              │  ▲                               └─ wait ──► start
//!                              ▼  │
//!                           obey a command
//! ```

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use machine::{
    Death, GuestEnd, GuestStatus, RestoreOptions, RestoreReport, SuperviseError, Supervised, Woken,
};

use super::bell::Bell;
use super::command::Command;
use super::entry::{Entry, started};
use super::images;
use super::restart::{Backoff, Way};
use super::shared::Shared;
use crate::api::{ApiError, Boot, Ended, ErrorCode, MachineState, RestoreOutcome, Timestamp};
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
}

/// Attends to one machine until it has no process any more.
#[derive(Debug)]
pub(super) struct Attendant {
    pub(super) entry: Arc<Entry>,
    pub(super) shared: Arc<Shared>,
    pub(super) commands: Receiver<Command>,
    pub(super) arrived: Bell,
}

/// What became of a machine.
#[derive(Debug)]
enum Fate {
    /// Its guest ended, or its process.
    Ended {
        way: Way,
        ended: Ended,
        /// The operation that is over with it, and what that came to.
        last: Last,
    },
    /// It lives on without this daemon.
    Left,
}

/// An operation that ends with the machine. It does when the machine is seen to be stopped, not before: whoever waited for
/// it goes on with that.
type Last = Option<Box<(Arc<Pending>, Result<Outcome, ApiError>)>>;

/// A machine that somebody wants to be stopped.
struct Stopping {
    operation: Arc<Pending>,
    until: Instant,
}

impl Fate {
    /// The same, when an operation that was to bring it about is over with it.
    fn with(self, operation: Arc<Pending>) -> Self {
        match self {
            Self::Ended { way, ended, .. } => {
                Self::Ended { way, ended, last: Some(Box::new((operation, Ok(Outcome::Plain)))) }
            }
            Self::Left => Self::Left,
        }
    }
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
            let Fate::Ended { way, ended, last } = fate else { return };
            self.note(way, &ended);
            let policy = self.entry.record().spec.restart;
            let wait = backoff.after(policy, way, began.elapsed());
            let Some(wait) = wait.filter(|_| self.entry.record().should_run) else {
                return self.retire(ended, last);
            };
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
            Beginning::Adopt => {
                self.adopt().map(|(machine, state)| (machine, state, Outcome::Plain))
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
                if let Beginning::Start(operation) = beginning {
                    self.end(operation, Ok(outcome));
                }
                Ok(machine)
            }
            Err(error) => {
                let how = error.message.clone();
                let ended = Ended { at: Timestamp::now(), how, failed: true };
                let last = match beginning {
                    Beginning::Start(operation) => {
                        // What cannot be started by hand is not tried again by itself.
                        self.should_run(false);
                        Some(Box::new((Arc::clone(operation), Err(error))))
                    }
                    Beginning::Adopt | Beginning::Restart => None,
                };
                Err(Fate::Ended { way: Way::Failed, ended, last })
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

    fn adopt(&self) -> Result<(Supervised, MachineState), ApiError> {
        let adopted = self.entry.home().adopt().map_err(|error| failed(&error))?;
        let Some(adopted) = adopted else {
            return Err(ApiError::new(ErrorCode::MachineFailed, self.how_it_ended(None)));
        };
        self.connect(adopted.console)?;
        let state = match adopted.guest {
            GuestStatus::Paused => MachineState::Paused,
            GuestStatus::Departed => MachineState::Departed,
            GuestStatus::Absent | GuestStatus::Running | GuestStatus::Busy => MachineState::Running,
        };
        Ok((adopted.machine, state))
    }

    fn connect(&self, console: UnixStream) -> Result<(), ApiError> {
        let Shared { runtime, metrics, .. } = &*self.shared;
        let connected = self.entry.console().connect(console, runtime, Arc::clone(metrics));
        connected.map_err(ApiError::internal)
    }

    /// Obeys commands until the guest has ended.
    fn attend(&self, mut machine: Supervised) -> Fate {
        let mut stopping: Option<Stopping> = None;
        let fate = loop {
            let until = stopping.as_ref().map(|stopping| stopping.until);
            match machine.wait_or(self.arrived.as_fd(), until) {
                Ok(Woken::GuestEnded(end)) => break self.ended(machine, end),
                Ok(Woken::Late) => break self.stop(machine),
                Ok(Woken::Other) => {
                    self.arrived.silence();
                }
                Err(error) => break self.lost(machine, error),
            }
            match self.obey_all(machine, &mut stopping) {
                Ok(kept) => machine = kept,
                Err(fate) => break fate,
            }
        };
        match (fate, stopping) {
            (Fate::Left, Some(Stopping { operation, .. })) => {
                self.end(&operation, Ok(Outcome::Plain));
                Fate::Left
            }
            (fate, Some(Stopping { operation, .. })) => fate.with(operation),
            (fate, None) => fate,
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
                Command::Leave => return Err(Fate::Left),
                Command::Stop { operation, timeout } => {
                    match self.begin_stop(&machine, operation, timeout) {
                        Ok(begun) => {
                            *stopping = Some(begun);
                            Ok(())
                        }
                        Err(operation) => {
                            let fate = self.stop(machine);
                            return Err(fate.with(operation));
                        }
                    }
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
            Command::Stop { .. } | Command::Leave => Ok(()),
        }
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

    /// Ends the guest.
    fn stop(&self, machine: Supervised) -> Fate {
        self.should_run(false);
        match machine.stop() {
            Ok(()) => Fate::Ended {
                way: Way::Stopped,
                ended: Ended {
                    at: Timestamp::now(),
                    how: GuestEnd::Stopped.to_string(),
                    failed: false,
                },
                last: None,
            },
            // It ended by itself in the same moment, or hangs and was killed.
            Err(error) => Fate::Ended {
                way: Way::Stopped,
                ended: Ended { at: Timestamp::now(), how: error.to_string(), failed: false },
                last: None,
            },
        }
    }

    /// The guest ended as a guest may.
    fn ended(&self, machine: Supervised, end: GuestEnd) -> Fate {
        machine.into_process().bury();
        let ended = Ended { at: Timestamp::now(), how: end.to_string(), failed: false };
        Fate::Ended { way: end.into(), ended, last: None }
    }

    /// The guest ended otherwise, or its process is lost.
    fn lost(&self, machine: Supervised, error: SuperviseError) -> Fate {
        let death = machine.into_process().bury();
        let (how, end) = match error {
            SuperviseError::GuestEnded { how, end } => (how, end),
            _ => (self.how_it_ended(death), GuestEnd::Failed),
        };
        let failed = !end.is_orderly();
        Fate::Ended {
            way: end.into(),
            ended: Ended { at: Timestamp::now(), how, failed },
            last: None,
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
    fn should_run(&self, should_run: bool) {
        if let Err(error) = self.entry.change(|record| record.should_run = should_run) {
            tracing::error!(%error, "whether a machine is to run is not written");
        }
    }

    fn end(&self, operation: &Pending, outcome: Result<Outcome, ApiError>) {
        self.entry.is_free();
        self.shared.end(operation, outcome);
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

    fn retire(self, ended: Ended, last: Last) {
        self.should_run(false);
        self.entry.retire(Some(ended));
        // Nothing can be posted any more; what was posted before is answered.
        for command in self.commands.try_iter() {
            let why = format!("the guest of machine {} has ended", self.entry.name());
            command.refuse(ApiError::new(ErrorCode::Conflict, why), &self.shared);
        }
        if let Some(last) = last {
            let (operation, outcome) = *last;
            self.shared.end(&operation, outcome);
        }
    }
}

/// How a wait has ended.
enum Rest {
    Over,
    Stop(Arc<Pending>),
    Leave,
}

/// What an error means for whoever asked, and whether it is the machine's end.
pub(super) fn sort(error: SuperviseError) -> (Result<(), ApiError>, Option<SuperviseError>) {
    use SuperviseError as E;
    let answer = Err(failed(&error));
    let is_fatal = matches!(error, E::Lost { .. } | E::GuestEnded { .. } | E::Unexpected(_));
    (answer, is_fatal.then_some(error))
}

fn failed(error: &SuperviseError) -> ApiError {
    use SuperviseError as E;
    let code = match error {
        E::Snapshot(_) => ErrorCode::File,
        E::Refused(_) => ErrorCode::Conflict,
        E::Start(_) => ErrorCode::Internal,
        _ => ErrorCode::MachineFailed,
    };
    ApiError::new(code, error.to_string())
}
