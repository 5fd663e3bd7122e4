//! Files that callers pass as descriptors, instead of naming them.
//!
//! Whoever has a file open may have it read: the daemon opens nothing for them. A passed file has a name of the form
//! `fd:ID`, which the daemon draws, and lives as long as a machine's spec has that name, or a minute. It does not outlive
//! the daemon: put files into a configured folder that a machine is to boot from again and again.
//!
//! A *folder* is passed as one, too, for snapshots: `fd:ID/NAME`. In it the daemon opens files with its own rights. So it
//! is taken only of those who have these rights: of the daemon's own user, and of root.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{FileType, OFlags, fcntl_getfl, fstat};

use super::folders::{explain, open_regular, walk};
use super::{Caller, FileError, Folders, NewFile, OpenedFile};
use crate::random::{hex, random};

/// How names of passed files begin.
const PREFIX: &str = "fd:";
/// A file that no machine names is kept so long: between its passing and the call that names it lies nothing else.
const UNNAMED_FOR: Duration = Duration::from_secs(60);
/// Descriptors that are kept for machines and callers.
const MOST: usize = 4096;

/// The files that callers may name: in configured folders, or passed.
#[derive(Debug)]
pub(crate) struct Files {
    folders: Folders,
    own_uid: u32,
    passed: Mutex<HashMap<String, Passed>>,
}

#[derive(Debug)]
struct Passed {
    descriptor: OwnedFd,
    kind: FileType,
    at: Instant,
}

impl Files {
    /// Files in these folders, in a daemon of this user; nothing is passed yet.
    #[must_use]
    pub(crate) fn new(folders: Folders, own_uid: u32) -> Self {
        Self { folders, own_uid, passed: Mutex::default() }
    }

    /// Takes a descriptor; returns its name. `named` are the names that specs have: those are kept.
    ///
    /// # Errors
    /// It is not what may be passed, or there are too many.
    pub(crate) fn pass(
        &self,
        descriptor: OwnedFd,
        caller: &Caller,
        named: &[String],
    ) -> Result<String, FileError> {
        let refused = |what: &str| self.folders.refused("a passed file", what.to_owned());
        let kind =
            fstat(&descriptor).map_err(|error| refused(&io::Error::from(error).to_string()))?;
        let kind = FileType::from_raw_mode(kind.st_mode);
        let flags = fcntl_getfl(&descriptor).map_err(|_| refused("cannot be looked at"))?;
        let is_readable = matches!(flags & OFlags::ACCMODE, OFlags::RDONLY | OFlags::RDWR);
        match kind {
            _ if flags.contains(OFlags::PATH) || !is_readable => {
                return Err(refused("is not open for reading"));
            }
            FileType::RegularFile => {}
            FileType::Directory if caller.uid == 0 || caller.uid == self.own_uid => {}
            FileType::Directory => {
                return Err(refused("is a folder, which only the daemon's own user may pass"));
            }
            _ => return Err(refused("is neither a regular file nor a folder")),
        }
        let id = random::<8>().map_err(|error| refused(&error.to_string()))?;
        let name = format!("{PREFIX}{}", hex(&id));
        let mut passed = self.lock();
        let is_named = |name: &String| named.iter().any(|named| named.starts_with(name.as_str()));
        passed.retain(|name, file| file.at.elapsed() < UNNAMED_FOR || is_named(name));
        if passed.len() >= MOST {
            return Err(refused("is one too many: name files in a configured folder"));
        }
        passed.insert(name.clone(), Passed { descriptor, kind, at: Instant::now() });
        Ok(name)
    }

    /// Opens a file for reading.
    ///
    /// # Errors
    /// Those of [`Folders::open`]; or it was not passed to this daemon.
    pub(crate) fn open(&self, name: &str) -> Result<OpenedFile, FileError> {
        let Some((id, below)) = split(name) else { return self.folders.open(name) };
        let passed = self.lock();
        let file = self.find(&passed, name, id)?;
        let refused = |what| self.folders.refused(name, what);
        let path = PathBuf::from(format!("/proc/self/fd/{}", file.descriptor.as_raw_fd()));
        match (file.kind, below) {
            // Opened anew, since whoever passed it shares its position.
            (FileType::RegularFile, None) => {
                let file = open_regular(&file.descriptor).map_err(refused)?;
                Ok(OpenedFile { file, path })
            }
            (FileType::Directory, Some(below)) => {
                let found = walk(&file.descriptor, Path::new(below), OFlags::PATH);
                let found = found.map_err(|error| refused(explain(error)))?;
                let file = open_regular(&found).map_err(refused)?;
                Ok(OpenedFile { file, path: path.join(below) })
            }
            (FileType::Directory, None) => {
                Err(self.folders.refused(name, "names a folder, not a file".to_owned()))
            }
            _ => Err(self.folders.refused(name, "is a file, and no folder".to_owned())),
        }
    }

    /// Finds the place for a new file.
    ///
    /// # Errors
    /// Those of [`Folders::resolve_new`]; or the folder was not passed to this daemon.
    pub(crate) fn resolve_new(&self, name: &str) -> Result<NewFile, FileError> {
        let Some((id, below)) = split(name) else { return self.folders.resolve_new(name) };
        let passed = self.lock();
        let folder = self.find(&passed, name, id)?;
        let (FileType::Directory, Some(below)) = (folder.kind, below) else {
            return Err(self.folders.refused(name, "is no place in a passed folder".to_owned()));
        };
        let refused = |error: io::Error| self.folders.refused(name, error.to_string());
        let parent = folder.descriptor.try_clone().map_err(refused)?;
        let new = NewFile::new(PathBuf::from(name), parent, below.into());
        match new.is_taken() {
            Ok(false) => Ok(new),
            Ok(true) => {
                let what = "is there already, and nothing is overwritten".to_owned();
                Err(self.folders.refused(name, what))
            }
            Err(error) => Err(refused(error.into())),
        }
    }

    fn find<'a>(
        &self,
        passed: &'a HashMap<String, Passed>,
        name: &str,
        id: &str,
    ) -> Result<&'a Passed, FileError> {
        passed.get(id).ok_or_else(|| {
            let what = "was passed to a daemon before this one, or long ago; pass it again";
            self.folders.refused(name, what.to_owned())
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Passed>> {
        // A panic aborts the process, so that no lock is ever poisoned.
        self.passed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A passed file's id, and a plain name in it if it is a folder; None if the name is not one of passed files.
fn split(name: &str) -> Option<(&str, Option<&str>)> {
    if !name.starts_with(PREFIX) {
        return None;
    }
    match name.split_once('/') {
        None => Some((name, None)),
        Some((id, below)) => {
            let is_plain = !matches!(below, "" | "." | "..") && !below.contains(['/', '\0']);
            // A name that no folder was passed under.
            Some(if is_plain { (id, Some(below)) } else { (name, None) })
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};

    use rustix::fs::Mode;

    use super::*;

    const OWN: u32 = 500;

    fn files() -> Files {
        Files::new(Folders::new(Vec::new()), OWN)
    }

    fn caller(uid: u32) -> Caller {
        Caller { uid, gid: 1, groups: Vec::new(), pid: None }
    }

    fn pass(files: &Files, file: File, uid: u32) -> Result<String, String> {
        files.pass(file.into(), &caller(uid), &[]).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_passed_is_read_from_its_beginning_each_time() {
        let files = files();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"kernel").unwrap();
        let name = pass(&files, file, 1000).unwrap();
        for _ in 0..2 {
            let mut text = String::new();
            files.open(&name).unwrap().file.read_to_string(&mut text).unwrap();
            assert_eq!(text, "kernel");
        }
        let other = files.open("fd:0011223344556677").unwrap_err().to_string();
        assert!(other.contains("pass it again"), "{other}");
    }

    #[test]
    fn what_the_daemon_would_open_with_its_own_rights_is_passed_by_its_own_user_only() {
        let files = files();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("one"), b"snapshot").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", folder.path().join("link")).unwrap();
        let open = || File::open(folder.path()).unwrap();
        let error = pass(&files, open(), 1000).unwrap_err();
        assert!(error.contains("only the daemon's own user"), "{error}");
        let name = pass(&files, open(), OWN).unwrap();
        assert!(files.open(&format!("{name}/one")).is_ok());
        for below in ["", "..", ".", "link", "nothing", "a/b", "../one"] {
            assert!(files.open(&format!("{name}/{below}")).is_err(), "{below}");
        }
        assert!(files.resolve_new(&format!("{name}/two")).is_ok());
        for below in ["one", "", "..", "a/b"] {
            assert!(files.resolve_new(&format!("{name}/{below}")).is_err(), "{below}");
        }
    }

    #[test]
    fn what_cannot_be_read_or_is_no_file_is_refused() {
        let files = files();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let for_writing = File::create(&path).unwrap();
        assert!(pass(&files, for_writing, OWN).unwrap_err().contains("not open for reading"));
        let device = File::open("/dev/null").unwrap();
        assert!(pass(&files, device, OWN).unwrap_err().contains("neither"));
        let path_only = rustix::fs::open(&path, OFlags::PATH, Mode::empty()).unwrap();
        assert!(pass(&files, path_only.into(), OWN).unwrap_err().contains("not open for reading"));
    }
}
