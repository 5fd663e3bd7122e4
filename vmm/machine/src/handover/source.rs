//! The predecessor's script.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use dwcp::acp::{Nonce, SessionId};
use dwcp::digest::{DigestKey, DigestSum, Root};

use super::blackout::{Blackout, Cause};
use super::copy::{Copied, Copier};
use super::message::{Form, Hello, PermitFrame, ToPredecessor, ToSuccessor, VERSION};
use super::{HandOverError, HandOverReport, Limits};
use crate::clock::monotonic_ns;
use crate::devices::ConsoleLink;
use crate::fault::{Step, reached};
use crate::ipc::{Channel, ChannelError};
use crate::memory::GuestRam;
use crate::meter::Meter;
use crate::permit::PermitFile;
use crate::state::MachineState;
use crate::vm::{Paused, Running, VmError};

/// The successor builds its machine in milliseconds; a host that is short of memory takes longer.
const PEER_TIME_LIMIT: Duration = Duration::from_secs(10);

/// What a machine process holds besides the machine itself.
#[derive(Debug)]
pub(crate) struct Resident {
    pub(crate) permit: PermitFile,
    pub(crate) console: Arc<ConsoleLink>,
    /// The VM's secret for page digests.
    pub(crate) digest_key: DigestKey,
}

/// How a hand-over ended for the predecessor.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The guest runs in the successor; nothing of it may run here again.
    HandedOver(HandOverReport),
    /// The guest goes on here.
    Stayed { running: Running, why: HandOverError },
    /// The guest ended while it was being handed over.
    Ended { paused: Paused },
    /// The successor took the permit, and was not heard of again: the frozen machine is kept.
    Departed { frozen: Paused, why: HandOverError },
}

/// A hand-over in progress, seen from the process that gives the guest away.
pub(crate) struct Departure<'a> {
    pub(crate) channel: &'a Channel,
    pub(crate) resident: &'a mut Resident,
    pub(crate) session: SessionId,
    pub(crate) form: Form,
    pub(crate) limits: Limits,
    pub(crate) meter: &'a Meter,
}

/// The machine and where it stands when something failed. Boxed: the way that succeeds pays nothing.
type Failed = Box<Failure>;

enum Failure {
    Running(Running, HandOverError),
    Paused(Paused, HandOverError),
}

impl Departure<'_> {
    /// Hands `running` over: everything until the permit frame, the frame, and what follows from it.
    pub(crate) fn run(mut self, running: Running) -> Outcome {
        let started_ns = monotonic_ns();
        match self.until_permit_frame(running) {
            Ok(ready) => self.part_with_permit(ready, started_ns),
            Err(failed) => self.go_on(*failed),
        }
    }

    /// Everything until the permit frame. The guest can still go on here at once.
    fn until_permit_frame(&mut self, running: Running) -> Result<Ready, Failed> {
        let ram = Arc::clone(running.ram());
        let mut copier = match self.prepare(&running, &ram) {
            Ok(copier) => copier,
            Err(why) => return Err(Box::new(Failure::Running(running, why))),
        };
        let mut blackout = Blackout::begin();
        let paused = running.pause();
        blackout.mark(Cause::Pause);
        let frame = match self.send_paused(&paused, copier.as_mut(), blackout) {
            Ok(frame) => frame,
            Err(why) => return Err(Box::new(Failure::Paused(paused, why))),
        };
        let copied = copier.map_or_else(Copied::default, |copier| copier.copied);
        Ok(Ready { paused, frame, copied })
    }

    /// While the guest runs: greet, copy, offer.
    fn prepare<'m>(
        &mut self,
        running: &Running,
        ram: &'m GuestRam,
    ) -> Result<Option<Copier<'m>>, HandOverError>
    where
        Self: 'm,
    {
        self.channel.set_time_limit(Some(PEER_TIME_LIMIT)).map_err(VmError::from)?;
        reached(Step::SourceStart);
        let successor = self.greet(running)?;
        reached(Step::SourceGreeted);
        let copier = match self.form {
            Form::Shared => None,
            Form::Copying => {
                let log = running.start_dirty_log()?;
                let key = &self.resident.digest_key;
                let mut copier = Copier::new(ram, self.channel, log, key, self.meter)?;
                copier.copy_while_running(self.limits)?;
                Some(copier)
            }
        };
        reached(Step::SourceCopied);
        self.meter.advance(0, 0)?;
        // While the guest still runs: an offer is worthless without the permit frame.
        self.resident.permit.offer(self.session, successor)?;
        reached(Step::SourceOffered);
        Ok(copier)
    }

    fn greet(&self, running: &Running) -> Result<Nonce, HandOverError> {
        let hello = Hello {
            version: VERSION,
            form: self.form,
            vm: self.resident.permit.vm().bytes(),
            session: self.session.bytes(),
            config: running.config(),
            cpuid: running.parts().cpuid.saved(),
            sections: MachineState::sections(),
            digest_key: *self.resident.digest_key.secret_bytes(),
        };
        #[cfg(feature = "fault-injection")]
        let hello = Hello { sections: crate::fault::newer_sections(hello.sections), ..hello };
        let ram = running.ram().file();
        let mut descriptors: Vec<BorrowedFd<'_>> =
            vec![self.resident.permit.as_fd(), self.resident.console.descriptor().as_fd()];
        if self.form == Form::Shared {
            descriptors.push(ram.as_fd());
        }
        self.channel.send(&ToSuccessor::Hello(hello), &descriptors)?;
        match self.channel.receive()?.0 {
            ToPredecessor::Ready { successor } => Nonce::new(successor).ok_or(HandOverError::NoId),
            other => Err(out_of_turn(other, "ready")),
        }
    }

    /// While the guest stands still: drain, save, last harvest, last pages. What is left is the
    /// permit frame.
    fn send_paused(
        &self,
        paused: &Paused,
        copier: Option<&mut Copier<'_>>,
        mut blackout: Blackout,
    ) -> Result<PermitFrame, HandOverError> {
        if paused.exit().is_some() {
            return Err(HandOverError::GuestEnded);
        }
        reached(Step::SourcePaused);
        self.resident.console.detach();
        blackout.mark(Cause::Drain);
        let state = paused.save()?.encode().map_err(VmError::from)?;
        blackout.mark(Cause::State);
        let sum = match copier {
            None => DigestSum::ZERO,
            Some(copier) => {
                copier.harvest()?;
                blackout.mark(Cause::Harvest);
                copier.send_owed()?;
                blackout.mark(Cause::Copy);
                copier.sum()
            }
        };
        let root = Root::new(&self.resident.digest_key, sum, &state);
        reached(Step::SourceSaved);
        #[cfg(feature = "fault-injection")]
        crate::fault::send_reference(self.channel, paused.ram())?;
        #[cfg(feature = "fault-injection")]
        let state = crate::fault::damage_state(state);
        Ok(PermitFrame { state, root, blackout })
    }

    /// Sends the permit frame. From its first byte on the record decides who may run, and it alone.
    fn part_with_permit(mut self, ready: Ready, started_ns: u64) -> Outcome {
        let Ready { paused, frame, copied } = ready;
        let frame = ToSuccessor::Permit(Box::new(frame));
        let sent = self.channel.send(&frame, &[]).map_err(HandOverError::from);
        reached(Step::SourcePermitSent);
        let why = match sent.and_then(|()| self.hear_running()) {
            Ok(blackout) => {
                return Outcome::HandedOver(copied.report(self.form, blackout, started_ns));
            }
            Err(why) => why,
        };
        match self.resident.permit.withdraw(self.session) {
            Ok(()) => self.go_on(Failure::Paused(paused, why)),
            // The successor has the permit, or nobody can tell. It may only be slow: it is listened
            // to until it has gone.
            Err(refusal) => match self.hear_running_until_it_has_gone() {
                Some(blackout) => {
                    Outcome::HandedOver(copied.report(self.form, blackout, started_ns))
                }
                None => {
                    tracing::error!(%why, %refusal, "the permit has gone");
                    Outcome::Departed { frozen: paused, why }
                }
            },
        }
    }

    fn hear_running(&self) -> Result<Blackout, HandOverError> {
        match self.channel.receive()?.0 {
            ToPredecessor::Running { blackout } => Ok(blackout),
            other => Err(out_of_turn(other, "running")),
        }
    }

    fn hear_running_until_it_has_gone(&self) -> Option<Blackout> {
        loop {
            match self.hear_running() {
                Ok(blackout) => return Some(blackout),
                Err(HandOverError::Channel(ChannelError::TimedOut)) => {}
                Err(_) => return None,
            }
        }
    }

    /// The one failure path while the permit is here: the guest goes on here.
    fn go_on(&mut self, failed: Failure) -> Outcome {
        // If an offer stands in the record, it is worthless without a permit frame. If none does,
        // there is nothing to withdraw, and the table says so.
        let _ = self.resident.permit.withdraw(self.session);
        match failed {
            Failure::Running(running, why) => self.stay(running, self.explained(why)),
            Failure::Paused(paused, _) if paused.exit().is_some() => Outcome::Ended { paused },
            Failure::Paused(paused, why) => {
                // The guest goes on at once; what the successor said is read afterwards.
                let running = paused.resume();
                let why = self.explained(why);
                self.stay(running, why)
            }
        }
    }

    /// A successor that refuses says so and goes; whoever was writing to it then finds out only that
    /// it has gone. What it said last says more.
    fn explained(&self, why: HandOverError) -> HandOverError {
        if !matches!(why, HandOverError::Channel(ChannelError::Closed)) {
            return why;
        }
        while let Ok((said, _)) = self.channel.receive::<ToPredecessor>() {
            if let ToPredecessor::Refused { why } = said {
                return HandOverError::Refused(why);
            }
        }
        why
    }

    fn stay(&self, running: Running, why: HandOverError) -> Outcome {
        self.resident.console.attach(running.console());
        if self.form == Form::Copying
            && let Err(error) = running.stop_dirty_log()
        {
            tracing::warn!(%error, "the dirty log stays on; the guest runs slower");
        }
        Outcome::Stayed { running, why }
    }
}

/// Everything but the permit frame is sent, and the guest stands still.
struct Ready {
    paused: Paused,
    frame: PermitFrame,
    copied: Copied,
}

fn out_of_turn(found: ToPredecessor, expected: &'static str) -> HandOverError {
    match found {
        ToPredecessor::Refused { why } => HandOverError::Refused(why),
        found => HandOverError::OutOfTurn { found: format!("{found:?}"), expected },
    }
}
