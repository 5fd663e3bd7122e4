//! [`Identity`]: the key by which other hosts know this one.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use dwcp::transport::{KeyError, KeyPair, PublicKey};

use crate::whole_file;

/// In the state folder.
const FILE_NAME: &str = "host.key";
/// A private key in PKCS #8 has 83 bytes.
const KEY_MAX_BYTES: u64 = 1 << 10;

/// This host's key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Its file
    #[error("this host's key, {}: {source}", path.display())]
    File {
        /// Where it is.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What is in it
    #[error(
        "this host's key, {}: {source}; put it back from a backup, or remove it: then this host is another one to its peers",
        path.display()
    )]
    Key {
        /// Where it is.
        path: PathBuf,
        /// What is wrong with it.
        source: KeyError,
    },
}

/// A host's key pair. It stays in the daemon: no machine process ever has it.
#[derive(Debug)]
pub(crate) struct Identity {
    keys: KeyPair,
}

impl Identity {
    /// The identity that is kept in this folder; made, if there is none yet.
    ///
    /// # Errors
    /// When it cannot be read or made.
    pub(crate) fn open(folder: &Path) -> Result<Self, IdentityError> {
        let path = folder.join(FILE_NAME);
        let private = match read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let private = KeyPair::generate()
                    .map_err(|source| IdentityError::Key { path: path.clone(), source })?;
                let written =
                    whole_file::replace(folder, FILE_NAME, |file| file.write_all(&private));
                written.map(|()| private)
            }
            read => read,
        };
        let private =
            private.map_err(|source| IdentityError::File { path: path.clone(), source })?;
        let keys =
            KeyPair::from_pkcs8(&private).map_err(|source| IdentityError::Key { path, source })?;
        Ok(Self { keys })
    }

    /// The pair, for handshakes and signatures.
    pub(crate) fn keys(&self) -> &KeyPair {
        &self.keys
    }

    /// The half that everybody may know.
    pub(crate) fn public(&self) -> PublicKey {
        self.keys.public()
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(KEY_MAX_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn a_host_keeps_its_key_and_nobody_else_can_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let first = Identity::open(folder.path()).unwrap().public();
        assert_eq!(Identity::open(folder.path()).unwrap().public(), first);
        let found = std::fs::metadata(folder.path().join("host.key")).unwrap();
        assert_eq!(found.mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "and no half of one");
    }

    #[test]
    fn a_key_that_is_none_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("host.key"), "half").unwrap();
        let error = Identity::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("host.key") && error.contains("backup"), "{error}");
        assert_eq!(std::fs::read(folder.path().join("host.key")).unwrap(), b"half");
    }
}
