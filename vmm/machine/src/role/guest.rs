//! The guest of a machine process: whether it is here, and what it does.

use std::sync::Arc;

use dwcp::digest::DigestKey;
use dwcp::transport::Door;

use super::order::GuestStatus;
use crate::migrate::Dialler;
use crate::snapshot::Subject;
use crate::vm::{MachineConfig, Paused, Running, VmError, VmParts};

/// What a job does with the machine, as far as its keeper has to do with it.
#[derive(Clone, Debug)]
pub(super) enum Business {
    /// It is handed over, saved, or looked at.
    Here,
    /// It moves to another host, over sockets that its keeper connects.
    Leaving { session: [u8; 16], dialler: Arc<Dialler>, stays: bool },
    /// It comes from another host, over sockets that its keeper brings in.
    Arriving { session: [u8; 16], door: Door },
}

/// The machine, in the one of its states that it is in.
///
/// ```text
///   Absent ── boot, receive, restore ──► Running ◄─ pause, resume ─► Paused
///                                         │    ▲                      │  ▲
///       hand over, snapshot, survey, move ▼    │ failed, done         ▼  │ snapshot
///   Absent ── prepare for a move ───────► Busy ── handed over, moved ──► (end)
///                                           ├── departed ──► Departed ── stop ──► (end)
///                                           └── moved, and its memory is wanted ──► Moved ── keep, stop ──► (end)
/// ```
#[derive(Debug)]
pub(super) enum Guest {
    Absent,
    Running(Running),
    Paused(Paused),
    /// A job's thread owns it.
    Busy(Business),
    /// The permit has gone to a successor that was not heard of again: the memory is kept, and never
    /// runs here again.
    Departed(#[allow(dead_code, reason = "kept, until somebody says what to do with it")] Paused),
    /// It runs on another host. Its memory stays until the keeper has it written down, or goes; the permit is given up.
    Moved(Paused, DigestKey),
}

impl From<Subject> for Guest {
    fn from(subject: Subject) -> Self {
        match subject {
            Subject::Running(running) => Self::Running(running),
            Subject::Paused(paused) => Self::Paused(paused),
        }
    }
}

impl Guest {
    /// Where there is a machine that this process may touch.
    pub(super) fn press_power_button(&self) -> Result<(), VmError> {
        match self {
            Self::Running(running) => running.press_power_button(),
            Self::Paused(paused) => paused.press_power_button(),
            Self::Absent | Self::Busy(_) | Self::Departed(_) | Self::Moved(..) => Ok(()),
        }
    }

    /// Everything but the vCPUs of a machine that this process may touch.
    pub(super) fn parts(&self) -> Option<&VmParts> {
        match self {
            Self::Running(running) => Some(running.parts()),
            Self::Paused(paused) => Some(paused.parts()),
            Self::Absent | Self::Busy(_) | Self::Departed(_) | Self::Moved(..) => None,
        }
    }

    pub(super) fn status(&self) -> GuestStatus {
        match self {
            Self::Absent => GuestStatus::Absent,
            Self::Running(_) => GuestStatus::Running,
            Self::Paused(_) => GuestStatus::Paused,
            Self::Busy(Business::Here) => GuestStatus::Busy,
            Self::Busy(Business::Leaving { .. }) => GuestStatus::Leaving,
            Self::Busy(Business::Arriving { .. }) => GuestStatus::Arriving,
            Self::Departed(_) | Self::Moved(..) => GuestStatus::Departed,
        }
    }

    /// The attempt, if it is leaving or arriving.
    pub(super) fn session(&self) -> Option<[u8; 16]> {
        match self {
            Self::Busy(Business::Leaving { session, .. } | Business::Arriving { session, .. }) => {
                Some(*session)
            }
            _ => None,
        }
    }

    /// What the machine is made of, where it is at hand.
    pub(super) fn config(&self) -> Option<MachineConfig> {
        self.parts().map(|parts| parts.config)
    }

    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Running(_) => "running",
            Self::Paused(_) => "paused",
            Self::Busy(Business::Here) => "being handed over, saved or looked at",
            Self::Busy(Business::Leaving { .. }) => "moving to another host",
            Self::Busy(Business::Arriving { .. }) => "still at another host",
            Self::Departed(_) => "departed",
            Self::Moved(..) => "on another host",
        }
    }
}
