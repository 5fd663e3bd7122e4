//! A machine comes from another host: whether it may, and what its attendant does for that.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use dwcp::acp;
use machine::{
    Prepared, Progress, SessionKeys, Step, SuperviseError, Supervised, Visit, Watch, reached,
};

use super::attendant::{Attendant, Beginning};
use super::departures::{session_keys, shown};
use super::entry::Entry;
use super::keeping::SETTLING;
use super::machines::Registry;
use super::record::{Attempt, Record};
use crate::api::{
    ApiError, Blocker, BlockerKind, ErrorCode, MachineName, MigrationOutcome, MigrationPhase,
    OperationProgress, Peer, Receipt, ReceiptStatement,
};
use crate::audit_trail::CallId;
use crate::host;
use crate::operations::{Outcome, Pending};
use crate::peers::id;
use crate::peers::message::{
    Admission, Answer, Answered, Checked, Countersigned, Invitation, Offer, Question, VERSION,
};
use crate::random::hex;
use crate::spec;

/// How long a process may take to build a machine.
const BUILDING: Duration = Duration::from_secs(50);
/// How much later than its source this daemon may hear that a guest has come.
const HEARING: Duration = Duration::from_secs(2);
/// Memory that a move needs besides the guest's: the buffers of its streams,
const OVERHEAD_BYTES: u64 = 64 << 20;
/// and digests and numbers of its pages, 40 bytes a page, and as much for what was kept of them.
const OVERHEAD_PART: u64 = 4096 / 80;

/// A machine that is to come, for the attendant that receives it.
#[derive(Debug)]
pub(super) struct Arriving {
    pub(super) invitation: Box<Invitation>,
    pub(super) attempt: Attempt,
    /// The private key that this host has in the session.
    pub(super) own: Vec<u8>,
    pub(super) from: Peer,
    pub(super) operation: Arc<Pending>,
    /// Told when the machine is built and waits.
    pub(super) ready: Sender<Result<bool, ApiError>>,
}

impl Registry {
    /// What is in the way of a machine's coming. Nothing is changed.
    pub(crate) fn check_arrival(&self, peer: &Peer, invitation: &Invitation) -> Checked {
        Checked { blockers: self.blockers(peer, invitation) }
    }

    fn blockers(&self, peer: &Peer, invitation: &Invitation) -> Vec<Blocker> {
        let mut blockers = Vec::new();
        let mut block = |kind, message: String| {
            blockers.push(Blocker { kind, host: None, message });
        };
        if invitation.version != VERSION {
            let message = format!(
                "this host speaks version {VERSION} of the control channel, {} speaks {}; use one release on both",
                peer.name, invitation.version
            );
            block(BlockerKind::Version, message);
            return blockers;
        }
        if let Err(error) = invitation.description.check_here() {
            block(BlockerKind::Cpu, error.to_string());
        }
        let memory = invitation.spec.memory_bytes;
        let needed = memory.saturating_add(memory / OVERHEAD_PART).saturating_add(OVERHEAD_BYTES);
        // Guests that are still to come have not touched theirs yet.
        let coming = self.coming_bytes();
        match host::available_memory().map(|bytes| bytes.saturating_sub(coming)) {
            Ok(available) if available < needed => {
                let message = format!(
                    "it needs {} MiB of memory, and {} MiB are available here",
                    needed >> 20,
                    available >> 20
                );
                block(BlockerKind::Memory, message);
            }
            Ok(_) => {}
            Err(error) => block(BlockerKind::Host, error.message),
        }
        match id(&invitation.machine, "the machine's id") {
            Ok(machine) => match self.find_by_id(machine) {
                Some(entry) => {
                    if let Some(message) = entry.keeps_from_coming(&invitation.spec) {
                        block(BlockerKind::Permit, message);
                    }
                }
                None => self.check_place(&invitation.name, &mut block),
            },
            Err(error) => block(BlockerKind::Version, error.message),
        }
        blockers
    }

    fn check_place(&self, name: &MachineName, block: &mut impl FnMut(BlockerKind, String)) {
        if self.find(name).is_ok() {
            let message = format!("another machine is called {name} there; delete or rename one");
            block(BlockerKind::Name, message);
        }
        let (most, count) = (self.shared().limits.machines, self.list().len());
        if count >= most {
            block(
                BlockerKind::Limit,
                format!("there are {most} machines already (limits.machines)"),
            );
        }
    }

    /// Prepares for a machine that is to come: its record, its process, the whole machine.
    ///
    /// # Errors
    /// When something is in the way.
    pub(crate) fn invite(
        &self,
        peer: &Peer,
        invitation: Invitation,
        call: CallId,
    ) -> Result<Admission, ApiError> {
        // Whoever could not come anyway waits for nothing, and ends nothing. Of memory there may be more in a moment.
        let blockers = self.blockers(peer, &invitation);
        if blockers.iter().any(|blocker| blocker.kind != BlockerKind::Memory) {
            unless_blocked(blockers)?;
        }
        let session = id(&invitation.session, "the session")?;
        let machine = id(&invitation.machine, "the machine's id")?;
        let shape = spec::check(&invitation.spec)?;
        if shape.config != invitation.description.config {
            let why = "the spec is not that of the machine which is described";
            return Err(ApiError::new(ErrorCode::BadRequest, why));
        }
        // What is still being kept of it here is memory that it needs, and pages that need not come.
        self.shared().kept.settle(machine, SETTLING);
        // Until it is claimed: of two invitations of one machine, or under one name, one is the first.
        let receiving = self.receiving();
        unless_blocked(self.blockers(peer, &invitation))?;
        let name = invitation.name.clone();
        let (own, public) = session_keys()?;
        if self.shared().arrivals.door(session).is_some() {
            return Err(ApiError::new(ErrorCode::Conflict, "that session is under way"));
        }
        let attempt =
            |is_new| Attempt { session, peer: peer.key.clone(), operation: call.0.clone(), is_new };
        let entry = match self.find_by_id(machine) {
            Some(entry) => entry,
            None => {
                let mut record = Record::new(machine, invitation.spec.clone());
                record.arrival = Some(attempt(true));
                self.make_arriving(&name, record)?
            }
        };
        let attempt = attempt(entry.record().arrival.is_some());
        let is_new = attempt.is_new;
        let operation = self.begin(call, "machines.arrive", &name, true);
        let (ready, built) = channel();
        let arriving = Arriving {
            invitation: Box::new(invitation),
            attempt,
            own,
            from: peer.clone(),
            operation: Arc::clone(&operation),
            ready,
        };
        let begun =
            self.attend(&entry, Some(operation.id()), Beginning::Arrive(Box::new(arriving)));
        if begun.is_err() && is_new {
            self.discard(&entry);
        }
        let operation = self.unless(begun, operation)?;
        drop(receiving);
        // Nobody comes any more for what is built too late.
        let has_kept = wait_for(&built).inspect_err(|_| drop(operation.cancel()))?;
        Ok(Admission { key: public, has_kept })
    }

    /// What is known here of a session.
    pub(crate) fn answer_about(
        &self,
        peer: &Peer,
        question: &Question,
    ) -> Result<Answered, ApiError> {
        let session = id(&question.session, "the session")?;
        let machine = id(&question.machine, "the machine's id")?;
        let entry = self.find_by_id(machine);
        let home = match &entry {
            Some(entry) => Some(entry.home()),
            None => self.store().kept_permit(machine),
        };
        let Some(home) = home else {
            return Ok(Answered { answer: Answer::Unknown, arrival: None });
        };
        if question.refuse
            && let Some(entry) = &entry
        {
            self.refuse_arrival(entry, peer, session);
        }
        let answer = match home.answer(session).map_err(ApiError::internal)? {
            acp::Answer::Ran => Answer::Ran,
            acp::Answer::NeverRan => Answer::NeverRan,
            acp::Answer::Undecided | acp::Answer::RefuseFirst => Answer::Undecided,
            acp::Answer::Unknown => Answer::Unknown,
        };
        let limit = if question.report && answer == Answer::Ran { HEARING } else { Duration::ZERO };
        let arrival = self.shared().arrivals.report_within(session, &peer.key, limit);
        Ok(Answered { answer, arrival })
    }

    /// Signs what the source of a move says of it, if it is what this host has seen.
    pub(crate) fn countersign(&self, peer: &Peer, offer: Offer) -> Result<Countersigned, ApiError> {
        let Offer { statement, signature, outcome } = offer;
        let refused = |why: String| ApiError::new(ErrorCode::BadRequest, why);
        statement.check().map_err(|error| refused(format!("the receipt: {error}")))?;
        self.is_true(peer, &statement).map_err(|why| refused(why.to_owned()))?;
        if !outcome.is_of(&statement) {
            return Err(refused("the report is not that of the receipt".to_owned()));
        }
        let shared = self.shared();
        let session = id(&statement.session, "the session")?;
        let countersigned = statement.sign(shared.identity.keys());
        let receipt = Receipt::new(statement, signature, countersigned.clone());
        shared.receipts.put(&receipt).map_err(|error| refused(error.to_string()))?;
        if let Some(operation) = shared.arrivals.operation(session)
            && let Ok(operation) = shared.operations.find(&operation)
        {
            operation.reports(MigrationOutcome { has_receipt: true, ..outcome });
        }
        Ok(Countersigned { signature: countersigned })
    }

    /// Whether a statement is of a move that has come here from this host, as far as this one has seen it: how long the
    /// guest stood still, only its source knows.
    fn is_true(&self, peer: &Peer, statement: &ReceiptStatement) -> Result<(), &'static str> {
        let shared = self.shared();
        if statement.from != peer.key || statement.to != shared.identity.public().to_string() {
            return Err("the receipt is not of a move from there to here");
        }
        let of = |text: &str| id(text, "an id").map_err(|_| "an id of zeros");
        let (session, machine) = (of(&statement.session)?, of(&statement.machine)?);
        let Some(arrival) = shared.arrivals.report(session, &peer.key) else {
            return Err("this host does not remember that move");
        };
        let entry = self.find_by_id(machine).ok_or("this host does not know that machine")?;
        let record = entry.home().permit_record().map_err(|_| "the permit record is not read")?;
        let taken = acp::SessionId::new(session).and_then(|session| record.outcome(session));
        if taken != Some(acp::Outcome::Taken) {
            return Err("the machine did not come in that session");
        }
        if statement.root != hex(&arrival.root) {
            return Err("its root is not the one that was found here");
        }
        if statement.generation != record.generation().to_string() {
            return Err("its generation is not that of the record here");
        }
        Ok(())
    }

    /// The source does not want it any more. What comes of it, the record shows in a moment.
    fn refuse_arrival(&self, entry: &Entry, peer: &Peer, session: [u8; 16]) {
        let Some(attempt) = entry.record().arrival else { return };
        if attempt.session != session || attempt.peer != peer.key {
            return;
        }
        if let Ok(operation) = self.shared().operations.find(&attempt.operation) {
            let _ = operation.cancel();
        }
    }
}

fn unless_blocked(blockers: Vec<Blocker>) -> Result<(), ApiError> {
    if blockers.is_empty() {
        return Ok(());
    }
    let all: Vec<_> = blockers.into_iter().map(|blocker| blocker.message).collect();
    Err(ApiError::new(ErrorCode::Blocked, all.join("; ")))
}

fn wait_for(built: &Receiver<Result<bool, ApiError>>) -> Result<bool, ApiError> {
    built.recv_timeout(BUILDING).unwrap_or_else(|_| {
        Err(ApiError::new(ErrorCode::TimedOut, "the machine was not built in time"))
    })
}

impl Attendant {
    /// Builds the machine that comes, says that it waits, and waits.
    pub(super) fn arrive(&self, arriving: &Arriving) -> Result<(Supervised, Outcome), ApiError> {
        let Arriving { invitation, attempt, own, from, operation, ready } = arriving;
        let session = attempt.session;
        // Claimed: nobody else changes it now.
        let noted = self.entry.change(|record| {
            record.arrival = Some(attempt.clone());
        });
        reached(Step::DaemonInvited);
        let prepared = noted
            .map_err(ApiError::internal)
            .and_then(|()| self.prepare(invitation, session, own.clone(), from));
        match prepared {
            Ok((prepared, has_kept)) => {
                reached(Step::DaemonPrepared);
                // Before the source hears of it: its streams come at once.
                self.shared.arrivals.opens(session, prepared.door());
                let _ = ready.send(Ok(has_kept));
                self.wait_for_guest(prepared, session, operation)
            }
            Err(error) => {
                let _ = ready.send(Err(error.clone()));
                Err(error)
            }
        }
    }

    fn prepare(
        &self,
        invitation: &Invitation,
        session: [u8; 16],
        own: Vec<u8>,
        from: &Peer,
    ) -> Result<(Prepared, bool), ApiError> {
        let peer: dwcp::transport::PublicKey =
            invitation.key.parse().map_err(|error: dwcp::transport::KeyError| {
                ApiError::new(ErrorCode::BadRequest, error.to_string())
            })?;
        let visit = Visit {
            session,
            from: from.key.clone(),
            keys: SessionKeys { own, peer: *peer.bytes() },
            patience: invitation.patience(),
        };
        let shape = spec::check(&invitation.spec)?;
        let home = self.entry.home();
        let kept = self.shared.kept.file(self.entry.id());
        let prepared = self.shared.with_executable(shape.dirty_log, |executable| {
            home.prepare(executable, invitation.description.clone(), visit, kept.as_ref())
        });
        let (prepared, console) = prepared.map_err(|error| {
            let code = match error {
                SuperviseError::Permit(_) | SuperviseError::Refused(_) => ErrorCode::Blocked,
                _ => ErrorCode::Internal,
            };
            ApiError::new(code, error.to_string())
        })?;
        self.connect(console)?;
        Ok((prepared, kept.is_some()))
    }

    /// Waits until the guest runs here, or never will.
    pub(super) fn wait_for_guest(
        &self,
        prepared: Prepared,
        session: [u8; 16],
        operation: &Pending,
    ) -> Result<(Supervised, Outcome), ApiError> {
        let process = prepared.process();
        if let Ok(ender) = process.ender() {
            self.entry.has_process(Some((process.id(), ender)));
        }
        let watch = |progress: Progress| {
            let phase = MigrationPhase::Live;
            let progress = shown(progress);
            let migration = Some(crate::api::MigrationProgress {
                phase,
                ..progress.migration.unwrap_or_default()
            });
            operation.advance(OperationProgress { migration, ..progress })
        };
        let came = prepared.wait(Some(Watch(&watch)));
        self.shared.arrivals.closes(session);
        let (machine, report) =
            came.map_err(|error| ApiError::new(ErrorCode::MachineFailed, error.to_string()))?;
        reached(Step::DaemonCame);
        // It grows old from here on.
        self.shared.kept.discard(self.entry.id());
        let peer = self.entry.record().arrival.map(|arrival| arrival.peer).unwrap_or_default();
        self.shared.arrivals.came(session, peer, operation.id(), report);
        let noted = self.entry.change(|record| {
            record.arrival = None;
            record.moved = None;
            record.ended = None;
            record.should_run = true;
            super::entry::started(record);
        });
        if let Err(error) = noted {
            tracing::error!(%error, "that a machine has come is not written");
        }
        Ok((machine, Outcome::Plain))
    }
}
