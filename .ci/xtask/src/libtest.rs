//! What Rust's test harness prints, as numbers.

use crate::context::Skip;

/// A test prints a line that begins so, with its name and a reason, when it cannot run here. The
/// harness knows no such thing and counts it as passed.
const SKIPPED: &str = "SKIPPED ";

/// Begins the account of one crate's documentation examples.
const EXAMPLES: &str = "   Doc-tests ";

/// One test executable's results, or those of one crate's documentation examples.
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
    /// Everything that it printed.
    pub(crate) output: String,
    /// Whether it told its results: one that was killed did not.
    pub(crate) is_whole: bool,
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

/// The results of a test executable from its output, and from how it ended if not with success.
pub(crate) fn read(name: &str, output: &str, ended: Option<String>) -> Binary {
    let mut binary =
        Binary { name: name.to_owned(), output: output.to_owned(), ..Binary::default() };
    for line in output.lines() {
        read_line(line, &mut binary);
    }
    if !binary.is_whole {
        let how = ended.unwrap_or_else(|| "it told no results".to_owned());
        binary.failed.push(format!("{name} ({how})"));
    } else if let Some(how) = ended.filter(|_| binary.failed.is_empty()) {
        // All passed, and it still went wrong.
        binary.failed.push(format!("{name} ({how})"));
    }
    binary
}

/// The results of each crate's examples from a log of `cargo test --doc`.
pub(crate) fn read_examples(log: &str) -> Vec<Binary> {
    let mut crates = log.split(EXAMPLES);
    // Before the first there is only what was compiled.
    crates.next();
    crates
        .map(|text| {
            let (name, output) = text.split_once('\n').unwrap_or((text, ""));
            read(&format!("{name} examples"), output, None)
        })
        .collect()
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

    const RED: &str = "
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

test result: FAILED. 3 passed; 1 failed; 0 ignored; 0 measured; 2 filtered out; finished in 1.25s
";

    const ONE_THREAD: &str = "
running 2 tests
test long_run ... SKIPPED long_run: long run
ok
test other ... ok

test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 61.00s
";

    const LOST_NAMES: &str = "
test resSKIPPED x
test result: FAILED. 0 passed; 2 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s
";

    fn skips(binary: &Binary) -> Vec<(&str, &str)> {
        binary.skipped.iter().map(|it| (it.name.as_str(), it.reason.as_str())).collect()
    }

    #[test]
    fn a_test_that_says_that_it_did_not_run_is_not_counted_as_passed() {
        let red = read("dwcp", RED, Some("101".to_owned()));
        assert_eq!((red.passed, red.failed.as_slice()), (2, &["a::fails".to_owned()][..]));
        assert_eq!(skips(&red), [("needs_kvm", "/dev/kvm: does not open")]);
        assert!((red.seconds - 1.25).abs() < 1e-9);
        let one_thread = read("vmm", ONE_THREAD, None);
        assert_eq!((one_thread.passed, one_thread.failed.len()), (1, 0));
        assert_eq!(skips(&one_thread), [("long_run", "long run")]);
    }

    #[test]
    fn nothing_that_went_wrong_is_lost() {
        for (output, ended, failed) in [
            (LOST_NAMES, Some("101"), 2),
            ("running 1 test\n", Some("SIGABRT"), 1),
            ("running 1 test\n", None, 1),
            (ONE_THREAD, Some("SIGSEGV"), 1),
            (ONE_THREAD, None, 0),
        ] {
            let binary = read("it", output, ended.map(str::to_owned));
            assert_eq!(binary.failed.len(), failed, "{output}");
            assert_eq!(binary.account().is_empty(), failed == 0, "{output}");
        }
        let ignored = read("it", LOST_NAMES, None);
        assert_eq!(skips(&ignored), [("1 of it", "ignored by attribute")]);
    }

    #[test]
    fn of_a_failure_its_account_is_shown_and_of_a_killed_binary_everything() {
        let account = read("it", RED, None).account().to_owned();
        assert!(account.starts_with("\nfailures:\n---- a::fails"), "{account}");
        assert_eq!(read("it", "half", None).account(), "half");
    }

    #[test]
    fn examples_are_told_apart_by_their_crate() {
        let result = "test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; \
                      finished in 0.50s";
        let log = format!(
            "$ cargo test --doc\n   Compiling dwcp\n   Doc-tests dwcp\n\n{result}\n   Doc-tests vmm\n"
        );
        let found = read_examples(&log);
        let found: Vec<_> =
            found.iter().map(|it| (it.name.as_str(), it.passed, it.failed.len())).collect();
        assert_eq!(found, [("dwcp examples", 3, 0), ("vmm examples", 0, 1)]);
        assert_eq!(read_examples("error: could not compile").len(), 0);
    }
}
