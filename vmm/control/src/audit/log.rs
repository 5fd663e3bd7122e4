//! The log of a daemon, to which its threads add calls.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::chain::Lost;
use super::folder::AuditFolder;
use super::hash::RecordHash;
use super::problem::AuditProblem;
use super::record::Call;
use super::writer::Writer;
use crate::access::{PrivateFolderError, make_private_folder};
use crate::config::AuditConfig;

/// Where a call stands in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The number of its record.
    pub seq: u64,
    /// The record's hash.
    pub hash: RecordHash,
}

/// Why a call is not in the log, or there is no log.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AuditError {
    /// A record cannot be written
    #[error("the audit log {} cannot be written, so nothing may be changed: {source}; make room on its disk", path.display())]
    Append {
        /// Its folder.
        path: PathBuf,
        /// Why.
        source: Arc<io::Error>,
    },
    /// The folder cannot be used
    #[error("the audit log: {0}")]
    Folder(Arc<PrivateFolderError>),
    /// It cannot be read or begun
    #[error("the audit log {} cannot be opened: {source}", path.display())]
    Open {
        /// Its folder.
        path: PathBuf,
        /// Why.
        source: Arc<io::Error>,
    },
    /// Somebody else writes to it
    #[error("the audit log {} is another daemon's: end that one, or give this one another storage.state", path.display())]
    Taken {
        /// Its folder.
        path: PathBuf,
    },
    /// It is damaged
    #[error(
        "the audit log {} is damaged: {problem}; nothing is added to it and nothing repaired: \
         find out why, then move the folder away, and a new one is begun",
        path.display()
    )]
    Damaged {
        /// Its folder.
        path: PathBuf,
        /// What is wrong.
        problem: AuditProblem,
    },
}

/// A log that is open for adding, by this process alone.
#[derive(Debug)]
pub struct AuditLog {
    path: PathBuf,
    queue: Mutex<Queue>,
    /// Somebody is through with writing.
    written: Condvar,
    writer: Mutex<Writer>,
}

/// Calls that came while others were written: they are written together, and the disk waited for once.
#[derive(Debug, Default)]
struct Queue {
    is_writing: bool,
    next_ticket: u64,
    waiting: Vec<(u64, Call)>,
    written: BTreeMap<u64, Result<Receipt, AuditError>>,
}

impl AuditLog {
    /// Opens the log in a folder, whose parent must be there; begins one if there is none.
    ///
    /// # Errors
    /// Another process has it, it is damaged, or the disk does not obey.
    pub fn open(path: &Path, limits: &AuditConfig) -> Result<Self, AuditError> {
        let own_uid = rustix::process::geteuid().as_raw();
        make_private_folder(path, own_uid).map_err(|error| AuditError::Folder(error.into()))?;
        let failed =
            |error: io::Error| AuditError::Open { path: path.into(), source: error.into() };
        let folder = AuditFolder::open(path).map_err(failed)?;
        // A folder that is new must be there after a loss of power, or its records are not.
        sync_parent(path).map_err(failed)?;
        folder.lock().map_err(failed)?.ok_or_else(|| AuditError::Taken { path: path.into() })?;
        let writer = Writer::open(folder, limits.clone()).map_err(|lost| match lost {
            Lost::Io(error) => failed(error),
            Lost::Problem(problem) => AuditError::Damaged { path: path.into(), problem },
        })?;
        Ok(Self {
            path: path.to_owned(),
            queue: Mutex::default(),
            written: Condvar::new(),
            writer: Mutex::new(writer),
        })
    }

    /// Adds a call, and returns when it is on storage. Many threads may do so at once. It waits for the disk, so a thread
    /// that serves others must not call it.
    ///
    /// # Errors
    /// It is not in the log. Whoever wanted to change something must not.
    pub fn append(&self, call: Call) -> Result<Receipt, AuditError> {
        let mut queue = lock(&self.queue);
        let ticket = queue.next_ticket;
        queue.next_ticket += 1;
        queue.waiting.push((ticket, call));
        loop {
            if let Some(outcome) = queue.written.remove(&ticket) {
                return outcome;
            }
            if queue.is_writing {
                queue = self.written.wait(queue).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            // Nobody writes, so this thread does, for all who wait.
            queue.is_writing = true;
            let batch = std::mem::take(&mut queue.waiting);
            drop(queue);
            let written = self.write(batch);
            queue = lock(&self.queue);
            queue.is_writing = false;
            queue.written.extend(written);
            self.written.notify_all();
        }
    }

    fn write(&self, batch: Vec<(u64, Call)>) -> Vec<(u64, Result<Receipt, AuditError>)> {
        let (tickets, calls): (Vec<_>, Vec<_>) = batch.into_iter().unzip();
        match lock(&self.writer).add(calls) {
            Ok(receipts) => tickets.into_iter().zip(receipts.into_iter().map(Ok)).collect(),
            Err(error) => {
                let source = Arc::new(error);
                let error = AuditError::Append { path: self.path.clone(), source };
                tickets.into_iter().map(|ticket| (ticket, Err(error.clone()))).collect()
            }
        }
    }

    #[cfg(test)]
    pub(super) fn writer(&self) -> MutexGuard<'_, Writer> {
        lock(&self.writer)
    }
}

fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

/// A thread that panicked left nothing half done here: what it holds is replaced as a whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[path = "log_tests.rs"]
mod tests;
