//! Every timer of a session. See `SPEC.md`, 8.3.

use std::time::Duration;

/// Silence on a control stream after which a side lets itself be heard.
pub(super) const PING_AFTER: Duration = Duration::from_secs(1);

/// Silence on a control stream after which the connection counts as dead: several pings were lost.
pub(super) const DEAD_AFTER: Duration = Duration::from_secs(8);

/// Time without an acknowledgement after which a stream counts as dead that has carried pages, and
/// has nothing on its way into its socket. What is on its way there is TCP's affair.
pub(super) const UNANSWERED_AFTER: Duration = Duration::from_secs(15);

/// How long a source that has asked what was kept may wait for the next word of it before it sends pages without.
pub(super) const RECALL_WITHIN: Duration = Duration::from_secs(10);
/// How long for all of it, whatever it says meanwhile.
pub(super) const RECALL_MOST: Duration = Duration::from_secs(60);

/// The pause before a source connects again, doubled by every failure.
pub(super) const RETRY_FIRST: Duration = Duration::from_millis(100);

/// The longest of these pauses.
pub(super) const RETRY_MOST: Duration = Duration::from_secs(5);

/// How often a source in doubt asks.
pub(super) const ASK_EVERY: Duration = Duration::from_secs(1);

/// What the user decides about a source's waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceTimers {
    /// While the guest runs: time without a connection after which the attempt is given up.
    pub patience: Duration,
    /// In the switch: how long the guest may stand still before the permit frame is out. After that
    /// it runs on, and the switch is to be tried again.
    pub switch_budget: Duration,
    /// In doubt: time after which the destination is asked to refuse.
    pub doubt: Duration,
}

impl Default for SourceTimers {
    fn default() -> Self {
        Self {
            patience: Duration::from_mins(10),
            switch_budget: Duration::from_secs(2),
            doubt: Duration::from_secs(10),
        }
    }
}

/// What the user decides about a destination's waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DestinationTimers {
    /// Time without a connection after which the destination refuses, unless it has everything.
    pub patience: Duration,
}

impl Default for DestinationTimers {
    fn default() -> Self {
        Self { patience: Duration::from_mins(15) }
    }
}
