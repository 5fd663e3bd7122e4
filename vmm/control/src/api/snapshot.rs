//! Snapshots.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{MachineName, RestartPolicy};

/// Save a machine, which goes on as it was. Files are paths inside of the daemon's folders for files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TakeSnapshot {
    /// The new file. Nothing is overwritten.
    pub file: String,
    /// An earlier snapshot of the machine in the same folder: only what differs from it is written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
    /// The file of the 32 bytes under which it is encrypted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_file: Option<String>,
}

/// Make a machine of a snapshot, and start it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RestoreSnapshot {
    /// The snapshot's file.
    pub file: String,
    /// The new machine's name.
    pub name: MachineName,
    /// The file of the 32 bytes under which it is encrypted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_file: Option<String>,
    /// Run at once, and fetch memory as it is touched.
    #[serde(default)]
    pub lazy: bool,
    /// What is done when its guest ends.
    #[serde(default)]
    pub restart: RestartPolicy,
}

/// What a restore came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RestoreOutcome {
    /// Bytes of the snapshot's files.
    pub bytes: u64,
    /// Pages that are not zero.
    pub pages: u64,
    /// Nanoseconds until the guest's first instruction.
    pub total_ns: u64,
    /// Whether pages are still to be fetched.
    pub lazy: bool,
}

/// What taking a snapshot came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SnapshotOutcome {
    /// The file.
    pub file: String,
    /// Its bytes.
    pub bytes: u64,
    /// Pages written, counting each time.
    pub pages: u64,
    /// Rounds while the guest ran.
    pub rounds: u32,
    /// Nanoseconds that the guest stood still; 0 if it was paused anyway.
    pub paused_ns: u64,
    /// Nanoseconds until everything was on storage.
    pub total_ns: u64,
}
