//! The files of a snapshot: one, or several that build on each other.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use dwcp::archive::{Archive, ArchiveBytes, ArchiveError, ArchiveKey, Image, ImageReader};
use dwcp::digest::DigestKey;
use dwcp::page::{Gfn, PageRun};

use super::SnapshotError;
use super::description::{Description, SavedMoment};
use crate::memory::check_available;
use crate::vm::MachineConfig;

/// Most snapshots that may build on each other, all in all: each is an open file, and reading gets no faster.
pub(crate) const MOST_ARCHIVES: usize = 8;

/// An open file as the bytes of an archive.
#[derive(Debug)]
pub(crate) struct ArchiveFile(pub(crate) File);

impl ArchiveBytes for ArchiveFile {
    type Error = io::Error;

    fn length(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_exact_at(&self, into: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(into, offset)
    }
}

/// A file of a chain, and where it was found.
#[derive(Debug)]
pub struct SnapshotPath {
    /// Where.
    pub path: PathBuf,
    /// The file, open for reading.
    pub file: File,
}

impl SnapshotPath {
    /// As it is called in messages.
    #[must_use]
    pub fn name(&self) -> String {
        self.path.display().to_string()
    }
}

/// What the machine of the snapshot at `path` is made of.
///
/// # Errors
/// When it is no snapshot, or cannot be opened with the key, or one on which it builds is missing.
pub fn describe_snapshot(
    path: &Path,
    key: Option<&ArchiveKey>,
) -> Result<MachineConfig, SnapshotError> {
    let chain = find_chain(path, key)?;
    let newest = chain.last().expect("a chain has one at least");
    let failed = |source| SnapshotError::File { name: newest.name(), source, hint: "" };
    let file = newest.file.try_clone().map_err(failed)?;
    let archive = open_archive(file, &newest.name(), key)?;
    Ok(describe(&archive, &newest.name())?.config)
}

/// The snapshot at `path` and those on which it builds, the oldest first. Those lie in the same folder, under the names
/// that they had when they were built on.
///
/// # Errors
/// Says which file is missing, or no snapshot, or cannot be opened with the key.
pub fn find_chain(
    path: &Path,
    key: Option<&ArchiveKey>,
) -> Result<Vec<SnapshotPath>, SnapshotError> {
    let mut chain = Vec::new();
    let mut next = Some((path.to_owned(), ""));
    while let Some((path, hint)) = next {
        let name = path.display().to_string();
        if chain.len() == MOST_ARCHIVES {
            return Err(SnapshotError::ChainTooLong { name, most: MOST_ARCHIVES - 1 });
        }
        let open = || {
            // Looked at before it is opened: opening a pipe waits for whoever writes to it.
            if !path.metadata()?.is_file() {
                return Err(io::Error::other("not a file"));
            }
            File::open(&path)
        };
        let failed = |source| SnapshotError::File { name: name.clone(), source, hint };
        let file = open().map_err(failed)?;
        let archive = open_archive(file.try_clone().map_err(failed)?, &name, key)?;
        let description = describe(&archive, &name)?;
        next = description.parent_name.map(|parent| {
            let hint = "; the snapshots on which one builds must lie in its folder";
            (path.with_file_name(file_name(&parent)), hint)
        });
        chain.push(SnapshotPath { path, file });
    }
    chain.reverse();
    Ok(chain)
}

/// A name as it stands in a file is no path to anywhere else.
fn file_name(name: &str) -> &Path {
    Path::new(name).file_name().map_or(Path::new("parent"), Path::new)
}

/// Files of a chain, read and checked as far as that goes without their pages.
#[derive(Debug)]
pub(crate) struct Chain {
    /// The oldest first.
    archives: Vec<Archive<ArchiveFile>>,
    names: Vec<String>,
    image: Image,
    /// Of the last one.
    description: Description,
}

impl Chain {
    /// Opens files, the oldest first. `names` are theirs, for messages.
    ///
    /// # Errors
    /// When there is none, one is damaged, or they do not build on each other.
    pub(crate) fn open(
        files: Vec<File>,
        names: Vec<String>,
        key: Option<&ArchiveKey>,
    ) -> Result<Self, SnapshotError> {
        let archives = files
            .into_iter()
            .zip(&names)
            .map(|(file, name)| open_archive(file, name, key))
            .collect::<Result<Vec<_>, _>>()?;
        let (Some(last), Some(name)) = (archives.last(), names.last()) else {
            let source = io::Error::from(io::ErrorKind::NotFound);
            return Err(SnapshotError::File { name: "a snapshot".into(), source, hint: "" });
        };
        let description = describe(last, name)?;
        // What it says of its size is not believed before there is room for it.
        check_available(description.config.memory.size())?;
        let mut image = Image::new(Gfn(description.config.memory.frame_limit()));
        for (archive, name) in archives.iter().zip(&names) {
            image.lay_over(archive).map_err(named(name))?;
        }
        let key = DigestKey::new(description.digest_key);
        image.check(&key, last).map_err(named(name))?;
        Ok(Self { archives, names, image, description })
    }

    pub(crate) fn description(&self) -> &Description {
        &self.description
    }

    pub(crate) fn image(&self) -> &Image {
        &self.image
    }

    /// The last file's name.
    pub(crate) fn name(&self) -> &str {
        self.names.last().map_or("", String::as_str)
    }

    /// Bytes of all files.
    pub(crate) fn bytes(&self) -> u64 {
        self.archives.iter().map(Archive::length).sum()
    }

    /// Pages that are not zero.
    pub(crate) fn pages(&self) -> u64 {
        self.image.blocks().iter().map(|block| block.pages()).sum()
    }

    /// The blocks that have pages of the image, in the order in which they lie in their files.
    pub(crate) fn blocks_in_use(&self) -> impl Iterator<Item = usize> {
        let blocks = self.image.blocks().iter().enumerate();
        blocks.filter(|(_, block)| block.pages() > 0).map(|(index, _)| index)
    }

    /// The state, and when it was that.
    pub(crate) fn moment(&self) -> Result<SavedMoment, SnapshotError> {
        let last = self.archives.last().expect("a chain has a file");
        let bytes = last.state().map_err(named(self.name()))?;
        SavedMoment::decode(&bytes, self.name())
    }

    /// Reads a block, and passes its pages on, in runs, each checked.
    pub(crate) fn read_block<E: From<SnapshotError>>(
        &self,
        reader: &mut ImageReader,
        key: &DigestKey,
        block: usize,
        each: impl FnMut(PageRun, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        match reader.read(&self.image, &self.archives, key, block, each) {
            Ok(outcome) => outcome,
            Err(source) => {
                let archive = self.image.blocks()[block].archive();
                Err(named(&self.names[archive])(source).into())
            }
        }
    }
}

fn open_archive(
    file: File,
    name: &str,
    key: Option<&ArchiveKey>,
) -> Result<Archive<ArchiveFile>, SnapshotError> {
    Archive::open(ArchiveFile(file), key).map_err(named(name))
}

fn describe(archive: &Archive<ArchiveFile>, name: &str) -> Result<Description, SnapshotError> {
    Description::decode(&archive.description().map_err(named(name))?, name)
}

fn named(name: &str) -> impl Fn(ArchiveError<io::Error>) -> SnapshotError + '_ {
    move |source| SnapshotError::Archive { name: name.to_owned(), source }
}
