//! Everything that a step prints, kept in a file of its own.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::process::{self, Red};

/// How much of a red step's log is shown.
const LINES_SHOWN: usize = 100;

/// The log of one step.
#[derive(Debug)]
pub(crate) struct Log {
    path: PathBuf,
    file: File,
    /// When the step's time is over.
    end: Instant,
}

impl Log {
    /// An empty log named for its step, whose commands are ended when `limit` is over.
    ///
    /// # Errors
    /// The file cannot be made.
    pub(crate) fn create(folder: &Path, step: &str, limit: Duration) -> Result<Self, Red> {
        let path = folder.join(format!("{}.log", step.replace(' ', "-")));
        let open = || {
            fs::create_dir_all(folder)?;
            File::create(&path)?;
            // Two programs write to it: each must append, not overwrite.
            OpenOptions::new().append(true).open(&path)
        };
        let file =
            open().map_err(|error| Red::system(&format!("create {}", path.display()), &error))?;
        Ok(Self { path, file, end: Instant::now() + limit })
    }

    /// Runs a command whose output goes to the log, and requires that it succeeds.
    ///
    /// # Errors
    /// It cannot be started, fails, or takes too long.
    pub(crate) fn run(&mut self, command: &mut Command) -> Result<(), Red> {
        let stdout = self.stream()?;
        self.run_with(command.stdout(stdout))
    }

    /// The same for a command whose standard output is an answer: it is returned, and only its
    /// standard error goes to the log.
    ///
    /// # Errors
    /// As [`Log::run`]; or the answer is not text.
    pub(crate) fn ask(&mut self, command: &mut Command) -> Result<String, Red> {
        let path = self.path.with_extension("answer");
        let told = |error: io::Error| Red::system(&format!("use {}", path.display()), &error);
        let answer = File::create(&path).map_err(told)?;
        self.run_with(command.stdout(answer))?;
        let text = fs::read_to_string(&path).map_err(told)?;
        fs::remove_file(&path).map_err(told)?;
        Ok(text)
    }

    fn run_with(&mut self, command: &mut Command) -> Result<(), Red> {
        self.say(&format!("$ {}", process::spelled(command)));
        let stderr = self.stream()?;
        let left = self.end.saturating_duration_since(Instant::now());
        // Some programs colour what they print whether or not anyone sees it.
        command.env("CARGO_TERM_COLOR", "never").env("TERM", "dumb");
        process::succeed(command.stdin(Stdio::null()).stderr(stderr), left)
    }

    /// Adds a line of our own.
    pub(crate) fn say(&mut self, line: &str) {
        // A log that cannot be written to must not change the outcome of what it tells about.
        let _ = writeln!(self.file, "{line}");
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// All of it so far.
    ///
    /// # Errors
    /// It cannot be read.
    pub(crate) fn text(&self) -> Result<String, Red> {
        let bytes = fs::read(&self.path)
            .map_err(|error| Red::system(&format!("read {}", self.path.display()), &error))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Its last lines, for a person.
    pub(crate) fn tail(&self) -> String {
        self.text().map_or_else(|red| red.why, |text| last_lines(&text).to_owned())
    }

    /// It, for a process that writes to it by itself.
    ///
    /// # Errors
    /// The system has no descriptor left.
    pub(crate) fn stream(&self) -> Result<Stdio, Red> {
        let file = self.file.try_clone();
        file.map(Stdio::from).map_err(|error| Red::system("share the log", &error))
    }
}

/// As much of the end of a text as is shown to a person.
pub(crate) fn last_lines(text: &str) -> &str {
    let text = text.trim_end_matches('\n');
    let newlines = text.rmatch_indices('\n');
    let start = newlines.map(|(newline, _)| newline + 1).nth(LINES_SHOWN - 1).unwrap_or(0);
    &text[start..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_whole_lines() {
        let full = "line\n".repeat(LINES_SHOWN);
        let shown = full.trim_end();
        for (text, expected) in
            [("a\nb\n", "a\nb"), ("", ""), (&full, shown), (&format!("more\n{full}"), shown)]
        {
            assert_eq!(last_lines(text), expected);
        }
    }

    #[test]
    fn a_log_holds_both_streams_and_an_answer_only_the_first() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = Log::create(folder.path(), "a step", Duration::from_secs(10)).unwrap();
        let shell = || {
            let mut command = Command::new("bash");
            command.args(["-c", "echo out; echo err >&2"]);
            command
        };
        log.run(&mut shell()).unwrap();
        assert_eq!(log.ask(&mut shell()).unwrap(), "out\n");
        let line = "$ bash -c echo out; echo err >&2";
        assert_eq!(log.text().unwrap(), format!("{line}\nout\nerr\n{line}\nerr\n"));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
