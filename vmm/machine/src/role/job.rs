//! What takes time, and the whole machine: a thread that owns it meanwhile.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use dwcp::acp::SessionId;
use vmm_sys_util::eventfd::EventFd;

use crate::handover::{Departure, Form, Limits, Outcome, Resident};
use crate::ipc::Channel;
use crate::jail::{self, ThreadKind};
use crate::meter::Meter;
use crate::migrate::{
    self, Arrival, ArrivalReport, Dialler, Emigration, MigrateError, MigrateOrder, SurveyOrder,
    SurveyReport,
};
use crate::snapshot::{Completion, SnapshotError, SnapshotReport, Subject, Taking};
use crate::vm::Running;

/// What is to be done, and to which machine.
pub(super) enum Job {
    HandOver {
        running: Running,
        channel: Channel,
        session: SessionId,
        form: Form,
        limits: Limits,
        meter: Arc<Meter>,
    },
    Snapshot {
        subject: Subject,
        taking: Box<Taking>,
    },
    /// The machine goes to another host.
    Migrate {
        running: Running,
        order: Box<MigrateOrder>,
        dialler: Arc<Dialler>,
        meter: Arc<Meter>,
    },
    /// It is looked at, for a move that may come.
    Survey {
        running: Running,
        order: Box<SurveyOrder>,
        meter: Arc<Meter>,
    },
    /// It comes from another host.
    Arrive {
        arrival: Box<Arrival>,
        meter: Arc<Meter>,
    },
}

/// What is still to be done when the machine is back.
type Afterwards = Box<dyn FnOnce() + Send>;

/// What came of it.
pub(super) enum Done {
    HandOver(Outcome),
    Snapshot(Subject, Result<SnapshotReport, SnapshotError>),
    Migrate(migrate::Outcome),
    Survey(Running, Result<SurveyReport, MigrateError>),
    Arrive(Result<(Running, ArrivalReport), MigrateError>),
    /// It was not begun, since memory will never be whole: the machine as it was, and why.
    NotBegun(Subject, String),
}

/// Where jobs are done. One at a time: there is one machine.
pub(super) struct Jobs {
    /// The thread's end of both, to be given to the next.
    give_back: Sender<(Done, Resident)>,
    returned: Receiver<(Done, Resident)>,
    returned_event: EventFd,
}

/// A thread that waits for its job. Whatever can fail is done when there is one: the machine is not given away before.
pub(super) struct Worker(Sender<(Job, Resident)>);

impl Jobs {
    pub(super) fn new() -> io::Result<Self> {
        let (give_back, returned) = channel();
        let returned_event = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?;
        Ok(Self { give_back, returned, returned_event })
    }

    /// Readable when a job is done.
    pub(super) fn event(&self) -> RawFd {
        self.returned_event.as_raw_fd()
    }

    /// The next job that is done.
    pub(super) fn take_done(&self) -> Option<(Done, Resident)> {
        let _ = self.returned_event.read();
        self.returned.try_recv().ok()
    }

    /// A thread for a job. `memory` is waited for before it begins: while pages are fetched, the memory file has holes
    /// where the guest has content. Without a kind the thread may do what the device loop may.
    pub(super) fn worker(
        &self,
        name: &str,
        kind: Option<ThreadKind>,
        memory: Option<Completion>,
    ) -> io::Result<Worker> {
        let give_back = self.give_back.clone();
        let returned_event = self.returned_event.try_clone()?;
        let (give, taken) = channel::<(Job, Resident)>();
        let body = move || {
            if let Some(kind) = kind {
                jail::narrow(kind);
            }
            let Ok((job, mut resident)) = taken.recv() else { return };
            let whole = memory.map_or(Ok(()), |memory| memory.wait());
            let (done, afterwards) = match whole {
                Ok(()) => job.run(&mut resident),
                Err(why) => (job.leave(why), None),
            };
            // The loop ends only when it has nothing to wait for.
            let _ = give_back.send((done, resident));
            let _ = returned_event.write(1);
            if let Some(afterwards) = afterwards {
                afterwards();
            }
        };
        std::thread::Builder::new().name(name.into()).spawn(body)?;
        Ok(Worker(give))
    }
}

impl Worker {
    pub(super) fn start(self, job: Job, resident: Resident) {
        // Its thread waits for nothing else, and ends by a panic only, which ends the process.
        let _ = self.0.send((job, resident));
    }
}

impl Job {
    fn run(self, resident: &mut Resident) -> (Done, Option<Afterwards>) {
        let done = match self {
            Self::HandOver { running, channel, session, form, limits, meter } => {
                let (channel, meter) = (&channel, &*meter);
                let departure = Departure { channel, resident, session, form, limits, meter };
                Done::HandOver(departure.run(running))
            }
            Self::Snapshot { subject, taking } => {
                let (subject, outcome) = taking.run(subject);
                Done::Snapshot(subject, outcome)
            }
            Self::Migrate { running, order, dialler, meter } => {
                let ram = Arc::clone(running.ram());
                let outcome = match Emigration::new(&order, dialler, resident, &ram, &meter) {
                    Ok(emigration) => emigration.run(running),
                    Err(why) => migrate::Outcome::Stayed { running, why },
                };
                Done::Migrate(outcome)
            }
            Self::Survey { mut running, order, meter } => {
                let key = &resident.digest_key;
                let outcome = migrate::survey(&mut running, &order, key, &meter);
                Done::Survey(running, outcome)
            }
            Self::Arrive { arrival, meter } => match arrival.run(resident, &meter) {
                Ok(arrived) => {
                    let (running, report, afterwards) = arrived.part();
                    return (Done::Arrive(Ok((running, report))), Some(Box::new(afterwards)));
                }
                Err(why) => Done::Arrive(Err(why)),
            },
        };
        (done, None)
    }

    fn leave(self, why: String) -> Done {
        match self {
            Self::HandOver { running, .. }
            | Self::Migrate { running, .. }
            | Self::Survey { running, .. } => Done::NotBegun(Subject::Running(running), why),
            // Its memory comes over the streams, and nothing else is waited for.
            Self::Arrive { .. } => Done::Arrive(Err(MigrateError::Aborted(why))),
            Self::Snapshot { subject, .. } => Done::NotBegun(subject, why),
        }
    }
}
