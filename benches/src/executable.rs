//! The executable that is measured: a release build of this tree, as it ships.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use machine::Host;

use crate::stop::Stop;

/// `novacron`, built in release form.
#[derive(Clone, Debug)]
pub struct Executable {
    path: PathBuf,
    version: String,
}

impl Executable {
    /// Finds `novacron` beside this program. Under `cargo run` it is built first, so that no stale
    /// one is measured.
    ///
    /// # Errors
    /// Skips where this host cannot run machines; fails where there is no executable, or this
    /// program is not a release build itself.
    pub fn find() -> Result<Self, Stop> {
        drop(Host::open().map_err(|error| Stop::Skipped(error.to_string()))?);
        if cfg!(debug_assertions) {
            let why = "an unoptimised build measures nothing; run it with cargo run --release";
            return Err(Stop::Failed(why.into()));
        }
        if let Some(cargo) = std::env::var_os("CARGO") {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
            let mut build = build_cache::in_folder(cargo, folder);
            build.args(["build", "--quiet", "--release", "--package", "novacron"]);
            // `--json` has standard output for itself.
            let status = build.stdout(Stdio::null()).status();
            match status.map_err(Stop::failed("cargo build"))?.success() {
                true => {}
                false => return Err(Stop::Failed("cargo build --package novacron failed".into())),
            }
        }
        let here = std::env::current_exe().map_err(Stop::failed("this program's path"))?;
        let path = here.with_file_name("novacron");
        let output = Command::new(&path).arg("--version").output().map_err(|error| {
            Stop::Failed(format!(
                "{}: {error}; build it with cargo build --release -p novacron",
                path.display()
            ))
        })?;
        let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        Ok(Self { path, version })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder that the caller named, or the one in which it lies.
    #[must_use]
    pub fn folder_or(&self, named: Option<&Path>) -> PathBuf {
        named.or_else(|| self.path.parent()).map_or_else(PathBuf::new, PathBuf::from)
    }

    /// What it says of itself.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }
}
