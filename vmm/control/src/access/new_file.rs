//! The place of a file that does not exist yet.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::AtFlags;
use rustix::io::Errno;

/// A name in an open folder: whatever happens to the folder's own name, it stays this folder.
#[derive(Debug)]
pub struct NewFile {
    path: PathBuf,
    parent: OwnedFd,
    name: OsString,
}

impl NewFile {
    /// `name` in the folder `parent`; `path` is how people call it.
    pub(super) fn new(path: PathBuf, parent: OwnedFd, name: OsString) -> Self {
        Self { path, parent, name }
    }

    /// How people call it: for messages and records. Opened again under this name it may be another.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its folder.
    #[must_use]
    pub fn parent(&self) -> BorrowedFd<'_> {
        self.parent.as_fd()
    }

    /// Its name there.
    #[must_use]
    pub fn name(&self) -> &OsStr {
        &self.name
    }

    /// A path for those who take paths only, which leads to this folder for as long as this value lives, and whatever
    /// has been put in the place of its name.
    #[must_use]
    pub fn path_by_descriptor(&self) -> PathBuf {
        Path::new("/proc/self/fd").join(self.parent.as_raw_fd().to_string()).join(&self.name)
    }

    /// Whether something has the name, be it a link to nowhere.
    pub(super) fn is_taken(&self) -> Result<bool, Errno> {
        match rustix::fs::statat(&self.parent, &self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }
}
