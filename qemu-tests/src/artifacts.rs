//! What the machines run: our kernels and our executable, found or built.

use std::env;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};

use thiserror::Error;

/// Names the folder of a built kernel for hosts; without it the kernel is built, or found in the cache.
const HOST_KERNEL_VARIABLE: &str = "NOVACRON_HOST_KERNEL";
/// The same for Linux guests.
const GUEST_KERNEL_VARIABLE: &str = "NOVACRON_GUEST_KERNEL";
/// Names the executable under test; without it the executable is built.
const NOVACRON_VARIABLE: &str = "NOVACRON_EXE";

/// A kernel, in both its forms.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// Compressed, with its real-mode entry.
    pub bzimage: PathBuf,
    /// ELF; a guest's has a PVH note.
    pub vmlinux: PathBuf,
}

/// Something to run is missing.
#[derive(Debug, Error)]
pub enum ArtifactError {
    /// A variable or a build names a file that is not there.
    #[error("{named_by} leads to {path}, which is not a file")]
    Missing {
        /// The variable, or the build.
        named_by: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// The firmware's variables cannot be copied.
    #[error("cannot copy the firmware's variables")]
    Firmware(#[source] io::Error),
    /// cargo does not start.
    #[error("cannot run cargo")]
    Cargo(#[source] io::Error),
    /// The build failed; its own messages are on stderr.
    #[error("`cargo {0}` failed")]
    Build(String),
}

/// The kernel of hosts. Building it takes minutes, once a machine.
///
/// # Errors
/// It cannot be built, or `NOVACRON_HOST_KERNEL` names a folder without one.
pub fn host_kernel() -> Result<Kernel, ArtifactError> {
    // Tests run on several threads; the first asks, the others wait and are told.
    static KERNEL: Mutex<Option<Kernel>> = Mutex::new(None);
    memoized(&KERNEL, || kernel(HOST_KERNEL_VARIABLE, "test-host"))
}

/// The kernel of Linux guests. Building it takes minutes, once a machine.
///
/// # Errors
/// It cannot be built, or `NOVACRON_GUEST_KERNEL` names a folder without one.
pub fn guest_kernel() -> Result<Kernel, ArtifactError> {
    static KERNEL: Mutex<Option<Kernel>> = Mutex::new(None);
    memoized(&KERNEL, || kernel(GUEST_KERNEL_VARIABLE, "guest"))
}

/// The kernel that the variable names, or else the one that `kernel-config` has under this name.
fn kernel(variable: &'static str, name: &str) -> Result<Kernel, ArtifactError> {
    let folder = match env::var_os(variable) {
        Some(folder) => PathBuf::from(folder),
        None => {
            let build = ["run", "--quiet", "--package", "kernel-config", "--", "build", name];
            PathBuf::from(cargo(&build)?.trim_end())
        }
    };
    let file = |name| existing(variable, folder.join(name));
    Ok(Kernel { bzimage: file("bzImage")?, vmlinux: file("vmlinux")? })
}

/// The executable under test.
///
/// # Errors
/// It cannot be built, or `NOVACRON_EXE` names no file.
pub fn novacron() -> Result<PathBuf, ArtifactError> {
    static NOVACRON: Mutex<Option<PathBuf>> = Mutex::new(None);
    memoized(&NOVACRON, || {
        if let Some(path) = env::var_os(NOVACRON_VARIABLE) {
            return existing(NOVACRON_VARIABLE, path.into());
        }
        let arguments = [
            "build",
            "--release",
            "--package",
            "novacron",
            "--message-format=json-render-diagnostics",
        ];
        let messages = cargo(&arguments)?;
        let path = executable(&messages).ok_or(ArtifactError::Build(arguments.join(" ")))?;
        existing("cargo build", path)
    })
}

/// What is known, or else what `find` finds, which is then known.
pub(crate) fn memoized<T: Clone, E>(
    known: &Mutex<Option<T>>,
    find: impl FnOnce() -> Result<T, E>,
) -> Result<T, E> {
    let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
    match &*known {
        Some(found) => Ok(found.clone()),
        None => Ok(known.insert(find()?).clone()),
    }
}

/// What cargo prints on stdout. It runs in the workspace, whose configuration makes executables
/// static.
fn cargo(arguments: &[&str]) -> Result<String, ArtifactError> {
    let program = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let output = build_cache::in_folder(program, &workspace)
        .args(arguments)
        .stderr(Stdio::inherit())
        .output()
        .map_err(ArtifactError::Cargo)?;
    if !output.status.success() {
        return Err(ArtifactError::Build(arguments.join(" ")));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The executable that cargo's messages, one JSON object a line, say was built.
fn executable(messages: &str) -> Option<PathBuf> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
}

pub(crate) fn existing(named_by: &'static str, path: PathBuf) -> Result<PathBuf, ArtifactError> {
    if path.is_file() { Ok(path) } else { Err(ArtifactError::Missing { named_by, path }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_executable_is_the_one_that_cargo_names() {
        let messages = "{\"reason\":\"compiler-artifact\",\"executable\":null}\n\
            not json\n\
            {\"reason\":\"compiler-artifact\",\"executable\":\"/t/release/novacron\"}\n\
            {\"reason\":\"build-finished\",\"success\":true}\n";
        assert_eq!(executable(messages), Some("/t/release/novacron".into()));
        assert_eq!(executable("{\"reason\":\"build-finished\",\"success\":true}\n"), None);
    }

    #[test]
    fn a_failed_search_is_repeated_and_a_found_thing_is_kept() {
        let known = Mutex::new(None);
        let fails = || Err(ArtifactError::Build(String::new()));
        assert!(memoized(&known, fails).is_err());
        let finds = |number| move || Ok::<_, ArtifactError>(number);
        assert_eq!(memoized(&known, finds(1)).unwrap(), 1);
        assert_eq!(memoized(&known, finds(2)).unwrap(), 1);
    }
}
