//! The predecessor's script.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use dwcp::acp::{Nonce, SessionId};
use dwcp::digest::{DigestKey, DigestSum, Root};

use super::blackout::{Blackout, Cause, now_ns};
use super::copy::Copier;
use super::message::{Form, Hello, PermitFrame, ToPredecessor, ToSuccessor, VERSION};
use super::{HandOverError, HandOverReport, Limits};
use crate::devices::ConsoleLink;
use crate::fault::{Step, reached};
use crate::ipc::Channel;
use crate::memory::GuestRam;
use crate::permit::PermitFile;
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
}

/// The machine and where it stands when something failed. Boxed: the way that succeeds pays nothing.
type Failed = Box<Failure>;

enum Failure {
    Running(Running, HandOverError),
    Paused(Paused, HandOverError),
}

impl Departure<'_> {
    /// Hands `running` over: the phases in their order, and one path for every failure.
    pub(crate) fn run(mut self, running: Running) -> Outcome {
        let started_ns = now_ns();
        let logs = self.form == Form::Copying;
        let failed = match self.until_permit_frame(running) {
            Ok(sent) => match self.after_permit_frame(sent, started_ns) {
                Ok(outcome) => return outcome,
                Err(failed) => failed,
            },
            Err(failed) => failed,
        };
        self.go_on(failed, logs)
    }

    /// Everything until the permit frame has been handed to the socket. The guest can still go on
    /// here at once.
    fn until_permit_frame(&mut self, running: Running) -> Result<Sent, Failed> {
        let ram = Arc::clone(running.ram());
        let mut copier = match self.prepare(&running, &ram) {
            Ok(copier) => copier,
            Err(why) => return Err(Box::new(Failure::Running(running, why))),
        };
        let mut blackout = Blackout::begin();
        let paused = running.pause();
        blackout.mark(Cause::Pause);
        match self.send_paused(&paused, copier.as_mut(), &mut blackout) {
            Ok(()) => Ok(Sent {
                paused,
                rounds: copier.as_ref().map_or(0, |copier| copier.rounds),
                pages_sent: copier.as_ref().map_or(0, |copier| copier.pages_sent),
                pages_sent_paused: copier
                    .as_ref()
                    .map_or(0, |copier| copier.pages_sent_in_last_round),
            }),
            Err(why) => Err(Box::new(Failure::Paused(paused, why))),
        }
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
                let mut copier = Copier::new(ram, self.channel, log, &self.resident.digest_key);
                copier.copy_while_running(self.limits)?;
                Some(copier)
            }
        };
        reached(Step::SourceCopied);
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
            cpuid: running.parts().cpuid.clone(),
            digest_key: *self.resident.digest_key.secret_bytes(),
        };
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

    /// While the guest stands still: drain, save, last harvest, last pages, permit frame.
    fn send_paused(
        &self,
        paused: &Paused,
        copier: Option<&mut Copier<'_>>,
        blackout: &mut Blackout,
    ) -> Result<(), HandOverError> {
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
        let frame = PermitFrame { state, root, blackout: blackout.clone() };
        self.channel.send(&ToSuccessor::Permit(Box::new(frame)), &[])?;
        reached(Step::SourcePermitSent);
        Ok(())
    }

    /// The permit frame is out. The record decides who may run, and it alone.
    fn after_permit_frame(&self, sent: Sent, started_ns: u64) -> Result<Outcome, Failed> {
        let why = match self.channel.receive().map_err(HandOverError::from) {
            Ok((ToPredecessor::Running { blackout }, _)) => {
                let report = sent.report(self.form, blackout, started_ns);
                return Ok(Outcome::HandedOver(report));
            }
            Ok((other, _)) => out_of_turn(other, "running"),
            Err(error) => error,
        };
        Err(Box::new(Failure::Paused(sent.paused, why)))
    }

    /// The one failure path: take the permit back, and let the guest go on here; or, if the record
    /// says that the successor has it, never again.
    fn go_on(&mut self, failed: Failed, logs: bool) -> Outcome {
        match *failed {
            Failure::Running(running, why) => {
                // If the offer stood in the record already, it is worthless without a permit frame.
                // If it did not, there is nothing to withdraw, and the table says so.
                let _ = self.resident.permit.withdraw(self.session);
                self.stay(running, why, logs)
            }
            Failure::Paused(frozen, why) => match self.resident.permit.withdraw(self.session) {
                Ok(()) if frozen.exit().is_some() => Outcome::Ended { paused: frozen },
                Ok(()) => self.stay(frozen.resume(), why, logs),
                Err(refusal) => {
                    tracing::error!(%why, %refusal, "the permit has gone");
                    Outcome::Departed { frozen, why }
                }
            },
        }
    }

    fn stay(&self, running: Running, why: HandOverError, logs: bool) -> Outcome {
        self.resident.console.attach(running.console());
        if logs && let Err(error) = running.stop_dirty_log() {
            tracing::warn!(%error, "the dirty log stays on; the guest runs slower");
        }
        Outcome::Stayed { running, why }
    }
}

/// Everything is sent, and the guest stands still.
struct Sent {
    paused: Paused,
    rounds: u32,
    pages_sent: u64,
    pages_sent_paused: u64,
}

impl Sent {
    fn report(&self, form: Form, blackout: Blackout, started_ns: u64) -> HandOverReport {
        HandOverReport {
            form,
            blackout,
            rounds: self.rounds,
            pages_sent: self.pages_sent,
            pages_sent_paused: self.pages_sent_paused,
            total_ns: now_ns().saturating_sub(started_ns),
        }
    }
}

fn out_of_turn(found: ToPredecessor, expected: &'static str) -> HandOverError {
    match found {
        ToPredecessor::Refused { why } => HandOverError::Refused(why),
        found => HandOverError::OutOfTurn { found: format!("{found:?}"), expected },
    }
}
