//! Files that are there whole or not at all, whatever is killed: written under another name, on storage, then renamed.

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::random::{hex, random};

/// Puts a file in the place of the one of that name, if there is one. Only the daemon's own user can read it.
///
/// # Errors
/// When it cannot be written: then the old one, or the new one, is there, and whole.
pub(crate) fn replace(
    folder: &Path,
    name: &str,
    write: impl FnOnce(&mut File) -> io::Result<()>,
) -> io::Result<()> {
    // Drawn: two writers of one name would spoil each other's file, and a dead one's is overwritten by nobody.
    let new = folder.join(format!(".{name}-{}", hex(&random::<4>()?)));
    let written = (|| {
        let mut options = File::options();
        let mut file = options.create_new(true).write(true).mode(0o600).open(&new)?;
        write(&mut file)?;
        file.sync_all()?;
        std::fs::rename(&new, folder.join(name))
    })();
    if written.is_err() {
        let _ = std::fs::remove_file(&new);
    }
    written?;
    sync_folder(folder)
}

/// Puts what was renamed, made or removed in a folder on storage.
///
/// # Errors
/// When the file system cannot.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_file_that_cannot_be_written_leaves_the_old_one_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        replace(path, "one", |file| file.write_all(b"old")).unwrap();
        replace(path, "one", |file| file.write_all(b"new")).unwrap();
        let failed = replace(path, "one", |file| {
            file.write_all(b"half")?;
            Err(io::Error::other("planted"))
        });
        assert!(failed.is_err());
        assert_eq!(std::fs::read(path.join("one")).unwrap(), b"new");
        assert_eq!(std::fs::read_dir(path).unwrap().count(), 1);
    }
}
