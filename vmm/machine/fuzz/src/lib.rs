//! What the fuzz targets of `machine` share.
//!
//! | target | bytes from | what it tries |
//! |---|---|---|
//! | `kernel-image` | a file that a user names | loading it into guest memory |
//! | `saved-state` | a predecessor, later a file | reading a machine's saved state |
//! | `messages` | the other process of a channel | reading one message of each kind |
//! | `page-stream` | a predecessor | taking page runs into guest memory |
//! | `snapshot` | a file that a user names | reading all of a snapshot, its tags made right |
//! | `permit-slots` | a record that processes share | taking the permit that it offers |
//!
//! Each target checks more than that nothing panics; its head says what. `README.md` tells where the
//! seeds of the corpora come from.

use std::fs::File;
use std::io;
use std::path::PathBuf;

use machine::GuestRam;
use rustix::fs::{FallocateFlags, SeekFrom};

/// The committed inputs of a target.
#[must_use]
pub fn corpus(target: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "corpus", target].iter().collect()
}

/// Makes all of guest RAM zero again: a hole in its file.
///
/// # Errors
/// When the kernel does not punch it.
pub fn empty(ram: &GuestRam) -> io::Result<()> {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    Ok(rustix::fs::fallocate(ram.file(), flags, 0, ram.layout().size())?)
}

/// Whether these bytes of the memory file were never written since the last [`empty`]: they still
/// are a hole.
///
/// # Errors
/// When the kernel does not tell.
pub fn is_untouched(ram: &GuestRam, start: u64, end: u64) -> io::Result<bool> {
    match rustix::fs::seek(ram.file(), SeekFrom::Data(start)) {
        Ok(data) => Ok(data >= end),
        Err(rustix::io::Errno::NXIO) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

/// A file in memory that is as long as `bytes`, and holds them.
///
/// # Errors
/// When the kernel gives none.
pub fn memory_file(bytes: &[u8]) -> io::Result<File> {
    use std::os::unix::fs::FileExt;
    let file = rustix::fs::memfd_create("fuzz", rustix::fs::MemfdFlags::CLOEXEC)?;
    let file = File::from(file);
    file.write_all_at(bytes, 0)?;
    Ok(file)
}
