//! The steps of a hand-over: a log line each, and points at which a test kills the process or makes
//! it lose something on purpose.
//!
//! Without the feature `fault-injection`, which no release has, only the log line is left.

/// A step of a hand-over. A test kills the process at each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it; the scripts show where")]
pub enum Step {
    SourceStart,
    SourceGreeted,
    SourceCopied,
    SourceOffered,
    SourcePaused,
    SourceSaved,
    SourcePermitSent,
    DestinationStart,
    DestinationReady,
    DestinationPermitReceived,
    DestinationRestored,
    DestinationTaken,
    DestinationRunning,
}

impl Step {
    /// Every step, the predecessor's before the successor's, each in the order of time.
    pub const ALL: [Self; 13] = [
        Self::SourceStart,
        Self::SourceGreeted,
        Self::SourceCopied,
        Self::SourceOffered,
        Self::SourcePaused,
        Self::SourceSaved,
        Self::SourcePermitSent,
        Self::DestinationStart,
        Self::DestinationReady,
        Self::DestinationPermitReceived,
        Self::DestinationRestored,
        Self::DestinationTaken,
        Self::DestinationRunning,
    ];

    /// The name by which the environment variable `NOVACRON_FAULT` asks for it.
    #[must_use]
    pub fn name(self) -> String {
        format!("{self:?}")
    }
}

/// Says in the log how far the hand-over has come, and dies there if a test asks for it.
pub(crate) fn reached(step: Step) {
    tracing::debug!(?step, "hand-over");
    #[cfg(feature = "fault-injection")]
    injected::die_if_asked(step);
}

#[cfg(feature = "fault-injection")]
pub(crate) use injected::ForgottenPage;
#[cfg(feature = "fault-injection")]
pub use injected::Plant;
#[cfg(feature = "fault-injection")]
pub(crate) use injected::{
    acknowledges_unapplied, compare_with_reference, damage_page, damage_state, drop_dirty_bit,
    drops_acknowledgement, drops_event, drops_field, drops_page, lacks_dirty_ring, newer_sections,
    plant, send_reference, slow_take, without_features,
};

#[cfg(feature = "fault-injection")]
mod injected;
