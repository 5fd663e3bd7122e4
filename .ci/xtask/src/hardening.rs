//! The host's kernel as kernel-hardening-checker judges it, and the exceptions that we make.
//!
//! The checker comes with distributions and from its authors' repository, but neither from a registry nor with
//! Debian 12. So it runs where the caller names it. What can be judged without it, is judged on every machine:
//! that each exception is well formed, and that none is as wanted after all.

use std::collections::BTreeSet;
use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::context::{Context, Outcome, Skip};
use crate::kernel;
use crate::log::Log;
use crate::process::{self, Red};

/// Names the checker's program.
const PROGRAM: &str = "NOVACRON_HARDENING_CHECKER";
/// The exceptions are made for what this version checks; another has other checks.
const VERSION: &str = "0.6.17.1";
const EXCEPTIONS: &str = "kernel-config/hardening-exceptions";

/// What an option shall be: its name, and a value, `is not set`, or `*word*` for one of a list.
///
/// Both together tell checks apart: there are several of one option.
type Wanted = (String, String);

/// Judges the configuration of the host's kernel as it ships, without what only tests need.
///
/// # Errors
/// A check fails that is not excepted, or an exception is not needed; each is in the log. Or the checker does
/// not do what it says.
pub(crate) fn check(context: &Context, log: &mut Log) -> Result<Outcome, Red> {
    let exceptions = parse(&context.tree.read(EXCEPTIONS)?).map_err(Red::new)?;
    let path = kernel::ask(context, log, "configuration", &["host"])?;
    let path = Path::new(path.trim_end());
    let config = fs::read_to_string(path)
        .map_err(|error| Red::system(&format!("read {}", path.display()), &error))?;
    let program = env::var_os(PROGRAM);
    let judged = match &program {
        Some(program) => Some(ask(program, path, log)?),
        None => None,
    };
    let complaints = complaints(&exceptions, &config, judged.as_ref());
    for complaint in &complaints {
        log.say(complaint);
    }
    if !complaints.is_empty() {
        return Err(Red::new(format!("{EXCEPTIONS} is not right in {} places", complaints.len())));
    }
    let words = format!("{} exceptions", exceptions.len());
    Ok(match judged {
        Some(judged) => Outcome::detail(format!("{} checks, {words}", judged.checks)),
        None => {
            let reason = format!("{PROGRAM} names no kernel-hardening-checker: see {EXCEPTIONS}");
            let skip = Skip { name: "hardening checks".to_owned(), reason };
            Outcome { skipped: vec![skip], ..Outcome::detail(words) }
        }
    })
}

/// What the checker said.
#[derive(Debug, PartialEq, Eq)]
struct Judged {
    /// How many checks it made.
    checks: usize,
    /// Those that failed.
    failed: BTreeSet<Wanted>,
}

/// Runs the checker.
fn ask(program: &OsStr, config: &Path, log: &mut Log) -> Result<Judged, Red> {
    // Where the caller is: the name may be a path from there.
    let checker = || process::in_folder(program, Path::new("."));
    let version = log.ask(checker().arg("--version"))?;
    if version.split_whitespace().next_back() != Some(VERSION) {
        let (wanted, found) = (format!("kernel-hardening-checker {VERSION}"), version.trim());
        return Err(Red::caller_first(format!("{PROGRAM} must name {wanted}; it is {found}")));
    }
    let answer = log.ask(checker().args(["-m", "json", "-c"]).arg(config))?;
    read(&answer).ok_or_else(|| Red::new("the checker printed something unexpected"))
}

/// The checker's JSON: an array with an object for each check.
fn read(answer: &str) -> Option<Judged> {
    let answer: Value = serde_json::from_str(answer).ok()?;
    let checks = answer.as_array().filter(|checks| !checks.is_empty())?;
    let mut failed = BTreeSet::new();
    for check in checks {
        let text = |name: &str| check[name].as_str().map(str::to_owned);
        if !check["check_result_bool"].as_bool()? {
            failed.insert((text("option_name")?, text("desired_val")?));
        }
    }
    Some(Judged { checks: checks.len(), failed })
}

/// What is wrong with the exceptions, a line each.
fn complaints(exceptions: &BTreeSet<Wanted>, config: &str, judged: Option<&Judged>) -> Vec<String> {
    let spell = |(option, wanted): &Wanted| format!("{option} {wanted}");
    let is_needed = |exception: &&Wanted| match judged {
        Some(judged) => judged.failed.contains(*exception),
        None => !says(config, exception),
    };
    let stale = exceptions
        .iter()
        .filter(|exception| !is_needed(exception))
        .map(|exception| format!("{}: is excepted, and is no longer failed", spell(exception)));
    let unlisted = judged.iter().flat_map(|judged| judged.failed.difference(exceptions));
    let unlisted =
        unlisted.map(|wanted| format!("{}: is failed, and has no exception", spell(wanted)));
    stale.chain(unlisted).collect()
}

/// Whether a configuration says that an option is as wanted.
///
/// One that it does not name is off, but may be wanted off together with another that shall be on: then only the
/// checker knows.
fn says(config: &str, (option, wanted): &Wanted) -> bool {
    if wanted == "is not set" {
        let line = format!("# {option} is not set");
        return config.lines().any(|other| other == line);
    }
    let found = config.lines().find_map(|line| line.strip_prefix(option)?.strip_prefix('='));
    let listed = wanted.strip_prefix('*').and_then(|word| word.strip_suffix('*'));
    found.is_some_and(|found| match listed {
        Some(word) => found.trim_matches('"').split(',').any(|other| other == word),
        None => found == wanted,
    })
}

/// Reads the exceptions: `<option> <wanted>: <reason>` a line, beside comments.
fn parse(text: &str) -> Result<BTreeSet<Wanted>, String> {
    let mut exceptions = BTreeSet::new();
    for (number, line) in (1..).zip(text.lines()) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let complain = |what: &str| Err(format!("{EXCEPTIONS}:{number}: {what}: {line}"));
        let Some((check, reason)) = line.split_once(": ") else {
            return complain("no reason");
        };
        let Some((option, wanted)) = check.split_once(' ') else {
            return complain("not what the option shall be");
        };
        if !option.starts_with("CONFIG_") || wanted.is_empty() || reason.trim().is_empty() {
            return complain("not an option, what it shall be, and why it is not");
        }
        if !exceptions.insert((option.to_owned(), wanted.to_owned())) {
            return complain("a second time");
        }
    }
    Ok(exceptions)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const CONFIG: &str = "\
CONFIG_KALLSYMS=y
CONFIG_LSM=\"landlock,yama\"
# CONFIG_WERROR is not set
CONFIG_BITS=32
";

    fn set(checks: &[(&str, &str)]) -> BTreeSet<Wanted> {
        checks.iter().map(|(option, wanted)| ((*option).into(), (*wanted).into())).collect()
    }

    #[test]
    fn the_exceptions_in_the_tree_are_well_formed_and_for_the_pinned_version() {
        let text = include_str!("../../../kernel-config/hardening-exceptions");
        assert!(parse(text).unwrap().contains(&("CONFIG_LSM".into(), "*selinux*".into())));
        assert!(text.lines().next().unwrap().contains(&format!(" {VERSION} ")));
        assert!(text.contains(&format!("@v{VERSION}\n")));
    }

    #[test]
    fn an_exception_is_an_option_what_it_shall_be_and_a_reason() {
        let text = "# Why.\n\nCONFIG_A is not set: it: is needed\nCONFIG_B y: slow\n";
        assert_eq!(parse(text), Ok(set(&[("CONFIG_A", "is not set"), ("CONFIG_B", "y")])));
        for (line, complaint) in [
            ("CONFIG_A y", "no reason"),
            ("CONFIG_A y:", "no reason"),
            ("CONFIG_A y:  ", "not an option, what"),
            ("CONFIG_A: why", "not what the option"),
            ("A y: why", "not an option, what"),
            ("CONFIG_B y: again", "a second time"),
        ] {
            let error = parse(&format!("CONFIG_B y: slow\n{line}\n")).unwrap_err();
            assert!(error.contains(complaint) && error.contains(":2: "), "{error}");
        }
    }

    #[test]
    fn with_the_checker_an_unlisted_failure_and_a_stale_exception_are_named() {
        let failed = set(&[("CONFIG_WERROR", "y"), ("CONFIG_KALLSYMS", "is not set")]);
        let judged = Judged { checks: 200, failed: failed.clone() };
        let named = |exceptions: &BTreeSet<Wanted>| complaints(exceptions, CONFIG, Some(&judged));
        assert!(named(&failed).is_empty());
        assert_eq!(
            named(&set(&[("CONFIG_WERROR", "y")])),
            ["CONFIG_KALLSYMS is not set: is failed, and has no exception"]
        );
        let mut more = failed.clone();
        // The checker's word counts, whatever the configuration seems to say.
        more.insert(("CONFIG_BITS".into(), "16".into()));
        assert_eq!(named(&more), ["CONFIG_BITS 16: is excepted, and is no longer failed"]);
    }

    #[test]
    fn without_the_checker_an_exception_that_the_configuration_fulfils_is_stale() {
        for (option, wanted, is_stale) in [
            ("CONFIG_WERROR", "y", false),
            ("CONFIG_WERROR", "is not set", true),
            ("CONFIG_KALLSYMS", "is not set", false),
            ("CONFIG_KALLSYMS", "y", true),
            ("CONFIG_BITS", "32", true),
            ("CONFIG_BITS", "3", false),
            ("CONFIG_BIT", "32", false),
            ("CONFIG_LSM", "*yama*", true),
            ("CONFIG_LSM", "*yam*", false),
            ("CONFIG_ABSENT", "is not set", false),
            ("CONFIG_ABSENT", "y", false),
        ] {
            let complaints = complaints(&set(&[(option, wanted)]), CONFIG, None);
            assert_eq!(
                complaints.len(),
                usize::from(is_stale),
                "{option} {wanted}: {complaints:?}"
            );
        }
    }

    #[test]
    fn the_checkers_answer_is_understood_or_refused() {
        let answer = r#"[
            {"option_name": "CONFIG_BUG", "desired_val": "y", "check_result_bool": true},
            {"option_name": "CONFIG_LSM", "desired_val": "*smack*", "check_result_bool": false}
        ]"#;
        let failed = set(&[("CONFIG_LSM", "*smack*")]);
        assert_eq!(read(answer), Some(Judged { checks: 2, failed }));
        for refused in [
            "",
            "[]",
            "{}",
            r#"[{"option_name": "CONFIG_BUG", "desired_val": "y"}]"#,
            r#"[{"option_name": "CONFIG_BUG", "check_result_bool": false}]"#,
        ] {
            assert_eq!(read(refused), None, "{refused}");
        }
    }

    #[test]
    fn another_version_of_the_checker_is_refused_with_what_is_wanted() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = Log::create(folder.path(), "hardening", Duration::from_secs(10)).unwrap();
        // It prints its arguments, so that the version is `--version`.
        let red = ask(OsStr::new("echo"), Path::new("/x"), &mut log).unwrap_err();
        assert!(red.why.contains(VERSION) && red.code == 2, "{red:?}");
    }
}
