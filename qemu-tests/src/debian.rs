//! Debian's own kernel and initrd, as its packages and tools make them on a machine of its own.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

use build_cache::{Cache, CacheError};
use thiserror::Error;

use crate::artifacts::memoized;

/// The kind under which they are kept.
const KIND: &str = "debian-kernel";
const SUITE: &str = "bookworm";
/// The kernel; and what an ordinary installation has in its initrd, which recommended packages bring.
const PACKAGES: &str = "linux-image-cloud-amd64,initramfs-tools,busybox,zstd,udev";
/// What to keep of the root file system, `$1`: the kernel's own hooks have made the initrd in it.
const CUSTOMIZE: &str = r#"chroot "$1" dpkg-query --show > staged/packages
cp "$1"/boot/vmlinuz-* staged/vmlinuz
cp "$1"/boot/initrd.img-* staged/initrd"#;
const FILES: [&str; 3] = ["vmlinuz", "initrd", "packages"];
/// Lines of the log that a failure shows.
const LINES_SHOWN: usize = 20;

/// A distribution's kernel, unmodified.
#[derive(Clone, Debug)]
pub struct DebianKernel {
    /// Its bzImage.
    pub vmlinuz: PathBuf,
    /// What initramfs-tools made for it.
    pub initrd: PathBuf,
}

/// It is not there and cannot be made.
#[derive(Debug, Error)]
pub enum DebianError {
    /// The cache cannot be used.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// A file of the build cannot be written.
    #[error("cannot {0}")]
    Folder(&'static str, #[source] std::io::Error),
    /// mmdebstrap does not start.
    #[error("mmdebstrap does not start: {0}; the Debian package of that name has it")]
    NoTool(#[source] std::io::Error),
    /// mmdebstrap failed: most likely no mirror of Debian can be reached.
    #[error("mmdebstrap ended with {status}:\n{log}")]
    Failed {
        /// How it ended.
        status: std::process::ExitStatus,
        /// What it said last.
        log: String,
    },
}

/// Debian 12's kernel for clouds with its initrd. Made once a machine, from some 75 MB of Debian's mirror in two
/// minutes, as root or where users may make namespaces; nothing is installed on the machine itself. Its version is
/// that of the day on which it was made.
///
/// # Errors
/// It is not there and cannot be made.
pub fn debian_kernel() -> Result<DebianKernel, DebianError> {
    // Tests run on several threads; the first asks, the others wait and are told.
    static KERNEL: Mutex<Option<DebianKernel>> = Mutex::new(None);
    memoized(&KERNEL, || {
        let cache = Cache::open(KIND)?;
        let name = name();
        let folder = match cache.find(&name) {
            Some(folder) => folder,
            None => make(&cache, &name)?,
        };
        Ok(DebianKernel { vmlinuz: folder.join(FILES[0]), initrd: folder.join(FILES[1]) })
    })
}

/// A hash of all that decides on the content, but for Debian's versions of the day.
fn name() -> String {
    let recipe = [SUITE, PACKAGES, CUSTOMIZE].join("\0");
    let hash = blake3::hash(recipe.as_bytes()).to_hex();
    format!("{SUITE}-{}", &hash[..16])
}

fn make(cache: &Cache, name: &str) -> Result<PathBuf, DebianError> {
    let lock = cache.lock()?;
    // Whoever held the lock before may have made this very one.
    if let Some(folder) = cache.find(name) {
        return Ok(folder);
    }
    let site = cache.site(&lock)?;
    let staged = site.path().join("staged");
    fs::create_dir(&staged).map_err(|error| DebianError::Folder("make a folder", error))?;
    eprintln!("fetching Debian {SUITE}'s kernel, once a machine: some minutes");
    install(site.path())?;
    Ok(cache.publish(name, &staged, &FILES)?)
}

fn install(site: &Path) -> Result<(), DebianError> {
    let log = site.join("log");
    let file = File::create(&log).map_err(|error| DebianError::Folder("write a log", error))?;
    let status = Command::new("mmdebstrap")
        .args(["--quiet", "--variant=minbase", "--format=null", "--include", PACKAGES])
        .args(["--customize-hook", CUSTOMIZE, SUITE, "-"])
        .current_dir(site)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(file)
        .status()
        .map_err(DebianError::NoTool)?;
    if status.success() {
        return Ok(());
    }
    let said = fs::read_to_string(&log).unwrap_or_default();
    let lines: Vec<_> = said.lines().collect();
    let log = lines[lines.len().saturating_sub(LINES_SHOWN)..].join("\n");
    Err(DebianError::Failed { status, log })
}
