//! When a copying hand-over pauses the guest, and when it gives up.

use serde::{Deserialize, Serialize};

/// How long and how far a copying hand-over goes before it gives up or pauses the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// The guest is paused when at most this many pages are owed.
    pub pages_at_pause: u64,
    /// Rounds after which a guest that still dirties more is left where it is.
    pub rounds: u32,
}

impl Default for Limits {
    fn default() -> Self {
        // 256 pages are 1 MiB: read, hashed and written in about a millisecond.
        Self { pages_at_pause: 256, rounds: 60 }
    }
}
