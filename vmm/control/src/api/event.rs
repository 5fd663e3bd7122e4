//! Events.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Ended, MachineName, MachineState, Operation, Timestamp};

/// Something that has happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// Its number, of the daemon's life before the `-`: where a reader that comes back goes on.
    pub id: String,
    /// When.
    pub at: Timestamp,
    /// What.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// What has happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum EventKind {
    /// The daemon has started.
    DaemonStarted {
        /// Machines that it found alive.
        adopted: u64,
    },
    /// A machine was made.
    MachineCreated {
        /// Its name.
        machine: MachineName,
    },
    /// A machine was deleted.
    MachineDeleted {
        /// Its name.
        machine: MachineName,
    },
    /// A machine does something else now.
    MachineState {
        /// Its name.
        machine: MachineName,
        /// What it does.
        state: MachineState,
        /// How its guest ended, if it did.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ended: Option<Ended>,
    },
    /// An operation has begun.
    OperationBegan {
        /// The operation.
        operation: Box<Operation>,
    },
    /// An operation has ended.
    OperationEnded {
        /// The operation.
        operation: Box<Operation>,
    },
    /// What was before this is not known any more: look at everything anew.
    Gap {},
}

impl EventKind {
    /// Its word: the event's name in a stream.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::DaemonStarted { .. } => "daemon_started",
            Self::MachineCreated { .. } => "machine_created",
            Self::MachineDeleted { .. } => "machine_deleted",
            Self::MachineState { .. } => "machine_state",
            Self::OperationBegan { .. } => "operation_began",
            Self::OperationEnded { .. } => "operation_ended",
            Self::Gap {} => "gap",
        }
    }
}
