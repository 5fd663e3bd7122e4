//! One test: its name, and what it stands on.

use std::env;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use crate::machine::QEMU;

/// A test that runs machines.
///
/// Its logs outlive it only if it fails, whether a machine or an assertion is what fails: dropped
/// in a panic, it names their folder on stderr, else it removes them.
#[derive(Debug)]
pub struct Case {
    /// The test function's name: its logs and its skip line carry it.
    pub name: String,
    /// Where its machine's logs are.
    pub logs: PathBuf,
}

impl Case {
    /// Begins the test `name`, with logs in a folder of that name below `folder`; or, where there
    /// is no QEMU, prints the line that test runners count and returns nothing:
    /// `SKIPPED <name>: <reason>`.
    #[must_use]
    pub fn begin(name: &str, folder: &Path) -> Option<Self> {
        match qemu_starts() {
            Ok(()) => Some(Self { name: name.to_owned(), logs: folder.join(name) }),
            Err(reason) => skip(name, &reason),
        }
    }

    /// As [`Self::begin`], for a test of the long run: it is skipped unless `NOVACRON_LONG` is 1.
    #[must_use]
    pub fn begin_long(name: &str, folder: &Path) -> Option<Self> {
        if env::var_os("NOVACRON_LONG").is_some_and(|value| value == "1") {
            Self::begin(name, folder)
        } else {
            skip(name, "long run")
        }
    }
}

impl Drop for Case {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("the logs of {} are in {}", self.name, self.logs.display());
        } else {
            // There may be none. Logs that stay by mistake are replaced by the next run.
            let _ = fs::remove_dir_all(&self.logs);
        }
    }
}

fn skip(name: &str, reason: &str) -> Option<Case> {
    // Past the test harness, which swallows what a passing test prints. Where stderr is closed
    // nobody counts.
    let _ = io::stderr().write_all(skip_line(name, reason).as_bytes());
    None
}

fn skip_line(name: &str, reason: &str) -> String {
    format!("SKIPPED {name}: {reason}\n")
}

fn qemu_starts() -> Result<(), String> {
    let status = Command::new(QEMU)
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .map_err(|error| format!("{QEMU} does not start: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("{QEMU} --version ended with {status}")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_stay_when_a_test_fails_and_go_when_it_passes() {
        let folder = tempfile::tempdir().unwrap();
        let begin = |name: &str| {
            let case = Case { name: name.to_owned(), logs: folder.path().join(name) };
            fs::create_dir(&case.logs).unwrap();
            case
        };
        let (good, bad) = (begin("good"), begin("bad"));
        drop(good);
        let failure = thread::spawn(move || {
            let _case = bad;
            // Not panic!: this failure is wanted, and prints nothing.
            std::panic::resume_unwind(Box::new(()));
        });
        assert!(failure.join().is_err());
        assert!(!folder.path().join("good").exists());
        assert!(folder.path().join("bad").exists());
    }

    #[test]
    fn a_skipped_test_is_one_line_that_a_runner_can_count() {
        assert_eq!(skip_line("a_test", "no QEMU"), "SKIPPED a_test: no QEMU\n");
    }
}
