//! The foreground's machine processes: one that runs the guest, and for a moment its successor.
//!
//! The permit record has no name here: the machine lives no longer than its processes, and nothing
//! stays behind when they are killed.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use dwcp::acp::{Nonce, VmId};
use machine::{
    BootOrder, Channel, ChannelError, Form, HandOverOrder, HandOverReport, Limits, MachineConfig,
    Order, PermitFile, ReceiveOrder, Report,
};

use crate::Failure;

/// A machine process that says nothing for this long is taken for dead. The longest silence is that
/// of a hand-over that copies a large guest.
const PATIENCE: Duration = Duration::from_secs(120);

/// A process in the role `novacron machine`.
#[derive(Debug)]
pub(crate) struct MachineProcess {
    child: Child,
    control: Channel,
}

/// What a machine boots.
pub(crate) struct Images {
    pub(crate) kernel: File,
    pub(crate) initrd: Option<File>,
    pub(crate) command_line: String,
}

impl MachineProcess {
    /// Starts a process that waits for its orders.
    pub(crate) fn start() -> Result<Self, Failure> {
        let start = || -> io::Result<Self> {
            let (control, theirs) = Channel::pair()?;
            control.set_time_limit(Some(PATIENCE))?;
            let child = Command::new(std::env::current_exe()?)
                .arg("machine")
                .stdin(Stdio::from(OwnedFd::from(theirs)))
                .stdout(Stdio::null())
                // Ctrl-C on the terminal is for the foreground process alone: it ends its machines.
                .process_group(0)
                .spawn()?;
            Ok(Self { child, control })
        };
        start().map_err(Failure::other("cannot start a machine process"))
    }

    /// Its process id, for people and for tests.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn order(&self, order: &Order, descriptors: &[&dyn AsFd]) -> Result<(), Failure> {
        let descriptors: Vec<_> = descriptors.iter().map(|descriptor| descriptor.as_fd()).collect();
        self.control.send(order, &descriptors).map_err(|error| self.lost(&error))
    }

    /// Waits for the next report.
    pub(crate) fn report(&self) -> Result<Report, Failure> {
        match self.control.receive::<Report>() {
            Ok((report, _)) => Ok(report),
            Err(error) => Err(self.lost(&error)),
        }
    }

    fn lost(&self, error: &ChannelError) -> Failure {
        Failure::Guest(format!("the machine process {} is lost: {error}", self.id()))
    }

    /// Something with which another thread can end the guest.
    pub(crate) fn ender(&self) -> io::Result<Ender> {
        Ok(Ender(Channel::from(self.control.as_fd().try_clone_to_owned()?)))
    }

    /// Waits for the process to end by itself, which it does once it has reported its end.
    pub(crate) fn reap(mut self) {
        // Dropping the control socket ends a process that is still waiting for orders.
        drop(self.control);
        let _ = self.child.wait();
    }
}

/// Ends a guest from another thread.
pub(crate) struct Ender(Channel);

impl Ender {
    pub(crate) fn stop(&self) {
        // A process that has gone needs no stop.
        let _ = self.0.send(&Order::Stop, &[]);
    }
}

/// One machine in the foreground.
#[derive(Debug)]
pub(crate) struct Machine {
    process: MachineProcess,
}

impl Machine {
    /// Boots a guest in a new process; returns the machine and this end of its console.
    pub(crate) fn boot(
        config: MachineConfig,
        images: &Images,
    ) -> Result<(Self, UnixStream), Failure> {
        let vm: [u8; 16] = random()?;
        let runner: [u8; 16] = random()?;
        let (Some(vm_id), Some(nonce)) = (VmId::new(vm), Nonce::new(runner)) else {
            return Err(Failure::Other("the random source gives zeros only".into()));
        };
        let held = PermitFile::create_nameless(&std::env::temp_dir(), vm_id, nonce)
            .map_err(|error| Failure::Other(error.to_string()))?;
        let (console, theirs) = UnixStream::pair().map_err(Failure::other("the console"))?;
        let process = MachineProcess::start()?;
        let order = Order::Boot(BootOrder {
            config,
            command_line: images.command_line.clone(),
            has_initrd: images.initrd.is_some(),
            vm,
            runner,
            digest_key: random()?,
        });
        let mut descriptors: Vec<&dyn AsFd> = vec![&held, &theirs, &images.kernel];
        descriptors.extend(images.initrd.as_ref().map(|file| file as &dyn AsFd));
        process.order(&order, &descriptors)?;
        // From here on the machine process alone holds the lock.
        drop(held);
        let machine = Self { process };
        match machine.process.report()? {
            Report::Running => Ok((machine, console)),
            Report::Failed { why } => Err(Failure::Other(why)),
            other => Err(unexpected(&other)),
        }
    }

    pub(crate) fn process(&self) -> &MachineProcess {
        &self.process
    }

    /// Hands the running guest to a new process, which becomes this machine's.
    pub(crate) fn hand_over(
        &mut self,
        form: Form,
        limits: Limits,
    ) -> Result<HandOverReport, Failure> {
        let successor = MachineProcess::start()?;
        let (ours, theirs) =
            Channel::pair().map_err(Failure::other("a socket between the processes"))?;
        successor.order(&Order::Receive(ReceiveOrder { successor: random()? }), &[&theirs])?;
        drop(theirs);
        let order = Order::HandOver(HandOverOrder { form, session: random()?, limits });
        self.process.order(&order, &[&ours])?;
        drop(ours);
        match self.process.report()? {
            Report::HandedOver(report) => {
                match successor.report()? {
                    Report::Running => {}
                    other => return Err(unexpected(&other)),
                }
                std::mem::replace(&mut self.process, successor).reap();
                Ok(report)
            }
            Report::HandOverFailed { why } => Err(Failure::Other(why)),
            Report::Departed { why } => Err(Failure::Guest(format!(
                "the guest's permit went to its new process, which was not heard of again ({why}); \
                 the frozen guest never runs here again"
            ))),
            Report::Exited { how, .. } => Err(Failure::Guest(how)),
            other => Err(unexpected(&other)),
        }
    }

    /// Ends the guest and its process.
    pub(crate) fn stop(self) -> Result<(), Failure> {
        self.process.order(&Order::Stop, &[])?;
        let report = self.process.report()?;
        self.process.reap();
        match report {
            Report::Exited { .. } => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// Waits until the guest ends by itself.
    pub(crate) fn wait(self) -> Result<(), Failure> {
        // It may run for months.
        self.process.control.set_time_limit(None).map_err(Failure::other("the control socket"))?;
        let report = self.process.report();
        self.process.reap();
        match report? {
            Report::Exited { is_orderly: true, .. } => Ok(()),
            Report::Exited { how, .. } => Err(Failure::Guest(how)),
            other => Err(unexpected(&other)),
        }
    }
}

pub(crate) fn unexpected(report: &Report) -> Failure {
    Failure::Other(format!("a machine process reported {report:?}, which was not due"))
}

/// Random bytes: ids, nonces and keys.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], Failure> {
    let mut bytes = [0; N];
    let mut filled = 0;
    while filled < N {
        filled +=
            rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty())
                .map_err(|error| Failure::Other(format!("no random bytes: {error}")))?;
    }
    Ok(bytes)
}
