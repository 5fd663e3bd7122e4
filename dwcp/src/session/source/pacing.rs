//! [`Pacing`]: how fast pages may go out.

use std::num::NonZeroU64;
use std::time::Duration;

use crate::amst::Pacer;

/// The limit of bytes a second, and who wants which.
#[derive(Debug, Default)]
pub(super) struct Pacing {
    pub(super) ours: Option<NonZeroU64>,
    pub(super) peers: Option<NonZeroU64>,
    pub(super) pacer: Pacer,
    /// Pages are ready and wait for the limit.
    pub(super) held_until: Option<Duration>,
}

impl Pacing {
    /// What one of them wants has changed.
    pub(super) fn apply(&mut self, now: Duration) {
        self.pacer.set_limit(now, [self.ours, self.peers].into_iter().flatten().min());
    }
}
