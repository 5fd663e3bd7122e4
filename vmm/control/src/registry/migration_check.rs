//! A dry run: whether a machine could move to a host now, and what is in the way.

use std::time::{Duration, Instant};

use machine::{Description, SurveyOrder, SurveyReport};
use tokio::sync::oneshot;

use super::command::Command;
use super::departures::limits;
use super::machines::Registry;
use super::move_report::{nanoseconds, whole};
use crate::api::{
    ApiError, Blocker, BlockerKind, ErrorCode, MachineName, MachineState, Migrate, MigrationCheck,
    MigrationForecast,
};
use crate::peers::message::{Checked, Hello, Invitation, VERSION};
use crate::peers::{PeerClient, PeerError, QUICK};
use crate::random::hex;

/// Bytes that are sent to see how fast they go: of a slow link it takes a second, of a fast one it is enough.
const TRIAL_BYTES: usize = 2 << 20;
/// How often, unless they take longer than this: over a long way a connection becomes faster for many round trips.
const TRIALS: u32 = 6;
const TRIALS_TAKE: Duration = Duration::from_secs(1);

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

    /// Whether a machine could move to a host, and what is to be found out of its guest besides. Waits for that.
    pub(crate) fn check_migration(
        &self,
        name: &MachineName,
        request: &Migrate,
        described: Result<Option<Box<Description>>, ApiError>,
    ) -> Result<(MigrationCheck, Option<SurveyOrder>), ApiError> {
        let (entry, to) = (self.find(name)?, &request.to);
        let shared = self.shared();
        let peer = shared.peers.find(to)?.key;
        let record = entry.record();
        let mut check = MigrationCheck {
            machine: name.clone(),
            to: to.clone(),
            blockers: Vec::new(),
            round_trip_ns: None,
            bytes_per_second: None,
            memory_bytes: record.spec.memory_bytes,
            forecast: None,
            no_forecast: None,
        };
        let description = match described {
            Ok(Some(description)) => *description,
            Ok(None) => {
                let state = entry.state().name();
                let why = format!("machine {name} is {state}; only one that runs can move");
                check.blockers.push(state_blocker(why));
                return Ok((check, None));
            }
            Err(error) if error.code == ErrorCode::Conflict => {
                check.blockers.push(state_blocker(error.to_string()));
                return Ok((check, None));
            }
            Err(error) => return Err(error),
        };
        let client = shared.peer(&peer)?;
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
        match seen.and_then(|blockers| Ok((blockers, measure(&client)?))) {
            Ok((blockers, (round_trip, bytes_per_second))) => {
                check.round_trip_ns = Some(nanoseconds(round_trip));
                check.bytes_per_second = Some(whole(bytes_per_second));
                let there = |blocker| Blocker { host: Some(to.clone()), ..blocker };
                check.blockers.extend(blockers.into_iter().map(there));
                let order = SurveyOrder { bytes_per_second, round_trip, limits: limits(request) };
                return Ok((check, Some(order)));
            }
            Err(error) => check.blockers.push(Blocker {
                kind: match &error {
                    PeerError::Unreachable { .. } => BlockerKind::Unreachable,
                    PeerError::Refused { .. } => BlockerKind::Host,
                },
                host: Some(to.clone()),
                message: error.to_string(),
            }),
        }
        Ok((check, None))
    }

    /// Has a machine's guest looked at.
    ///
    /// # Errors
    /// It cannot be now.
    pub(crate) async fn survey(
        &self,
        name: &MachineName,
        order: SurveyOrder,
    ) -> Result<MigrationForecast, ApiError> {
        let (reply, answer) = oneshot::channel();
        self.find(name)?.tell("looked at", Command::Survey(Box::new(order), reply))?;
        let ended = |_| {
            let why = format!("the guest of machine {name} has ended");
            ApiError::new(ErrorCode::MachineFailed, why)
        };
        answer.await.map_err(ended)?.map(|report| forecast(*report))
    }
}

fn forecast(report: SurveyReport) -> MigrationForecast {
    MigrationForecast {
        pages: report.pages,
        bytes_per_page: whole(report.bytes_per_page),
        dirty_pages_per_second: whole(report.dirty_pages_per_second),
        duration_ns: nanoseconds(report.duration),
        blackout_ns: nanoseconds(report.blackout),
        too_fast: report.too_fast,
    }
}

fn state_blocker(message: String) -> Blocker {
    Blocker { kind: BlockerKind::State, host: None, message }
}

/// How far away the host is, there and back, and how many bytes a second the way takes.
pub(crate) fn measure(client: &PeerClient) -> Result<(Duration, f64), PeerError> {
    // Only the first of these may have to connect.
    let mut quickest = Duration::MAX;
    for _ in 0..3 {
        let began = Instant::now();
        let Hello { version, release } = client.get("/v1/hello")?;
        tracing::debug!(version, release, "the other host");
        quickest = quickest.min(began.elapsed());
    }
    let (mut shortest, began) = (Duration::MAX, Instant::now());
    for _ in 0..TRIALS {
        shortest = shortest.min(client.send_trial(TRIAL_BYTES)?);
        if began.elapsed() >= TRIALS_TAKE {
            break;
        }
    }
    let round_trip = quickest.min(shortest);
    // Where the way there and back is nearly all of it, what is left is mostly chance.
    let sending = (shortest - round_trip).max(shortest / 16).max(Duration::from_micros(1));
    Ok((round_trip, TRIAL_BYTES as f64 / sending.as_secs_f64()))
}
