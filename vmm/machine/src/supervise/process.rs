//! A machine process, seen from whoever started it or keeps it now.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{
    Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal, setpriority_process,
};

use super::death::{self, Death};
use super::usage::{self, Usage};
use super::{Executable, PATIENCE, SuperviseError};
use crate::ipc::{Channel, ChannelError};
use crate::role::{Greeting, Order, Report};

/// How long a process that has closed its control connection may take to end.
const LAST_MOMENTS: Duration = Duration::from_secs(2);

/// A process closes its sockets a moment before it is dead; the memory of a large guest takes longer to be freed.
const DYING: Duration = Duration::from_secs(10);

/// A process in the role `novacron machine`. Dropping a tied one ends the process and its guest; a kept one goes on.
#[derive(Debug)]
pub struct MachineProcess {
    /// None if another process started it.
    child: Option<Child>,
    pidfd: OwnedFd,
    pub(super) control: Channel,
    is_kept: bool,
}

impl MachineProcess {
    /// Starts a process that waits for its orders.
    ///
    /// # Errors
    /// When the system refuses a socket or a process.
    pub fn start(executable: Executable<'_>) -> io::Result<Self> {
        let (control, theirs) = Channel::pair()?;
        control.set_time_limit(Some(PATIENCE))?;
        let child = Command::new(executable.path)
            .arg("machine")
            .envs(executable.environment.iter().copied())
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            // Ctrl-C on the terminal is for the foreground process alone: it ends its machines.
            .process_group(0)
            .spawn()?;
        // Nobody has waited for it, so that its number is still its own.
        let pid = Pid::from_child(&child);
        let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
        if executable.nice > 0 {
            // It has one thread until its first order, and those that it starts then do as that one does.
            setpriority_process(Some(pid), executable.nice.into())?;
        }
        Ok(Self { child: Some(child), pidfd, control, is_kept: false })
    }

    /// Connects to a kept process. None if nobody listens there any more.
    ///
    /// # Errors
    /// When the process says nothing, or not what a machine process says.
    pub(super) fn connect(socket: &Path) -> Result<Option<(Self, Greeting)>, SuperviseError> {
        let stream = match UnixStream::connect(socket) {
            Ok(stream) => stream,
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let control = Channel::from(OwnedFd::from(stream));
        control.set_time_limit(Some(PATIENCE))?;
        match control.receive::<Report>() {
            Ok((Report::Greeting(greeting), mut descriptors)) => {
                let pidfd = descriptors.pop();
                let pidfd = pidfd.ok_or(ChannelError::Descriptors { found: 0, needed: 1 });
                let pidfd = pidfd.map_err(|source| SuperviseError::Silent { source })?;
                Ok(Some((Self { child: None, pidfd, control, is_kept: true }, greeting)))
            }
            // It ends just now.
            Err(ChannelError::Closed) => Ok(None),
            Ok((other, _)) => Err(super::unexpected(&other)),
            Err(source) => Err(SuperviseError::Silent { source }),
        }
    }

    /// Its process id, for people: nothing is done to a process by its number.
    #[must_use]
    pub fn id(&self) -> u32 {
        if let Some(child) = &self.child {
            return child.id();
        }
        usage::id(self.pidfd.as_fd()).unwrap_or_default()
    }

    /// Makes it outlive this connection: whoever connects to `listener` gives the orders then.
    pub(super) fn keep(
        &mut self,
        runner: [u8; 16],
        listener: &dyn AsFd,
        ends: &dyn AsFd,
    ) -> Result<(), SuperviseError> {
        self.order(&Order::Keep { runner }, &[listener, ends])?;
        match self.report()? {
            Report::Kept => {
                self.is_kept = true;
                Ok(())
            }
            Report::Declined { why } => Err(SuperviseError::Refused(why)),
            other => Err(super::unexpected(&other)),
        }
    }

    /// Sends an order, and copies of descriptors with it.
    ///
    /// # Errors
    /// When the process has died, or its guest has ended.
    pub fn order(&self, order: &Order, descriptors: &[&dyn AsFd]) -> Result<(), SuperviseError> {
        let descriptors: Vec<_> = descriptors.iter().map(|descriptor| descriptor.as_fd()).collect();
        self.control.send(order, &descriptors).map_err(|source| self.why_gone(source))
    }

    /// A process whose guest has ended says so before it goes, and nobody may have heard it yet.
    fn why_gone(&self, source: ChannelError) -> SuperviseError {
        if matches!(source, ChannelError::Closed) {
            while let Ok((report, _)) = self.control.receive::<Report>() {
                if let Report::Exited { how, end } = report {
                    return SuperviseError::GuestEnded { how, end };
                }
            }
        }
        self.lost(source)
    }

    /// Waits for the next report.
    ///
    /// # Errors
    /// When the process has died, or hangs.
    pub fn report(&self) -> Result<Report, SuperviseError> {
        match self.control.receive::<Report>() {
            Ok((report, _)) => Ok(report),
            Err(source) => Err(self.lost(source)),
        }
    }

    /// Something with which another thread can end the guest.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn ender(&self) -> io::Result<Ender> {
        let control = Channel::from(self.control.as_fd().try_clone_to_owned()?);
        Ok(Ender { control, pidfd: self.pidfd.try_clone()? })
    }

    fn lost(&self, source: ChannelError) -> SuperviseError {
        let death = match source {
            ChannelError::Closed => self.death(DYING),
            _ => None,
        };
        SuperviseError::Lost { id: self.id(), source, death }
    }

    /// How it has ended, once it has, within `limit`; nothing of one that another process started.
    fn death(&self, limit: Duration) -> Option<Death> {
        let child = self.child.as_ref()?;
        Death::of(Pid::from_child(child), self.pidfd.as_fd(), limit)
    }

    /// Why a hand-over to it failed, with how it has ended, if it was killed. One that has refused the guest ends as
    /// well.
    pub(super) fn with_death(&self, why: String) -> String {
        match self.death(Duration::from_secs(1)) {
            Some(death @ Death::Signal(_)) => {
                format!("{why}; of its new process {}: {death}", self.id())
            }
            _ => why,
        }
    }

    /// Waits until the process has ended, kills it if that takes too long, and says how it ended, if it is a child.
    pub fn bury(mut self) -> Option<Death> {
        if !death::has_ended(self.pidfd.as_fd(), LAST_MOMENTS) {
            let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
        }
        let death = self.death(DYING);
        // Dropping it would wait for nothing that is not done here.
        self.is_kept = true;
        self.child.take().map(|mut child| child.wait());
        death
    }
}

impl Drop for MachineProcess {
    fn drop(&mut self) {
        if self.is_kept {
            return;
        }
        // A process whose control socket closes ends its guest and itself; but a process that hangs
        // does not, and a guest must not outlive the one who can reach it.
        if let Some(child) = &mut self.child {
            if !matches!(child.try_wait(), Ok(Some(_))) {
                let _ = child.kill();
            }
            let _ = child.wait();
        }
    }
}

/// Ends a guest from another thread, and looks at what its process uses.
#[derive(Debug)]
pub struct Ender {
    control: Channel,
    pidfd: OwnedFd,
}

impl Ender {
    /// Presses the guest's power button. The answer comes to whoever hears the process's reports:
    /// [`super::Supervised::wait`] does.
    pub fn press_power_button(&self) {
        // A process that has gone has no guest either.
        let _ = self.control.send(&Order::PressPowerButton, &[]);
    }

    /// Asks the process to stop its guest.
    pub fn stop(&self) {
        // A process that has gone needs no stop.
        let _ = self.control.send(&Order::Stop, &[]);
    }

    /// What the process has used; none if it has ended.
    #[must_use]
    pub fn usage(&self) -> Option<Usage> {
        Usage::of(self.pidfd.as_fd())
    }

    /// Kills the process, whatever it is doing.
    pub fn kill(&self) {
        // It has ended already, if this fails.
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
    }
}
