//! Commands: how they are written, how long they may take, and how their end is told.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Why something did not come out green.
#[derive(Debug)]
pub(crate) struct Red {
    /// In words, for the person who ran this.
    pub(crate) why: String,
    /// The exit code that goes with it: 2 asks the caller to do something first, 1 is the rest.
    pub(crate) code: u8,
}

impl Red {
    /// A check that failed.
    pub(crate) fn new(why: impl Into<String>) -> Self {
        Self { why: why.into(), code: 1 }
    }

    /// Something that the caller must do before this can run.
    pub(crate) fn caller_first(why: impl Into<String>) -> Self {
        Self { why: why.into(), code: 2 }
    }

    /// An error of the system while `doing` something.
    pub(crate) fn system(doing: &str, error: &std::io::Error) -> Self {
        Self::new(format!("cannot {doing}: {error}"))
    }
}

pub(crate) use build_cache::in_folder;

/// A cargo command in this folder.
pub(crate) fn cargo(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = in_folder("cargo", folder);
    command.args(arguments);
    command
}

/// The command line as one would type it.
pub(crate) fn spelled(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// Runs a command to its end, and requires that it succeeds.
pub(crate) fn succeed(command: &mut Command, limit: Duration) -> Result<(), Red> {
    let words = spelled(command);
    let mut child =
        command.spawn().map_err(|error| Red::system(&format!("run `{words}`"), &error))?;
    match wait(&mut child, limit) {
        Ok(Some(status)) if status.success() => Ok(()),
        Ok(Some(status)) => Err(Red::new(format!("`{words}` ended with {status}"))),
        Ok(None) => Err(Red::new(format!("`{words}` was ended after its {} s", limit.as_secs()))),
        Err(error) => Err(Red::system(&format!("wait for `{words}`"), &error)),
    }
}

/// Waits until the child ends, or ends it with all its descendants when its time is over: then
/// there is no status.
fn wait(child: &mut Child, limit: Duration) -> std::io::Result<Option<ExitStatus>> {
    let end = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= end {
            end_with_descendants(child)?;
            return Ok(None);
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// A test that hangs is a grandchild: ending cargo alone would leave it behind. A group of its own
/// would reach it too, but would keep the terminal's Ctrl-C from it.
fn end_with_descendants(child: &mut Child) -> std::io::Result<()> {
    let mut family = vec![child.id()];
    let mut next = 0;
    while let Some(&parent) = family.get(next) {
        family.extend(children(parent));
        next += 1;
    }
    // The shell's own `kill` is on every Debian; the program of that name is not.
    let mut kill = Command::new("bash");
    kill.args(["-c", "kill -KILL \"$@\"", "kill"]).args(family.iter().map(u32::to_string));
    kill.stderr(Stdio::null()).status()?;
    child.wait().map(|_| ())
}

fn children(parent: u32) -> Vec<u32> {
    let threads = fs::read_dir(format!("/proc/{parent}/task")).into_iter().flatten().flatten();
    let lists =
        threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    lists
        .flat_map(|list| list.split_whitespace().flat_map(str::parse).collect::<Vec<_>>())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("bash");
        command.args(["-c", script]).stdin(Stdio::null());
        command
    }

    #[test]
    fn a_command_that_fails_is_named_with_its_status() {
        let red = succeed(&mut shell("exit 3"), Duration::from_secs(10)).unwrap_err();
        assert!(red.why.contains("bash -c exit 3") && red.why.contains('3'), "{}", red.why);
        succeed(&mut shell("exit 0"), Duration::from_secs(10)).unwrap();
    }

    #[test]
    fn a_command_whose_time_is_over_is_ended_with_its_grandchildren() {
        let folder = tempfile::tempdir().unwrap();
        let note = folder.path().join("pid");
        let script = format!("bash -c 'echo $$ > {}; sleep 60; true'; true", note.display());
        let red = succeed(&mut shell(&script), Duration::from_millis(500)).unwrap_err();
        assert!(red.why.contains("was ended"), "{}", red.why);
        let grandchild = fs::read_to_string(note).unwrap();
        let gone = || match fs::read_to_string(format!("/proc/{}/stat", grandchild.trim())) {
            Ok(stat) => stat.contains(") Z "),
            Err(_) => true,
        };
        let end = Instant::now() + Duration::from_secs(5);
        while !gone() {
            assert!(Instant::now() < end, "the grandchild {grandchild} still runs");
            thread::sleep(Duration::from_millis(10));
        }
    }
}
