//! A machine goes to another host: what its attendant does for that.

use std::cell::RefCell;
use std::io;
use std::net::TcpStream;
use std::num::{NonZeroU32, NonZeroU64};
use std::rc::Rc;
use std::time::Duration;

use dwcp::transport::PublicKey;
use machine::{
    Audit, Dial, LimitChange, LiveLimits, MoveImages, MoveLimits, MovePhase, MoveReport, Progress,
    SessionKeys, Step, SuperviseError, Supervised, Visit, Watch, Word, reached,
};

use super::attendant::{Attendant, sort};
use super::inquiry::Inquiry;
use super::jobs::{cancelled_or, seconds};
use super::move_report::{nanoseconds, whole};
use super::record::{Attempt, Moved};
use crate::api::{
    ApiError, ChangeMove, ErrorCode, MachineState, Migrate, MigrationLimits, MigrationPhase,
    MigrationProgress, OperationProgress, ReceiptAudit, Timestamp,
};
use crate::operations::{Outcome, Pending};
use crate::peers::message::{Admission, Answered, Invitation, Question, VERSION};
use crate::peers::{PATIENT, PeerClient, PeerError, QUICK};
use crate::random::{hex, random};

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
pub(super) struct Departure<'a> {
    pub(super) attendant: &'a Attendant,
    operation: &'a Pending,
    /// The other host's key.
    pub(super) key: String,
    pub(super) session: [u8; 16],
    pub(super) audit: ReceiptAudit,
    client: RefCell<Option<Rc<PeerClient>>>,
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
        let departure = Departure::new(self, operation, peer.key, session, request.audit);
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
        let (peer_key, recalls) =
            departure.invite(&invitation).inspect_err(|_| departure.withdraw())?;
        reached(Step::DaemonDeparts);
        let visit = Visit {
            session,
            from: departure.key.clone(),
            keys: SessionKeys { own, peer: *peer_key.bytes() },
            patience: Duration::from_millis(request.timeout_ms),
        };
        let images = MoveImages { recalls, stays: self.shared.kept.are_made() };
        let moved = departure.watched(machine, |watch| {
            let (to, dial) = (&departure.key, departure.dial());
            machine.migrate(&visit, to, limits(request), images, &dial, Some(watch))
        });
        Ok(departure.conclude(moved))
    }

    /// Goes on with a move that a daemon before this one has begun.
    pub(super) fn go_on_migrating(
        &self,
        machine: &Supervised,
        operation: &Pending,
    ) -> (Result<Outcome, ApiError>, Departed) {
        let Some(attempt) = self.entry.record().departure else {
            let why = "this host has no record of the move";
            return (Err(ApiError::internal(why)), Departed::Stayed);
        };
        let Attempt { peer: key, session, .. } = attempt;
        // What the daemon before this one has ordered is not known; it is at least the default, if pages were looked at.
        let audit = ReceiptAudit::Sampled;
        let departure = Departure::new(self, operation, key, session, audit);
        let moved = departure
            .watched(machine, |watch| machine.go_on_migrating(&departure.dial(), Some(watch)));
        departure.conclude(moved)
    }
}

impl<'a> Departure<'a> {
    fn new(
        attendant: &'a Attendant,
        operation: &'a Pending,
        key: String,
        session: [u8; 16],
        audit: ReceiptAudit,
    ) -> Self {
        Self { attendant, operation, key, session, audit, client: RefCell::default() }
    }

    /// The other host. It is looked up each time: somebody may change its address, or remove it.
    pub(super) fn peer(&self) -> Result<Rc<PeerClient>, ApiError> {
        let shared = &self.attendant.shared;
        let known = shared.known_peer(&self.key)?;
        let mut client = self.client.borrow_mut();
        if let Some(client) = client.as_ref().filter(|client| *client.peer() == known) {
            return Ok(Rc::clone(client));
        }
        Ok(Rc::clone(client.insert(Rc::new(shared.peer(&self.key)?))))
    }

    /// How the machine process gets its sockets.
    fn dial(&self) -> impl Fn(Dial) -> io::Result<TcpStream> + Sync + '_ {
        let (shared, key) = (&self.attendant.shared, &self.key);
        move |_| shared.peer(key).map_err(io::Error::other)?.dial()
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
            for change in self.operation.take_changes() {
                machine.tell(Word::Limits(limit_change(change)));
            }
            let entry = &self.attendant.entry;
            let mut progress = shown(progress);
            if phase == Some(MovePhase::InDoubt) {
                if inquiry.borrow_mut().is_in_earnest() {
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

    /// Asks the other host what became of the session; to refuse it, if that is still possible.
    fn ask(&self, refuse: bool) -> Result<Answered, ApiError> {
        let machine = self.attendant.entry.record().id;
        Ok(ask(&*self.peer()?, machine, self.session, refuse)?)
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
                self.attendant
                    .shared
                    .metrics
                    .blackout_seconds
                    .observe(seconds(outcome.blackout_ns));
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
                        cancelled_or(self.operation, error.code)
                    } else {
                        error.code
                    },
                    ..error
                });
                (answer, fatal.map_or(Departed::Stayed, Departed::Lost))
            }
        }
    }

    /// Has the other host prepare, and notes that: a daemon that comes later goes on with it. Returns the key that the other
    /// host has in this session, and whether it has kept an image of the machine.
    fn invite(&self, invitation: &Invitation) -> Result<(PublicKey, bool), ApiError> {
        let Admission { key, has_kept } =
            self.peer()?.post("/v1/invitations", invitation, PATIENT)?;
        let key = key.parse().map_err(ApiError::internal)?;
        let attempt = Attempt {
            session: self.session,
            peer: self.key.clone(),
            operation: self.operation.id(),
            is_new: false,
        };
        let noted = self.attendant.entry.change(|record| record.departure = Some(attempt));
        noted.map_err(ApiError::internal)?;
        Ok((key, has_kept))
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
        if let Err(error) = self.ask(true) {
            tracing::info!(%error, "the other host finds out by itself that the move is over");
        }
    }
}

/// What a user decides, as the machine process takes it.
pub(super) fn limits(request: &Migrate) -> MoveLimits {
    MoveLimits {
        max_downtime: Duration::from_millis(request.max_downtime_ms),
        patience: Duration::from_millis(request.timeout_ms),
        streams: usize::try_from(request.streams).unwrap_or(1),
        stop_after_rounds: request.stop_after_rounds,
        audit: match request.audit {
            ReceiptAudit::None => Audit::None,
            ReceiptAudit::Sampled => Audit::Sampled,
            ReceiptAudit::Whole => Audit::Whole,
        },
        bandwidth: request.bandwidth.and_then(NonZeroU64::new),
        throttle: percent(request.throttle_percent.unwrap_or(0)),
        cpu_permille: request.cpu_permille.and_then(NonZeroU32::new),
    }
}

/// The same of what a user changes.
fn limit_change(change: ChangeMove) -> LimitChange {
    LimitChange {
        max_downtime: change.max_downtime_ms.map(Duration::from_millis),
        patience: change.timeout_ms.map(Duration::from_millis),
        bandwidth: change.bandwidth.map(NonZeroU64::new),
        throttle: change.throttle_percent.map(percent),
        cpu_permille: change.cpu_permille.map(NonZeroU32::new),
    }
}

fn percent(value: u32) -> u8 {
    u8::try_from(value).unwrap_or(u8::MAX)
}

/// The limits of a move, as they are shown.
fn shown_limits(limits: LiveLimits) -> MigrationLimits {
    let LiveLimits { max_downtime, patience, bandwidth, throttle, cpu_permille } = limits;
    MigrationLimits {
        max_downtime_ms: nanoseconds(max_downtime) / 1_000_000,
        timeout_ms: nanoseconds(patience) / 1_000_000,
        bandwidth: bandwidth.map(NonZeroU64::get),
        throttle_percent: Some(u32::from(throttle)).filter(|percent| *percent > 0),
        cpu_permille: cpu_permille.map(NonZeroU32::get),
    }
}

/// What the other host's record says of a session.
pub(super) fn ask(
    peer: &PeerClient,
    machine: [u8; 16],
    session: [u8; 16],
    refuse: bool,
) -> Result<Answered, PeerError> {
    let question =
        Question { session: hex(&session), machine: hex(&machine), refuse, report: false };
    peer.post("/v1/answers", &question, QUICK)
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
        throttle_percent: Some(u32::from(moving.throttle)).filter(|percent| *percent > 0),
        limits: Some(shown_limits(moving.limits)),
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
