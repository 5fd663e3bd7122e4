//! Moves to other hosts.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa::openapi::schema::{KnownFormat, Object, ObjectBuilder, SchemaFormat, Type};

use super::{ApiError, ChangeMove, ErrorCode, MachineName, ReceiptAudit, ReceiptStatement};

/// Move a running machine to another host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Migrate {
    /// The host, by the name that it has here.
    pub to: MachineName,
    /// Milliseconds that the guest may stand still.
    #[schema(minimum = 1, maximum = 600_000)]
    #[serde(default = "default_max_downtime_ms")]
    pub max_downtime_ms: u64,
    /// Milliseconds for which the other host may be out of reach.
    #[schema(minimum = 1_000, maximum = 86_400_000)]
    #[serde(default = "default_timeout_ms")]
    pub timeout_ms: u64,
    /// Bytes a second that pages may take while the guest runs; no limit if absent.
    #[schema(minimum = 65_536)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<u64>,
    /// Data streams beside the control stream, at most.
    #[schema(minimum = 1, maximum = 16)]
    #[serde(default = "default_streams")]
    pub streams: u32,
    /// Rounds after which the guest is stopped although it will stand still for longer than allowed; without it the
    /// move is given up then.
    #[schema(minimum = 1, maximum = 1_000)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_after_rounds: Option<u32>,
    /// How much of the memory is looked at again once the guest runs on the other host.
    #[serde(default = "default_audit")]
    pub audit: ReceiptAudit,
    /// Hundredths of its time for which the guest may be held if it writes too fast for the move to end; it is not slowed
    /// down if absent.
    #[schema(minimum = 1, maximum = 99)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub throttle_percent: Option<u32>,
    /// Thousandths of a processor that sending pages may take while the guest runs; no limit if absent.
    #[schema(minimum = 10, maximum = 1_000_000)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_permille: Option<u32>,
}

/// What a number of a request may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bound {
    name: &'static str,
    least: u64,
    most: u64,
}

pub(super) const MAX_DOWNTIME: Bound = Bound::new("max_downtime_ms", 1, 600_000);
pub(super) const TIMEOUT: Bound = Bound::new("timeout_ms", 1_000, 86_400_000);
pub(super) const BANDWIDTH: Bound = Bound::new("bandwidth", 65_536, u64::MAX);
const STREAMS: Bound = Bound::new("streams", 1, 16);
const STOP_AFTER_ROUNDS: Bound = Bound::new("stop_after_rounds", 1, 1_000);
pub(super) const THROTTLE: Bound = Bound::new("throttle_percent", 1, 99);
pub(super) const CPU: Bound = Bound::new("cpu_permille", 10, 1_000_000);

impl Bound {
    const fn new(name: &'static str, least: u64, most: u64) -> Self {
        Self { name, least, most }
    }

    /// As the description of the API has it.
    pub(super) fn describe(self, format: KnownFormat) -> Object {
        let format = SchemaFormat::KnownFormat(format);
        let most = (self.most < u64::MAX).then_some(self.most);
        ObjectBuilder::new()
            .schema_type(Type::Integer)
            .format(Some(format))
            .minimum(Some(self.least))
            .maximum(most)
            .build()
    }

    pub(super) fn check(self, value: u64) -> Result<(), ApiError> {
        let Self { name, least, most } = self;
        if (least..=most).contains(&value) {
            return Ok(());
        }
        Err(refused(format!("{name}: {value} is not within {least} and {most}")))
    }
}

pub(super) fn refused(why: String) -> ApiError {
    ApiError::new(ErrorCode::BadRequest, why)
}

impl Migrate {
    /// Whether its numbers are within what the description says.
    pub(crate) fn check(&self) -> Result<(), ApiError> {
        let of = |value: Option<u32>| value.map(u64::from);
        let bounds = [
            (MAX_DOWNTIME, Some(self.max_downtime_ms)),
            (TIMEOUT, Some(self.timeout_ms)),
            (BANDWIDTH, self.bandwidth),
            (STREAMS, Some(u64::from(self.streams))),
            (STOP_AFTER_ROUNDS, of(self.stop_after_rounds)),
            (THROTTLE, of(self.throttle_percent)),
            (CPU, of(self.cpu_permille)),
        ];
        bounds
            .iter()
            .try_for_each(|(bound, value)| value.map_or(Ok(()), |value| bound.check(value)))
    }
}

fn default_audit() -> ReceiptAudit {
    ReceiptAudit::Sampled
}

fn default_max_downtime_ms() -> u64 {
    300
}

fn default_timeout_ms() -> u64 {
    60_000
}

fn default_streams() -> u32 {
    4
}

/// Whether a machine could move to a host now. Nothing was changed to find out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MigrationCheck {
    /// The machine.
    pub machine: MachineName,
    /// The host.
    pub to: MachineName,
    /// What is in the way; nothing if it could move.
    pub blockers: Vec<Blocker>,
    /// Nanoseconds for a request to the other host and its answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub round_trip_ns: Option<u64>,
    /// Bytes a second that went to the other host in a trial.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_second: Option<u64>,
    /// Bytes of the machine's memory.
    pub memory_bytes: u64,
    /// How the move would go, by what was seen of the guest in a second; absent if it was not looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forecast: Option<MigrationForecast>,
    /// Why it was not looked at, where it could have been.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_forecast: Option<String>,
}

/// How a move would go over the link as it was measured, if the other host had kept nothing of the machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MigrationForecast {
    /// Pages of the guest's memory that have content.
    pub pages: u64,
    /// Bytes that one of them takes on the wire, where little is compressed.
    pub bytes_per_page: u64,
    /// Pages that the guest writes in a second, each counted once in a tenth of it.
    pub dirty_pages_per_second: u64,
    /// Nanoseconds from the first page until the guest runs on the other host.
    pub duration_ns: u64,
    /// Nanoseconds for which it stands still.
    pub blackout_ns: u64,
    /// By how much the guest is too fast for the move to end, if it is, and what could be done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub too_fast: Option<String>,
}

/// Something that is in the way of a move.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Blocker {
    /// Which kind, for programs.
    pub kind: BlockerKind,
    /// The host that says so, by the name that it has here; absent for this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<MachineName>,
    /// In words: what, with which values, and what to do about it.
    pub message: String,
}

/// Kinds of what is in the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum BlockerKind {
    /// The other host does not answer, or does not know this one.
    Unreachable,
    /// The two hosts' executables have no version in common.
    Version,
    /// The machine is not in a state to be moved.
    State,
    /// The guest needs what the other host's processor or KVM lacks.
    Cpu,
    /// The other host has not enough memory.
    Memory,
    /// Another machine has the name there.
    Name,
    /// The other host has as many machines as it may.
    Limit,
    /// The permit record of one of the hosts does not allow it.
    Permit,
    /// The other host cannot make a process for it, or write its record.
    Host,
}

impl BlockerKind {
    /// Its word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Version => "version",
            Self::State => "state",
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Name => "name",
            Self::Limit => "limit",
            Self::Permit => "permit",
            Self::Host => "host",
        }
    }
}

/// Say that a machine whose move is in doubt may run here, since no other copy of it is alive.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Resolve {
    /// Has to be true: if the statement is wrong, the machine runs twice.
    pub run_here: bool,
}

/// How far a move is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MigrationProgress {
    /// Its phase.
    pub phase: MigrationPhase,
    /// Bytes of payload that were sent so far.
    pub bytes_sent: u64,
    /// Bytes a second that the link is seen to take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_second: Option<u64>,
    /// Nanoseconds of a round trip.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub round_trip_ns: Option<u64>,
    /// Nanoseconds that the guest would stand still if it were stopped now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forecast_ns: Option<u64>,
    /// Data streams that are open.
    pub streams: u32,
    /// Milliseconds for which the other host has been out of reach.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting_ms: Option<u64>,
    /// Hundredths of its time for which the guest is held now; absent if it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub throttle_percent: Option<u32>,
    /// The limits by which the host that it leaves goes on; absent before memory is sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<MigrationLimits>,
}

/// The limits of a move, as they are now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MigrationLimits {
    /// Milliseconds that the guest may stand still.
    pub max_downtime_ms: u64,
    /// Milliseconds for which the other host may be out of reach.
    pub timeout_ms: u64,
    /// Bytes a second that pages may take while the guest runs; no limit if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<u64>,
    /// Hundredths of its time for which the guest may be held; not at all if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub throttle_percent: Option<u32>,
    /// Thousandths of a processor that sending pages may take while the guest runs; no limit if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_permille: Option<u32>,
}

impl MigrationLimits {
    /// Whether they are what a change says, as far as it says something.
    pub(crate) fn has(&self, change: &ChangeMove) -> bool {
        let is = |now: Option<u64>, wanted: Option<u64>| {
            wanted.is_none_or(|wanted| now.unwrap_or_default() == wanted)
        };
        is(Some(self.max_downtime_ms), change.max_downtime_ms)
            && is(Some(self.timeout_ms), change.timeout_ms)
            && is(self.bandwidth, change.bandwidth)
            && is(self.throttle_percent.map(u64::from), change.throttle_percent.map(u64::from))
            && is(self.cpu_permille.map(u64::from), change.cpu_permille.map(u64::from))
    }
}

/// The phases of a move.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum MigrationPhase {
    /// The hosts agree on it.
    #[default]
    Negotiate,
    /// The other host builds the machine.
    Prepare,
    /// Memory is sent while the guest runs.
    Live,
    /// The guest stands still, and the rest of it is sent.
    Switch,
    /// The other host has everything, and has not been heard of since.
    InDoubt,
    /// It runs on the other host: what is left of it is looked at, and both hosts sign.
    Settle,
}

impl MigrationPhase {
    /// Its word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Negotiate => "negotiate",
            Self::Prepare => "prepare",
            Self::Live => "live",
            Self::Switch => "switch",
            Self::InDoubt => "in_doubt",
            Self::Settle => "settle",
        }
    }
}

/// Most causes of a blackout, and most bytes of the name of one: whatever another host says.
const CAUSES_MAX: usize = 32;
/// Most changes of what a move was carried by.
const PLAN_MAX: usize = 64;

/// By what a move was carried from one moment on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MigrationPlan {
    /// Nanoseconds from the order.
    pub at_ns: u64,
    /// What the link was believed to carry, in bytes a second.
    pub bytes_per_second: u64,
    /// The level of zstd for pages that travel whole; none if they went as they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zstd_level: Option<i32>,
    /// Pages of a batch, at most.
    pub batch_pages: u64,
    /// Data streams beside the control stream.
    pub streams: u32,
}

/// What a move did: the same on both hosts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MigrationOutcome {
    /// The attempt's id.
    pub session: String,
    /// The public key of the host that it left.
    pub from: String,
    /// The public key of the host that it went to.
    pub to: String,
    /// How often the machine has moved, and was resolved before: `RESOLUTIONS.MOVES`.
    pub generation: String,
    /// The digest of memory and state on which both hosts agreed before the guest ran again: 128 hexadecimal digits.
    pub root: String,
    /// Nanoseconds that the guest stood still.
    pub blackout_ns: u64,
    /// The same by cause, in the order in which they came.
    pub causes: Vec<(String, u64)>,
    /// Nanoseconds that it was forecast to stand still when it was decided to stop it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forecast_ns: Option<u64>,
    /// Nanoseconds from the order until it was known that the guest runs there.
    pub total_ns: u64,
    /// Rounds while the guest ran.
    pub rounds: u32,
    /// Pages sent, counting each time.
    pub pages_sent: u64,
    /// Pages sent again since what carried them was cut, or the other host lacked what they built on.
    pub pages_again: u64,
    /// Pages that were not sent, since the other host had kept them when the machine left it.
    #[serde(default)]
    pub pages_kept: u64,
    /// Bytes by which the other host told what it had kept.
    #[serde(default)]
    pub kept_bytes: u64,
    /// Bytes of the machine's state, each time as what is different from the state before: what was sent ahead, and the
    /// last.
    #[serde(default)]
    pub state_bytes: u64,
    /// Of those, while the guest stood still.
    #[serde(default)]
    pub state_bytes_paused: u64,
    /// Nanoseconds that the guest had stood still before, so that its state could be sent ahead; 0 if it was not.
    #[serde(default)]
    pub looked_ns: u64,
    /// Bytes of payload that carried pages.
    pub payload_bytes: u64,
    /// Of those, while the guest stood still.
    pub payload_bytes_paused: u64,
    /// Connections that the session needed: one, if none was cut.
    pub connections: u64,
    /// Hundredths of its time for which the guest was held, at most; 0 if it was not slowed down.
    #[serde(default)]
    pub throttle_percent: u32,
    /// Nanoseconds for which it was slowed down.
    #[serde(default)]
    pub throttled_ns: u64,
    /// By what it was carried, from when on: an entry for each time that it changed.
    #[serde(default)]
    pub plan: Vec<MigrationPlan>,
    /// How much of the memory was looked at again in what was left of the frozen guest.
    pub audit: ReceiptAudit,
    /// The pages of that.
    pub audited_pages: u64,
    /// Of those, pages that had been sent otherwise than they were: none, unless a write was missed.
    pub audited_different: u64,
    /// Whether both hosts have signed it: `novacron receipt show SESSION`.
    pub has_receipt: bool,
}

impl MigrationOutcome {
    /// Whether it says what was signed, and no more than any move has to say.
    pub(crate) fn is_of(&self, statement: &ReceiptStatement) -> bool {
        let says = (&self.session, &self.from, &self.to, &self.generation, &self.root);
        let ReceiptStatement { session, from, to, generation, root, blackout_ns, .. } = statement;
        says == (session, from, to, generation, root)
            && self.blackout_ns == *blackout_ns
            && self.causes.len() <= CAUSES_MAX
            && self.causes.iter().all(|(name, _)| name.len() <= CAUSES_MAX)
            && self.plan.len() <= PLAN_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_moves_numbers_are_within_what_the_description_says() {
        let order = |field: &str, value: u64| -> Result<(), ApiError> {
            let mut order = json!({ "to": "east" });
            order[field] = json!(value);
            serde_json::from_value::<Migrate>(order).unwrap().check()
        };
        for (field, good, bad) in [
            ("max_downtime_ms", [1, 600_000], [0, 600_001]),
            ("timeout_ms", [1_000, 86_400_000], [999, 86_400_001]),
            ("bandwidth", [65_536, u64::MAX], [0, 65_535]),
            ("streams", [1, 16], [0, 17]),
            ("stop_after_rounds", [1, 1_000], [0, 1_001]),
            ("throttle_percent", [1, 99], [0, 100]),
            ("cpu_permille", [10, 1_000_000], [9, 1_000_001]),
        ] {
            assert!(good.into_iter().all(|value| order(field, value).is_ok()), "{field}");
            for value in bad {
                assert!(order(field, value).unwrap_err().message.starts_with(field), "{value}");
            }
        }
    }

    #[test]
    fn a_report_that_is_not_that_of_its_receipt_is_found() {
        let sound = json!({
            "session": "5", "from": "a", "to": "b", "generation": "0.1", "root": "c",
            "blackout_ns": 5, "causes": [["wire", 5]], "total_ns": 9, "rounds": 1, "pages_sent": 1,
            "pages_again": 0, "payload_bytes": 1, "payload_bytes_paused": 0, "connections": 1,
            "audit": "whole", "audited_pages": 1, "audited_different": 0, "has_receipt": false,
        });
        let statement: ReceiptStatement = serde_json::from_value(json!({
            "session": "5", "machine": "7", "from": "a", "to": "b", "generation": "0.1",
            "root": "c", "blackout_ns": 5, "audit": "whole", "ended_at": "2026-01-01T00:00:00Z",
        }))
        .unwrap();
        let is_of = |outcome: &serde_json::Value| {
            serde_json::from_value::<MigrationOutcome>(outcome.clone()).unwrap().is_of(&statement)
        };
        assert!(is_of(&sound));
        let many: Vec<_> = (0..33).map(|_| json!(["wire", 5])).collect();
        for (field, other) in [
            ("session", json!("6")),
            ("from", json!("b")),
            ("to", json!("a")),
            ("generation", json!("0.2")),
            ("root", json!("d")),
            ("blackout_ns", json!(4)),
            ("causes", json!(many)),
            ("causes", json!([["w".repeat(33), 5]])),
        ] {
            let mut changed = sound.clone();
            changed[field] = other;
            assert!(!is_of(&changed), "{field}");
        }
    }
}
