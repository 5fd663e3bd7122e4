//! What a run tells at its end.

use std::fmt::Write;
use std::time::Duration;

use crate::context::{Outcome, Skip};
use crate::libtest::Binary;
use crate::log::{self, Log};
use crate::process::Red;
use crate::terminal::{Colours, duration};

/// How many of the slowest steps are named.
const SLOWEST: usize = 10;

/// A step that ran.
#[derive(Debug)]
pub(crate) struct Finished {
    /// The step's name.
    pub(crate) name: &'static str,
    /// How long it took.
    pub(crate) took: Duration,
    /// What came of it. Tests that failed are in the outcome; then the step is red all the same.
    pub(crate) result: Result<Outcome, Red>,
}

/// A whole run.
#[derive(Debug)]
pub(crate) struct Report {
    /// The steps that ran, in order.
    pub(crate) finished: Vec<Finished>,
    /// The steps that did not, because one before them was red.
    pub(crate) not_run: Vec<&'static str>,
    /// From the first to the last.
    pub(crate) took: Duration,
    /// What that may be; `None` for a run that has no budget.
    pub(crate) budget: Option<Duration>,
    /// What was made that the next run on this machine will find.
    pub(crate) fresh_because: Vec<String>,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    passed: usize,
    failed: usize,
    skipped: Vec<Skip>,
}

impl Finished {
    /// Whether it, or a test in it, failed.
    pub(crate) fn is_red(&self) -> bool {
        self.failures() > 0
    }

    /// A few words on what came of it.
    pub(crate) fn words(&self) -> String {
        match &self.result {
            Err(red) => red.why.clone(),
            Ok(outcome) if outcome.binaries.is_empty() => outcome.detail.clone(),
            Ok(outcome) => {
                let passed: usize = outcome.binaries.iter().map(|binary| binary.passed).sum();
                let failed: Vec<_> =
                    outcome.binaries.iter().flat_map(|binary| &binary.failed).cloned().collect();
                if failed.is_empty() {
                    format!("{passed} tests")
                } else {
                    format!("{} failed: {}", failed.len(), failed.join(", "))
                }
            }
        }
    }

    /// What a person must see to understand why it is red: what its tests say, else its log's end.
    pub(crate) fn account(&self, log: &Log) -> String {
        let binaries = self.result.as_ref().map_or(&[][..], |outcome| &outcome.binaries);
        let accounts: String = binaries.iter().map(Binary::account).collect();
        if accounts.is_empty() { log.tail() } else { log::last_lines(&accounts).to_owned() }
    }

    fn failures(&self) -> usize {
        match &self.result {
            Err(_) => 1,
            Ok(outcome) => outcome.binaries.iter().map(|binary| binary.failed.len()).sum(),
        }
    }

    /// The step's parts with their times: a test binary each, and the rest, which is building them.
    fn parts(&self) -> Vec<(String, Duration)> {
        let binaries = self.result.as_ref().map_or(&[][..], |outcome| &outcome.binaries);
        let mut rest = self.took;
        let mut parts = Vec::new();
        for binary in binaries {
            let took = Duration::from_secs_f64(binary.seconds);
            rest = rest.saturating_sub(took);
            parts.push((format!("{}: {}", self.name, binary.name), took));
        }
        let name = if binaries.is_empty() { "" } else { ": building" };
        parts.push((format!("{}{name}", self.name), rest));
        parts
    }
}

impl Report {
    /// 0 if all is well, 2 if the caller must do something first, else 1.
    pub(crate) fn code(&self) -> u8 {
        let reds = self.finished.iter().filter_map(|step| step.result.as_ref().err());
        let worst = reds.map(|red| red.code).max().unwrap_or(0);
        worst.max(u8::from(self.counts().failed > 0))
    }

    /// All that is printed after the steps; the last line is for programs.
    pub(crate) fn render(&self, colours: Colours) -> String {
        let mut text = String::new();
        self.render_into(&mut text, colours).unwrap_or_else(|_| unreachable!("strings take all"));
        text
    }

    fn render_into(&self, text: &mut String, colours: Colours) -> std::fmt::Result {
        let mut parts: Vec<_> = self.finished.iter().flat_map(Finished::parts).collect();
        parts.sort_by_key(|(_, took)| std::cmp::Reverse(*took));
        writeln!(text, "\nthe slowest steps")?;
        for (name, took) in parts.iter().take(SLOWEST) {
            writeln!(text, "  {:>11}  {name}", duration(*took))?;
        }
        if !self.not_run.is_empty() {
            let names = self.not_run.join(", ");
            writeln!(text, "{} {names}", colours.yellow("not run after a red step:"))?;
        }
        writeln!(text, "{}", self.time(colours))?;
        let Counts { passed, failed, skipped } = self.counts();
        let counts = format!("{passed} passed, {failed} failed, {} skipped", skipped.len());
        writeln!(text, "tests: {counts}")?;
        for Skip { name, reason } in skipped {
            writeln!(text, "  {} {name}: {reason}", colours.yellow("skipped"))?;
        }
        writeln!(text, "{counts}")
    }

    fn time(&self, colours: Colours) -> String {
        let took = duration(self.took);
        let Some(budget) = self.budget else { return format!("time: {took}, without a budget") };
        let kind = if self.fresh_because.is_empty() {
            "everything was cached".to_owned()
        } else {
            format!("fresh: {}", self.fresh_because.join("; "))
        };
        let of = format!("time: {took} of {} ({kind})", duration(budget));
        if self.is_late() { format!("{of}: {}", colours.red("too long")) } else { of }
    }

    fn is_late(&self) -> bool {
        self.budget.is_some_and(|budget| self.took > budget)
    }

    /// Tests. A step that is red without a failed test, and a run that took too long, count as one
    /// that failed: the last line is never clean when the exit code is not.
    fn counts(&self) -> Counts {
        let mut counts = Counts { failed: usize::from(self.is_late()), ..Counts::default() };
        for step in &self.finished {
            counts.failed += step.failures();
            let Ok(outcome) = &step.result else { continue };
            counts.skipped.extend(outcome.skipped.iter().cloned());
            for binary in &outcome.binaries {
                counts.passed += binary.passed;
                counts.skipped.extend(binary.skipped.iter().cloned());
            }
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn tests(passed: usize, failed: &[&str]) -> Finished {
        let binary = Binary {
            name: "dwcp".to_owned(),
            passed,
            failed: failed.iter().map(|&name| name.to_owned()).collect(),
            skipped: vec![Skip { name: "vm".to_owned(), reason: "no KVM".to_owned() }],
            seconds: 2.0,
            output: "its account\n".to_owned(),
            ..Binary::default()
        };
        let result = Ok(Outcome { binaries: vec![binary], ..Outcome::default() });
        Finished { name: "tests", took: 5 * SECOND, result }
    }

    fn step(name: &'static str, result: Result<Outcome, Red>) -> Finished {
        Finished { name, took: SECOND, result }
    }

    fn report(finished: Vec<Finished>, budget: Option<Duration>) -> Report {
        let fresh_because = vec!["the kernel was built".to_owned()];
        Report { finished, not_run: vec!["qemu"], took: 100 * SECOND, budget, fresh_because }
    }

    #[test]
    fn the_last_line_is_clean_exactly_when_the_exit_code_is() {
        let green = || step("rules", Ok(Outcome::default()));
        for (finished, budget, code, last) in [
            (vec![green(), tests(3, &[])], None, 0, "3 passed, 0 failed, 1 skipped"),
            (vec![tests(3, &["a", "b"])], None, 1, "3 passed, 2 failed, 1 skipped"),
            (vec![step("clippy", Err(Red::new("no")))], None, 1, "0 passed, 1 failed, 0 skipped"),
            (
                vec![step("packages", Err(Red::caller_first("apt-get")))],
                None,
                2,
                "0 passed, 1 failed, 0 skipped",
            ),
            (vec![green()], Some(100 * SECOND), 0, "0 passed, 0 failed, 0 skipped"),
            (vec![green()], Some(99 * SECOND), 1, "0 passed, 1 failed, 0 skipped"),
        ] {
            let report = report(finished, budget);
            let text = report.render(Colours::none());
            assert_eq!((report.code(), text.lines().last()), (code, Some(last)), "{text}");
        }
    }

    #[test]
    fn a_red_step_shows_what_its_tests_say_or_else_the_end_of_its_log() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = Log::create(folder.path(), "any", SECOND).unwrap();
        log.say("the end");
        assert_eq!(tests(0, &["a"]).account(&log), "its account");
        assert_eq!(step("clippy", Err(Red::new("no"))).account(&log), "the end");
    }

    #[test]
    fn the_report_names_what_took_long_what_was_left_out_and_why() {
        let text =
            report(vec![step("rules", Ok(Outcome::default())), tests(3, &[])], Some(2100 * SECOND))
                .render(Colours::none());
        assert_eq!(
            text,
            "
the slowest steps
        3.0 s  tests: building
        2.0 s  tests: dwcp
        1.0 s  rules
not run after a red step: qemu
time: 1 min 40 s of 35 min 00 s (fresh: the kernel was built)
tests: 3 passed, 0 failed, 1 skipped
  skipped vm: no KVM
3 passed, 0 failed, 1 skipped
"
        );
    }
}
