//! What Rust's test harness prints, as numbers.

use std::collections::HashMap;

use crate::context::Skip;

/// A test prints a line that begins so, with its name and a reason, when it cannot run here. The
/// harness knows no such thing and counts it as passed.
const SKIPPED: &str = "SKIPPED ";

/// One test binary's results, or those of one crate's documentation examples.
#[derive(Debug, Default)]
pub(crate) struct Binary {
    /// For people.
    pub(crate) name: String,
    /// Tests that ran and passed.
    pub(crate) passed: usize,
    /// Names of the tests that failed.
    pub(crate) failed: Vec<String>,
    /// Tests that say that they did not run.
    pub(crate) skipped: Vec<Skip>,
    /// How long it ran.
    pub(crate) seconds: f64,
    /// Whether it told its results: one that was killed did not.
    pub(crate) is_whole: bool,
    /// Everything that it printed.
    pub(crate) output: String,
}

impl Binary {
    /// What a person must see of its output: the harness's account of the failures, all of it if
    /// there is no such account, nothing if nothing failed.
    pub(crate) fn account(&self) -> &str {
        match self.output.find("\nfailures:\n") {
            _ if self.failed.is_empty() => "",
            Some(at) if self.is_whole => &self.output[at..],
            _ => &self.output,
        }
    }
}

/// The binaries that a log of `cargo test` tells about. `names` gives an executable's path its name
/// for people.
pub(crate) fn parse(log: &str, names: &HashMap<String, String>) -> Vec<Binary> {
    let mut binaries: Vec<Binary> = Vec::new();
    for line in log.lines() {
        if let Some(name) = begins_binary(line, names) {
            binaries.push(Binary { name, ..Binary::default() });
        } else if let Some(binary) = binaries.last_mut() {
            binary.output += line;
            binary.output.push('\n');
            read_line(line, binary);
        }
    }
    for lost in binaries.iter_mut().filter(|binary| !binary.is_whole) {
        lost.failed.push(format!("{}, which ended without telling its results", lost.name));
    }
    binaries
}

/// `Running unittests src/lib.rs (path)`, `Running tests/main.rs (path)` or `Doc-tests crate`.
fn begins_binary(line: &str, names: &HashMap<String, String>) -> Option<String> {
    let line = line.trim_start();
    if let Some(package) = line.strip_prefix("Doc-tests ") {
        return Some(format!("{package} examples"));
    }
    let (source, path) = line.strip_prefix("Running ")?.rsplit_once(" (")?;
    let path = path.strip_suffix(')')?;
    Some(names.get(path).map_or(source, String::as_str).to_owned())
}

fn read_line(line: &str, binary: &mut Binary) {
    // With one thread the harness prints a test's name first, and what the test prints follows on
    // the same line.
    if let Some((before, skip)) = line.split_once(SKIPPED)
        && (before.is_empty() || before.ends_with("... "))
        && let Some((name, reason)) = skip.split_once(": ")
    {
        let skip = Skip { name: name.to_owned(), reason: reason.trim().to_owned() };
        // Printed at once and again at the end, where the harness shows what tests printed.
        if !binary.skipped.contains(&skip) {
            binary.skipped.push(skip);
        }
    } else if let Some(name) = failure(line) {
        binary.failed.push(name.to_owned());
    } else if let Some(result) = line.strip_prefix("test result: ") {
        finish(result, binary);
    }
}

/// The name in `test name ... FAILED`.
fn failure(line: &str) -> Option<&str> {
    line.strip_prefix("test ")?.strip_suffix(" ... FAILED")
}

/// `ok. 5 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.12s`
fn finish(result: &str, binary: &mut Binary) {
    let number = |word: &str| {
        let before = result.split(word).next()?.trim_end();
        before.rsplit([' ', ';']).next()?.parse::<usize>().ok()
    };
    let (Some(ok), Some(failed), Some(ignored)) =
        (number(" passed"), number(" failed"), number(" ignored"))
    else {
        return;
    };
    binary.passed = ok.saturating_sub(binary.skipped.len());
    // The names of some may have been lost among what other tests printed; their number is not.
    while binary.failed.len() < failed {
        binary.failed.push("(name not found in the log)".to_owned());
    }
    if ignored > 0 {
        let name = format!("{ignored} of {}", binary.name);
        binary.skipped.push(Skip { name, reason: "ignored by attribute".to_owned() });
    }
    let seconds = result.rsplit_once("finished in ").and_then(|(_, time)| time.strip_suffix('s'));
    binary.seconds = seconds.and_then(|seconds| seconds.parse().ok()).unwrap_or(0.0);
    binary.is_whole = true;
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
   Compiling dwcp v0.1.0
     Running unittests src/lib.rs (target/debug/deps/dwcp-01)

running 4 tests
test ledger::pages_stay_owed ... ok
test a::fails ... FAILED
SKIPPED needs_kvm: /dev/kvm: does not open

successes:
---- needs_kvm stdout ----
SKIPPED needs_kvm: /dev/kvm: does not open

failures:
---- a::fails stdout ----
assertion failed

failures:
    a::fails

test result: FAILED. 3 passed; 1 failed; 0 ignored; 0 measured; 2 filtered out; finished in 1.25s

     Running tests/main.rs (target/debug/deps/main-02)

running 2 tests
test long_run ... SKIPPED long_run: long run
ok
test other ... ok

test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 61.00s

   Doc-tests dwcp
test dwcp/src/lib.rs - f (line 3) ... ok
test result: ok. 1 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.50s
     Running unittests src/lib.rs (target/debug/deps/machine-03)

running 1 test
thread panicked
";

    #[test]
    fn results_are_read_a_binary_at_a_time() {
        let names = [("target/debug/deps/dwcp-01", "dwcp"), ("target/debug/deps/main-02", "vmm")];
        let names = names.map(|(path, name)| (path.to_owned(), name.to_owned())).into();
        let binaries = parse(LOG, &names);
        let found: Vec<_> = binaries
            .iter()
            .map(|it| (it.name.as_str(), it.passed, it.failed.join(";"), it.seconds, it.is_whole))
            .collect();
        let killed = "unittests src/lib.rs, which ended without telling its results".to_owned();
        assert_eq!(
            found,
            [
                ("dwcp", 2, "a::fails".to_owned(), 1.25, true),
                ("vmm", 1, String::new(), 61.0, true),
                ("dwcp examples", 1, String::new(), 0.5, true),
                ("unittests src/lib.rs", 0, killed, 0.0, false),
            ]
        );
        let skipped: Vec<_> = binaries
            .iter()
            .flat_map(|it| &it.skipped)
            .map(|skip| (skip.name.as_str(), skip.reason.as_str()))
            .collect();
        assert_eq!(
            skipped,
            [
                ("needs_kvm", "/dev/kvm: does not open"),
                ("long_run", "long run"),
                ("1 of dwcp examples", "ignored by attribute"),
            ]
        );
    }

    #[test]
    fn of_a_failure_its_account_is_shown_and_of_a_killed_binary_everything() {
        let binaries = parse(LOG, &HashMap::new());
        let shown: Vec<_> = binaries.iter().map(|it| it.account().lines().nth(2)).collect();
        assert_eq!(shown, [Some("---- a::fails stdout ----"), None, None, Some("thread panicked")]);
    }

    #[test]
    fn a_failure_whose_name_was_lost_is_still_counted() {
        let log = "     Running a (b)\ntest resSKIPPED x\ntest result: FAILED. 0 passed; 2 failed; \
                   0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n";
        assert_eq!(parse(log, &HashMap::new())[0].failed.len(), 2);
    }
}
