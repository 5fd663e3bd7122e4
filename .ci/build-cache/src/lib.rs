//! What takes minutes to build, kept on this machine outside any checkout: kernels, memory images, tools.
//!
//! ```text
//! <root>/<kind>/<name>/…          a finished product: appears in one rename, complete or not at all
//! <root>/<kind>/building-…/       a build under way; whatever a killed one left, the next removes
//! <root>/<kind>/failed-<name>.log what a failed build printed
//! <root>/<kind>/lock              held by whoever builds
//! ```
//!
//! A product's name holds a hash of all that could change its bytes; how it is made up is the builder's
//! business.

mod command;

pub use command::in_folder;

use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use thiserror::Error;

/// Begins the name of every build folder, so that what a killed build left is recognised.
const SITE_PREFIX: &str = "building-";

/// The cache folder cannot be used.
#[derive(Debug, Error)]
pub enum CacheError {
    /// The environment names no place.
    #[error(
        "no place for what is built: set NOVACRON_CACHE, XDG_CACHE_HOME or HOME to an absolute path"
    )]
    NoPlace,
    /// The file system refused.
    #[error("cannot {doing} {path}: {source}")]
    Refused {
        /// What was tried, as a verb.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// The root of all caches: `$NOVACRON_CACHE`, else `novacron` below `$XDG_CACHE_HOME`, else below
/// `$HOME/.cache`.
///
/// # Errors
/// None of the three names an absolute path.
pub fn root() -> Result<PathBuf, CacheError> {
    place(|name| env::var_os(name)).ok_or(CacheError::NoPlace)
}

/// The folder in which finished products of one kind are kept.
#[derive(Debug)]
pub struct Cache {
    folder: PathBuf,
}

impl Cache {
    /// The cache of this kind, below [`root`].
    ///
    /// # Errors
    /// There is no root, or the folder cannot be made.
    pub fn open(kind: &str) -> Result<Self, CacheError> {
        Self::at(&root()?, kind)
    }

    /// The cache of this kind below `root`.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn at(root: &Path, kind: &str) -> Result<Self, CacheError> {
        let folder = root.join(kind);
        fs::create_dir_all(&folder).map_err(refused("create", &folder))?;
        Ok(Self { folder })
    }

    /// The folder of the product of this name, if it was built.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<PathBuf> {
        let folder = self.folder.join(name);
        folder.is_dir().then_some(folder)
    }

    /// Where the log of a build that failed is kept.
    #[must_use]
    pub fn failure_log(&self, name: &str) -> PathBuf {
        self.folder.join(format!("failed-{name}.log"))
    }

    /// Waits until no other process builds in this cache. One build at a time, whatever its name: a
    /// build takes every processor there is. The lock falls with the descriptor, so also when the
    /// builder is killed.
    ///
    /// # Errors
    /// The lock file cannot be made or locked.
    pub fn lock(&self) -> Result<File, CacheError> {
        let path = self.folder.join("lock");
        let file = File::create(&path).map_err(refused("create", &path))?;
        if file.try_lock().is_err() {
            eprintln!("waiting for another build in {}", self.folder.display());
            file.lock().map_err(refused("lock", &path))?;
        }
        Ok(file)
    }

    /// An empty folder to build in, on the cache's file system, and removed when dropped.
    /// `_lock` is the proof that whatever lies there otherwise was left by a build that was killed.
    ///
    /// # Errors
    /// The folder cannot be made, or an old one not removed.
    pub fn site(&self, _lock: &File) -> Result<TempDir, CacheError> {
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

    /// Puts a finished product, whose `files` lie in `staged`, under its name: all of it or nothing,
    /// because a folder appears in one rename, after its files are on the disk.
    ///
    /// # Errors
    /// A file is missing, cannot be written to disk or moved.
    pub fn publish(
        &self,
        name: &str,
        staged: &Path,
        files: &[&str],
    ) -> Result<PathBuf, CacheError> {
        for file in files {
            let path = staged.join(file);
            let file = File::open(&path).map_err(refused("open", &path))?;
            file.sync_all().map_err(refused("write to disk", &path))?;
        }
        let folder = self.folder.join(name);
        fs::rename(staged, &folder).map_err(refused("create", &folder))?;
        Ok(folder)
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
    fn a_published_product_is_found_and_an_incomplete_one_is_not() {
        const FILES: [&str; 2] = ["image", "config"];
        let root = tempfile::tempdir().unwrap();
        let cache = Cache::at(root.path(), "kind").unwrap();
        let lock = cache.lock().unwrap();

        let site = cache.site(&lock).unwrap();
        let staged = stage(&site, &FILES[..1]);
        assert!(cache.publish("part", &staged, &FILES).is_err());
        assert_eq!(cache.find("part"), None);

        let site = cache.site(&lock).unwrap();
        let staged = stage(&site, &FILES);
        let published = cache.publish("whole", &staged, &FILES).unwrap();
        assert_eq!(cache.find("whole"), Some(published.clone()));
        assert_eq!(fs::read(published.join("image")).unwrap(), b"image");
    }

    #[test]
    fn what_a_killed_build_left_is_removed_by_the_next() {
        let root = tempfile::tempdir().unwrap();
        let cache = Cache::at(root.path(), "kind").unwrap();
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
        let cache = Cache::at(root.path(), "kind").unwrap();
        let held = cache.lock().unwrap();
        let second = File::open(root.path().join("kind/lock")).unwrap();
        assert!(second.try_lock().is_err());
        drop(held);
        assert!(second.try_lock().is_ok());
    }
}
