//! The machines that there are: their records, and the threads that attend to those which live.
//!
//! ```text
//!  Registry ── Entry (one a machine) ── record: what is written of it
//!                 │                     live:   what is shown of it now
//!                 │ mail                console
//!                 ▼
//!             Attendant (a thread, while there is a process) ── machine::Supervised
//! ```

mod adoption;
mod arrivals;
mod attendant;
mod bell;
mod command;
mod departures;
mod doubt;
mod entry;
mod fate;
mod images;
mod inquiry;
mod jobs;
mod keeping;
mod machines;
mod migration_check;
mod move_report;
mod record;
mod restart;
mod shared;
mod store;

pub(crate) use machines::Registry;
#[cfg(test)]
pub(crate) use migration_check::measure;
pub(crate) use shared::{Limits, Shared};
pub(crate) use store::Store;
pub use store::StoreError;
