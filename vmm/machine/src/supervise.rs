//! The other side of the control socket: starts machine processes, gives them orders, hears them.
//!
//! A machine is one process at a time, and for the length of a hand-over two. It is *tied* to whoever started it: then its
//! permit record has no name, it lives no longer than its processes, and nothing stays behind when they are killed. Or it
//! has a [`Home`]: then it goes on when its keeper is gone, and the next one finds it there.

mod death;
mod home;
mod migrate;
mod process;
mod snapshots;
mod usage;
mod watch;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use self::home::Birth;
use crate::dirty::DirtyLogKind;
use crate::handover::{Form, HandOverReport, Limits};
use crate::ipc::{Channel, ChannelError};
use crate::permit::{PermitFileError, PermitWatch};
use crate::random::random;
use crate::role::{BootOrder, HandOverOrder, Order, ReceiveOrder, Report};
use crate::snapshot::SnapshotError;
use crate::vcpu::GuestEnd;
use crate::vm::MachineConfig;

pub use death::Death;
pub use home::{Adopted, AdoptedMachine, Home};
pub use migrate::{ArrivalDoor, MoveImages, Prepared, Visit};
pub use process::{Ender, MachineProcess};
pub use snapshots::{RestoreOptions, SnapshotOptions};
pub use usage::Usage;
pub use watch::Watch;

/// A machine process that says nothing for this long is taken for dead. The longest silence is that
/// of a hand-over that copies a large guest.
const PATIENCE: Duration = Duration::from_secs(120);

/// A machine could not be started, or did not do what it was told.
#[derive(Debug, thiserror::Error)]
pub enum SuperviseError {
    /// The system
    #[error("cannot start a machine process: {0}")]
    Start(#[from] io::Error),
    /// The process has died, or hangs
    #[error("the machine process {id} is lost: {}", in_words(death.as_ref(), source))]
    Lost {
        /// Its process id.
        id: u32,
        /// How that was noticed.
        source: ChannelError,
        /// How it has ended, if it has, and is a child.
        death: Option<Death>,
    },
    /// A process that is there does not greet its keeper
    #[error("a machine process does not say what it is: {source}")]
    Silent {
        /// How that was noticed.
        source: ChannelError,
    },
    /// The permit record
    #[error(transparent)]
    Permit(#[from] PermitFileError),
    /// A snapshot's file
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The snapshot failed; the guest is as it was
    #[error("{0}")]
    SnapshotFailed(String),
    /// The guest could not be started
    #[error("{0}")]
    Refused(String),
    /// The hand-over failed; the guest runs on where it was
    #[error("{0}")]
    HandOver(String),
    /// The machine did not move; the guest runs on where it was
    #[error("{0}")]
    Migration(String),
    /// The permit went to the successor, which was not heard of again
    #[error(
        "the guest's permit went to its new process, which was not heard of again ({0}); the frozen guest never runs here again"
    )]
    Departed(String),
    /// The guest ended
    #[error("{how}")]
    GuestEnded {
        /// In words.
        how: String,
        /// Which of the ways it was.
        end: GuestEnd,
    },
    /// The predecessor died after it had parted with the permit; the guest runs in its new process
    #[error(
        "the old process died at the end of the hand-over; the guest runs in its new process {0}"
    )]
    PredecessorDied(u32),
    /// A report that was not due
    #[error("the machine process reported {0}, which was not due")]
    Unexpected(String),
}

/// Whom to start: the executable, what its environment has besides ours (tests ask for faults
/// there), and what a machine has of it that the guest does not see.
#[derive(Clone, Copy, Debug)]
pub struct Executable<'a> {
    /// An executable whose verb `machine` is the role.
    pub path: &'a Path,
    /// Names and values.
    pub environment: &'a [(&'a str, &'a str)],
    /// The dirty log that KVM keeps for a machine in that process.
    pub dirty_log: DirtyLogKind,
    /// How far the process steps back behind others for the host's processors: 0 to 19, as `nice` counts.
    pub nice: u8,
}

/// What a machine boots.
#[derive(Debug)]
pub struct Images {
    /// The kernel.
    pub kernel: File,
    /// The initial RAM disk.
    pub initrd: Option<File>,
    /// The command line; `{tsc_khz}` in it is replaced by the guest's TSC rate.
    pub command_line: String,
}

/// Why a wait has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// The guest has ended, as a guest may.
    GuestEnded(GuestEnd),
    /// The other descriptor is readable.
    Other,
    /// It is as late as it was to become.
    Late,
}

/// One machine, whose processes are ours.
#[derive(Debug)]
pub struct Supervised {
    process: MachineProcess,
    watch: PermitWatch,
    home: Option<Home>,
}

impl Supervised {
    /// Boots a guest in a new process; returns the machine and this end of its console.
    ///
    /// `directory` decides which storage the permit record is written to.
    ///
    /// # Errors
    /// When the process cannot be started, or refuses the guest.
    pub fn boot(
        executable: Executable<'_>,
        directory: &Path,
        config: MachineConfig,
        images: &Images,
    ) -> Result<(Self, UnixStream), SuperviseError> {
        Self::boot_as(executable, || Birth::nameless(directory), config, images)
    }

    fn boot_as(
        executable: Executable<'_>,
        birth: impl FnOnce() -> Result<Birth, SuperviseError>,
        config: MachineConfig,
        images: &Images,
    ) -> Result<(Self, UnixStream), SuperviseError> {
        // First: its jail closes while the record is written.
        let mut process = MachineProcess::start(executable)?;
        let birth = birth()?;
        birth.keep(&mut process)?;
        let Birth { vm, runner, held, watch, home } = birth;
        let (console, theirs) = UnixStream::pair()?;
        let order = Order::Boot(BootOrder {
            config,
            command_line: images.command_line.clone(),
            has_initrd: images.initrd.is_some(),
            vm,
            runner,
            digest_key: random()?,
            dirty_log: executable.dirty_log,
        });
        let mut descriptors: Vec<&dyn AsFd> = vec![&held, &theirs, &images.kernel];
        descriptors.extend(images.initrd.as_ref().map(|file| file as &dyn AsFd));
        process.order(&order, &descriptors)?;
        // From here on the machine process alone holds the life lock.
        drop(held);
        match process.report()? {
            Report::Running => Ok((Self { process, watch, home }, console)),
            Report::Failed { why } => Err(SuperviseError::Refused(why)),
            other => Err(unexpected(&other)),
        }
    }

    /// The process that runs the guest.
    #[must_use]
    pub fn process(&self) -> &MachineProcess {
        &self.process
    }

    /// The permit record, to be looked at.
    pub fn permit(&mut self) -> &mut PermitWatch {
        &mut self.watch
    }

    /// Hands the running guest to a new process, which becomes this machine's.
    ///
    /// # Errors
    /// `HandOver` when the guest runs on where it was; `Departed` when it may run nowhere any more;
    /// `PredecessorDied` when the guest runs in its new process, and this machine is that; `Lost`
    /// when the predecessor died with the guest.
    pub fn hand_over(
        &mut self,
        executable: Executable<'_>,
        form: Form,
        limits: Limits,
    ) -> Result<HandOverReport, SuperviseError> {
        self.hand_over_watched(executable, form, limits, None)
    }

    /// The same, and `watch` is told how far it is.
    ///
    /// # Errors
    /// Those of [`Self::hand_over`].
    pub fn hand_over_watched(
        &mut self,
        executable: Executable<'_>,
        form: Form,
        limits: Limits,
        watch: Option<Watch<'_>>,
    ) -> Result<HandOverReport, SuperviseError> {
        let (nonce, dirty_log) = (random()?, executable.dirty_log);
        let mut successor = MachineProcess::start(executable)?;
        home::keep(&mut successor, self.home.as_ref(), nonce)?;
        let (ours, theirs) = Channel::pair()?;
        let order = Order::Receive(ReceiveOrder { successor: nonce, dirty_log });
        successor.order(&order, &[&theirs])?;
        drop(theirs);
        let order = Order::HandOver(HandOverOrder { form, session: random()?, limits });
        self.process.order(&order, &[&ours])?;
        drop(ours);
        // A large guest is copied for as long as it takes. A process that dies is noticed at once, and
        // each end of the copy has its own limit on the other's silence.
        successor.control.set_time_limit(None)?;
        match self.job_report(watch) {
            Ok(Report::HandedOver(report)) => match successor.report()? {
                Report::Running => {
                    self.adopt(successor)?;
                    Ok(report)
                }
                other => Err(unexpected(&other)),
            },
            Ok(Report::HandOverFailed { why }) => {
                Err(SuperviseError::HandOver(successor.with_death(why)))
            }
            Ok(Report::Departed { why }) => {
                Err(SuperviseError::Departed(successor.with_death(why)))
            }
            Ok(Report::Declined { why }) => Err(SuperviseError::HandOver(why)),
            Ok(Report::Exited { how, end }) => Err(SuperviseError::GuestEnded { how, end }),
            Ok(other) => Err(unexpected(&other)),
            // The predecessor died. If the successor has taken the permit, the guest lives on there.
            Err(lost) => match successor.report() {
                Ok(Report::Running) => {
                    let id = successor.id();
                    self.adopt(successor)?;
                    Err(SuperviseError::PredecessorDied(id))
                }
                _ => Err(lost),
            },
        }
    }

    fn adopt(&mut self, successor: MachineProcess) -> io::Result<()> {
        successor.control.set_time_limit(Some(PATIENCE))?;
        std::mem::replace(&mut self.process, successor).bury();
        Ok(())
    }

    /// Stops the guest's vCPUs.
    ///
    /// # Errors
    /// When the guest has ended meanwhile, or the process is lost.
    pub fn pause(&self) -> Result<(), SuperviseError> {
        self.carry_out(&Order::Pause, &Report::Paused)
    }

    /// Lets them run again.
    ///
    /// # Errors
    /// When the guest is not paused, or the process is lost.
    pub fn resume(&self) -> Result<(), SuperviseError> {
        self.carry_out(&Order::Resume, &Report::Running)
    }

    /// Damages the memory of a paused guest.
    ///
    /// # Errors
    /// When the guest is not paused, or the address is not RAM.
    #[cfg(feature = "fault-injection")]
    pub fn plant(&self, plant: crate::fault::Plant) -> Result<(), SuperviseError> {
        self.carry_out(&Order::Plant(plant), &Report::Paused)
    }

    /// Lets go of the machine: a kept one goes on, a tied one ends. Returns its process.
    #[must_use]
    pub fn into_process(self) -> MachineProcess {
        self.process
    }

    /// Ends the guest and its process.
    ///
    /// # Errors
    /// When the process is lost.
    pub fn stop(self) -> Result<(), SuperviseError> {
        self.process.order(&Order::Stop, &[])?;
        match self.process.report()? {
            Report::Exited { .. } => {
                self.process.bury();
                Ok(())
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Presses the guest's power button: asks it to switch itself off. When it does, and whether at
    /// all, is the guest's decision.
    ///
    /// # Errors
    /// When the guest has ended meanwhile, or the process is lost.
    pub fn press_power_button(&self) -> Result<(), SuperviseError> {
        self.carry_out(&Order::PressPowerButton, &Report::PowerButtonPressed)
    }

    /// Waits until the guest ends, however long that takes, and says how it did.
    ///
    /// # Errors
    /// When it ends otherwise than a guest may, or the process is lost.
    pub fn wait(self) -> Result<GuestEnd, SuperviseError> {
        self.process.control.set_time_limit(None)?;
        loop {
            if let Some(end) = self.hear_end()? {
                return Ok(end);
            }
        }
    }

    /// Waits until the guest ends, and says how it did; or until `other` is readable, or it is so late.
    ///
    /// # Errors
    /// When it ends otherwise than a guest may, or the process is lost.
    pub fn wait_or(
        &self,
        other: BorrowedFd<'_>,
        until: Option<Instant>,
    ) -> Result<Woken, SuperviseError> {
        loop {
            match self.process.control.wait_readable_or(other, until)? {
                Some(true) => {
                    if let Some(end) = self.hear_end()? {
                        return Ok(Woken::GuestEnded(end));
                    }
                }
                Some(false) => return Ok(Woken::Other),
                None => return Ok(Woken::Late),
            }
        }
    }

    /// The next report: the guest's end, if it is that.
    fn hear_end(&self) -> Result<Option<GuestEnd>, SuperviseError> {
        match self.process.report()? {
            Report::Exited { end, .. } if end.is_orderly() => Ok(Some(end)),
            Report::Exited { how, end } => Err(SuperviseError::GuestEnded { how, end }),
            // Answers to what an `Ender` asked for.
            Report::PowerButtonPressed => Ok(None),
            Report::Declined { why } => {
                tracing::warn!(why, "the machine process declines");
                Ok(None)
            }
            other => Err(unexpected(&other)),
        }
    }

    fn carry_out(&self, order: &Order, expected: &Report) -> Result<(), SuperviseError> {
        self.process.order(order, &[])?;
        match self.process.report()? {
            report if report == *expected => Ok(()),
            Report::Exited { how, end } => Err(SuperviseError::GuestEnded { how, end }),
            Report::Declined { why } => Err(SuperviseError::Refused(why)),
            other => Err(unexpected(&other)),
        }
    }
}

/// How a process has ended says more than that its socket is closed.
fn in_words(death: Option<&Death>, source: &ChannelError) -> String {
    death.map_or_else(|| source.to_string(), Death::to_string)
}

fn unexpected(report: &Report) -> SuperviseError {
    SuperviseError::Unexpected(format!("{report:?}"))
}
