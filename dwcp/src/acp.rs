//! ACP, the hand-over of the permit: which one process, on which one host, may run a machine.
//!
//! Each host keeps one [`PermitRecord`] a machine. It moves by the table behind [`Event`] only,
//! which is the same for a hand-over between processes of a host, for a move between hosts, for
//! refusals, for returns, and for a person's override. [`PermitState`] shows it as a diagram;
//! `SPEC.md`, 7.1, numbers its rules.
//!
//! A value of these types proves what the record said at one moment. Only a successful
//! [`PermitRecord::apply`] gives the right to act on a change, since it alone compares and writes
//! under the record's lock.

mod event;
mod ids;
#[cfg(test)]
mod model;
mod record;
mod slot;
mod state;
mod storage;
mod transition;

pub use event::{Actor, Event};
pub use ids::{Generation, HostName, Nonce, SessionId, VmId};
pub use record::{PermitRecord, RecordError};
pub use slot::{RECORD_VERSION, SLOT_BYTES, Slot, SlotFault};
pub use state::{Answer, Outcome, PermitState, Record, Successor};
pub use storage::{
    LoadError, Loaded, LockedMemory, LockedSlots, MemoryStorage, OtherSlot, RecordStorage,
    TornWrite,
};
pub use transition::Refusal;
