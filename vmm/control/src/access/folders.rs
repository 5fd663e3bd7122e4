//! The files that callers may name.
//!
//! A caller names a file by a path inside of one of the configured folders, or by one that begins in the first of them.
//! The kernel itself keeps the walk inside (openat2(2), `RESOLVE_BENEATH`): nothing is first checked as text and then
//! opened by name, so there is no moment in between at which somebody could swap a folder for a link.
//!
//! Links are followed as long as they stay inside of the folder: `debian.img` that leads to the newest image is useful,
//! and leads nowhere that its caller could not name directly. Absolute links are refused even if they come back, and so
//! are those of /proc. Whoever may *write* to a configured folder decides what its names mean, also while it is used:
//! put there who may be trusted with the files of all machines.
//!
//! A file is looked at before it is opened for reading: opening a pipe waits for its writer, and opening some devices
//! does something. Between the two lies no name but a descriptor, so it is the same file.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat};
use rustix::io::Errno;

use super::NewFile;

/// Longest path of Linux (PATH_MAX with its zero).
const PATH_MOST: usize = 4095;
/// How often a walk is tried that others disturb by renaming what it walks through.
const TRIES: u32 = 16;

/// Why a file that a caller named is not opened.
#[derive(Debug, thiserror::Error)]
#[error("{name:?} {what}; {}", hint(.allowed))]
pub struct FileError {
    /// As it was named, at most so much of it as people read.
    name: String,
    /// What is wrong with it.
    what: String,
    allowed: Vec<PathBuf>,
}

fn hint(allowed: &[PathBuf]) -> String {
    if allowed.is_empty() {
        return "no folder is configured in which files may be named (storage.folders)".to_owned();
    }
    let folders: Vec<_> = allowed.iter().map(|folder| folder.display().to_string()).collect();
    format!("files may be named in: {}", folders.join(", "))
}

/// A file that a caller named, and that may be read.
#[derive(Debug)]
pub struct OpenedFile {
    /// For reading.
    pub file: File,
    /// Where it is, for messages and records: opened again under this name it may be another.
    pub path: PathBuf,
}

/// The folders in which callers may name files.
#[derive(Clone, Debug)]
pub struct Folders {
    folders: Vec<PathBuf>,
}

impl Folders {
    /// These, absolute ones; the first is where relative names begin.
    #[must_use]
    pub fn new(folders: Vec<PathBuf>) -> Self {
        Self { folders }
    }

    /// Opens a file for reading.
    ///
    /// # Errors
    /// The name leads out of the folders, or to nothing, or to what is no regular file.
    pub fn open(&self, name: &str) -> Result<OpenedFile, FileError> {
        let (folder, below) = self.locate(name)?;
        let refused = |what: String| self.refused(name, what);
        let root = self.open_folder(name, folder)?;
        let found = walk(&root, &below, OFlags::PATH).map_err(|error| refused(explain(error)))?;
        let file = open_regular(&found).map_err(refused)?;
        Ok(OpenedFile { file, path: folder.join(below) })
    }

    /// Finds the place for a new file. It makes nothing: whoever does, says there that nothing is overwritten.
    ///
    /// # Errors
    /// The name leads out of the folders, or there is something of that name, or no folder for it.
    pub fn resolve_new(&self, name: &str) -> Result<NewFile, FileError> {
        let (folder, below) = self.locate(name)?;
        let refused = |what: String| self.refused(name, what);
        let root = self.open_folder(name, folder)?;
        let parent = match below.parent() {
            Some(parent) if parent != Path::new("") => {
                walk(&root, parent, OFlags::PATH | OFlags::DIRECTORY)
                    .map_err(|error| refused(format!("has no folder: it {}", explain(error))))?
            }
            _ => root,
        };
        let file_name = below.file_name().unwrap_or_default().to_owned();
        let new = NewFile::new(folder.join(&below), parent, file_name);
        match new.is_taken() {
            Ok(false) => Ok(new),
            Ok(true) => Err(refused("is there already, and nothing is overwritten".to_owned())),
            Err(error) => Err(refused(explain(error))),
        }
    }

    /// The folder that a name is in, and its path from there, which has ordinary names only.
    fn locate(&self, name: &str) -> Result<(&Path, PathBuf), FileError> {
        let refused = |what: &str| self.refused(name, what.to_owned());
        if name.is_empty() {
            return Err(refused("is no name"));
        }
        if name.len() > PATH_MOST {
            return Err(refused("is longer than any path"));
        }
        if name.contains('\0') {
            return Err(refused("has a zero byte"));
        }
        if name.ends_with('/') {
            return Err(refused("names a folder, not a file"));
        }
        let path = Path::new(name);
        let (folder, below) = if path.is_absolute() {
            // The innermost, should one lie in another.
            let inside =
                self.folders.iter().filter_map(|it| Some((it, path.strip_prefix(it).ok()?)));
            let innermost = inside.max_by_key(|(folder, _)| folder.components().count());
            innermost.ok_or_else(|| refused("is outside of the folders for files"))?
        } else {
            (self.folders.first().ok_or_else(|| refused("is in no folder"))?, path)
        };
        if below.components().any(|part| part == Component::ParentDir) {
            return Err(refused("has a `..`: name the file without"));
        }
        let below: PathBuf =
            below.components().filter(|part| matches!(part, Component::Normal(_))).collect();
        if below == Path::new("") || name.ends_with("/.") {
            return Err(refused("names a folder, not a file"));
        }
        Ok((folder, below))
    }

    /// The folder itself is opened as the configuration names it: it is the host's admin who put a link there.
    fn open_folder(&self, name: &str, folder: &Path) -> Result<OwnedFd, FileError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::openat(CWD, folder, flags, Mode::empty()).map_err(|error| {
            let error = io::Error::from(error);
            self.refused(
                name,
                format!("is in {}, which cannot be opened: {error}", folder.display()),
            )
        })
    }

    pub(super) fn refused(&self, name: &str, what: String) -> FileError {
        const SHOWN: usize = 200;
        let name = match name.char_indices().nth(SHOWN) {
            Some((end, _)) => format!("{}…", &name[..end]),
            None => name.to_owned(),
        };
        FileError { name, what, allowed: self.folders.clone() }
    }
}

/// Opens for reading what was found, if it is a regular file; says what is wrong else.
pub(super) fn open_regular(found: &OwnedFd) -> Result<File, String> {
    let kind = FileType::from_raw_mode(fstat(found).map_err(explain)?.st_mode);
    if !kind.is_file() {
        return Err(format!("is {}, not a regular file", word(kind)));
    }
    // Does not block: else a process with a lease on the file (fcntl(2), F_SETLEASE) makes this wait for it.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let own = format!("/proc/self/fd/{}", found.as_raw_fd());
    let file = rustix::fs::open(own, flags, Mode::empty());
    Ok(file.map_err(|error| format!("cannot be read: {}", io::Error::from(error)))?.into())
}

/// Opens what is at a path beneath a folder, without ever leaving it.
pub(super) fn walk(root: &impl AsFd, below: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let mut tries = 0;
    loop {
        tries += 1;
        match rustix::fs::openat2(root, below, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            // A `..` in a link, and somebody renamed a folder meanwhile: the kernel cannot tell whether it left.
            Err(Errno::AGAIN | Errno::INTR) if tries < TRIES => {}
            outcome => return outcome,
        }
    }
}

pub(super) fn explain(error: Errno) -> String {
    match error {
        Errno::NOENT => "is not there".to_owned(),
        Errno::XDEV => "leads out of its folder by a link".to_owned(),
        Errno::LOOP => "is a link that goes in a circle, or one of /proc".to_owned(),
        Errno::NOTDIR => "goes through something that is no folder".to_owned(),
        Errno::NOSYS => "cannot be opened safely: this kernel lacks openat2 (Linux 5.6)".to_owned(),
        other => format!("cannot be opened: {}", io::Error::from(other)),
    }
}

fn word(kind: FileType) -> &'static str {
    match kind {
        FileType::Directory => "a folder",
        FileType::Fifo => "a pipe",
        FileType::Socket => "a socket",
        FileType::CharacterDevice | FileType::BlockDevice => "a device",
        _ => "something else",
    }
}

#[cfg(test)]
#[path = "folders_tests.rs"]
mod tests;
