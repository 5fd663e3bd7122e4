//! When a machine whose guest has ended is started again.

use std::time::Duration;

use machine::GuestEnd;

use crate::api::RestartPolicy;

/// The first wait; each further one is twice as long.
const FIRST: Duration = Duration::from_secs(1);
/// A guest that ran so long has started well: the next wait is the first again.
const RAN_WELL: Duration = Duration::from_secs(60);

/// How a guest ended, as far as this decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Somebody ended it.
    Stopped,
    /// It switched itself off.
    PoweredOff,
    /// It wants to be started again.
    Reset,
    /// Otherwise than a guest may.
    Failed,
}

impl From<GuestEnd> for Way {
    fn from(end: GuestEnd) -> Self {
        match end {
            GuestEnd::PoweredOff => Self::PoweredOff,
            GuestEnd::Reset => Self::Reset,
            GuestEnd::Stopped => Self::Stopped,
            GuestEnd::Failed => Self::Failed,
        }
    }
}

/// The waits of one machine.
#[derive(Debug)]
pub(super) struct Backoff {
    most: Duration,
    next: Duration,
}

impl Backoff {
    pub(super) fn new(most: Duration) -> Self {
        Self { most, next: FIRST.min(most) }
    }

    /// How long to wait before it is started again; None if it is not.
    pub(super) fn after(
        &mut self,
        policy: RestartPolicy,
        way: Way,
        ran: Duration,
    ) -> Option<Duration> {
        let again = match (policy, way) {
            (RestartPolicy::Never, _) | (_, Way::Stopped) => false,
            (RestartPolicy::OnFailure, way) => matches!(way, Way::Reset | Way::Failed),
            (RestartPolicy::Always, _) => true,
        };
        if !again {
            return None;
        }
        if ran >= RAN_WELL {
            self.next = FIRST.min(self.most);
            // A guest that reboots once in a while waits for nothing.
            if way == Way::Reset {
                return Some(Duration::ZERO);
            }
        }
        let wait = self.next;
        self.next = (self.next * 2).min(self.most);
        Some(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(10);
    const MOST: Duration = Duration::from_secs(5);

    #[test]
    fn the_policy_says_which_ends_are_beginnings() {
        use RestartPolicy::{Always, Never, OnFailure};
        use Way::{Failed, PoweredOff, Reset, Stopped};
        for (policy, again) in [
            (Never, &[][..]),
            (OnFailure, &[Reset, Failed]),
            (Always, &[PoweredOff, Reset, Failed]),
        ] {
            for way in [Stopped, PoweredOff, Reset, Failed] {
                let wait = Backoff::new(MOST).after(policy, way, SHORT);
                assert_eq!(wait.is_some(), again.contains(&way), "{policy:?} {way:?}");
            }
        }
    }

    #[test]
    fn who_fails_at_once_waits_ever_longer_and_no_longer_than_it_may() {
        let mut backoff = Backoff::new(MOST);
        let mut after = |ran| backoff.after(RestartPolicy::Always, Way::Failed, ran).unwrap();
        let seconds: Vec<_> = (0..5).map(|_| after(SHORT).as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 5, 5]);
        assert_eq!(after(RAN_WELL), FIRST, "it ran well: all is forgiven");
        assert_eq!(after(SHORT), 2 * FIRST);
        let reboot = backoff.after(RestartPolicy::OnFailure, Way::Reset, RAN_WELL);
        assert_eq!(reboot, Some(Duration::ZERO));
    }
}
