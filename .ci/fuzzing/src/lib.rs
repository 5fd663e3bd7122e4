//! The entry of every fuzz target.
//!
//! A fuzz target is an ordinary executable of a package that depends on this one: `cargo xtask fuzz`
//! finds it by that. Its `main` hands over the function to try:
//!
//! ```no_run
//! use std::process::ExitCode;
//!
//! fn main() -> ExitCode {
//!     fuzzing::main(|input| {
//!         let _ = std::str::from_utf8(input);
//!     })
//! }
//! ```
//!
//! Built by `cargo xtask fuzz` it runs under libFuzzer, guided by coverage. Built by cargo alone it
//! replays the files that it is given, so that it always links and a finding can be debugged without
//! any fuzzer. The inputs worth keeping lie in `corpus/<target>` beside the package's manifest, and
//! an ordinary test passes each to the same function with [`replay`].
//!
//! This crate never links a fuzzer into anything that is not a fuzz target.

#[cfg(fuzzing)]
mod driver;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// What is tried with every input. It returns for any input whatever; a panic is a finding.
pub type Target = fn(&[u8]);

/// Runs the target: under libFuzzer with libFuzzer's arguments, else with the files and folders
/// that the arguments name. Returns when they are through.
#[must_use]
pub fn main(target: Target) -> ExitCode {
    #[cfg(fuzzing)]
    return driver::run(target);
    #[cfg(not(fuzzing))]
    match replay_all(std::env::args_os().skip(1).map(PathBuf::from), target) {
        Ok(count) => {
            println!("{count} inputs replayed");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Passes every file of a folder to the target, in the order of their names, and returns how many.
///
/// # Errors
/// The folder or a file cannot be read, or the folder holds none: a replay of nothing proves
/// nothing.
pub fn replay(folder: &Path, target: Target) -> io::Result<usize> {
    let mut paths = fs::read_dir(folder)
        .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>())
        .map_err(|error| named(folder, &error))?;
    paths.sort();
    if paths.is_empty() {
        return Err(io::Error::other(format!("{} holds no input", folder.display())));
    }
    for path in &paths {
        target(&fs::read(path).map_err(|error| named(path, &error))?);
    }
    Ok(paths.len())
}

#[cfg_attr(fuzzing, allow(dead_code, reason = "libFuzzer replays files by itself"))]
fn replay_all(paths: impl Iterator<Item = PathBuf>, target: Target) -> io::Result<usize> {
    let mut count = 0;
    for path in paths {
        if path.is_dir() {
            count += replay(&path, target)?;
        } else {
            target(&fs::read(&path).map_err(|error| named(&path, &error))?);
            count += 1;
        }
    }
    if count == 0 {
        return Err(io::Error::other("name files or folders to replay"));
    }
    Ok(count)
}

fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    static SEEN: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

    fn remember(input: &[u8]) {
        SEEN.lock().unwrap().push(input.to_vec());
    }

    #[test]
    fn every_input_is_replayed_once_and_in_order() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b", "a"] {
            fs::write(folder.path().join(name), name).unwrap();
        }
        assert_eq!(replay(folder.path(), remember).unwrap(), 2);
        let paths = [folder.path().to_owned(), folder.path().join("b")];
        assert_eq!(replay_all(paths.into_iter(), remember).unwrap(), 3);
        assert_eq!(*SEEN.lock().unwrap(), [b"a", b"b", b"a", b"b", b"b"]);
    }

    #[test]
    fn a_replay_of_nothing_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let nothing: Target = |_| unreachable!("there is no input");
        for error in [
            replay(folder.path(), nothing).unwrap_err(),
            replay(&folder.path().join("missing"), nothing).unwrap_err(),
            replay_all(std::iter::empty(), nothing).unwrap_err(),
        ] {
            assert!(!error.to_string().is_empty());
        }
    }
}
