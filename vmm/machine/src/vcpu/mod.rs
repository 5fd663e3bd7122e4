//! Virtual CPUs: what they look like, how they run, what is saved of them.

mod exit;
mod registers;
mod saved;
mod thread;
mod throttle;

pub use exit::{GuestEnd, GuestExit, VcpuError};
pub(crate) use registers::{EntryPoint, Registers};
pub use saved::VcpuStateError;
pub(crate) use saved::VcpuStateV1;
pub(crate) use saved::{TimeBase, unlisted_msrs};
pub(crate) use thread::{Vcpu, VcpuThread};
pub(crate) use throttle::{Gate, SHARE_MOST, Throttle};
