//! Built kernels on this machine, outside any checkout: one build serves all of them.

use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use thiserror::Error;

/// Begins the name of every build folder, so that what a killed build left is recognised.
const SITE_PREFIX: &str = "building-";

/// The identity of a built kernel: whatever could change its bytes is hashed into it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key(String);

impl Key {
    /// The key of a kernel from `version` of the source and the other `inputs`, in this order.
    #[must_use]
    pub fn of(version: &str, inputs: &[&str]) -> Self {
        let mut hasher = blake3::Hasher::new();
        for input in [version].iter().chain(inputs) {
            // The length keeps ("ab", "c") and ("a", "bc") apart.
            hasher.update(&(input.len() as u64).to_le_bytes());
            hasher.update(input.as_bytes());
        }
        let digest = hasher.finalize().to_hex();
        Self(format!("{version}-{}", &digest[..16]))
    }

    /// The name of the kernel's folder in the cache.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A finished kernel: a folder of the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelFiles {
    /// Holds the four files below and nothing else.
    pub folder: PathBuf,
}

impl KernelFiles {
    /// The compressed kernel with its real-mode and EFI entry.
    pub const BZIMAGE: &str = "bzImage";
    /// The ELF kernel with its PVH note, without symbols.
    pub const VMLINUX: &str = "vmlinux";
    /// The symbols that were taken from it.
    pub const SYSTEM_MAP: &str = "System.map";
    /// The complete configuration.
    pub const CONFIG: &str = "config";

    const ALL: [&str; 4] = [Self::BZIMAGE, Self::VMLINUX, Self::SYSTEM_MAP, Self::CONFIG];
}

/// The folder in which built kernels are kept.
#[derive(Debug)]
pub struct Cache {
    folder: PathBuf,
}

/// The cache folder cannot be used.
#[derive(Debug, Error)]
pub enum CacheError {
    /// The environment names no place.
    #[error(
        "no place for built kernels: set NOVACRON_CACHE, XDG_CACHE_HOME or HOME to an absolute path"
    )]
    NoPlace,
    /// The file system refused.
    #[error("cannot {doing} {path}")]
    Refused {
        /// What was tried, as a verb.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl Cache {
    /// The cache that the environment names: `$NOVACRON_CACHE`, else `novacron` below
    /// `$XDG_CACHE_HOME`, else below `$HOME/.cache`.
    ///
    /// # Errors
    /// None of the three names an absolute path, or the folder cannot be made.
    pub fn open() -> Result<Self, CacheError> {
        let root = place(|name| env::var_os(name)).ok_or(CacheError::NoPlace)?;
        Self::at(&root)
    }

    /// The cache below `root`.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn at(root: &Path) -> Result<Self, CacheError> {
        let folder = root.join("kernel");
        fs::create_dir_all(&folder).map_err(refused("create", &folder))?;
        Ok(Self { folder })
    }

    /// The kernel with this key, if it was built.
    #[must_use]
    pub fn find(&self, key: &Key) -> Option<KernelFiles> {
        let folder = self.folder.join(key.as_str());
        folder.is_dir().then_some(KernelFiles { folder })
    }

    /// Where the log of a build that failed is kept.
    #[must_use]
    pub fn failure_log(&self, key: &Key) -> PathBuf {
        self.folder.join(format!("failed-{}.log", key.as_str()))
    }

    /// Waits until no other process builds in this cache. One build at a time, whatever its key: a
    /// kernel takes every processor there is. The lock falls with the descriptor, so also when the
    /// builder is killed.
    ///
    /// # Errors
    /// The lock file cannot be made or locked.
    pub(crate) fn lock(&self) -> Result<File, CacheError> {
        let path = self.folder.join("lock");
        let file = File::create(&path).map_err(refused("create", &path))?;
        if file.try_lock().is_err() {
            eprintln!("kernel-config: waiting for another build in {}", self.folder.display());
            file.lock().map_err(refused("lock", &path))?;
        }
        Ok(file)
    }

    /// An empty folder to build in, on the cache's file system, and removed when dropped.
    /// `_lock` is the proof that whatever lies there otherwise was left by a build that was killed.
    ///
    /// # Errors
    /// The folder cannot be made, or an old one not removed.
    pub(crate) fn site(&self, _lock: &File) -> Result<TempDir, CacheError> {
        let list = || fs::read_dir(&self.folder)?.collect::<io::Result<Vec<_>>>();
        for entry in list().map_err(refused("list", &self.folder))? {
            if entry.file_name().to_string_lossy().starts_with(SITE_PREFIX) {
                let path = entry.path();
                fs::remove_dir_all(&path).map_err(refused("remove", &path))?;
            }
        }
        tempfile::Builder::new()
            .prefix(SITE_PREFIX)
            .tempdir_in(&self.folder)
            .map_err(refused("create a folder in", &self.folder))
    }

    /// Puts a finished kernel, whose files lie in `staged`, under its key: all of it or nothing,
    /// because a folder appears in one rename, after its files are on the disk.
    ///
    /// # Errors
    /// A file is missing, cannot be written to disk or moved.
    pub(crate) fn publish(&self, key: &Key, staged: &Path) -> Result<KernelFiles, CacheError> {
        for name in KernelFiles::ALL {
            let path = staged.join(name);
            let file = File::open(&path).map_err(refused("open", &path))?;
            file.sync_all().map_err(refused("write to disk", &path))?;
        }
        let folder = self.folder.join(key.as_str());
        fs::rename(staged, &folder).map_err(refused("create", &folder))?;
        Ok(KernelFiles { folder })
    }
}

fn refused(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CacheError {
    move |source| CacheError::Refused { doing, path: path.to_owned(), source }
}

/// The first absolute path among the three; a relative one would be another place in every folder.
fn place(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let from = |name: &str, below: &str| {
        let root = PathBuf::from(variable(name)?);
        root.is_absolute().then(|| root.join(below))
    };
    from("NOVACRON_CACHE", "")
        .or_else(|| from("XDG_CACHE_HOME", "novacron"))
        .or_else(|| from("HOME", ".cache/novacron"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stage(site: &TempDir, files: &[&str]) -> PathBuf {
        let staged = site.path().join("staged");
        fs::create_dir(&staged).unwrap();
        for file in files {
            fs::write(staged.join(file), file).unwrap();
        }
        staged
    }

    #[test]
    fn every_input_and_its_place_change_the_key() {
        let key = Key::of("1", &["ab", "c"]);
        assert_eq!(key, Key::of("1", &["ab", "c"]));
        for other in [Key::of("2", &["ab", "c"]), Key::of("1", &["a", "bc"]), Key::of("1", &["ab"])]
        {
            assert_ne!(key, other);
        }
        assert!(key.as_str().starts_with("1-"));
    }

    #[test]
    fn the_cache_is_where_the_environment_says() {
        for (variables, expected) in [
            (&[("NOVACRON_CACHE", "/n"), ("HOME", "/h")][..], Some("/n")),
            (&[("XDG_CACHE_HOME", "/x"), ("HOME", "/h")][..], Some("/x/novacron")),
            (&[("HOME", "/h")][..], Some("/h/.cache/novacron")),
            (&[("NOVACRON_CACHE", "here"), ("HOME", "/h")][..], Some("/h/.cache/novacron")),
            (&[("NOVACRON_CACHE", ""), ("HOME", "")][..], None),
        ] {
            let variable = |name: &str| {
                variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into())
            };
            assert_eq!(place(variable), expected.map(PathBuf::from), "{variables:?}");
        }
    }

    #[test]
    fn a_published_kernel_is_found_and_an_incomplete_one_is_not() {
        let root = tempfile::tempdir().unwrap();
        let cache = Cache::at(root.path()).unwrap();
        let lock = cache.lock().unwrap();
        let (whole, part) = (Key::of("1", &["whole"]), Key::of("1", &["part"]));

        let site = cache.site(&lock).unwrap();
        let staged = stage(&site, &["bzImage", "vmlinux", "config"]);
        assert!(cache.publish(&part, &staged).is_err());
        assert_eq!(cache.find(&part), None);

        let site = cache.site(&lock).unwrap();
        let staged = stage(&site, &KernelFiles::ALL);
        let published = cache.publish(&whole, &staged).unwrap();
        assert_eq!(cache.find(&whole), Some(published.clone()));
        assert_eq!(fs::read(published.folder.join("vmlinux")).unwrap(), b"vmlinux");
    }

    #[test]
    fn what_a_killed_build_left_is_removed_by_the_next() {
        let root = tempfile::tempdir().unwrap();
        let cache = Cache::at(root.path()).unwrap();
        let lock = cache.lock().unwrap();
        let left = cache.site(&lock).unwrap().keep();
        fs::write(left.join("object"), "").unwrap();
        let site = cache.site(&lock).unwrap();
        assert!(!left.exists());
        assert!(site.path().exists());
    }

    #[test]
    fn two_builds_do_not_hold_one_cache() {
        let root = tempfile::tempdir().unwrap();
        let cache = Cache::at(root.path()).unwrap();
        let held = cache.lock().unwrap();
        let second = File::open(root.path().join("kernel/lock")).unwrap();
        assert!(second.try_lock().is_err());
        drop(held);
        assert!(second.try_lock().is_ok());
    }
}
