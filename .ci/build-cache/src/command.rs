//! Commands that build.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Stdio};

/// Variables of the caller that would make cargo build something else than what ships, or build it
/// twice: cargo sets most of them for a program when it runs it.
const NOT_INHERITED: [&str; 6] = [
    "RUSTFLAGS",
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_BUILD_TARGET",
    "CARGO_MANIFEST_DIR",
    "CARGO_MANIFEST_PATH",
    "LD_LIBRARY_PATH",
];
/// What begins like this tells a program of its own package. Build scripts that ask to run again when it changes (ring's
/// does) would run for each package that starts cargo.
const OF_A_PACKAGE: &str = "CARGO_PKG_";

/// A program that builds something, run in this folder without a standard input.
#[must_use]
pub fn in_folder(program: impl AsRef<OsStr>, folder: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir(folder).stdin(Stdio::null());
    for (name, _) in std::env::vars_os().filter(|(name, _)| !is_inherited(name)) {
        command.env_remove(name);
    }
    command
}

fn is_inherited(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    !name.starts_with(OF_A_PACKAGE) && !NOT_INHERITED.contains(&name.as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cargo_says_of_the_package_that_runs_it_is_not_passed_on() {
        for name in ["CARGO_PKG_NAME", "CARGO_PKG_VERSION_MAJOR", "CARGO_MANIFEST_DIR", "RUSTFLAGS"]
        {
            assert!(!is_inherited(OsStr::new(name)), "{name}");
        }
        for name in ["PATH", "CARGO_HOME", "CARGO_TARGET_DIR", "NOVACRON_CACHE"] {
            assert!(is_inherited(OsStr::new(name)), "{name}");
        }
        let output = in_folder("env", Path::new("/")).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.contains("PATH=") && !said.contains("CARGO_PKG_"), "{said}");
    }
}
