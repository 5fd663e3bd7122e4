//! [`KeptImages`]: what is kept here of machines that have left, for the day on which they come back.
//!
//! A file for each, named as the machine's id, and encrypted: the key travels with the machine. It is whole or not there,
//! whatever is killed. All of them together have a share of the state folder's file system; those that were made first go
//! first. They are worth nothing but time: whatever is wrong with one, a move goes on without it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use machine::{Ender, SnapshotFile};

use crate::access::{PrivateFolderError, make_private_folder};
use crate::config::KeptConfig;
use crate::random::{hex, random, unhex};
use crate::whole_file::sync_folder;

/// So much of the file system stays free for what matters: records, the audit log.
const FREE_BYTES: u64 = 1 << 30;

/// Kept images cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeptImagesError {
    /// Their folder
    #[error("the kept images: {0}")]
    Folder(#[from] PrivateFolderError),
    /// A file, or the folder
    #[error("the kept images, {}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// The folder of kept images.
#[derive(Debug)]
pub(crate) struct KeptImages {
    folder: PathBuf,
    /// Of the file system, for all of them; 0 if none are made.
    percent: u32,
    kept_for: Duration,
    writing: Mutex<BTreeMap<[u8; 16], Writing>>,
    written: Condvar,
}

/// One that is being written.
#[derive(Debug)]
struct Writing {
    /// Whose end ends it.
    process: Option<Ender>,
    is_wanted: bool,
}

/// One that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) machine: [u8; 16],
    pub(crate) bytes: u64,
    pub(crate) at: SystemTime,
}

impl KeptImages {
    /// Those in this state folder. What a daemon was naming when it died is removed, and what is too old.
    ///
    /// # Errors
    /// When the folder cannot be made or read.
    pub(crate) fn open(
        state: &Path,
        config: &KeptConfig,
        own_uid: u32,
    ) -> Result<Arc<Self>, KeptImagesError> {
        let folder = state.join("kept");
        make_private_folder(&folder, own_uid)?;
        let at = |path: &Path, source| KeptImagesError::File { path: path.to_owned(), source };
        let KeptConfig { percent, time } = *config;
        let (writing, written) = (Mutex::default(), Condvar::new());
        let images = Self { folder, percent, kept_for: time.duration(), writing, written };
        let entries =
            std::fs::read_dir(&images.folder).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        for entry in entries.map_err(|error| at(&images.folder, error))? {
            if entry.file_name().to_string_lossy().starts_with('.') {
                let path = entry.path();
                std::fs::remove_file(&path).map_err(|error| at(&path, error))?;
            }
        }
        images.forget_old();
        Ok(Arc::new(images))
    }

    /// Whether images are made here.
    pub(crate) fn are_made(&self) -> bool {
        self.percent > 0
    }

    /// All that are there, the oldest first.
    pub(crate) fn list(&self) -> Vec<Found> {
        let Ok(entries) = std::fs::read_dir(&self.folder) else { return Vec::new() };
        let mut all: Vec<_> = entries
            .flatten()
            .filter_map(|entry| {
                let machine = unhex(entry.file_name().to_str()?)?;
                let found = entry.metadata().ok()?;
                Some(Found { machine, bytes: found.len(), at: found.modified().ok()? })
            })
            .collect();
        all.sort_by_key(|found| found.at);
        all
    }

    /// The image of a machine, if there is one.
    pub(crate) fn find(&self, machine: [u8; 16]) -> Option<Found> {
        let found = self.path(machine).metadata().ok()?;
        Some(Found { machine, bytes: found.len(), at: found.modified().ok()? })
    }

    /// The same, to be read.
    pub(crate) fn file(&self, machine: [u8; 16]) -> Option<File> {
        match File::open(self.path(machine)) {
            Ok(file) => Some(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                tracing::warn!(%error, machine = hex(&machine), "a kept image cannot be opened");
                None
            }
        }
    }

    /// Bytes that all of them may have.
    ///
    /// # Errors
    /// When the file system cannot tell.
    pub(crate) fn quota(&self) -> io::Result<u64> {
        let space = rustix::fs::statvfs(&self.folder)?;
        let bytes = space.f_blocks.saturating_mul(space.f_frsize);
        Ok(bytes / 100 * u64::from(self.percent))
    }

    /// A place for the image of a machine that has left, which this process writes.
    ///
    /// # Errors
    /// When there is no room, or no file can be made.
    pub(crate) fn begin(
        self: &Arc<Self>,
        machine: [u8; 16],
        process: Ender,
    ) -> Result<Place, String> {
        self.forget_old();
        self.place(machine, Some(process))
    }

    fn place(self: &Arc<Self>, machine: [u8; 16], process: Option<Ender>) -> Result<Place, String> {
        let words = |error: io::Error| error.to_string();
        let space = rustix::fs::statvfs(&self.folder).map_err(|error| words(error.into()))?;
        let free = space.f_bavail.saturating_mul(space.f_frsize).saturating_sub(FREE_BYTES);
        let most = self.quota().map_err(words)?.min(free);
        if most == 0 {
            return Err("there is no room on the file system".to_owned());
        }
        let drawn = hex(&random::<4>().map_err(words)?);
        let path = self.folder.join(format!(".{}-{drawn}", hex(&machine)));
        let file = SnapshotFile::create(&path).map_err(|error| error.to_string())?;
        self.lock().insert(machine, Writing { process, is_wanted: true });
        Ok(Place { images: Arc::clone(self), machine, file: Some(file), most })
    }

    /// Waits until the image of a machine that comes back is written, if it is being written. If that takes too long, it
    /// is given up.
    pub(crate) fn settle(&self, machine: [u8; 16], limit: Duration) {
        let writing = self.lock();
        let is_written = |all: &mut BTreeMap<_, _>| all.contains_key(&machine);
        let waited = self.written.wait_timeout_while(writing, limit, is_written);
        let (writing, late) = waited.unwrap_or_else(PoisonError::into_inner);
        drop(writing);
        if late.timed_out() {
            self.give_up(machine);
        }
    }

    /// Nothing of a machine is kept any more; whether there was something.
    pub(crate) fn remove(&self, machine: [u8; 16]) -> bool {
        self.give_up(machine);
        match std::fs::remove_file(self.path(machine)) {
            Ok(()) => true,
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::warn!(%error, machine = hex(&machine), "a kept image is not removed");
                }
                false
            }
        }
    }

    /// Removes those of machines that are not known here any more.
    pub(crate) fn retain(&self, is_known: impl Fn([u8; 16]) -> bool) {
        for found in self.list().into_iter().filter(|found| !is_known(found.machine)) {
            self.remove(found.machine);
        }
    }

    /// After this time a machine is not expected back.
    fn forget_old(&self) {
        for found in self.list() {
            if found.at.elapsed().is_ok_and(|age| age > self.kept_for) {
                tracing::info!(machine = hex(&found.machine), "a kept image is old, and removed");
                self.remove(found.machine);
            }
        }
    }

    /// What is being written is not wanted any more.
    fn give_up(&self, machine: [u8; 16]) {
        if let Some(writing) = self.lock().get_mut(&machine) {
            writing.is_wanted = false;
            if let Some(process) = &writing.process {
                process.kill();
            }
        }
    }

    /// Nothing of what is being written is wanted any more: the daemon ends.
    pub(crate) fn give_up_all(&self) {
        let machines: Vec<_> = self.lock().keys().copied().collect();
        machines.into_iter().for_each(|machine| self.give_up(machine));
    }

    /// Makes room for so many bytes, if that is possible at all.
    fn make_room(&self, machine: [u8; 16], bytes: u64) -> io::Result<()> {
        let quota = self.quota()?;
        let others: Vec<_> =
            self.list().into_iter().filter(|found| found.machine != machine).collect();
        let mut total = bytes + others.iter().map(|found| found.bytes).sum::<u64>();
        for found in others {
            if total <= quota {
                break;
            }
            tracing::info!(
                machine = hex(&found.machine),
                "a kept image makes room for a newer one"
            );
            self.remove_file(found.machine)?;
            total -= found.bytes;
        }
        if total > quota {
            return Err(io::Error::from(io::ErrorKind::QuotaExceeded));
        }
        Ok(())
    }

    fn remove_file(&self, machine: [u8; 16]) -> io::Result<()> {
        std::fs::remove_file(self.path(machine))
    }

    fn path(&self, machine: [u8; 16]) -> PathBuf {
        self.folder.join(hex(&machine))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<[u8; 16], Writing>> {
        // A panic aborts the process, so that no lock is ever poisoned.
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where an image is written: a file without a name. Dropped, nothing is left of it.
#[derive(Debug)]
pub(crate) struct Place {
    images: Arc<KeptImages>,
    machine: [u8; 16],
    file: Option<SnapshotFile>,
    most: u64,
}

impl Place {
    /// Bytes that it may have.
    pub(crate) fn most(&self) -> u64 {
        self.most
    }

    /// It is whole, and on storage: takes the place of the one that was there, and that of the oldest, if need be.
    ///
    /// # Errors
    /// When nobody wants it any more, or it cannot be named.
    pub(crate) fn finish(mut self, bytes: u64) -> Result<(), String> {
        // Held: of two that are finished, one after the other makes room.
        let writing = self.images.lock();
        if writing.get(&self.machine).is_none_or(|writing| !writing.is_wanted) {
            return Err("it is not wanted any more".to_owned());
        }
        self.images.make_room(self.machine, bytes).map_err(|error| error.to_string())?;
        let Some(file) = self.file.take() else { return Ok(()) };
        let named = file.publish().map_err(|error| error.to_string())?;
        let renamed = std::fs::rename(&named, self.images.path(self.machine));
        if renamed.is_err() {
            let _ = std::fs::remove_file(&named);
        }
        let folder = &self.images.folder;
        renamed.and_then(|()| sync_folder(folder)).map_err(|error| error.to_string())
    }
}

impl AsFd for Place {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_ref().expect("until it is finished").as_fd()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.images.lock().remove(&self.machine);
        self.images.written.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantity::TimeSpan;

    const MONTH: Duration = Duration::from_secs(30 * 24 * 3600);

    fn open(state: &Path, percent: u32) -> Arc<KeptImages> {
        let uid = rustix::process::geteuid().as_raw();
        let time = TimeSpan::seconds(MONTH.as_secs());
        KeptImages::open(state, &KeptConfig { percent, time }, uid).unwrap()
    }

    /// An image of so many bytes, which need no room: it is a hole. `age` is how long ago it was made.
    fn put(images: &KeptImages, machine: u8, bytes: u64, age: Duration) {
        let file = File::create(images.path([machine; 16])).unwrap();
        file.set_len(bytes).unwrap();
        file.set_modified(SystemTime::now() - age).unwrap();
    }

    fn machines(images: &KeptImages) -> Vec<u8> {
        images.list().iter().map(|found| found.machine[0]).collect()
    }

    /// Where one is written, by nobody.
    fn place(images: &Arc<KeptImages>, machine: u8) -> Place {
        let place = images.place([machine; 16], None).unwrap();
        rustix::fs::ftruncate(&place, 1000).unwrap();
        place
    }

    #[test]
    fn the_oldest_make_room_for_a_new_one_and_no_more_than_they_must() {
        let state = tempfile::tempdir().unwrap();
        let images = open(state.path(), 20);
        let third = images.quota().unwrap() / 3;
        for machine in [1, 2, 3] {
            let age = Duration::from_secs(1000 - u64::from(machine));
            put(&images, machine, third - 400, age);
        }
        place(&images, 4).finish(1000).unwrap();
        assert_eq!(machines(&images), [1, 2, 3, 4], "there is room for it");
        place(&images, 5).finish(1000).unwrap();
        assert_eq!(machines(&images), [2, 3, 4, 5]);
        // In its own place it needs no other room.
        place(&images, 2).finish(third).unwrap();
        assert_eq!(machines(&images), [3, 4, 5, 2]);
        let refused = place(&images, 6).finish(3 * third + 3).unwrap_err();
        assert!(!refused.is_empty());
        assert!(!machines(&images).contains(&6));
    }

    #[test]
    fn what_is_not_finished_leaves_nothing_and_what_is_not_wanted_is_not_finished() {
        let state = tempfile::tempdir().unwrap();
        let images = open(state.path(), 20);
        let count = || std::fs::read_dir(&images.folder).unwrap().count();
        drop(place(&images, 1));
        assert_eq!(count(), 0);
        let late = place(&images, 1);
        assert!(!images.remove([1; 16]), "there is none yet");
        assert!(late.finish(1000).is_err());
        assert_eq!(count(), 0);
        place(&images, 1).finish(1000).unwrap();
        assert_eq!((count(), images.find([1; 16]).unwrap().bytes), (1, 1000));
        assert!(images.remove([1; 16]) && count() == 0);
    }

    #[test]
    fn who_comes_back_waits_for_what_is_being_written_and_not_for_ever() {
        let state = tempfile::tempdir().unwrap();
        let images = open(state.path(), 20);
        images.settle([1; 16], Duration::from_secs(60));
        let writing = place(&images, 1);
        let of_thread = Arc::clone(&images);
        let waits = std::thread::spawn(move || {
            of_thread.settle([1; 16], Duration::from_secs(60));
            of_thread.find([1; 16]).is_some()
        });
        std::thread::sleep(Duration::from_millis(50));
        writing.finish(1000).unwrap();
        assert!(waits.join().unwrap(), "it is there when the wait is over");
        let slow = place(&images, 1);
        images.settle([1; 16], Duration::from_millis(10));
        assert!(slow.finish(1000).is_err(), "it was given up");
    }

    #[test]
    fn what_is_old_or_of_no_machine_here_or_half_named_is_gone_after_a_start() {
        let state = tempfile::tempdir().unwrap();
        let images = open(state.path(), 20);
        put(&images, 1, 10, MONTH + Duration::from_secs(60));
        put(&images, 2, 10, MONTH - Duration::from_secs(60));
        put(&images, 3, 10, Duration::ZERO);
        std::fs::write(images.folder.join(".half"), "").unwrap();
        let images = open(state.path(), 20);
        assert_eq!(machines(&images), [2, 3]);
        assert!(!images.folder.join(".half").exists());
        images.retain(|machine| machine == [3; 16]);
        assert_eq!(machines(&images), [3]);
    }
}
