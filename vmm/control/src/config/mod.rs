//! The configuration of a daemon: one TOML file, the environment, and options.
//!
//! `table.rs` is the one place where a field has its name, type, bounds, default and documentation; the types of this
//! module, the reading, `novacron config` and `configuration.md` are made from it.

mod check;
mod effective;
mod field;
mod file;
mod places;
mod problem;
mod render;
mod setting;
mod surroundings;
mod table;
mod types;
mod value;

pub use check::Note;
pub use effective::{Effective, Sources};
pub use problem::{ConfigError, Place, Problem};
pub use render::{default_file, reference};
pub use surroundings::Surroundings;
pub use table::{
    AuditConfig, Config, KeptConfig, LimitsConfig, LogConfig, MachinesConfig, RolesConfig,
    SocketConfig, StorageConfig,
};
pub use types::{LogFilter, SocketMode};
