//! A machine goes to another host: what its attendant does for that.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::{Duration, Instant};

use machine::{
    ArrivalReport, Audit, Description, MoveLimits, MovePhase, MoveReport, PeerWord, Progress,
    SessionKeys, Step, SuperviseError, Supervised, Visit, Watch, Word, reached,
};

use super::attendant::{Attendant, sort};
use super::command::Command;
use super::machines::Registry;
use super::record::{Attempt, Moved};
use crate::api::{
    ApiError, Blocker, BlockerKind, ErrorCode, MachineName, MachineState, Migrate, MigrationCheck,
    MigrationOutcome, MigrationPhase, MigrationProgress, OperationProgress, Peer, Receipt,
    ReceiptAudit, ReceiptStatement, Timestamp,
};
use crate::operations::{Outcome, Pending};
use crate::peers::message::{
    Admission, Answer, Answered, Checked, Countersigned, Hello, Invitation, Offer, Question,
    VERSION,
};
use crate::peers::{PATIENT, PeerClient, PeerError, QUICK};
use crate::random::{hex, random};
use dwcp::transport::PublicKey;
use tokio::sync::oneshot;

/// A source that has been in doubt for so long has its keeper ask the other host's.
const ASK_AFTER: Duration = Duration::from_secs(1);
/// How often that is asked again.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// After so long it is asked to refuse, unless the guest runs there already.
const REFUSE_AFTER: Duration = Duration::from_secs(30);
/// How often, and how long apart, the other host is asked what it did, once the guest runs there.
const REPORTS: (u32, Duration) = (100, Duration::from_millis(20));

/// Bytes that are sent to see how fast they go: of a slow link it takes a second, of a fast one it is enough.
const TRIAL_BYTES: usize = 2 << 20;

/// What became of a machine that was to move.
pub(super) enum Departed {
    /// It runs on the other host; nothing of it runs here any more.
    Moved(Moved),
    /// It is here, as it was.
    Stayed,
    /// Its process is lost.
    Lost(SuperviseError),
}

/// A move, as its source's attendant has it.
struct Departure<'a> {
    attendant: &'a Attendant,
    operation: &'a Pending,
    peer: PeerClient,
    key: String,
    session: [u8; 16],
    audit: ReceiptAudit,
}

impl Attendant {
    /// Moves the machine to another host.
    pub(super) fn migrate(
        &self,
        machine: &Supervised,
        operation: &Pending,
        request: &Migrate,
    ) -> (Result<Outcome, ApiError>, Departed) {
        match self.depart(machine, operation, request) {
            Ok(came) => came,
            Err(error) => (Err(error), Departed::Stayed),
        }
    }

    fn depart(
        &self,
        machine: &Supervised,
        operation: &Pending,
        request: &Migrate,
    ) -> Result<(Result<Outcome, ApiError>, Departed), ApiError> {
        if self.entry.state() != MachineState::Running {
            let state = self.entry.state().name();
            let why =
                format!("machine {} is {state}; only one that runs can move", self.entry.name());
            return Err(ApiError::new(ErrorCode::Conflict, why));
        }
        advance(operation, MigrationPhase::Negotiate)?;
        let peer = self.shared.peers.find(&request.to)?;
        let session = random().map_err(ApiError::internal)?;
        let departure = Departure::new(self, operation, peer, session)?;
        let departure = Departure { audit: request.audit, ..departure };
        let description = match machine.describe() {
            Ok(description) => description,
            Err(error) => {
                let (answer, fatal) = sort(error);
                let answer = answer.map(|()| Outcome::Plain);
                return Ok((answer, fatal.map_or(Departed::Stayed, Departed::Lost)));
            }
        };
        let (own, public) = session_keys()?;
        let record = self.entry.record();
        let invitation = Invitation {
            version: VERSION,
            session: hex(&session),
            machine: hex(&record.id),
            name: self.entry.name().clone(),
            spec: record.spec,
            description,
            key: public,
            patience_ms: request.timeout_ms,
        };
        advance(operation, MigrationPhase::Prepare)?;
        // From here on the other host may have prepared, whether it could say so or not.
        let peer_key = departure.invite(&invitation).inspect_err(|_| departure.withdraw())?;
        reached(Step::DaemonDeparts);
        let visit = Visit {
            session,
            from: departure.key.clone(),
            keys: SessionKeys { own, peer: *peer_key.bytes() },
            patience: Duration::from_millis(request.timeout_ms),
        };
        let limits = MoveLimits {
            max_downtime: Duration::from_millis(request.max_downtime_ms),
            patience: visit.patience,
            streams: usize::try_from(request.streams).unwrap_or(1),
            stop_after_rounds: request.stop_after_rounds,
            audit: match request.audit {
                ReceiptAudit::None => Audit::None,
                ReceiptAudit::Sampled => Audit::Sampled,
                ReceiptAudit::Whole => Audit::Whole,
            },
            bandwidth: request.bandwidth.and_then(std::num::NonZeroU64::new),
        };
        let moved = departure.watched(machine, |watch| {
            let dial = |_| departure.peer.dial();
            machine.migrate(&visit, &departure.key, limits, &dial, Some(watch))
        });
        Ok(departure.conclude(moved))
    }

    /// Goes on with a move that a daemon before this one has begun.
    pub(super) fn go_on_migrating(
        &self,
        machine: &Supervised,
        operation: &Pending,
    ) -> (Result<Outcome, ApiError>, Departed) {
        let attempt = self.entry.record().departure;
        let departure = attempt.ok_or_else(|| "no record of it".to_owned()).and_then(|attempt| {
            let key = attempt.peer.parse().map_err(|_| "a bad key".to_owned())?;
            let peer = self.shared.peers.by_key(&key);
            // It is removed as somebody wants it: the move is not gone on with, and ends by its own limits.
            let peer = peer.unwrap_or_else(|| unknown_peer(&attempt.peer));
            Departure::new(self, operation, peer, attempt.session).map_err(|error| error.message)
        });
        match departure {
            Ok(departure) => {
                let moved = departure.watched(machine, |watch| {
                    machine.go_on_migrating(&|_| departure.peer.dial(), Some(watch))
                });
                departure.conclude(moved)
            }
            Err(why) => (Err(ApiError::internal(why)), Departed::Stayed),
        }
    }

    /// What the other host's record says of a session.
    pub(super) fn ask(
        peer: &PeerClient,
        machine: [u8; 16],
        session: [u8; 16],
        refuse: bool,
    ) -> Result<Answered, PeerError> {
        let question = Question { session: hex(&session), machine: hex(&machine), refuse };
        peer.post("/v1/answers", &question, QUICK)
    }
}

impl<'a> Departure<'a> {
    fn new(
        attendant: &'a Attendant,
        operation: &'a Pending,
        peer: Peer,
        session: [u8; 16],
    ) -> Result<Self, ApiError> {
        let shared = &attendant.shared;
        let key = peer.key.clone();
        let peer = PeerClient::new(&shared.identity, peer, shared.runtime.clone())?;
        // What a daemon before this one has ordered is not known; it is at least the default, if pages were looked at.
        Ok(Self { attendant, operation, peer, key, session, audit: ReceiptAudit::Sampled })
    }

    /// Runs a move, and meanwhile shows how far it is and ends its doubts.
    fn watched(
        &self,
        machine: &Supervised,
        run: impl FnOnce(Watch<'_>) -> Result<MoveReport, SuperviseError>,
    ) -> Result<MoveReport, SuperviseError> {
        let inquiry = RefCell::new(Inquiry::default());
        let watch = |progress: Progress| {
            let phase = progress.moving.map(|moving| moving.phase);
            let entry = &self.attendant.entry;
            let mut progress = shown(progress);
            if phase == Some(MovePhase::InDoubt) {
                if inquiry.borrow_mut().has_lasted(ASK_AFTER) {
                    entry.set_state(MachineState::InDoubt, None);
                } else if let Some(migration) = &mut progress.migration {
                    // Every move is in doubt for a round trip.
                    migration.phase = MigrationPhase::Switch;
                }
                if let Some(word) = inquiry.borrow_mut().turn(self) {
                    machine.tell(Word::Answered(word));
                }
                if entry.take_resolution(self.session) {
                    // The record's own generation is raised whatever is said here.
                    machine.tell(Word::Resolved { above: (0, 0) });
                }
            } else if phase == Some(MovePhase::Settle) {
                // It is known to run there.
                entry.set_state(MachineState::Moved, None);
            }
            self.operation.advance(progress)
        };
        run(Watch(&watch))
    }

    /// What is noted of a move that is over, here and for whoever asked.
    fn conclude(
        &self,
        moved: Result<MoveReport, SuperviseError>,
    ) -> (Result<Outcome, ApiError>, Departed) {
        match moved {
            Ok(report) => {
                reached(Step::DaemonMoved);
                // It has come: nothing can be cancelled any more.
                let _ = advance(self.operation, MigrationPhase::Settle);
                self.attendant.entry.set_state(MachineState::Moved, None);
                let outcome = self.outcome(&report);
                let moved = Moved { to: self.key.clone(), at: Timestamp::now() };
                (Ok(Outcome::Migration(Box::new(outcome))), Departed::Moved(moved))
            }
            Err(error) => {
                let is_here = matches!(error, SuperviseError::Migration(_));
                if let SuperviseError::Departed(_) = &error {
                    self.attendant.entry.set_state(MachineState::Departed, None);
                } else if is_here {
                    self.stayed();
                }
                let (answer, fatal) = sort(error);
                let answer = answer.map(|()| Outcome::Plain).map_err(|error| ApiError {
                    // Whoever cancelled it did not ask for anything but this.
                    code: if is_here {
                        super::jobs::cancelled_or(self.operation, error.code)
                    } else {
                        error.code
                    },
                    ..error
                });
                (answer, fatal.map_or(Departed::Stayed, Departed::Lost))
            }
        }
    }

    /// Has the other host prepare, and notes that: a daemon that comes later goes on with it.
    fn invite(&self, invitation: &Invitation) -> Result<PublicKey, ApiError> {
        let Admission { key } = self.peer.post("/v1/invitations", invitation, PATIENT)?;
        let key = key.parse().map_err(ApiError::internal)?;
        let attempt = Attempt {
            session: self.session,
            peer: self.key.clone(),
            operation: self.operation.id(),
            is_new: false,
        };
        let noted = self.attendant.entry.change(|record| record.departure = Some(attempt));
        noted.map_err(ApiError::internal)?;
        Ok(key)
    }

    /// The guest goes on here.
    fn stayed(&self) {
        let entry = &self.attendant.entry;
        if entry.state() == MachineState::InDoubt {
            entry.set_state(MachineState::Running, None);
        }
        self.withdraw();
    }

    /// Nothing moves, and nothing has: the other host is told, in case that nobody could any more.
    fn withdraw(&self) {
        let entry = &self.attendant.entry;
        if let Err(error) = entry.change(|record| record.departure = None) {
            tracing::error!(%error, "that a machine did not move is not written");
        }
        let machine = entry.record().id;
        if let Err(error) = Attendant::ask(&self.peer, machine, self.session, true) {
            tracing::info!(%error, "the other host finds out by itself that the move is over");
        }
    }

    /// The report, with what the other host has to say.
    fn outcome(&self, report: &MoveReport) -> MigrationOutcome {
        let arrival = self.arrival();
        if arrival.is_none() {
            tracing::warn!(
                "the other host does not say what it did; the report has this one's half"
            );
        }
        let home = self.attendant.entry.home();
        let generation = home.permit_record().map(|record| record.generation().to_string());
        let (blackout_ns, causes) = blackout(report, arrival.as_ref());
        let outcome = MigrationOutcome {
            session: hex(&self.session),
            from: self.attendant.shared.identity.public().to_string(),
            to: self.key.clone(),
            generation: generation.unwrap_or_default(),
            root: hex(&report.root),
            blackout_ns,
            causes,
            forecast_ns: report.forecast.map(nanoseconds),
            total_ns: nanoseconds(report.total),
            rounds: report.rounds,
            pages_sent: report.pages_sent,
            pages_again: report.pages_again,
            payload_bytes: report.payload_bytes,
            payload_bytes_paused: report.payload_bytes_paused,
            connections: report.connections,
            audit: self.audit,
            audited_pages: report.audit.pages,
            audited_different: report.audit.different,
            has_receipt: false,
        };
        if arrival.is_none() {
            return outcome;
        }
        let signed = self.receipt(&outcome);
        if let Err(error) = &signed {
            tracing::warn!(%error, "the move has no receipt");
        }
        MigrationOutcome { has_receipt: signed.is_ok(), ..outcome }
    }

    /// Has both hosts sign what was done, and keeps that.
    fn receipt(&self, outcome: &MigrationOutcome) -> Result<(), ApiError> {
        let shared = &self.attendant.shared;
        let statement = ReceiptStatement {
            session: outcome.session.clone(),
            machine: hex(&self.attendant.entry.record().id),
            from: outcome.from.clone(),
            to: outcome.to.clone(),
            generation: outcome.generation.clone(),
            root: outcome.root.clone(),
            blackout_ns: outcome.blackout_ns,
            audit: audited(outcome),
            ended_at: Timestamp::now(),
        };
        let signature = statement.sign(shared.identity.keys());
        let offer = Offer { statement: statement.clone(), signature, outcome: outcome.clone() };
        let signed: Countersigned = self.peer.post("/v1/receipts", &offer, QUICK)?;
        let receipt = Receipt::new(statement, offer.signature, signed.signature);
        shared.receipts.put(&receipt).map_err(ApiError::internal)
    }

    fn arrival(&self) -> Option<ArrivalReport> {
        let machine = self.attendant.entry.record().id;
        let (times, apart) = REPORTS;
        for _ in 0..times {
            match Attendant::ask(&self.peer, machine, self.session, false) {
                Ok(Answered { arrival: Some(arrival), .. }) => return Some(arrival),
                // Its daemon hears of it a moment after the source does.
                Ok(_) => std::thread::sleep(apart),
                Err(error) => {
                    tracing::warn!(%error, "the other host is not heard");
                    return None;
                }
            }
        }
        None
    }
}

impl Registry {
    /// What another host must know of a machine; none if it does not run.
    pub(crate) async fn describe(
        &self,
        name: &MachineName,
    ) -> Result<Option<Box<Description>>, ApiError> {
        let entry = self.find(name)?;
        if entry.state() != MachineState::Running {
            return Ok(None);
        }
        let (reply, answer) = oneshot::channel();
        entry.tell("described", Command::Describe(reply))?;
        match answer.await {
            Ok(description) => description.map(Some),
            // Its guest has ended meanwhile.
            Err(_) => Ok(None),
        }
    }

    /// Whether a machine could move to a host. Waits for that.
    pub(crate) fn check_migration(
        &self,
        name: &MachineName,
        to: &MachineName,
        described: Result<Option<Box<Description>>, ApiError>,
    ) -> Result<MigrationCheck, ApiError> {
        let entry = self.find(name)?;
        let shared = self.shared();
        let peer = shared.peers.find(to)?;
        let record = entry.record();
        let mut check = MigrationCheck {
            machine: name.clone(),
            to: to.clone(),
            blockers: Vec::new(),
            round_trip_ns: None,
            bytes_per_second: None,
            memory_bytes: record.spec.memory_bytes,
        };
        let description = match described {
            Ok(Some(description)) => *description,
            Ok(None) => {
                let state = entry.state().name();
                let why = format!("machine {name} is {state}; only one that runs can move");
                check.blockers.push(state_blocker(why));
                return Ok(check);
            }
            Err(error) if error.code == ErrorCode::Conflict => {
                check.blockers.push(state_blocker(error.to_string()));
                return Ok(check);
            }
            Err(error) => return Err(error),
        };
        let client = PeerClient::new(&shared.identity, peer, shared.runtime.clone())?;
        let invitation = Invitation {
            version: VERSION,
            session: hex(&[1; 16]),
            machine: hex(&record.id),
            name: name.clone(),
            spec: record.spec,
            // Only the host that gets the machine gets the secret of its digests.
            description: description.without_secret(),
            key: shared.identity.public().to_string(),
            patience_ms: 0,
        };
        let seen = client.post("/v1/check", &invitation, QUICK);
        let seen = seen.map(|Checked { blockers }| blockers);
        match seen.and_then(|blockers| measure(&client, &mut check).map(|()| blockers)) {
            Ok(blockers) => check.blockers.extend(
                blockers.into_iter().map(|blocker| Blocker { host: Some(to.clone()), ..blocker }),
            ),
            Err(error) => check.blockers.push(Blocker {
                kind: match &error {
                    PeerError::Unreachable { .. } => BlockerKind::Unreachable,
                    PeerError::Refused { .. } => BlockerKind::Host,
                },
                host: Some(to.clone()),
                message: error.to_string(),
            }),
        }
        Ok(check)
    }
}

fn state_blocker(message: String) -> Blocker {
    Blocker { kind: BlockerKind::State, host: None, message }
}

/// How far away the host is, and what the way takes.
fn measure(client: &PeerClient, check: &mut MigrationCheck) -> Result<(), PeerError> {
    let mut quickest = Duration::MAX;
    for _ in 0..3 {
        let began = Instant::now();
        let Hello { version, release } = client.get("/v1/hello")?;
        tracing::debug!(version, release, "the other host");
        quickest = quickest.min(began.elapsed());
    }
    let sent = client.send_trial(TRIAL_BYTES)?;
    // Each call is three round trips: TCP's, TLS's, and its own.
    check.round_trip_ns = Some(nanoseconds(quickest) / 3);
    let sending = sent.saturating_sub(quickest).max(Duration::from_micros(1));
    check.bytes_per_second = Some(whole(TRIAL_BYTES as f64 / sending.as_secs_f64()));
    Ok(())
}

/// Asks the other host's daemon what became of a session, without making anybody wait.
#[derive(Default)]
struct Inquiry {
    since: Option<Instant>,
    asked_at: Option<Instant>,
    answer: Option<Receiver<Result<Answered, PeerError>>>,
}

impl Inquiry {
    fn has_lasted(&mut self, limit: Duration) -> bool {
        self.since.get_or_insert_with(Instant::now).elapsed() >= limit
    }

    /// What is known since the last turn.
    fn turn(&mut self, departure: &Departure<'_>) -> Option<PeerWord> {
        if let Some(answer) = &self.answer {
            match answer.try_recv() {
                Ok(answered) => {
                    self.answer = None;
                    return word(answered);
                }
                Err(TryRecvError::Empty) => return None,
                Err(TryRecvError::Disconnected) => self.answer = None,
            }
        }
        let is_due = self.asked_at.is_none_or(|at| at.elapsed() >= ASK_EVERY);
        if !self.has_lasted(ASK_AFTER) || !is_due {
            return None;
        }
        self.asked_at = Some(Instant::now());
        let refuse = self.has_lasted(REFUSE_AFTER);
        let shared = Arc::clone(&departure.attendant.shared);
        let (key, session) = (departure.key.clone(), departure.session);
        let machine = departure.attendant.entry.record().id;
        let (send, answer) = channel();
        let ask = move || {
            let Some(peer) = key.parse().ok().and_then(|key| shared.peers.by_key(&key)) else {
                return;
            };
            let client = PeerClient::new(&shared.identity, peer, shared.runtime.clone());
            if let Ok(client) = client {
                let _ = send.send(Attendant::ask(&client, machine, session, refuse));
            }
        };
        // Without a thread it is asked again in a moment.
        let asking = std::thread::Builder::new().name("inquiry".into()).spawn(ask);
        self.answer = asking.ok().map(|_| answer);
        None
    }
}

fn word(answered: Result<Answered, PeerError>) -> Option<PeerWord> {
    match answered {
        Ok(Answered { answer: Answer::Ran, .. }) => Some(PeerWord::Ran),
        Ok(Answered { answer: Answer::NeverRan, .. }) => Some(PeerWord::NeverRan),
        Ok(Answered { answer: Answer::Unknown, .. }) => Some(PeerWord::Unknown),
        Ok(Answered { answer: Answer::Undecided, .. }) => None,
        Err(error) => {
            tracing::debug!(%error, "in doubt");
            None
        }
    }
}

/// A blackout by cause: what the source saw, and, where the destination has said it, what it did in the time that the
/// source waited for its answer. The answer's way, half of the smallest round trip, is no part of it: the guest ran.
fn blackout(report: &MoveReport, arrival: Option<&ArrivalReport>) -> (u64, Vec<(String, u64)>) {
    let mut causes = Vec::new();
    for (cause, ns) in report.blackout.parts() {
        let (machine::Cause::Wire, Some(arrival)) = (cause, arrival) else {
            causes.push((cause.name().to_owned(), ns));
            continue;
        };
        let answer = report.round_trip.map_or(0, |round_trip| nanoseconds(round_trip) / 2);
        let there = [
            ("restore", nanoseconds(arrival.restore)),
            ("record", nanoseconds(arrival.record)),
            ("resume", nanoseconds(arrival.resume)),
        ];
        let known: u64 = there.iter().map(|(_, ns)| ns).sum();
        causes.push(("wire".to_owned(), ns.saturating_sub(known + answer)));
        causes.extend(there.map(|(name, ns)| (name.to_owned(), ns)));
    }
    (causes.iter().map(|(_, ns)| ns).sum(), causes)
}

/// How much of the memory was found to be as it was sent.
fn audited(outcome: &MigrationOutcome) -> ReceiptAudit {
    let is_clean = outcome.audited_different == 0;
    match outcome.audited_pages {
        pages if pages > 0 && is_clean => outcome.audit,
        _ => ReceiptAudit::None,
    }
}

/// How far a move is, as it is shown.
pub(super) fn shown(progress: Progress) -> OperationProgress {
    let Progress { rounds, pages_done, pages_owed, moving } = progress;
    let migration = moving.map(|moving| MigrationProgress {
        phase: match moving.phase {
            MovePhase::Live => MigrationPhase::Live,
            MovePhase::Switch => MigrationPhase::Switch,
            MovePhase::InDoubt => MigrationPhase::InDoubt,
            MovePhase::Settle => MigrationPhase::Settle,
        },
        bytes_sent: moving.bytes_sent,
        bytes_per_second: moving.bytes_per_second.map(whole),
        round_trip_ns: moving.round_trip.map(nanoseconds),
        forecast_ns: moving.forecast.map(nanoseconds),
        streams: moving.streams,
        waiting_ms: moving.waiting.map(|waiting| nanoseconds(waiting) / 1_000_000),
    });
    OperationProgress { rounds, pages_done, pages_owed, migration }
}

/// Notes a phase that has no counters; an error if the move is not wanted any more.
fn advance(operation: &Pending, phase: MigrationPhase) -> Result<(), ApiError> {
    let migration = Some(MigrationProgress { phase, ..MigrationProgress::default() });
    let progress = OperationProgress { migration, ..OperationProgress::default() };
    if operation.advance(progress).is_break() {
        return Err(ApiError::new(ErrorCode::Cancelled, "it was cancelled before anything moved"));
    }
    Ok(())
}

/// A private key, and the text of its public half.
pub(super) fn session_keys() -> Result<(Vec<u8>, String), ApiError> {
    let own = dwcp::transport::KeyPair::generate().map_err(ApiError::internal)?;
    let pair = dwcp::transport::KeyPair::from_pkcs8(&own).map_err(ApiError::internal)?;
    Ok((own, pair.public().to_string()))
}

/// One that was removed while a machine was moving to it.
fn unknown_peer(key: &str) -> Peer {
    Peer {
        name: "unknown".parse().expect("it is a name"),
        address: String::new(),
        key: key.to_owned(),
        added_at: Timestamp::now(),
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate, for people")]
fn whole(rate: f64) -> u64 {
    rate as u64
}
