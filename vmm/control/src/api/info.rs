//! The daemon and its host.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{MachineState, Timestamp};

/// Machines by what they do.
pub type MachineCounts = BTreeMap<String, u64>;

/// The daemon and its host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Info {
    /// The daemon's version.
    pub version: String,
    /// Its process.
    pub process_id: u32,
    /// When it started.
    pub started_at: Timestamp,
    /// The kernel's release.
    pub kernel: String,
    /// The processor's name.
    pub processor: String,
    /// Processors that are online.
    pub processors: u32,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Bytes of memory that are free or can be freed.
    pub memory_available_bytes: u64,
    /// CPU models that this host offers.
    pub cpu_models: Vec<String>,
    /// The folders in which calls may name files; relative names begin in the first.
    pub folders: Vec<String>,
    /// The host's public key, by which other hosts know it: 64 hexadecimal digits.
    pub host_key: String,
    /// Where other hosts reach it, as `ADDRESS:PORT`; nowhere, if it takes no machines from them.
    pub peers_listen: Vec<String>,
    /// Bytes that are kept of the memory of machines which have left.
    #[serde(default)]
    pub kept_bytes: u64,
    /// Bytes that these may have altogether: none are kept if it is 0.
    #[serde(default)]
    pub kept_bytes_max: u64,
    /// The caller's role.
    pub role: String,
    /// Machines by state.
    pub machines: MachineCounts,
}

/// Every state, with nothing in it.
#[must_use]
pub(crate) fn no_machines() -> MachineCounts {
    MachineState::ALL.iter().map(|state| (state.name().to_owned(), 0)).collect()
}
