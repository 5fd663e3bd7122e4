//! What goes over the control socket: the one place where its types are.
//!
//! Fields are added, and never change their meaning or go. A field that a daemon does not know is refused, since it
//! would be asked for something that it does not do; a field that a client does not know is passed over.

mod change_move;
mod error;
mod event;
mod health;
mod info;
mod machine;
mod migration;
mod name;
mod operation;
mod peer;
mod receipt;
mod snapshot;
mod timestamp;

pub use change_move::ChangeMove;
pub use error::{ApiError, ErrorCode};
pub use event::{Event, EventKind};
pub use health::{Check, Health, HealthState};
pub(crate) use info::no_machines;
pub use info::{Info, MachineCounts};
pub use machine::{
    Boot, CreateMachine, Ended, HandOver, HandOverForm, HandOverOutcome, KeptImage, Machine,
    MachineSpec, MachineState, RestartPolicy, Shutdown, Stop,
};
pub use migration::{
    Blocker, BlockerKind, Migrate, MigrationCheck, MigrationForecast, MigrationLimits,
    MigrationOutcome, MigrationPhase, MigrationPlan, MigrationProgress, Resolve,
};
pub use name::{MachineName, NameError};
pub use operation::{Operation, OperationProgress, OperationState};
pub use peer::{AddPeer, Peer};
pub use receipt::{Receipt, ReceiptAudit, ReceiptStatement};
pub use snapshot::{RestoreOutcome, RestoreSnapshot, SnapshotOutcome, TakeSnapshot};
pub use timestamp::Timestamp;
