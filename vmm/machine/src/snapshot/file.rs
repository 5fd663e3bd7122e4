//! A file that has no name until it is whole.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};

use super::SnapshotError;

/// A snapshot to be written: a file without a name, in the folder where it shall get one. Whoever dies while it is
/// written leaves nothing: the kernel frees it.
#[derive(Debug)]
pub struct SnapshotFile {
    file: File,
    path: PathBuf,
}

impl SnapshotFile {
    /// A file to become `path`, which must not exist.
    ///
    /// # Errors
    /// When it exists, or its folder does not, or is not writable, or is on a file system that has no files without a
    /// name.
    pub fn create(path: &Path) -> Result<Self, SnapshotError> {
        let failed = |source: io::Error, hint| {
            Err(SnapshotError::File { name: path.display().to_string(), source, hint })
        };
        if path.symlink_metadata().is_ok() {
            return failed(
                io::Error::new(io::ErrorKind::AlreadyExists, "it is there already"),
                EXISTS,
            );
        }
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        match rustix::fs::open(folder(path), flags, Mode::RUSR | Mode::WUSR) {
            Ok(file) => Ok(Self { file: file.into(), path: path.to_owned() }),
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::ISDIR) => failed(
                io::Error::new(
                    io::ErrorKind::Unsupported,
                    "its file system has no files without a name",
                ),
                " (O_TMPFILE): use ext4, XFS, btrfs or tmpfs",
            ),
            Err(error) => failed(error.into(), ""),
        }
    }

    /// The path that it shall have.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives it its name, and returns when the name is on storage as well. Its content must be there already.
    ///
    /// # Errors
    /// When the name was taken meanwhile, or the folder cannot be written.
    pub fn publish(self) -> Result<PathBuf, SnapshotError> {
        let own = PathBuf::from(OsString::from(format!("/proc/self/fd/{}", self.file.as_raw_fd())));
        let publish = || {
            // Of a descriptor alone, linkat(2) makes a name only for those who have CAP_DAC_READ_SEARCH.
            rustix::fs::linkat(CWD, &own, CWD, &self.path, AtFlags::SYMLINK_FOLLOW)?;
            File::open(folder(&self.path))?.sync_all()
        };
        publish().map_err(|source| {
            let hint = if source.kind() == io::ErrorKind::AlreadyExists { EXISTS } else { "" };
            SnapshotError::File { name: self.path.display().to_string(), source, hint }
        })?;
        Ok(self.path)
    }
}

const EXISTS: &str = "; snapshots are never overwritten: give another name, or remove it first";

fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

impl AsFd for SnapshotFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_file_is_not_there_before_it_is_published() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("one");
        let is_empty = || std::fs::read_dir(folder.path()).unwrap().next().is_none();
        let dropped = SnapshotFile::create(&path).unwrap();
        assert!(is_empty());
        drop(dropped);
        assert!(is_empty());
        let mut kept = SnapshotFile::create(&path).unwrap();
        kept.file.write_all(b"whole").unwrap();
        assert_eq!(kept.publish().unwrap(), path);
        assert_eq!(std::fs::read(&path).unwrap(), b"whole");
    }

    #[test]
    fn nothing_is_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("one");
        let late = SnapshotFile::create(&path).unwrap();
        std::fs::write(&path, b"earlier").unwrap();
        assert!(SnapshotFile::create(&path).unwrap_err().to_string().contains("never overwritten"));
        assert!(late.publish().unwrap_err().to_string().contains("never overwritten"));
        assert_eq!(std::fs::read(&path).unwrap(), b"earlier");
    }

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let path = tempfile::tempdir().unwrap().path().join("nowhere/one");
        let error = SnapshotFile::create(&path).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{}: No such file", path.display())), "{error}");
    }
}
