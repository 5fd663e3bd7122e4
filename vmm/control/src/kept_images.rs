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
/// What an image may have besides its machine's memory: its index has 32 bytes of a digest for each page, and numbers of
/// pages; every block has a head and a seal,
const INDEX_PART: u64 = 4096 / 128;
/// and the file has a few of its own.
const FRAME_BYTES: u64 = 1 << 20;

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
    /// By a number of their own: a machine that comes and leaves again may leave a second one behind before the first one's
    /// process has ended.
    writing: Mutex<BTreeMap<u64, Writing>>,
    written: Condvar,
}

/// One that is being written.
#[derive(Debug)]
struct Writing {
    machine: [u8; 16],
    /// Bytes that were granted to it, and to nobody else.
    most: u64,
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

    /// The image of a machine, if there is one that is not too old.
    pub(crate) fn find(&self, machine: [u8; 16]) -> Option<Found> {
        let found = self.path(machine).metadata().ok()?;
        let found = Found { machine, bytes: found.len(), at: found.modified().ok()? };
        (!self.is_old(found.at)).then_some(found)
    }

    /// The same, to be read.
    pub(crate) fn file(&self, machine: [u8; 16]) -> Option<File> {
        match File::open(self.path(machine)) {
            Ok(file) => {
                let at = file.metadata().and_then(|found| found.modified()).ok()?;
                (!self.is_old(at)).then_some(file)
            }
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

    /// A place for the image of a machine that has left and has so much memory, which this process writes.
    ///
    /// # Errors
    /// When there is no room, or no file can be made.
    pub(crate) fn begin(
        self: &Arc<Self>,
        machine: [u8; 16],
        memory: u64,
        process: Ender,
    ) -> Result<Place, String> {
        self.forget_old();
        self.place(machine, memory, Some(process))
    }

    /// The same; without a process, nobody is ended if it is given up.
    pub(crate) fn place(
        self: &Arc<Self>,
        machine: [u8; 16],
        memory: u64,
        process: Option<Ender>,
    ) -> Result<Place, String> {
        let words = |error: io::Error| error.to_string();
        // An earlier one that is still being written is of a memory that has changed since.
        self.give_up(machine);
        // Held: what is granted to one is granted to nobody else.
        let mut writing = self.lock();
        let space = rustix::fs::statvfs(&self.folder).map_err(|error| words(error.into()))?;
        let free = space.f_bavail.saturating_mul(space.f_frsize);
        let granted = writing.values().map(|other| other.most).sum();
        let most = grant(self.quota().map_err(words)?, free, granted, memory);
        if most == 0 {
            return Err("there is no room on the file system".to_owned());
        }
        let drawn = hex(&random::<4>().map_err(words)?);
        let path = self.folder.join(format!(".{}-{drawn}", hex(&machine)));
        let file = SnapshotFile::create(&path).map_err(|error| error.to_string())?;
        let number = writing.last_key_value().map_or(0, |(last, _)| last + 1);
        writing.insert(number, Writing { machine, most, process, is_wanted: true });
        Ok(Place { images: Arc::clone(self), machine, number, file: Some(file), most })
    }

    /// Waits until the image of a machine that comes back is written, if it is being written. If that takes too long, it
    /// is given up.
    pub(crate) fn settle(&self, machine: [u8; 16], limit: Duration) {
        let writing = self.lock();
        let is_written = |all: &mut BTreeMap<u64, Writing>| {
            all.values().any(|writing| writing.machine == machine)
        };
        let waited = self.written.wait_timeout_while(writing, limit, is_written);
        let (writing, late) = waited.unwrap_or_else(PoisonError::into_inner);
        drop(writing);
        if late.timed_out() {
            self.give_up(machine);
        }
    }

    /// Nothing of a machine is kept any more; whether there was something, or would have been.
    ///
    /// # Errors
    /// When it stays all the same.
    pub(crate) fn remove(&self, machine: [u8; 16]) -> io::Result<bool> {
        let was_written = self.give_up(machine);
        self.unlink(machine).map(|was_there| was_there || was_written)
    }

    /// The same, for those who go on whatever comes of it.
    pub(crate) fn discard(&self, machine: [u8; 16]) {
        if let Err(error) = self.remove(machine) {
            tracing::warn!(%error, machine = hex(&machine), "a kept image is not removed");
        }
    }

    /// Removes those of machines that are not known here any more.
    pub(crate) fn retain(&self, is_known: impl Fn([u8; 16]) -> bool) {
        for found in self.list().into_iter().filter(|found| !is_known(found.machine)) {
            self.discard(found.machine);
        }
    }

    /// Removes those whose machines are not expected back any more.
    fn forget_old(&self) {
        // Held: what is finished meanwhile is a new one of the same name.
        let _writing = self.lock();
        for found in self.list().into_iter().filter(|found| self.is_old(found.at)) {
            tracing::info!(machine = hex(&found.machine), "a kept image is old, and removed");
            if let Err(error) = self.unlink(found.machine) {
                tracing::warn!(%error, machine = hex(&found.machine), "it is not removed");
            }
        }
    }

    /// Does that again and again: a host may stay up for years, and see no other machine leave.
    pub(crate) async fn forget_every(self: Arc<Self>, period: Duration) {
        let mut ticks = tokio::time::interval(period);
        loop {
            ticks.tick().await;
            let images = Arc::clone(&self);
            let _ = tokio::task::spawn_blocking(move || images.forget_old()).await;
        }
    }

    fn is_old(&self, at: SystemTime) -> bool {
        at.elapsed().is_ok_and(|age| age > self.kept_for)
    }

    /// What is being written of a machine is not wanted any more; whether it was until now.
    fn give_up(&self, machine: [u8; 16]) -> bool {
        let mut was_wanted = false;
        for writing in self.lock().values_mut().filter(|writing| writing.machine == machine) {
            was_wanted |= writing.give_up();
        }
        was_wanted
    }

    /// Nothing of what is being written is wanted any more: the daemon ends.
    pub(crate) fn give_up_all(&self) {
        for writing in self.lock().values_mut() {
            writing.give_up();
        }
    }

    /// Makes room for so many bytes, if that is possible at all.
    fn make_room(&self, machine: [u8; 16], bytes: u64) -> io::Result<()> {
        let mut others = self.list();
        others.retain(|found| found.machine != machine);
        self.remove_first(&others, bytes, self.quota()?)
    }

    /// Removes as many of these, from the first on, as it takes until so many bytes are within the quota, too.
    fn remove_first(&self, others: &[Found], bytes: u64, quota: u64) -> io::Result<()> {
        let mut total = bytes + others.iter().map(|found| found.bytes).sum::<u64>();
        for found in others {
            if total <= quota {
                break;
            }
            tracing::info!(
                machine = hex(&found.machine),
                "a kept image makes room for a newer one"
            );
            // It may have gone since it was listed, and its bytes with it.
            self.unlink(found.machine)?;
            total -= found.bytes;
        }
        if total > quota {
            return Err(io::Error::from(io::ErrorKind::QuotaExceeded));
        }
        Ok(())
    }

    /// Removes an image; whether it was there.
    fn unlink(&self, machine: [u8; 16]) -> io::Result<bool> {
        match std::fs::remove_file(self.path(machine)) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn path(&self, machine: [u8; 16]) -> PathBuf {
        self.folder.join(hex(&machine))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Writing>> {
        // A panic aborts the process, so that no lock is ever poisoned.
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Writing {
    /// It is not wanted any more; whether it was until now.
    fn give_up(&mut self) -> bool {
        if let Some(process) = &self.process {
            process.kill();
        }
        std::mem::replace(&mut self.is_wanted, false)
    }
}

/// Bytes that one more image may have: all that it can need, as far as the quota goes and what is neither to stay free nor
/// granted to others. What those have written already is counted twice so, which errs on the safe side.
fn grant(quota: u64, free: u64, granted: u64, memory: u64) -> u64 {
    let needed = memory.saturating_add(memory / INDEX_PART).saturating_add(FRAME_BYTES);
    let left = free.saturating_sub(FREE_BYTES).saturating_sub(granted);
    quota.min(left).min(needed)
}

/// Where an image is written: a file without a name. Dropped, nothing is left of it.
#[derive(Debug)]
pub(crate) struct Place {
    images: Arc<KeptImages>,
    machine: [u8; 16],
    /// In what is being written.
    number: u64,
    file: Option<SnapshotFile>,
    most: u64,
}

impl Place {
    /// Bytes that it may have.
    pub(crate) fn most(&self) -> u64 {
        self.most
    }

    /// It is whole, and on storage: takes the place of the one that was there, and that of the oldest, if need be. Returns
    /// its bytes: whoever wrote it has a guest behind it, and is not asked.
    ///
    /// # Errors
    /// When it has more than it may, when nobody wants it any more, or it cannot be named.
    pub(crate) fn finish(mut self) -> Result<u64, String> {
        let found = rustix::fs::fstat(&self).map_err(|error| error.to_string())?;
        let bytes = u64::try_from(found.st_size).unwrap_or(u64::MAX);
        if bytes > self.most {
            return Err(format!("it has {bytes} bytes, and may have {}", self.most));
        }
        // Held: of two that are finished, one after the other makes room.
        let writing = self.images.lock();
        if writing.get(&self.number).is_none_or(|writing| !writing.is_wanted) {
            return Err("it is not wanted any more".to_owned());
        }
        self.images.make_room(self.machine, bytes).map_err(|error| error.to_string())?;
        let file = self.file.take().expect("until it is finished");
        let named = file.publish().map_err(|error| error.to_string())?;
        let renamed = std::fs::rename(&named, self.images.path(self.machine));
        if renamed.is_err() {
            let _ = std::fs::remove_file(&named);
        }
        let folder = &self.images.folder;
        renamed.and_then(|()| sync_folder(folder)).map_err(|error| error.to_string())?;
        Ok(bytes)
    }
}

impl AsFd for Place {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_ref().expect("until it is finished").as_fd()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.images.lock().remove(&self.number);
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

    /// Where one of so many bytes is written, which are all that it may have, by nobody.
    fn place(images: &Arc<KeptImages>, machine: u8, bytes: u64) -> Place {
        let mut place = images.place([machine; 16], bytes, None).unwrap();
        place.most = bytes;
        rustix::fs::ftruncate(&place, bytes).unwrap();
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
        place(&images, 4, 1000).finish().unwrap();
        assert_eq!(machines(&images), [1, 2, 3, 4], "there is room for it");
        place(&images, 5, 1000).finish().unwrap();
        assert_eq!(machines(&images), [2, 3, 4, 5]);
        // In its own place it needs no other room.
        place(&images, 2, third).finish().unwrap();
        assert_eq!(machines(&images), [3, 4, 5, 2]);
        let refused = place(&images, 6, 3 * third + 3).finish().unwrap_err();
        assert!(!refused.is_empty());
        assert!(!machines(&images).contains(&6));
    }

    #[test]
    fn one_that_is_gone_already_has_made_room() {
        let state = tempfile::tempdir().unwrap();
        let images = open(state.path(), 20);
        put(&images, 2, 10, Duration::ZERO);
        let at = SystemTime::now();
        let listed = [1, 2].map(|machine| Found { machine: [machine; 16], bytes: 10, at });
        images.remove_first(&listed, 10, 20).unwrap();
        assert_eq!(machines(&images), [2]);
    }

    #[test]
    fn an_image_may_have_what_it_can_need_and_not_what_is_granted_to_others() {
        let (quota, free) = (40 << 30, FREE_BYTES + (10 << 30));
        let needed = (4 << 30) + (128 << 20) + FRAME_BYTES;
        assert_eq!(grant(quota, free, 0, 4 << 30), needed);
        assert_eq!(grant(quota, free, 0, 64 << 30), 10 << 30);
        assert_eq!(grant(quota, free, 8 << 30, 4 << 30), 2 << 30);
        assert_eq!(grant(3 << 30, free, 0, 4 << 30), 3 << 30);
        assert_eq!(grant(quota, free, 10 << 30, 4 << 30), 0);
        assert_eq!(grant(quota, FREE_BYTES, 0, 4 << 30), 0);
        assert_eq!(grant(quota, free, u64::MAX, u64::MAX), 0);
    }

    #[test]
    fn two_departures_share_the_room() {
        let state = tempfile::tempdir().unwrap();
        let images = open(state.path(), 90);
        let small = images.place([1; 16], 1 << 20, None).unwrap();
        assert_eq!(small.most(), (1 << 20) + (32 << 10) + FRAME_BYTES);
        let space = rustix::fs::statvfs(state.path()).unwrap();
        let free = space.f_bavail * space.f_frsize;
        let large = images.place([2; 16], u64::MAX, None).unwrap();
        let granted = |images: &Arc<KeptImages>| match images.place([3; 16], u64::MAX, None) {
            Ok(place) => place.most(),
            Err(why) => {
                assert_eq!(why, "there is no room on the file system");
                0
            }
        };
        // Others write to that file system, too.
        let together = large.most() + granted(&images);
        assert!(together < free + free / 8, "{together} of {free}");
        drop(large);
        assert!(granted(&images) > free / 2, "what is over is granted again");
    }

    #[test]
    fn how_large_an_image_is_its_file_says() {
        let state = tempfile::tempdir().unwrap();
        let images = open(state.path(), 20);
        let full = place(&images, 1, 1000);
        assert_eq!((full.finish(), images.find([1; 16]).unwrap().bytes), (Ok(1000), 1000));
        let lies = place(&images, 2, 1000);
        rustix::fs::ftruncate(&lies, 1001).unwrap();
        assert_eq!(lies.finish().unwrap_err(), "it has 1001 bytes, and may have 1000");
        assert_eq!(machines(&images), [1]);
    }

    #[test]
    fn what_is_not_finished_leaves_nothing_and_what_is_not_wanted_is_not_finished() {
        let state = tempfile::tempdir().unwrap();
        let images = open(state.path(), 20);
        let count = || std::fs::read_dir(&images.folder).unwrap().count();
        drop(place(&images, 1, 1000));
        assert_eq!(count(), 0);
        let late = place(&images, 1, 1000);
        assert!(images.remove([1; 16]).unwrap(), "there would have been one");
        assert!(!images.remove([1; 16]).unwrap(), "it was given up already");
        assert!(late.finish().is_err());
        assert_eq!(count(), 0);
        place(&images, 1, 1000).finish().unwrap();
        assert_eq!((count(), images.find([1; 16]).unwrap().bytes), (1, 1000));
        assert!(images.remove([1; 16]).unwrap() && count() == 0);
        assert!(!images.remove([1; 16]).unwrap());
    }

    #[test]
    fn what_cannot_be_removed_is_not_said_to_be_gone() {
        let state = tempfile::tempdir().unwrap();
        let images = open(state.path(), 20);
        std::fs::create_dir(images.path([1; 16])).unwrap();
        images.remove([1; 16]).unwrap_err();
        images.discard([1; 16]);
        assert!(images.path([1; 16]).exists());
    }

    #[test]
    fn a_second_departure_is_another_writing_than_the_first() {
        let state = tempfile::tempdir().unwrap();
        let images = open(state.path(), 20);
        let first = place(&images, 1, 1000);
        let second = place(&images, 1, 2000);
        assert!(first.finish().is_err(), "it is of a memory that has changed since");
        images.settle([2; 16], Duration::from_secs(60));
        assert_eq!(second.finish(), Ok(2000), "the end of the first one does not concern it");
        assert_eq!(images.find([1; 16]).unwrap().bytes, 2000);
        assert!(images.lock().is_empty());
    }

    #[test]
    fn who_comes_back_waits_for_what_is_being_written_and_not_for_ever() {
        let state = tempfile::tempdir().unwrap();
        let images = open(state.path(), 20);
        images.settle([1; 16], Duration::from_secs(60));
        let writing = place(&images, 1, 1000);
        let of_thread = Arc::clone(&images);
        let waits = std::thread::spawn(move || {
            of_thread.settle([1; 16], Duration::from_secs(60));
            of_thread.find([1; 16]).is_some()
        });
        std::thread::sleep(Duration::from_millis(50));
        writing.finish().unwrap();
        assert!(waits.join().unwrap(), "it is there when the wait is over");
        let slow = place(&images, 1, 1000);
        images.settle([1; 16], Duration::from_millis(10));
        assert!(slow.finish().is_err(), "it was given up");
    }

    #[test]
    fn what_grows_old_is_not_used_any_more_and_goes_without_a_start() {
        let state = tempfile::tempdir().unwrap();
        let images = open(state.path(), 20);
        put(&images, 1, 10, MONTH + Duration::from_secs(60));
        put(&images, 2, 10, MONTH - Duration::from_secs(60));
        assert!(images.find([1; 16]).is_none() && images.file([1; 16]).is_none());
        assert!(images.find([2; 16]).is_some() && images.file([2; 16]).is_some());
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_time().build().unwrap();
        let wait_until_gone = || {
            let end = std::time::Instant::now() + Duration::from_secs(60);
            while machines(&images) != [2] {
                assert!(std::time::Instant::now() < end, "{:?}", images.list());
                std::thread::sleep(Duration::from_millis(5));
            }
        };
        runtime.spawn(Arc::clone(&images).forget_every(Duration::from_millis(5)));
        wait_until_gone();
        // Not only at the beginning.
        put(&images, 3, 10, MONTH + Duration::from_secs(60));
        wait_until_gone();
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
