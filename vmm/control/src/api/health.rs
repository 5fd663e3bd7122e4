//! Health.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Whether the daemon can do its work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// The worst of its checks.
    pub state: HealthState,
    /// Every check.
    pub checks: Vec<Check>,
}

/// How well the daemon is.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum HealthState {
    /// It can do all of its work.
    Ready,
    /// It can do its work; something needs a look.
    Degraded,
    /// It answers, and cannot do its work.
    Live,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Check {
    /// Its name: stable.
    pub name: String,
    /// `ready` if it is met; else what follows for the daemon.
    pub state: HealthState,
    /// What was found.
    pub message: String,
}
