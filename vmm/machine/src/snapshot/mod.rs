//! A machine in a file: taking snapshots of it while it runs, and restoring them.
//!
//! ```text
//!  the machine runs ─ rounds ─► ArchiveWriter ─► a file without a name     file without a name
//!  pause: state, last pages                            │                       │ all is on storage
//!  resume ──────────────── index, end, fsync ──────────┘                       ▼
//!                                                                      a name (file.rs)
//!
//!  Chain: archives, laid over each other, checked ─┬─ eagerly: every block, then run       (restore.rs)
//!                                                  └─ lazily:  run, then blocks as pages are touched (lazy.rs)
//! ```
//!
//! - **Nothing half-written stays.** The file has no name until it is whole and on storage; whoever dies before that,
//!   by whatever means, leaves nothing.
//! - **A snapshot is never overwritten**, and taking one never touches another.
//! - **The guest outlives a snapshot that fails**: it goes on, whether it ran or was paused.
//! - **A restored machine is another machine**: it has a new id, a record of its own, and its guest is told that it is a
//!   copy (VMGENID). Its clocks go on as if it had slept.

mod chain;
mod description;
mod file;
pub mod fuzz;
mod lazy;
mod pages;
mod restore;
mod save;

use std::io;

pub(crate) use chain::{ArchiveFile, Chain, MOST_ARCHIVES};
pub use chain::{SnapshotPath, describe_snapshot, find_chain};
pub(crate) use description::SavedMoment;
pub use file::SnapshotFile;
pub(crate) use lazy::{Completion, Loader};
pub(crate) use pages::{BLOCK_PAGES, PageWriter};
pub(crate) use restore::{Restored, is_same_boot, restore};
pub(crate) use save::{Subject, Taking};

use dwcp::archive::ArchiveError;
use dwcp::ledger::LedgerError;
use serde::{Deserialize, Serialize};

use crate::dirty::DirtyLogError;
use crate::memory::RamError;
use crate::vm::VmError;

/// What taking a snapshot did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotReport {
    /// Bytes of the file.
    pub bytes: u64,
    /// Pages written, counting each time.
    pub pages: u64,
    /// Rounds while the guest ran.
    pub rounds: u32,
    /// Nanoseconds that the guest stood still; 0 if it was paused anyway.
    pub paused_ns: u64,
    /// Nanoseconds from the order until everything was on storage.
    pub total_ns: u64,
}

/// What a restore did before the guest ran.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreReport {
    /// Bytes of the files.
    pub bytes: u64,
    /// Pages that are not zero.
    pub pages: u64,
    /// Nanoseconds from the order until the guest's first instruction.
    pub total_ns: u64,
    /// Whether pages are still to be fetched.
    pub is_lazy: bool,
}

/// A snapshot that could not be taken or used.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The file is not what it should be
    #[error("{name} {source}")]
    Archive {
        /// The file.
        name: String,
        /// What is wrong with it.
        source: ArchiveError<io::Error>,
    },
    /// Somebody has cancelled it
    #[error("the snapshot was cancelled; the machine goes on, and nothing is left of it")]
    Cancelled,
    /// The snapshot cannot be written
    #[error("the snapshot cannot be written: {0}; the machine goes on, and nothing is left of it")]
    Write(#[source] io::Error),
    /// The snapshot has parts that no archive can hold
    #[error("the snapshot {0}")]
    Parts(ArchiveError<std::convert::Infallible>),
    /// The file cannot be opened, made or named
    #[error("{name}: {source}{hint}")]
    File {
        /// The file.
        name: String,
        /// What the system said.
        source: io::Error,
        /// What to do, where that is known.
        hint: &'static str,
    },
    /// A description of another version
    #[error(
        "{name} describes its machine in version {found}, this executable knows {known}; use one that knows both"
    )]
    DescriptionVersion {
        /// The file.
        name: String,
        /// The version found.
        found: u16,
        /// The version known here.
        known: u16,
    },
    /// A description that makes no sense
    #[error("{name} has a description that cannot be read: {why}")]
    Description {
        /// The file.
        name: String,
        /// What the decoder said.
        why: String,
    },
    /// Too many snapshots that build on each other
    #[error("{name} builds on more than {most} others; take a full snapshot now and then")]
    ChainTooLong {
        /// The file.
        name: String,
        /// The most.
        most: usize,
    },
    /// An incremental snapshot was to build on one of another machine
    #[error("{name} is a snapshot of another machine: no snapshot of this one can build on it")]
    OtherMachine {
        /// The file.
        name: String,
    },
    /// An incremental snapshot was to build on one of a machine of another shape
    #[error("{name} is of a machine of another shape: memory or vCPUs differ")]
    OtherShape {
        /// The file.
        name: String,
    },
    /// The guest ended meanwhile
    #[error("the guest ended before its snapshot was complete")]
    GuestEnded,
    /// The machine
    #[error(transparent)]
    Vm(#[from] VmError),
    /// Guest memory
    #[error(transparent)]
    Ram(#[from] RamError),
    /// The dirty log
    #[error(transparent)]
    DirtyLog(#[from] DirtyLogError),
    /// The pages owed
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// Lazy loading
    #[error("pages cannot be fetched as they are touched: {0}; restore without --lazy")]
    Userfault(#[source] io::Error),
}
