//! The machines that there are: their records, and the threads that attend to those which live.
//!
//! ```text
//!  Registry ── Entry (one a machine) ── record: what is written of it
//!                 │                     live:   what is shown of it now
//!                 │ mail                console
//!                 ▼
//!             Attendant (a thread, while there is a process) ── machine::Supervised
//! ```

mod all;
mod attendant;
mod bell;
mod command;
mod entry;
mod images;
mod record;
mod restart;
mod store;

pub(crate) use all::{Limits, Registry, Shared};
pub(crate) use store::Store;
pub use store::StoreError;
