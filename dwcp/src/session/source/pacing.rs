//! [`Pacing`]: how fast pages may go out.

use std::num::NonZeroU64;
use std::time::Duration;

use crate::amst::Pacer;

/// The limits of bytes and of processor time a second, and who wants which.
#[derive(Debug, Default)]
pub(super) struct Pacing {
    pub(super) ours: Option<NonZeroU64>,
    pub(super) peers: Option<NonZeroU64>,
    pub(super) pacer: Pacer,
    /// Of nanoseconds of processor time.
    pub(super) processors: Pacer,
    /// Pages are ready and wait for the limit.
    pub(super) held_until: Option<Duration>,
}

impl Pacing {
    /// What one of them wants has changed.
    pub(super) fn apply(&mut self, now: Duration) {
        self.pacer.set_limit(now, [self.ours, self.peers].into_iter().flatten().min());
    }

    /// When pages may go out next; `None` is now.
    pub(super) fn opens_at(&self, now: Duration) -> Option<Duration> {
        self.pacer.opens_at(now).max(self.processors.opens_at(now))
    }
}
