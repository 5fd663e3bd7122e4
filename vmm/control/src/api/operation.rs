//! Operations: what takes time.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    ApiError, HandOverOutcome, MachineName, MigrationOutcome, MigrationProgress, RestoreOutcome,
    SnapshotOutcome, Timestamp,
};

/// Something that takes time, and how far it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Operation {
    /// Its id, which appears in logs, audit records and events.
    pub id: String,
    /// The method that began it, such as `machines.snapshot`.
    pub method: String,
    /// The machine that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<MachineName>,
    /// Where it stands.
    pub state: OperationState,
    /// When it began.
    pub began_at: Timestamp,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    /// Its counters, where it has some.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<OperationProgress>,
    /// Whether it can still be cancelled.
    pub can_be_cancelled: bool,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ApiError>,
    /// What a snapshot came to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<SnapshotOutcome>,
    /// What a restore came to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore: Option<RestoreOutcome>,
    /// What a hand-over came to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hand_over: Option<HandOverOutcome>,
    /// What a move to another host came to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub migration: Option<MigrationOutcome>,
}

/// Where an operation stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OperationState {
    /// It is under way.
    Running,
    /// It has done what was asked.
    Done,
    /// It has not.
    Failed,
    /// It was cancelled, and has left everything as it was.
    Cancelled,
}

/// How far an operation is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OperationProgress {
    /// Rounds over memory, while the guest runs.
    pub rounds: u32,
    /// Pages of 4 KiB dealt with, counting each time.
    pub pages_done: u64,
    /// Pages left in this round.
    pub pages_owed: u64,
    /// What else there is to say of a move to another host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub migration: Option<MigrationProgress>,
}
