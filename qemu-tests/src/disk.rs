//! Disks of machines.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::TempDir;

/// A disk: a sparse file that outlives the machines it is put into. It is gone with its last clone.
///
/// QEMU locks the file: two machines that run at the same time cannot have it.
#[derive(Clone, Debug)]
pub struct Disk {
    serial: String,
    path: PathBuf,
    _folder: Arc<TempDir>,
}

impl Disk {
    /// An empty disk of so many bytes. A host finds it by its serial number: at most 20 letters and digits.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn empty(serial: &str, bytes: u64) -> io::Result<Self> {
        if serial.len() > 20 || !serial.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(io::Error::other(format!("{serial} is no serial number")));
        }
        let folder = tempfile::tempdir()?;
        let path = folder.path().join(serial);
        File::create_new(&path)?.set_len(bytes)?;
        Ok(Self { serial: serial.to_owned(), path, _folder: Arc::new(folder) })
    }

    /// Reads what stands at `offset`.
    ///
    /// # Errors
    /// The disk is shorter.
    pub fn read(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let mut content = vec![0; length];
        File::open(&self.path)?.read_exact_at(&mut content, offset)?;
        Ok(content)
    }

    /// Writes at `offset`, while no machine has the disk: what one has read already it does not read again.
    ///
    /// # Errors
    /// The disk is shorter: it does not grow. Or this machine's is full.
    pub fn write(&self, offset: u64, content: &[u8]) -> io::Result<()> {
        let file = File::options().write(true).open(&self.path)?;
        let end = offset.checked_add(content.len() as u64);
        if end.is_none_or(|end| file.metadata().is_ok_and(|disk| end > disk.len())) {
            return Err(io::Error::other("the disk is shorter"));
        }
        file.write_all_at(content, offset)
    }

    /// The file, as a machine gets it: a raw image.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// QEMU's arguments for the disk with this number.
    pub(crate) fn arguments(&self, number: usize) -> [String; 4] {
        let Self { serial, path, .. } = self;
        // A comma in a value is written twice.
        let path = path.to_string_lossy().replace(',', ",,");
        let drive = format!("if=none,id=disk{number},format=raw,file={path}");
        let device = format!("virtio-blk-pci,drive=disk{number},serial={serial}");
        ["-drive".to_owned(), drive, "-device".to_owned(), device]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_has_what_was_written_on_it_and_does_not_grow() {
        let disk = Disk::empty("one", 1 << 20).unwrap();
        let clone = disk.clone();
        disk.write((1 << 20) - 3, b"end").unwrap();
        drop(disk);
        assert_eq!(clone.read((1 << 20) - 4, 4).unwrap(), b"\0end");
        clone.write((1 << 20) - 2, b"end").unwrap_err();
        clone.write(u64::MAX, b"end").unwrap_err();
        clone.read((1 << 20) - 2, 3).unwrap_err();
        let path = clone.path().to_owned();
        drop(clone);
        assert!(!path.exists());
    }

    #[test]
    fn a_serial_number_that_would_be_cut_or_misread_is_refused() {
        for serial in ["123456789012345678901", "a,b", "a b", "../x"] {
            Disk::empty(serial, 512).unwrap_err();
        }
    }
}
