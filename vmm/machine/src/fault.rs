//! The steps of hand-overs and snapshots: a log line each, and points at which a test kills the process or makes
//! it lose something on purpose.
//!
//! Without the feature `fault-injection`, which no release has, only the log line is left.

/// A step of a hand-over, of a snapshot, of a restore or of a move to another host. A test kills the process at each.
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
    SnapshotStart,
    SnapshotCopied,
    SnapshotPaused,
    SnapshotSaved,
    SnapshotResumed,
    SnapshotWritten,
    SnapshotSynced,
    RestoreStart,
    RestoreMemory,
    RestoreState,
    MoveStart,
    MoveCopied,
    MoveOffered,
    MovePaused,
    MoveSaved,
    MovePermitSent,
    MoveAnswered,
    KeepWriting,
    KeepSynced,
    ArrivalPrepared,
    ArrivalReady,
    ArrivalRestored,
    ArrivalTaken,
    ArrivalRunning,
    DaemonInvited,
    DaemonPrepared,
    DaemonDeparts,
    DaemonMoved,
    DaemonCame,
}

impl Step {
    /// Every step of a hand-over, the predecessor's before the successor's, each in the order of time.
    pub const OF_HAND_OVER: [Self; 13] = [
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

    /// Every step of a snapshot.
    pub const OF_SNAPSHOT: [Self; 7] = [
        Self::SnapshotStart,
        Self::SnapshotCopied,
        Self::SnapshotPaused,
        Self::SnapshotSaved,
        Self::SnapshotResumed,
        Self::SnapshotWritten,
        Self::SnapshotSynced,
    ];

    /// Every step of a restore.
    pub const OF_RESTORE: [Self; 3] = [Self::RestoreStart, Self::RestoreMemory, Self::RestoreState];

    /// Every step of a move's source, in the order of time.
    pub const OF_DEPARTURE: [Self; 7] = [
        Self::MoveStart,
        Self::MoveCopied,
        Self::MoveOffered,
        Self::MovePaused,
        Self::MoveSaved,
        Self::MovePermitSent,
        Self::MoveAnswered,
    ];

    /// Every step of keeping an image of a machine that has left.
    pub const OF_KEEPING: [Self; 2] = [Self::KeepWriting, Self::KeepSynced];

    /// Every step of a move's destination, in the order of time.
    pub const OF_ARRIVAL: [Self; 5] = [
        Self::ArrivalPrepared,
        Self::ArrivalReady,
        Self::ArrivalRestored,
        Self::ArrivalTaken,
        Self::ArrivalRunning,
    ];

    /// Every step of the daemons of a move: those of the destination's, then those of the source's, but for the last.
    pub const OF_DAEMONS: [Self; 5] = [
        Self::DaemonInvited,
        Self::DaemonPrepared,
        Self::DaemonDeparts,
        Self::DaemonMoved,
        Self::DaemonCame,
    ];

    /// The name by which the environment variable `NOVACRON_FAULT` asks for it.
    #[must_use]
    pub fn name(self) -> String {
        format!("{self:?}")
    }
}

/// Says in the log how far it has come, and dies or stops there if a test asks for it.
pub fn reached(step: Step) {
    tracing::debug!(?step, "step");
    #[cfg(feature = "fault-injection")]
    {
        injected::die_if_asked(step);
        injected::stop_if_asked(step);
    }
}

#[cfg(feature = "fault-injection")]
pub(crate) use injected::LastPage;
#[cfg(feature = "fault-injection")]
pub use injected::Plant;
#[cfg(feature = "fault-injection")]
pub(crate) use injected::{
    acknowledges_unapplied, compare_arrival, compare_with_reference, damage_page, damage_state,
    do_as_planted, drop_dirty_bits, drops_acknowledgement, drops_event, drops_field, drops_page,
    forbids, forgets_boot, lacks_dirty_ring, newer_sections, open_by_name, opens_by_name, plant,
    send_reference, slow_switch, slow_take, without_features,
};

#[cfg(feature = "fault-injection")]
mod injected;
