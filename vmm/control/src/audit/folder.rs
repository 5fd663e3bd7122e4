//! The log's folder, and the names in it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FlockOperation, Mode, OFlags};

use super::head::Head;

const HEAD: &str = "head";
/// What is written under this name is renamed once it is whole.
const NEW: &str = "new";

/// The name of a segment's file.
pub(super) fn file_name(segment: u64) -> String {
    format!("{segment:08}.jsonl")
}

fn number(name: &str) -> Option<u64> {
    let number = name.strip_suffix(".jsonl")?.parse().ok()?;
    (number > 0 && file_name(number) == name).then_some(number)
}

/// An open folder.
#[derive(Debug)]
pub(super) struct AuditFolder(OwnedFd);

impl AuditFolder {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(rustix::fs::openat(CWD, path, flags, Mode::empty())?))
    }

    /// Takes the folder for one writer, for as long as this value lives. None if another has it.
    pub(super) fn lock(&self) -> io::Result<Option<()>> {
        match rustix::fs::flock(&self.0, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(())),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The numbers of the segments, in their order.
    pub(super) fn segments(&self) -> io::Result<Vec<u64>> {
        let mut numbers = Vec::new();
        for entry in Dir::read_from(&self.0)? {
            numbers.extend(entry?.file_name().to_str().ok().and_then(number));
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    pub(super) fn read_segment(&self, number: u64) -> io::Result<File> {
        self.open_file(&file_name(number), OFlags::RDONLY)
    }

    pub(super) fn append_to_segment(&self, number: u64) -> io::Result<File> {
        self.open_file(&file_name(number), OFlags::WRONLY | OFlags::APPEND)
    }

    /// Makes a segment with its first line. It has its name on storage, and then it is whole, or it has none.
    pub(super) fn create_segment(&self, number: u64, line: &[u8]) -> io::Result<()> {
        self.replace(&file_name(number), line)?;
        Ok(rustix::fs::fsync(&self.0)?)
    }

    pub(super) fn remove_segment(&self, number: u64) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.0, file_name(number), AtFlags::empty())?)
    }

    /// The bytes of the head, so many that no head has more; none if there is no such file.
    pub(super) fn read_head(&self) -> io::Result<Option<Vec<u8>>> {
        match self.open_file(HEAD, OFlags::RDONLY) {
            Ok(file) => {
                let mut bytes = Vec::new();
                file.take(Head::MOST + 1).read_to_end(&mut bytes)?;
                Ok(Some(bytes))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// After a loss of power this may be the one before: the log may go on beyond its head, never the other way round.
    pub(super) fn replace_head(&self, head: Head) -> io::Result<()> {
        self.replace(HEAD, &head.encode().map_err(io::Error::other)?)
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let mut file = self.open_file(NEW, OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC)?;
        file.write_all(bytes)?;
        file.sync_data()?;
        Ok(rustix::fs::renameat(&self.0, NEW, &self.0, name)?)
    }

    fn open_file(&self, name: &str, flags: OFlags) -> io::Result<File> {
        // What is no file of ours, a pipe or a link, is not followed and not waited for.
        let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let named = |error| {
            let error = io::Error::from(error);
            io::Error::new(error.kind(), format!("{name}: {error}"))
        };
        Ok(rustix::fs::openat(&self.0, name, flags, mode).map_err(named)?.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_found_by_their_names_and_nothing_else_is() {
        let place = tempfile::tempdir().unwrap();
        for name in [
            "00000010.jsonl",
            "00000002.jsonl",
            "123456789.jsonl",
            "00000000.jsonl",
            "1.jsonl",
            "000000002.jsonl",
            "+0000003.jsonl",
            "00000004.json",
            "head",
            "new",
        ] {
            std::fs::write(place.path().join(name), "").unwrap();
        }
        let folder = AuditFolder::open(place.path()).unwrap();
        assert_eq!(folder.segments().unwrap(), [2, 10, 123_456_789]);
        // Reading a folder twice begins anew.
        assert_eq!(folder.segments().unwrap().len(), 3);
    }

    #[test]
    fn a_segment_that_is_a_link_is_not_read() {
        let place = tempfile::tempdir().unwrap();
        std::fs::write(place.path().join("other"), "x").unwrap();
        std::os::unix::fs::symlink("other", place.path().join(file_name(1))).unwrap();
        let folder = AuditFolder::open(place.path()).unwrap();
        let error = folder.read_segment(1).unwrap_err().to_string();
        assert!(error.contains("00000001.jsonl: "), "{error}");
    }
}
