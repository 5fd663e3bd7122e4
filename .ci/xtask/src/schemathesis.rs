//! The daemon's API under requests that schemathesis makes of its description, with guests that run.
//!
//! ```text
//!  openapi.json ─► schemathesis ─► Unix socket ─► a daemon of its own, in a folder that is gone afterwards
//! ```
//!
//! The crate `control` has requests of its own, thousands in seconds, and no guest. This here is the judgement of
//! somebody else's program, and takes minutes.

mod daemon;

use std::ffi::OsStr;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use build_cache::Cache;

use crate::command_line::SchemathesisOptions;
use crate::context::{Context, Outcome, Skip};
use crate::log::Log;
use crate::packages::{self, Purpose};
use crate::process::{self, Red};
use crate::tree::Tree;
use daemon::Daemon;

const FOLDER: &str = ".ci/schemathesis";
const REQUIREMENTS: &str = ".ci/schemathesis/requirements.txt";
const DESCRIPTION: &str = "vmm/control/openapi.json";

/// Requests of each kind for each call, in the long run: some ten minutes.
const LONG_EXAMPLES: u32 = 400;
/// For a build on a slow machine, and a thousand requests for each call.
const LIMIT: Duration = Duration::from_secs(3 * 3600);

/// `shutdown` would end the daemon, and a stream of events never ends by itself: the tests of `control` have both.
const LEFT_OUT: [&str; 2] = ["shutdown", "events"];
/// `positive_data_acceptance` is not among them: what no schema says (that a file is there, that a connection is to be
/// upgraded, that 1.0 is no number of milliseconds) would be a finding each time. The tests of `control` judge that, too.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,\
    response_headers_conformance,response_schema_conformance,negative_data_rejection,\
    missing_required_header,unsupported_method,allow_header_conformance";

/// `cargo xtask schemathesis`.
///
/// # Errors
/// It cannot be installed, or finds something.
pub(crate) fn run(tree: &Tree, options: &SchemathesisOptions) -> Result<ExitCode, Red> {
    packages::ensure(tree, &[Purpose::Build, Purpose::Long], |command| {
        process::succeed(command.stdin(Stdio::null()), LIMIT)
    })?;
    let cache = build_cache::root().map_err(|error| Red::caller_first(error.to_string()))?;
    let mut log = Log::create(&tree.target.join("schemathesis"), "schemathesis", LIMIT)?;
    let program = installed(tree, &cache, &mut log)?.map_err(|why| Red::caller_first(why.0))?;
    println!(
        "{} requests of each kind for each call; the log is {}",
        options.examples,
        log.path().display()
    );
    match fuzz(tree, &program, options, &mut log) {
        Ok(words) => println!("ok: {words}"),
        Err(red) => return Err(Red { why: format!("{}\n{}", log.tail(), red.why), ..red }),
    }
    Ok(ExitCode::SUCCESS)
}

/// The step of the long run.
///
/// # Errors
/// It finds something.
pub(crate) fn check(context: &Context, log: &mut Log) -> Result<Outcome, Red> {
    let options = SchemathesisOptions { examples: LONG_EXAMPLES, seed: None };
    match installed(context.tree, &context.cache, log)? {
        Ok(program) => fuzz(context.tree, &program, &options, log).map(Outcome::detail),
        Err(Missing(reason)) => {
            let skip = Skip { name: "schemathesis".to_owned(), reason };
            Ok(Outcome { skipped: vec![skip], ..Outcome::default() })
        }
    }
}

/// Why there is no schemathesis, through no fault of the tree.
#[derive(Debug, PartialEq, Eq)]
struct Missing(String);

/// The Python that has schemathesis, made if this machine has none yet.
fn installed(tree: &Tree, root: &Path, log: &mut Log) -> Result<Result<PathBuf, Missing>, Red> {
    let refused = |error: build_cache::CacheError| Red::new(error.to_string());
    let Ok(version) = log.ask(Command::new("python3").arg("--version")) else {
        return Ok(Err(Missing("there is no python3".to_owned())));
    };
    let mut hasher = DefaultHasher::new();
    (tree.read(REQUIREMENTS)?, version).hash(&mut hasher);
    let name = format!("{:016x}", hasher.finish());
    let cache = Cache::at(root, "schemathesis").map_err(refused)?;
    let lock = cache.lock().map_err(refused)?;
    let python = |folder: PathBuf| folder.join("bin/python3");
    if let Some(folder) = cache.find(&name) {
        return Ok(Ok(python(folder)));
    }
    let site = cache.site(&lock).map_err(refused)?;
    let staged = site.path().join("venv");
    if log.run(Command::new("python3").args(["-m", "venv"]).arg(&staged)).is_err() {
        return Ok(Err(Missing(
            "python3 makes no virtual environment: see .ci/debian-packages".to_owned(),
        )));
    }
    let mut install = Command::new(python(staged.clone()));
    install.args([
        "-m",
        "pip",
        "install",
        "--no-input",
        "--require-hashes",
        "--only-binary",
        ":all:",
        "-r",
    ]);
    if log.run(install.arg(tree.root.join(REQUIREMENTS))).is_err() {
        return not_installed(&log.text()?).map(Err);
    }
    Ok(Ok(python(cache.publish(&name, &staged, &["pyvenv.cfg"]).map_err(refused)?)))
}

/// What pip's failure means: a file that is another than was pinned is nothing to pass over.
fn not_installed(said: &str) -> Result<Missing, Red> {
    if said.contains("DO NOT MATCH THE HASHES") {
        return Err(Red::new(format!("pip was given another file than {REQUIREMENTS} names")));
    }
    let why = said.lines().rev().find_map(|line| line.split_once("ERROR: "));
    let why = why.map_or("it does not say why", |(_, why)| why);
    Ok(Missing(format!("pip installs nothing: {why}")))
}

/// Builds a daemon, has it asked, and looks at what is left: a few words on it.
fn fuzz(
    tree: &Tree,
    python: &Path,
    options: &SchemathesisOptions,
    log: &mut Log,
) -> Result<String, Red> {
    log.run(&mut process::cargo(&tree.root, &["build", "--package", "novacron"]))?;
    let mut daemon = Daemon::start(tree, log)?;
    let before = daemon.usage()?;
    // One that found something ends with an error: what became of the daemon is of interest all the same.
    let asked = log.run(&mut command(tree, python, options, &daemon));
    let said = log.text()?;
    let left = daemon.end(before, log);
    asked.map_err(|red| Red { why: findings(&said).unwrap_or(red.why), ..red })?;
    let left = left?;
    let cases = said.lines().rev().find_map(|line| line.trim().split_once(" generated"));
    let cases = cases.map_or("?", |(count, _)| count);
    Ok(format!("{cases} requests, {left}"))
}

fn command(tree: &Tree, python: &Path, options: &SchemathesisOptions, daemon: &Daemon) -> Command {
    let mut command = process::in_folder(OsStr::new(python), daemon.folder());
    command.args(["-m", "schemathesis.cli", "run"]).arg(tree.root.join(DESCRIPTION));
    command.args(["--url", "http://localhost", "--no-color", "--continue-on-failure"]);
    // The longest that a call may wait for an operation is a minute.
    command.args(["--request-timeout", "90", "--generation-database", "none", "--checks", CHECKS]);
    command.arg("--max-examples").arg(options.examples.to_string());
    for operation in LEFT_OUT {
        command.args(["--exclude-operation-id", operation]);
    }
    if let Some(seed) = options.seed {
        command.arg("--seed").arg(seed.to_string());
    }
    command.env("SCHEMATHESIS_HOOKS", "unix_socket").env("PYTHONPATH", tree.root.join(FOLDER));
    command.env("PYTHONDONTWRITEBYTECODE", "1").envs(daemon.environment());
    command
}

/// The line in which schemathesis counts what it found.
fn findings(said: &str) -> Option<String> {
    let line =
        said.lines().rev().find(|line| line.contains(" found ") && line.contains(" failures"))?;
    let seed = said.lines().rev().find_map(|line| line.strip_prefix("Seed: "));
    Some(format!("{} (--seed {})", line.trim(), seed.unwrap_or("unknown")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_another_than_was_pinned_is_red_and_a_network_that_is_not_there_a_skip() {
        let other = "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.\n";
        assert!(not_installed(other).unwrap_err().why.contains(REQUIREMENTS));
        let nothing = "WARNING: Retrying\nERROR: Could not find a version that satisfies x\nERROR: No matching\n";
        assert_eq!(not_installed(nothing).unwrap().0, "pip installs nothing: No matching");
    }

    #[test]
    fn every_package_is_pinned_by_version_and_hash() {
        let text = include_str!("../../schemathesis/requirements.txt");
        let pins: Vec<_> = text.lines().filter(|line| line.contains("==")).collect();
        let hashed = pins.iter().filter(|line| line.ends_with('\\')).count();
        assert!(pins.len() > 10 && hashed == pins.len() - 1, "the first is the comment: {pins:?}");
        let wanted = include_str!("../../schemathesis/requirements.in").trim();
        assert!(pins.iter().any(|line| line.starts_with(wanted)), "{wanted}");
        assert!(!text.contains("://"), "where they are from is the caller's affair");
    }

    #[test]
    fn what_was_found_is_told_with_the_seed() {
        let said = "Test cases:\n  1115 generated, 9 found 9 unique failures\n\nSeed: 238\n";
        assert_eq!(
            findings(said).unwrap(),
            "1115 generated, 9 found 9 unique failures (--seed 238)"
        );
        assert_eq!(findings("Test cases:\n  7 generated, 7 passed\n"), None);
    }
}
