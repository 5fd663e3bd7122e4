//! The successor's script.

use std::sync::Arc;
use std::time::Duration;

use dwcp::acp::{Nonce, SessionId, VmId};
use dwcp::digest::{DigestKey, DigestSum, Root};

use super::HandOverError;
use super::blackout::Cause;
use super::copy::Applier;
use super::message::{Form, Hello, PermitFrame, ToPredecessor, ToSuccessor, VERSION};
use super::source::Resident;
use crate::devices::ConsoleLink;
use crate::dirty::DirtyLogKind;
use crate::fault::{Step, reached};
use crate::ipc::{Channel, exactly};
use crate::kvm::{Host, HostError};
use crate::memory::GuestRam;
use crate::permit::PermitFile;
use crate::state::MachineState;
use crate::vcpu::TimeBase;
use crate::vm::{MachineConfig, Paused, Running, VmError};

/// A predecessor that copies says something all the time; one that has died closes the socket.
const PEER_TIME_LIMIT: Duration = Duration::from_secs(30);

/// A guest that runs here now, and what came with it.
#[derive(Debug)]
pub(crate) struct Arrived {
    pub(crate) running: Running,
    pub(crate) resident: Resident,
}

/// Receives a guest: the phases in their order. Whatever fails before the record says `Taken` is told
/// to the predecessor, which goes on with the guest.
pub(crate) fn receive(
    channel: &Channel,
    successor: Nonce,
    host: Result<Host, HostError>,
    dirty_log: DirtyLogKind,
) -> Result<Arrived, HandOverError> {
    channel.set_time_limit(Some(PEER_TIME_LIMIT)).map_err(VmError::from)?;
    reached(Step::DestinationStart);
    let outcome = Arrival::prepare(channel, successor, host, dirty_log).and_then(Arrival::complete);
    if let Err(why) = &outcome {
        // It may have gone already; the record tells it the same.
        let _ = channel.send(&ToPredecessor::Refused { why: why.to_string() }, &[]);
    }
    outcome
}

/// A machine that is built and waits for its guest.
struct Arrival<'a> {
    channel: &'a Channel,
    session: SessionId,
    hello: Hello,
    paused: Paused,
    permit: PermitFile,
    console: Arc<ConsoleLink>,
    key: DigestKey,
    /// In the copying form. It is made before the predecessor is told to go on: it takes time that
    /// grows with the guest.
    applier: Option<Applier>,
}

impl<'a> Arrival<'a> {
    /// Builds the whole machine while the guest still runs in its old process.
    fn prepare(
        channel: &'a Channel,
        successor: Nonce,
        host: Result<Host, HostError>,
        dirty_log: DirtyLogKind,
    ) -> Result<Self, HandOverError> {
        let (message, mut descriptors) = channel.receive::<ToSuccessor>()?;
        let ToSuccessor::Hello(hello) = message else { return Err(out_of_turn(&message, "hello")) };
        if hello.version != VERSION {
            let why =
                format!("it speaks hand-over version {}, this executable {VERSION}", hello.version);
            return Err(HandOverError::Refused(why));
        }
        // Now, and not when its pages have moved and its guest stands still.
        MachineState::check_sections(&hello.sections).map_err(VmError::from)?;
        let host = host.map_err(VmError::from)?;
        let MachineConfig { cpus, cpu, memory: layout } = hello.config;
        let cpuid = hello.cpuid.clone().accept(&host, cpu, cpus.get()).map_err(VmError::from)?;
        let ram = match hello.form {
            Form::Shared => {
                let file = descriptors
                    .pop()
                    .ok_or(HandOverError::Differs { what: "the number of descriptors" })?;
                GuestRam::from_file(layout, file).map_err(VmError::from)?
            }
            Form::Copying => GuestRam::new(layout).map_err(VmError::from)?,
        };
        let [record, console] = exactly(descriptors)?;
        let vm = VmId::new(hello.vm).ok_or(HandOverError::NoId)?;
        let session = SessionId::new(hello.session).ok_or(HandOverError::NoId)?;
        let permit = PermitFile::from_descriptor(record, vm, successor)?;
        let console = ConsoleLink::new(console).map_err(VmError::from)?;
        let paused = Paused::around(&host, hello.config, cpuid, Arc::new(ram), dirty_log)?;
        let key = DigestKey::new(hello.digest_key);
        let copies = hello.form == Form::Copying;
        let applier = copies.then(|| Applier::new(Arc::clone(paused.ram()), &key));
        channel.send(&ToPredecessor::Ready { successor: successor.bytes() }, &[])?;
        reached(Step::DestinationReady);
        Ok(Self { channel, session, hello, paused, permit, console, key, applier })
    }

    /// Takes pages until the permit frame, then the guest.
    fn complete(mut self) -> Result<Arrived, HandOverError> {
        #[cfg(feature = "fault-injection")]
        let mut reference = None;
        let frame = loop {
            let (message, _descriptors) = self.channel.receive::<ToSuccessor>()?;
            match message {
                ToSuccessor::Pages(pages) => match &mut self.applier {
                    Some(applier) => applier.apply(self.channel, &pages)?,
                    None => {
                        let found = "pages in the shared form".to_owned();
                        return Err(HandOverError::OutOfTurn {
                            found,
                            expected: "the permit frame",
                        });
                    }
                },
                ToSuccessor::Permit(frame) => break *frame,
                #[cfg(feature = "fault-injection")]
                ToSuccessor::Reference => reference = _descriptors.into_iter().next(),
                other => return Err(out_of_turn(&other, "pages or the permit frame")),
            }
        };
        // In the shared form nothing was applied: the sum is zero at both ends.
        let sum = self.applier.as_ref().map_or(DigestSum::ZERO, Applier::sum);
        self.take_over(
            frame,
            sum,
            #[cfg(feature = "fault-injection")]
            reference,
        )
    }

    /// Inside the blackout: check, restore, take the permit, start.
    fn take_over(
        mut self,
        frame: PermitFrame,
        sum: DigestSum,
        #[cfg(feature = "fault-injection")] reference: Option<std::os::fd::OwnedFd>,
    ) -> Result<Arrived, HandOverError> {
        let PermitFrame { state, root, mut blackout } = frame;
        blackout.mark(Cause::Wire);
        reached(Step::DestinationPermitReceived);
        if Root::new(&self.key, sum, &state) != root {
            return Err(HandOverError::Differs { what: "the root over memory and state" });
        }
        blackout.mark(Cause::Digest);
        let cpus = self.hello.config.cpus.get();
        let saved = MachineState::decode(&state, cpus).map_err(VmError::from)?;
        self.paused.restore(&saved, TimeBase::SameHost)?;
        blackout.mark(Cause::Restore);
        #[cfg(feature = "fault-injection")]
        crate::fault::compare_with_reference(reference, &self.paused, &saved)?;
        reached(Step::DestinationRestored);
        self.permit.take(self.session)?;
        blackout.mark(Cause::Record);
        #[cfg(feature = "fault-injection")]
        crate::fault::slow_take();
        reached(Step::DestinationTaken);
        let running = self.paused.resume();
        blackout.mark(Cause::Resume);
        reached(Step::DestinationRunning);
        // From here on nothing may fail: the guest runs, and the record says that it runs here.
        if let Err(error) = self.channel.send(&ToPredecessor::Running { blackout }, &[]) {
            tracing::warn!(%error, "the predecessor does not hear that its guest runs here");
        }
        // Once more if it fails: while the record stays at Taken, the guest cannot be offered again.
        let settled = self.permit.settle(self.session);
        if let Err(error) = settled.or_else(|_| self.permit.settle(self.session)) {
            tracing::error!(%error, "the record stays at Taken");
        }
        let resident =
            Resident { permit: self.permit, console: self.console, digest_key: self.key };
        Ok(Arrived { running, resident })
    }
}

fn out_of_turn(found: &ToSuccessor, expected: &'static str) -> HandOverError {
    HandOverError::OutOfTurn { found: found.name().to_owned(), expected }
}
