//! [`MoveLimits`]: what a user decides about a move, and may change while it is under way.

use std::num::{NonZeroU32, NonZeroU64};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Audit;
use crate::meter::{LimitChange, LiveLimits};
use crate::vcpu::SHARE_MOST;

/// What a user decides about a move.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveLimits {
    /// How long the guest may stand still.
    pub max_downtime: Duration,
    /// How long the destination may be out of reach before the move is given up.
    pub patience: Duration,
    /// Data streams beside the control stream, at most.
    pub streams: usize,
    /// Rounds after which the guest is stopped although it will stand still for longer; it is a decision to be made, not
    /// a default: without it the move is given up then.
    pub stop_after_rounds: Option<u32>,
    /// How much of the memory is looked at again once the guest runs at the destination.
    pub audit: Audit,
    /// Bytes a second that pages may take while the guest runs.
    pub bandwidth: Option<NonZeroU64>,
    /// Hundredths of its time for which a guest may be held that writes too fast; 0 is not at all. As `stop_after_rounds`
    /// it is a decision to be made.
    pub throttle: u8,
    /// Thousandths of a processor that the streams may take while the guest runs.
    pub cpu_permille: Option<NonZeroU32>,
}

impl Default for MoveLimits {
    fn default() -> Self {
        Self {
            max_downtime: Duration::from_millis(300),
            patience: Duration::from_secs(60),
            streams: 4,
            stop_after_rounds: None,
            audit: Audit::default(),
            bandwidth: None,
            throttle: 0,
            cpu_permille: None,
        }
    }
}

impl MoveLimits {
    /// The limits with what has changed of them.
    #[must_use]
    pub fn changed_by(self, change: LimitChange) -> Self {
        Self {
            max_downtime: change.max_downtime.unwrap_or(self.max_downtime),
            patience: change.patience.unwrap_or(self.patience),
            bandwidth: change.bandwidth.unwrap_or(self.bandwidth),
            throttle: change.throttle.unwrap_or(self.throttle).min(SHARE_MOST),
            cpu_permille: change.cpu_permille.unwrap_or(self.cpu_permille),
            ..self
        }
    }

    /// Those that can be changed.
    pub(super) fn live(self) -> LiveLimits {
        let Self { max_downtime, patience, bandwidth, throttle, cpu_permille, .. } = self;
        LiveLimits { max_downtime, patience, bandwidth, throttle, cpu_permille }
    }

    /// Of so many processors, those that the streams may take.
    pub(super) fn processors(self, there_are: f64) -> f64 {
        let allowed = self.cpu_permille.map_or(f64::INFINITY, |permille| f64::from(permille.get()));
        (allowed / 1000.0).min(there_are)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_named_stays_as_it_was_and_a_limit_can_be_taken_away() {
        let before = MoveLimits {
            bandwidth: NonZeroU64::new(1 << 20),
            throttle: 50,
            cpu_permille: NonZeroU32::new(500),
            ..MoveLimits::default()
        };
        assert_eq!(before.changed_by(LimitChange::default()), before);
        let change = LimitChange {
            max_downtime: Some(Duration::from_secs(2)),
            bandwidth: Some(None),
            throttle: Some(255),
            ..LimitChange::default()
        };
        let after = before.changed_by(change);
        assert_eq!((after.max_downtime, after.bandwidth), (Duration::from_secs(2), None));
        assert_eq!((after.throttle, after.cpu_permille), (SHARE_MOST, before.cpu_permille));
    }

    #[test]
    fn streams_take_what_they_may_of_the_processors_that_there_are() {
        let limits = |permille| MoveLimits {
            cpu_permille: NonZeroU32::new(permille),
            ..MoveLimits::default()
        };
        assert_eq!(limits(0).processors(8.0), 8.0);
        assert_eq!(limits(500).processors(8.0), 0.5);
        assert_eq!(limits(64_000).processors(8.0), 8.0);
    }
}
