//! One VM: how it is made, paused, saved, restored and resumed.

mod config;
mod create;
mod machine;
mod saved;

pub use config::{ConfigError, CpuCount, MachineConfig};
pub use create::VmError;
pub(crate) use create::VmParts;
pub use machine::{Paused, Running};
pub(crate) use saved::VmStateV1;
