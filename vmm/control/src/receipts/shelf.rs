//! [`ReceiptShelf`]: the receipts that this host keeps.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::problem::ReceiptError;
use crate::access::{PrivateFolderError, make_private_folder};
use crate::api::{ApiError, ErrorCode, Receipt, Timestamp};
use crate::random::{hex, unhex};
use crate::whole_file;

/// Receipts that are kept: years of moves, and some 40 MB.
const RECEIPTS_MAX: usize = 10_000;
/// A receipt has less than a thousand bytes.
const FILE_MAX_BYTES: u64 = 1 << 14;

/// The receipts of this host cannot be used, or not written.
#[derive(Debug, thiserror::Error)]
pub enum ReceiptShelfError {
    /// Their folder
    #[error("the receipts of moves: {0}")]
    Folder(#[from] PrivateFolderError),
    /// A file, or the folder
    #[error("the receipts of moves, {}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// One that proves nothing is not kept
    #[error("a receipt that is not kept: {0}")]
    Receipt(#[from] ReceiptError),
}

impl ReceiptShelfError {
    fn at(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        move |source| Self::File { path: path.to_owned(), source }
    }
}

/// The folder of receipts: a file for each, named as its session. It is whole or not there, whatever is killed.
#[derive(Debug)]
pub(crate) struct ReceiptShelf {
    folder: PathBuf,
    most: usize,
    /// When the moves ended whose receipts are there, by session: for the choice of what goes when there are too many.
    /// Held while one is put.
    ends: Mutex<BTreeMap<String, Timestamp>>,
}

impl ReceiptShelf {
    /// The shelf in this state folder, made if there is none yet; what a daemon was writing when it died is removed.
    ///
    /// # Errors
    /// When it cannot be made or read.
    pub(crate) fn open(state: &Path, own_uid: u32) -> Result<Self, ReceiptShelfError> {
        let folder = state.join("receipts");
        make_private_folder(&folder, own_uid)?;
        let shelf = Self { folder, most: RECEIPTS_MAX, ends: Mutex::default() };
        for name in shelf.names()?.iter().filter(|name| name.starts_with('.')) {
            let path = shelf.folder.join(name);
            std::fs::remove_file(&path).map_err(ReceiptShelfError::at(&path))?;
        }
        let receipts = shelf.list()?.into_iter();
        let ends = receipts.map(|receipt| (receipt.statement.session, receipt.statement.ended_at));
        *shelf.lock() = ends.collect();
        Ok(shelf)
    }

    /// Keeps a receipt, in the place of one of the same session: both hosts have signed this one, too. Where there are
    /// too many then, those of the moves that ended first go; never this one, whatever the clock was on which it ended.
    ///
    /// # Errors
    /// When it proves nothing, or cannot be written: then what was there is there.
    pub(crate) fn put(&self, receipt: &Receipt) -> Result<(), ReceiptShelfError> {
        receipt.verify()?;
        let session = &receipt.statement.session;
        let path = self.path(session);
        let mut ends = self.lock();
        let written = whole_file::replace(&self.folder, &file_name(session), |file| {
            serde_json::to_writer_pretty(&mut *file, receipt)?;
            file.write_all(b"\n")
        });
        written.map_err(ReceiptShelfError::at(&path))?;
        ends.insert(session.clone(), receipt.statement.ended_at);
        while ends.len() > self.most {
            let others = ends.iter().filter(|(other, _)| *other != session);
            let first = others.min_by_key(|(_, ended_at)| **ended_at);
            let Some(first) = first.map(|(first, _)| first.clone()) else { break };
            let old = self.path(&first);
            match std::fs::remove_file(&old) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    // The new one is kept all the same; the next that is put tries again.
                    tracing::warn!(%error, path = %old.display(), "a receipt too many is left");
                    break;
                }
                _ => ends.remove(&first),
            };
        }
        Ok(())
    }

    /// The receipt of a session. Whoever relies on it verifies it: it is what the file says.
    ///
    /// # Errors
    /// When there is none, or its file cannot be read.
    pub(crate) fn get(&self, session: &str) -> Result<Receipt, ApiError> {
        let found = if is_session(session) { self.read(session) } else { Ok(None) };
        match found {
            Ok(Some(receipt)) => Ok(receipt),
            Ok(None) => Err(ApiError::new(ErrorCode::NotFound, "there is no such receipt here")
                .with_hint("`novacron receipt list` shows those that are")),
            Err(why) => {
                let path = self.path(session);
                let why = format!("the receipt {} cannot be read: {why}", path.display());
                Err(ApiError::internal(why).with_hint("the move's other host has it, too"))
            }
        }
    }

    /// All receipts, the newest first. A file that cannot be read is passed over, and told of in the log.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub(crate) fn list(&self) -> Result<Vec<Receipt>, ReceiptShelfError> {
        let mut receipts = Vec::new();
        for name in self.names()?.iter().filter(|name| !name.starts_with('.')) {
            let session = name.strip_suffix(".json").filter(|session| is_session(session));
            let read = session.map_or_else(
                || Err("it is not named as a session is".to_owned()),
                |session| self.read(session),
            );
            match read {
                // It was one too many, and went meanwhile.
                Ok(None) => {}
                Ok(Some(receipt)) => receipts.push(receipt),
                Err(why) => {
                    let path = self.folder.join(name);
                    tracing::warn!(path = %path.display(), why, "a receipt is passed over");
                }
            }
        }
        let newest = |receipt: &Receipt| std::cmp::Reverse(receipt.statement.ended_at);
        receipts.sort_by(|one, other| {
            let by_session = || one.statement.session.cmp(&other.statement.session);
            newest(one).cmp(&newest(other)).then_with(by_session)
        });
        Ok(receipts)
    }

    /// `None` if there is no such file.
    fn read(&self, session: &str) -> Result<Option<Receipt>, String> {
        let mut bytes = Vec::new();
        match File::open(self.path(session)) {
            Ok(file) => file.take(FILE_MAX_BYTES + 1).read_to_end(&mut bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => Err(error),
        }
        .map_err(|error| error.to_string())?;
        if bytes.len() as u64 > FILE_MAX_BYTES {
            return Err(format!("it has more than {FILE_MAX_BYTES} bytes"));
        }
        let receipt: Receipt = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
        receipt.check_form().map_err(|error| error.to_string())?;
        if receipt.statement.session == session {
            Ok(Some(receipt))
        } else {
            Err(format!("it is that of the session {}", receipt.statement.session))
        }
    }

    fn names(&self) -> Result<Vec<String>, ReceiptShelfError> {
        let names = std::fs::read_dir(&self.folder).and_then(|entries| {
            entries
                .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
                .collect::<io::Result<_>>()
        });
        names.map_err(ReceiptShelfError::at(&self.folder))
    }

    fn path(&self, session: &str) -> PathBuf {
        self.folder.join(file_name(session))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Timestamp>> {
        // A panic aborts the process, so that no lock is ever poisoned.
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn file_name(session: &str) -> String {
    format!("{session}.json")
}

/// What a session is called, and so no path to anywhere else.
fn is_session(text: &str) -> bool {
    unhex::<16>(text).is_some_and(|bytes| hex(&bytes) == text)
}

#[cfg(test)]
#[path = "shelf_tests.rs"]
mod tests;
