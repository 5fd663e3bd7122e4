//! A folder that nobody else can look into or put anything in.

use std::fs::{DirBuilder, Metadata};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Why a folder is not one's own alone.
#[derive(Debug, thiserror::Error)]
pub enum PrivateFolderError {
    /// It cannot be made or looked at
    #[error("{}: {source}; make it, or configure another", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Somebody else was there first
    #[error(
        "{} is {what}; nobody else may be able to look into it: remove it, or configure another",
        path.display()
    )]
    NotPrivate {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
}

/// Makes a folder that only user `own_uid`, who this process is, may look into; its parent must be there.
///
/// A folder that is there already must be like that: in a place where everybody may write, such as the folder for
/// temporary files, somebody could have made it to own what is put in. Its parent may only be such a place if, as there,
/// nobody may rename what is another's (the sticky bit).
///
/// # Errors
/// It cannot be made, or the one that is there is not private.
pub fn make_private_folder(path: &Path, own_uid: u32) -> Result<(), PrivateFolderError> {
    let failed = |source| PrivateFolderError::Io { path: path.to_owned(), source };
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(error)),
        _ => {}
    }
    // A link's own metadata, not that of the folder to which it leads.
    let found = path.symlink_metadata().map_err(failed)?;
    match not_private(&found, own_uid) {
        None => Ok(()),
        Some(what) => Err(PrivateFolderError::NotPrivate { path: path.to_owned(), what }),
    }
}

fn not_private(found: &Metadata, own_uid: u32) -> Option<String> {
    if !found.is_dir() {
        return Some("no folder".to_owned());
    }
    if found.uid() != own_uid {
        return Some(format!("user {}'s, not user {own_uid}'s", found.uid()));
    }
    (found.mode() & 0o077 != 0)
        .then(|| format!("open to others, mode {:04o}", found.mode() & 0o7777))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn own_uid() -> u32 {
        rustix::process::geteuid().as_raw()
    }

    #[test]
    fn a_new_folder_is_private_and_is_taken_again() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("new");
        for _ in 0..2 {
            make_private_folder(&path, own_uid()).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o700);
        }
    }

    #[test]
    fn what_somebody_else_could_have_put_there_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        let path = |name: &str| parent.path().join(name);
        fs::create_dir(path("open")).unwrap();
        fs::set_permissions(path("open"), Permissions::from_mode(0o750)).unwrap();
        fs::write(path("file"), "").unwrap();
        make_private_folder(&path("sound"), own_uid()).unwrap();
        symlink(path("sound"), path("link")).unwrap();
        for (name, uid, words) in [
            ("open", own_uid(), "mode 0750"),
            ("file", own_uid(), "no folder"),
            ("link", own_uid(), "no folder"),
            ("sound", own_uid() + 1, "not user"),
            ("no/parent", own_uid(), "No such file"),
        ] {
            let error = make_private_folder(&path(name), uid).unwrap_err().to_string();
            assert!(error.contains(words) && error.contains(name), "{name}: {error}");
        }
    }
}
