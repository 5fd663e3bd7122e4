//! Records on disk: whole or not there, whatever is killed.
//!
//! ```text
//!  STATE/lock                  held by the daemon
//!  STATE/machines/NAME/        machine.json   replaced by rename
//!                              permit         two slots, see the crate machine
//!                              ends           written by the machine's process
//!  STATE/machines/.new-ID/     being made: renamed to NAME when it is whole
//!  STATE/machines/.old-ID/     being deleted
//!  STATE/kept/ID               what is kept of the memory of a machine that has left: see `kept_images`
//!  STATE/permits/ID/permit     of a machine that has no record any more: it answers late questions about moves, and
//!                              keeps an old copy from coming here
//! ```

use std::fs::{File, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use machine::Home;
use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::record::Record;
use crate::access::make_private_folder;
use crate::api::{MachineName, MachineSpec};
use crate::random::{hex, random, unhex};
use crate::whole_file::{self, sync_folder};

/// A daemon that is killed while it starts a process leaves its lock with that, until it has become another executable.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);

/// How long the permit of a machine that is not here any more is kept.
const PERMITS_KEPT: Duration = Duration::from_secs(30 * 24 * 3600);

/// A record has a few hundred bytes, and a command line that somebody wrote.
const RECORD_MAX_BYTES: u64 = 1 << 20;

/// Records cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another daemon
    #[error(
        "another daemon uses the state folder {0}; stop it, or give this one a folder of its own with --state"
    )]
    InUse(PathBuf),
    /// The folder cannot be made or used
    #[error(transparent)]
    Folder(#[from] crate::access::PrivateFolderError),
    /// A file or folder of it
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A machine of that name
    #[error("there is a machine {0} already")]
    Exists(MachineName),
    /// Its permit record
    #[error("the permit record of a new machine: {0}")]
    Permit(Box<machine::SuperviseError>),
}

impl StoreError {
    fn at(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        move |source| Self::File { path: path.to_owned(), source }
    }
}

/// The folder of all records.
#[derive(Debug)]
pub(crate) struct Store {
    machines: PathBuf,
    permits: PathBuf,
    sockets: PathBuf,
    /// For as long as it is open, no other daemon has the folder.
    _lock: File,
}

/// What lies in a folder with a machine's name.
#[derive(Debug)]
pub(crate) enum Found {
    Record(MachineName, Box<Record>),
    /// It has the name, and is no record that this executable can use. It is left alone.
    Unreadable {
        name: String,
        why: String,
    },
}

impl Store {
    /// Opens the state folder, makes what is missing of it, and clears what was being made or deleted when a daemon
    /// died.
    ///
    /// # Errors
    /// When another daemon has it, or it cannot be used.
    pub(crate) fn open(state: &Path, runtime: &Path, own_uid: u32) -> Result<Self, StoreError> {
        let (machines, sockets) = (state.join("machines"), runtime.join("machines"));
        let permits = state.join("permits");
        for folder in [state.parent().unwrap_or(state), runtime] {
            std::fs::create_dir_all(folder).map_err(StoreError::at(folder))?;
        }
        make_private_folder(state, own_uid)?;
        let path = state.join("lock");
        let mut options = File::options();
        let lock = options.create(true).truncate(false).write(true).mode(0o600).open(&path);
        let lock = lock.map_err(StoreError::at(&path))?;
        let end = Instant::now() + LOCK_PATIENCE;
        loop {
            match lock.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if Instant::now() < end => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                Err(TryLockError::WouldBlock) => return Err(StoreError::InUse(state.to_owned())),
                Err(TryLockError::Error(error)) => return Err(StoreError::at(&path)(error)),
            }
        }
        for folder in [&machines, &permits, &sockets] {
            make_private_folder(folder, own_uid)?;
        }
        let store = Self { machines, permits, sockets, _lock: lock };
        store.sweep()?;
        store.forget_old_permits();
        Ok(store)
    }

    /// All records.
    ///
    /// # Errors
    /// When the folder cannot be read; a record that cannot be is no error of all.
    pub(crate) fn load(&self) -> Result<Vec<Found>, StoreError> {
        let mut found = Vec::new();
        for entry in self.entries()? {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with('.') {
                continue;
            }
            let record = read(&entry.path().join("machine.json"));
            found.push(match (name.parse(), record) {
                (Ok(name), Ok(record)) => Found::Record(name, Box::new(record)),
                (Err(why), _) => Found::Unreadable { name, why: format!("{why}") },
                (_, Err(why)) => Found::Unreadable { name, why },
            });
        }
        Ok(found)
    }

    /// Makes a new machine's record.
    ///
    /// # Errors
    /// When there is a folder of that name, or it cannot be written: then nothing is left of it.
    pub(crate) fn create(
        &self,
        name: &MachineName,
        spec: MachineSpec,
    ) -> Result<Record, StoreError> {
        let id = random().map_err(StoreError::at(Path::new("the random source")))?;
        let record = Record::new(id, spec);
        let new = self.machines.join(format!(".new-{}", record.id_text()));
        let outcome = self.write_new(&new, name, &record);
        if outcome.is_err() {
            // What cannot be removed now is when the next daemon starts.
            let _ = std::fs::remove_dir_all(&new);
        }
        outcome.map(|()| record)
    }

    /// Makes the record of a machine that is to come from another host. It has no permit yet, but for the one of a time
    /// when the machine was here.
    ///
    /// # Errors
    /// When there is a folder of that name, or it cannot be written: then nothing is left of it.
    pub(crate) fn create_arriving(
        &self,
        name: &MachineName,
        record: &Record,
    ) -> Result<(), StoreError> {
        let new = self.machines.join(format!(".new-{}", record.id_text()));
        let outcome = self.write_arriving(&new, name, record);
        if outcome.is_err()
            && let Err(error) = self.discard(&new)
        {
            // What cannot be removed now is when the next daemon starts.
            tracing::warn!(%error, path = %new.display(), "something is left of a machine that did not come");
        }
        outcome
    }

    fn write_arriving(
        &self,
        new: &Path,
        name: &MachineName,
        record: &Record,
    ) -> Result<(), StoreError> {
        let kept = self.permits.join(record.id_text());
        match std::fs::rename(&kept, new) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                std::fs::create_dir(new).map_err(StoreError::at(new))?;
            }
            renamed => renamed.map_err(StoreError::at(&kept))?,
        }
        self.name_new(new, name, record)
    }

    fn write_new(&self, new: &Path, name: &MachineName, record: &Record) -> Result<(), StoreError> {
        std::fs::create_dir(new).map_err(StoreError::at(new))?;
        self.home_at(new, record)
            .create_permit()
            .map_err(|error| StoreError::Permit(Box::new(error)))?;
        self.name_new(new, name, record)
    }

    fn name_new(&self, new: &Path, name: &MachineName, record: &Record) -> Result<(), StoreError> {
        write(new, record).map_err(StoreError::at(new))?;
        let path = self.folder(name);
        match renameat_with(CWD, new, CWD, &path, RenameFlags::NOREPLACE) {
            Ok(()) => {}
            Err(rustix::io::Errno::EXIST) => return Err(StoreError::Exists(name.clone())),
            Err(error) => return Err(StoreError::at(&path)(error.into())),
        }
        sync_folder(&self.machines).map_err(StoreError::at(&self.machines))
    }

    /// Replaces a machine's record.
    ///
    /// # Errors
    /// When it cannot be written: then the old one, or the new one, is there, and whole.
    pub(crate) fn save(&self, name: &MachineName, record: &Record) -> Result<(), StoreError> {
        let folder = self.folder(name);
        write(&folder, record).map_err(StoreError::at(&folder))
    }

    /// Deletes a machine's record. Whether the machine may be deleted, is the caller's decision.
    ///
    /// # Errors
    /// When it cannot be renamed: then it is as it was.
    pub(crate) fn delete(&self, name: &MachineName, record: &Record) -> Result<(), StoreError> {
        let (path, old) = (self.folder(name), format!(".old-{}", record.id_text()));
        let old = self.machines.join(old);
        std::fs::rename(&path, &old).map_err(StoreError::at(&path))?;
        sync_folder(&self.machines).map_err(StoreError::at(&self.machines))?;
        // It is deleted from here on; what is left of it now goes when the next daemon starts.
        if let Err(error) = self.discard(&old) {
            tracing::warn!(%error, path = %old.display(), "something is left of a deleted machine");
        }
        Ok(())
    }

    /// Where a machine is found.
    pub(crate) fn home(&self, name: &MachineName, record: &Record) -> Home {
        self.home_at(&self.folder(name), record)
    }

    fn home_at(&self, folder: &Path, record: &Record) -> Home {
        Home::new(record.id, folder, &self.sockets).expect("a record has no id of zeros")
    }

    /// Bytes that can still be written.
    ///
    /// # Errors
    /// When the file system cannot tell.
    pub(crate) fn free_bytes(&self) -> io::Result<u64> {
        let space = rustix::fs::statvfs(&self.machines)?;
        Ok(space.f_bavail.saturating_mul(space.f_frsize))
    }

    fn folder(&self, name: &MachineName) -> PathBuf {
        self.machines.join(name.as_str())
    }

    /// Removes a folder that is no machine's any more. A permit that has been in a move is kept: the other host may ask.
    fn discard(&self, folder: &Path) -> io::Result<()> {
        let id = folder.file_name().map(|name| name.to_string_lossy().into_owned());
        let id = id.as_deref().and_then(|name| unhex(name.get(".new-".len()..)?));
        if let Some(id) = id
            && let Some(home) = Home::new(id, folder, &self.sockets)
            && home.has_moved()
        {
            for entry in std::fs::read_dir(folder)? {
                let entry = entry?;
                if entry.file_name() != "permit" {
                    std::fs::remove_file(entry.path())?;
                }
            }
            std::fs::rename(folder, self.permits.join(hex(&id)))?;
            return sync_folder(&self.permits);
        }
        std::fs::remove_dir_all(folder)
    }

    /// The permit of a machine that has no record: where questions about its moves are answered.
    pub(crate) fn kept_permit(&self, id: [u8; 16]) -> Option<Home> {
        Home::new(id, &self.permits.join(hex(&id)), &self.sockets)
    }

    /// After this time nobody asks any more.
    fn forget_old_permits(&self) {
        let Ok(entries) = std::fs::read_dir(&self.permits) else { return };
        for entry in entries.flatten() {
            let age = entry.metadata().and_then(|found| found.modified()).map(|at| at.elapsed());
            if matches!(age, Ok(Ok(age)) if age > PERMITS_KEPT)
                && let Err(error) = std::fs::remove_dir_all(entry.path())
            {
                tracing::warn!(%error, path = %entry.path().display(), "an old permit is not removed");
            }
        }
    }

    fn sweep(&self) -> Result<(), StoreError> {
        for entry in self.entries()? {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with(".new-") || name.starts_with(".old-") {
                let path = entry.path();
                tracing::info!(path = %path.display(), "what a daemon before left is removed");
                self.discard(&path).map_err(StoreError::at(&path))?;
            }
        }
        Ok(())
    }

    fn entries(&self) -> Result<Vec<std::fs::DirEntry>, StoreError> {
        let entries = std::fs::read_dir(&self.machines).and_then(Iterator::collect);
        entries.map_err(StoreError::at(&self.machines))
    }
}

/// Writes a folder's record in the place of the one that is there.
fn write(folder: &Path, record: &Record) -> io::Result<()> {
    let bytes = record.encode()?;
    whole_file::replace(folder, "machine.json", |file| file.write_all(&bytes))
}

fn read(path: &Path) -> Result<Record, String> {
    use std::io::Read;
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|error| format!("machine.json: {error}"))?;
    file.take(RECORD_MAX_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| format!("machine.json: {error}"))?;
    if bytes.len() as u64 > RECORD_MAX_BYTES {
        return Err(format!("machine.json has more than {RECORD_MAX_BYTES} bytes"));
    }
    Record::decode(&bytes).map_err(|error| format!("machine.json: {error}"))
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
