//! The process: its loop, and what each order does.

mod migration;

use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::sync::Arc;

use dwcp::acp::{Nonce, SessionId};
use event_manager::{
    EventManager, EventOps, Events, MutEventSubscriber, SubscriberId, SubscriberOps,
};
use rustix::process::{PidfdFlags, getpid, pidfd_open};
use vmm_sys_util::epoll::EventSet;

use super::console_pump::ConsolePump;
use super::control::{Control, Heard};
use super::guest::{Business, Guest};
use super::job::{Done, Job, Jobs, Worker};
use super::opened::Opened;
use super::order::{Greeting, HandOverOrder, Order, ReceiveOrder, Report, SnapshotOrder};
use super::start::{self, OrderError, Start};
use crate::clock::monotonic_ns;
use crate::devices::{Console, ConsoleLink};
use crate::handover::{self, Outcome, Resident};
use crate::ipc::{Channel, ChannelError};
use crate::jail::{self, JailError, ThreadKind};
use crate::meter::Meter;
use crate::snapshot::{Loader, SnapshotError, Subject};
use crate::vcpu::GuestEnd;
use crate::vm::{Running, VmParts};

/// The process cannot even report.
#[derive(Debug, thiserror::Error)]
pub enum RoleError {
    /// The control socket
    #[error("control socket: {0}")]
    Control(#[from] ChannelError),
    /// The event loop
    #[error("event loop: {0}")]
    Loop(#[from] event_manager::Error),
    /// The system
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The jail; nothing was done for a guest
    #[error(transparent)]
    Jail(#[from] JailError),
}

/// Runs a machine process until its guest has ended or has gone elsewhere: in its jail, before it reads its first order.
///
/// `control` is the socket to whoever started the process: orders come from there. When that end
/// closes, the guest is stopped: no machine outlives the one who can still reach it.
///
/// # Errors
/// When the process cannot even report; everything else is reported.
pub fn run(control: OwnedFd) -> Result<(), RoleError> {
    let control = Channel::from(control);
    let opened = Opened::by_name();
    // No name, but no call for later either.
    let pidfd = pidfd_open(getpid(), PidfdFlags::empty()).map_err(io::Error::from)?;
    if let Err(error) = jail::close() {
        control.send(&Report::Failed { why: format!("no jail: {error}") }, &[])?;
        return Err(error.into());
    }
    let mut process = MachineProcess::new(control, opened, pidfd)?;
    while !process.is_done {
        process.turn()?;
    }
    Ok(())
}

struct MachineProcess {
    /// Until there is a machine.
    opened: Option<Opened>,
    events: EventManager<Box<dyn MutEventSubscriber>>,
    control: Control,
    control_watcher: Option<SubscriberId>,
    control_ready: Rc<Cell<bool>>,
    /// A keeper has connected to the listening socket of a kept process.
    keeper_ready: Rc<Cell<bool>>,
    /// This process, for its keepers.
    pidfd: OwnedFd,
    guest: Guest,
    /// What the job under way does, and whether it is still wanted.
    meter: Arc<Meter>,
    /// The permit, the console and the secret; a job's thread has them while it runs.
    resident: Option<Resident>,
    guest_stopped: Rc<Cell<bool>>,
    guest_watchers: Vec<SubscriberId>,
    /// A vCPU stopped by itself while a job's thread had the machine.
    ended_while_busy: bool,
    jobs: Jobs,
    job_done: Rc<Cell<bool>>,
    /// What fetches the pages of a machine that was restored lazily, and whether that has failed. Behind the guest: it
    /// must outlive it.
    loader: Option<Loader>,
    loading_failed: Rc<Cell<bool>>,
    #[cfg(feature = "fault-injection")]
    kept_page: Option<Vec<u8>>,
    is_done: bool,
}

impl MachineProcess {
    fn new(control: Channel, opened: Opened, pidfd: OwnedFd) -> Result<Self, RoleError> {
        let mut events = EventManager::<Box<dyn MutEventSubscriber>>::new()?;
        let jobs = Jobs::new()?;
        let (watcher, control_ready) = watch(&mut events, control.as_fd().as_raw_fd());
        let job_done = watch(&mut events, jobs.event()).1;
        Ok(Self {
            opened: Some(opened),
            events,
            control: Control::tied(control),
            control_watcher: Some(watcher),
            control_ready,
            keeper_ready: Rc::default(),
            pidfd,
            guest: Guest::Absent,
            meter: Arc::default(),
            resident: None,
            guest_stopped: Rc::default(),
            guest_watchers: Vec::new(),
            ended_while_busy: false,
            jobs,
            job_done,
            loader: None,
            loading_failed: Rc::default(),
            #[cfg(feature = "fault-injection")]
            kept_page: None,
            is_done: false,
        })
    }

    /// Waits for something to happen, and does what follows from it.
    fn turn(&mut self) -> Result<(), RoleError> {
        self.events.run()?;
        if self.loading_failed.take() {
            self.end_unloaded()?;
        }
        if self.job_done.take() {
            while let Some((done, resident)) = self.jobs.take_done() {
                self.resident = Some(resident);
                self.job_returned(done)?;
            }
        }
        if self.guest_stopped.take() {
            self.end_if_exited()?;
        }
        if self.control_ready.take() {
            match self.control.hear() {
                Heard::Order(order, descriptors) => self.obey(order, descriptors)?,
                // An order of a newer supervisor: the next one starts where this one ends.
                Heard::Unknown(error) => {
                    self.report(&Report::Declined { why: error.to_string() })?;
                }
                Heard::Gone => {}
            }
            self.unwatch_gone_keeper();
        }
        if self.keeper_ready.take() {
            self.welcome_keeper();
        }
        Ok(())
    }

    /// What follows when nobody is there to give orders: a tied guest ends. So does a process that has no guest yet, and
    /// was to get it from whoever has gone.
    fn unwatch_gone_keeper(&mut self) {
        if !self.control.is_broken() {
            return;
        }
        self.close_control();
        if !self.control.is_kept() || matches!(self.guest, Guest::Absent | Guest::Moved(..)) {
            self.is_done = true;
        }
    }

    /// Unwatched first: epoll would go on watching what another descriptor keeps open.
    fn close_control(&mut self) {
        if let Some(id) = self.control_watcher.take() {
            let _ = self.events.remove_subscriber(id);
        }
        self.control.close();
    }

    fn welcome_keeper(&mut self) {
        self.close_control();
        if let Err(error) = self.control.accept() {
            tracing::debug!(%error, "a keeper that has gone again");
        }
        let greeting = Greeting {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            runner: self.control.runner().unwrap_or_default(),
            guest: self.guest.status(),
            config: self.guest.config(),
            session: self.guest.session(),
        };
        self.control.greet(greeting, &self.pidfd);
        if let Some(descriptor) = self.control.descriptor() {
            let (id, ready) = watch(&mut self.events, descriptor);
            self.control_watcher = Some(id);
            self.control_ready = ready;
        }
        self.unwatch_gone_keeper();
    }

    /// Outlives its connection from now on.
    fn keep(&mut self, runner: [u8; 16], descriptors: Vec<OwnedFd>) -> Result<(), RoleError> {
        match self.control.keep(runner, descriptors) {
            Ok(()) => {
                if let Some(listener) = self.control.listener() {
                    self.keeper_ready = watch(&mut self.events, listener).1;
                }
                self.report(&Report::Kept)
            }
            Err(error) => self.report(&Report::Declined { why: error.to_string() }),
        }
    }

    /// Gives a guest another console, and shows that what the guest printed so far.
    fn replace_console(
        &mut self,
        guest: &Guest,
        mut descriptors: Vec<OwnedFd>,
    ) -> Result<(), OrderError> {
        let descriptor = descriptors.pop().ok_or(OrderError::Descriptors(0))?;
        let link = ConsoleLink::new(descriptor)?;
        let (Some(parts), Some(mut resident)) = (guest.parts(), self.resident.take()) else {
            return Err(OrderError::NoGuest);
        };
        parts.console.send_all_again();
        resident.console = link;
        self.watch_guest(&resident, parts);
        self.resident = Some(resident);
        Ok(())
    }

    /// Does what an order says.
    fn obey(&mut self, order: Order, descriptors: Vec<OwnedFd>) -> Result<(), RoleError> {
        let is_busy = matches!(self.guest, Guest::Busy(_));
        match order {
            Order::Keep { runner } => self.keep(runner, descriptors),
            Order::Cancel if is_busy => {
                self.meter.cancel();
                Ok(())
            }
            Order::Progress if is_busy => self.report(&Report::Progress(self.meter.progress())),
            Order::Tell(word) if is_busy => {
                self.meter.tell(word);
                Ok(())
            }
            Order::Sockets if is_busy => {
                self.replace_sockets(descriptors);
                Ok(())
            }
            // The job has ended meanwhile, and its report is on its way.
            Order::Cancel | Order::Progress | Order::Tell(_) | Order::Sockets => Ok(()),
            order => self.obey_with_guest(order, descriptors),
        }
    }

    /// The same for orders that have to do with the guest.
    fn obey_with_guest(
        &mut self,
        order: Order,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(), RoleError> {
        match (order, std::mem::replace(&mut self.guest, Guest::Absent)) {
            (Order::Boot(order), Guest::Absent) => {
                let opened = self.take_opened();
                let start = opened.and_then(|opened| start::boot(&order, descriptors, opened));
                let outcome = start.map(|start| self.start(start));
                self.report_start(outcome)
            }
            (Order::Receive(order), Guest::Absent) => {
                let outcome = self.receive(&order, descriptors);
                self.report_start(outcome)
            }
            (Order::Restore(order), Guest::Absent) => {
                let started_ns = monotonic_ns();
                let opened = self.take_opened();
                match opened.and_then(|opened| start::restore(&order, descriptors, opened)) {
                    Ok((start, mut report)) => {
                        self.start(start);
                        report.total_ns = monotonic_ns() - started_ns;
                        self.report(&Report::Restored(report))
                    }
                    Err(error) => self.report_start(Err(error)),
                }
            }
            (Order::Pause, Guest::Running(running)) => {
                self.guest = Guest::Paused(running.pause());
                self.report(&Report::Paused)?;
                self.end_if_exited()
            }
            (Order::Resume, Guest::Paused(paused)) => {
                self.guest = Guest::Running(paused.resume());
                self.report(&Report::Running)
            }
            (Order::HandOver(order), Guest::Running(running)) => {
                self.start_hand_over(&order, descriptors, running)
            }
            (Order::Prepare(order), Guest::Absent) => self.prepare(&order, descriptors),
            (Order::Migrate(order), Guest::Running(running)) => {
                self.start_migration(order, descriptors, running)
            }
            (Order::Survey(order), Guest::Running(running)) => self.start_survey(order, running),
            (Order::Snapshot(order), Guest::Running(running)) => {
                self.start_snapshot(&order, descriptors, Subject::Running(running))
            }
            (Order::Snapshot(order), Guest::Paused(paused)) => {
                self.start_snapshot(&order, descriptors, Subject::Paused(paused))
            }
            (Order::KeepImage(order), Guest::Moved(frozen, key)) => {
                self.keep_image(order, descriptors, &frozen, &key)
            }
            (Order::Stop, Guest::Moved(..)) => {
                self.is_done = true;
                Ok(())
            }
            (Order::Stop, guest @ (Guest::Running(_) | Guest::Paused(_) | Guest::Departed(_))) => {
                drop(guest);
                self.end(&GuestEnd::Stopped.to_string(), GuestEnd::Stopped)
            }
            (order, guest) => self.obey_beside_guest(&order, guest, descriptors),
        }
    }

    /// The same for orders that leave the guest as it is, and for those that make no sense now.
    fn obey_beside_guest(
        &mut self,
        order: &Order,
        guest: Guest,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(), RoleError> {
        let outcome = match (order, &guest) {
            (Order::Console, Guest::Running(_) | Guest::Paused(_)) => {
                let outcome = self.replace_console(&guest, descriptors);
                outcome.map(|()| Report::ConsoleReplaced).map_err(|error| error.to_string())
            }
            (Order::PressPowerButton, Guest::Running(_) | Guest::Paused(_)) => {
                let outcome = guest.press_power_button();
                outcome.map(|()| Report::PowerButtonPressed).map_err(|error| error.to_string())
            }
            (Order::Describe, Guest::Running(_) | Guest::Paused(_)) => self.describe(&guest),
            #[cfg(feature = "fault-injection")]
            (Order::Plant(plant), Guest::Paused(paused)) => {
                let outcome = crate::fault::plant(paused.ram(), *plant, &mut self.kept_page);
                outcome.map(|()| Report::Paused).map_err(|error| error.to_string())
            }
            (order, guest) => Err(format!("{} while the guest is {}", order.name(), guest.name())),
        };
        self.guest = guest;
        self.report(&outcome.unwrap_or_else(|why| Report::Declined { why }))
    }

    /// What there is to make a machine of.
    fn take_opened(&mut self) -> Result<Opened, OrderError> {
        self.opened.take().ok_or(OrderError::Used)
    }

    /// Becomes the successor in a hand-over.
    fn receive(
        &mut self,
        order: &ReceiveOrder,
        mut descriptors: Vec<OwnedFd>,
    ) -> Result<(), OrderError> {
        let socket = descriptors.pop().ok_or(OrderError::Descriptors(0))?;
        let successor = Nonce::new(order.successor).ok_or(OrderError::NoId)?;
        let host = self.take_opened()?.host;
        let arrived = handover::receive(&Channel::from(socket), successor, host, order.dirty_log)?;
        self.watch_guest(&arrived.resident, arrived.running.parts());
        self.resident = Some(arrived.resident);
        self.guest = Guest::Running(arrived.running);
        Ok(())
    }

    /// Lets a guest run that is here.
    fn start(&mut self, start: Start) {
        let Start { paused, resident, loader } = start;
        if let Some(loader) = &loader {
            self.loading_failed = watch(&mut self.events, loader.failed().as_raw_fd()).1;
        }
        self.loader = loader;
        self.watch_guest(&resident, paused.parts());
        self.resident = Some(resident);
        self.guest = Guest::Running(paused.resume());
    }

    fn report_start(&mut self, outcome: Result<(), OrderError>) -> Result<(), RoleError> {
        match outcome {
            Ok(()) => self.report(&Report::Running),
            Err(error) => {
                self.is_done = true;
                self.report(&Report::Failed { why: error.to_string() })
            }
        }
    }

    /// Starts a hand-over. Whatever can fail comes before the machine is given away.
    fn start_hand_over(
        &mut self,
        order: &HandOverOrder,
        mut descriptors: Vec<OwnedFd>,
        running: Running,
    ) -> Result<(), RoleError> {
        let HandOverOrder { form, limits, .. } = *order;
        let peer = descriptors.pop().zip(SessionId::new(order.session));
        let peer = peer.ok_or_else(|| "no socket, or no id".to_owned());
        match peer.and_then(|peer| Ok((peer, self.worker("hand-over", Some(ThreadKind::Job))?))) {
            Ok(((socket, session), worker)) => {
                let (channel, meter) = (Channel::from(socket), self.new_meter());
                let job = Job::HandOver { running, channel, session, form, limits, meter };
                self.give(worker, job, Business::Here);
                Ok(())
            }
            Err(why) => {
                self.guest = Guest::Running(running);
                self.report(&Report::Declined { why })
            }
        }
    }

    /// The same for a snapshot.
    fn start_snapshot(
        &mut self,
        order: &SnapshotOrder,
        descriptors: Vec<OwnedFd>,
        subject: Subject,
    ) -> Result<(), RoleError> {
        let key = self.resident.as_ref().map(|resident| resident.digest_key.clone());
        let ready = key.ok_or_else(|| "there is no guest".to_owned()).and_then(|key| {
            let taking = start::taking(order, descriptors, key, self.new_meter());
            let taking = taking.map_err(|error| error.to_string())?;
            Ok((taking, self.worker("snapshot", Some(ThreadKind::Job))?))
        });
        match ready {
            Ok((taking, worker)) => {
                self.give(
                    worker,
                    Job::Snapshot { subject, taking: Box::new(taking) },
                    Business::Here,
                );
                Ok(())
            }
            Err(why) => {
                self.guest = subject.into();
                self.report(&Report::SnapshotFailed { why })
            }
        }
    }

    /// For the next job: what was said about the last one does not concern it.
    fn new_meter(&mut self) -> Arc<Meter> {
        self.meter = Arc::default();
        Arc::clone(&self.meter)
    }

    /// A thread for a job; it waits until memory is whole.
    fn worker(&self, name: &str, kind: Option<ThreadKind>) -> Result<Worker, String> {
        let memory = self.loader.as_ref().map(Loader::completion);
        self.jobs.worker(name, kind, memory).map_err(|error| format!("no thread for it: {error}"))
    }

    /// Gives the machine to a job.
    fn give(&mut self, worker: Worker, job: Job, business: Business) {
        let resident = self.resident.take().expect("a guest that is here has its permit here");
        self.guest = Guest::Busy(business);
        worker.start(job, resident);
    }

    fn job_returned(&mut self, done: Done) -> Result<(), RoleError> {
        match done {
            Done::HandOver(outcome) => return self.hand_over_returned(outcome),
            Done::Migrate(outcome) => return self.migration_returned(outcome),
            Done::Arrive(outcome) => return self.arrival_returned(outcome),
            // How it ended says more.
            Done::Snapshot(subject, Err(SnapshotError::GuestEnded)) => {
                self.guest = subject.into();
                return self.end_if_exited();
            }
            Done::Snapshot(subject, outcome) => {
                self.guest = subject.into();
                self.report(&match outcome {
                    Ok(report) => Report::Snapshotted(report),
                    Err(error) => Report::SnapshotFailed { why: error.to_string() },
                })?;
            }
            Done::Survey(running, outcome) => {
                self.guest = Guest::Running(running);
                self.report(&match outcome {
                    Ok(report) => Report::Surveyed(Box::new(report)),
                    Err(error) => Report::SurveyFailed { why: error.to_string() },
                })?;
            }
            Done::NotBegun(subject, why) => {
                self.guest = subject.into();
                self.report(&Report::Declined { why })?;
            }
        }
        if self.ended_while_busy { self.end_if_exited() } else { Ok(()) }
    }

    fn hand_over_returned(&mut self, outcome: Outcome) -> Result<(), RoleError> {
        match outcome {
            Outcome::HandedOver(report) => {
                self.is_done = true;
                self.report(&Report::HandedOver(report))
            }
            Outcome::Stayed { running, why } => {
                self.guest = Guest::Running(running);
                self.report(&Report::HandOverFailed { why: why.to_string() })?;
                if self.ended_while_busy { self.end_if_exited() } else { Ok(()) }
            }
            Outcome::Ended { paused } => {
                self.guest = Guest::Paused(paused);
                self.end_if_exited()
            }
            Outcome::Departed { frozen, why } => {
                self.guest = Guest::Departed(frozen);
                self.report(&Report::Departed { why: why.to_string() })
            }
        }
    }

    /// Pages that the guest needs will never come: it cannot go on, and not even be stopped.
    fn end_unloaded(&mut self) -> Result<(), RoleError> {
        let why = self.loader.as_ref().and_then(Loader::why).unwrap_or_default();
        self.end(&format!("the guest's memory cannot be loaded: {why}"), GuestEnd::Failed)?;
        // A vCPU that waits for a page is not given back, and dropping the machine would wait for it.
        std::process::exit(1)
    }

    /// A vCPU has stopped by itself: says why, and ends.
    fn end_if_exited(&mut self) -> Result<(), RoleError> {
        let paused = match std::mem::replace(&mut self.guest, Guest::Absent) {
            Guest::Running(running) => running.pause(),
            Guest::Paused(paused) => paused,
            // The hand-over's thread finds out for itself when it pauses the machine; if it does not
            // come to that, it is asked for again when the machine comes back. Until then its event
            // would keep the loop awake.
            guest => {
                self.guest = guest;
                if let Some(id) = self.guest_watchers.pop() {
                    let _ = self.events.remove_subscriber(id);
                }
                self.ended_while_busy = true;
                return Ok(());
            }
        };
        match paused.exit().cloned() {
            Some(exit) => {
                self.flush(paused.console());
                drop(paused);
                self.end(&exit.to_string(), exit.end())
            }
            None => {
                self.guest = Guest::Paused(paused);
                Ok(())
            }
        }
    }

    fn end(&mut self, how: &str, end: GuestEnd) -> Result<(), RoleError> {
        self.is_done = true;
        let report = Report::Exited { how: how.to_owned(), end };
        self.control.write_end(&report);
        self.report(&report)
    }

    /// The guest's last words, as far as somebody reads them.
    fn flush(&self, console: &Console) {
        if let Some(resident) = &self.resident
            && let Err(error) = resident.console.send(console)
        {
            tracing::warn!(%error, "console");
        }
    }

    fn report(&mut self, report: &Report) -> Result<(), RoleError> {
        self.control.report(report);
        self.unwatch_gone_keeper();
        Ok(())
    }

    /// Watches a guest's console and its vCPUs.
    fn watch_guest(&mut self, resident: &Resident, guest: &VmParts) {
        for id in self.guest_watchers.drain(..) {
            let _ = self.events.remove_subscriber(id);
        }
        let pump = ConsolePump::new(
            Arc::clone(&resident.console),
            Arc::clone(&guest.console),
            Arc::clone(&guest.bus),
        );
        self.guest_watchers.push(self.events.add_subscriber(Box::new(pump)));
        let (id, ready) = watch(&mut self.events, guest.stopped.as_raw_fd());
        self.guest_watchers.push(id);
        self.guest_stopped = ready;
    }
}

/// Notes that a descriptor became readable. The turn that follows reads it: only there is the whole
/// process at hand.
struct Watch {
    descriptor: RawFd,
    ready: Rc<Cell<bool>>,
}

impl MutEventSubscriber for Watch {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        if let Err(error) = ops.add(Events::new_raw(self.descriptor, EventSet::IN)) {
            tracing::error!(%error, "a descriptor is not watched");
        }
    }

    fn process(&mut self, _events: Events, _ops: &mut EventOps<'_>) {
        self.ready.set(true);
    }
}

fn watch(
    events: &mut EventManager<Box<dyn MutEventSubscriber>>,
    descriptor: RawFd,
) -> (SubscriberId, Rc<Cell<bool>>) {
    let ready = Rc::new(Cell::new(false));
    let watch = Watch { descriptor, ready: Rc::clone(&ready) };
    (events.add_subscriber(Box::new(watch)), ready)
}
