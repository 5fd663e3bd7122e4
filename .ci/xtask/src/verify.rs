//! `cargo verify`: runs the steps one after the other.

use std::cell::RefCell;
use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use crate::command_line::VerifyOptions;
use crate::context::Context;
use crate::log::Log;
use crate::process::Red;
use crate::report::{Finished, Report};
use crate::steps::{self, Step};
use crate::terminal::{Colours, duration};
use crate::tree::Tree;

/// Below the target folder: the steps' logs, and the note on what was built there.
const FOLDER: &str = "verify";
/// Holds what the target folder was built with, once a whole run came out green.
const NOTE: &str = "built-with";

/// On two processors: with nothing kept on the machine, and with everything.
const FRESH_BUDGET: Duration = Duration::from_secs(35 * 60);
const WARM_BUDGET: Duration = Duration::from_secs(10 * 60);

/// Runs what the options ask for and tells the result; the exit code says it too.
///
/// # Errors
/// The run could not begin, or not be told.
pub(crate) fn run(tree: &Tree, options: &VerifyOptions) -> Result<ExitCode, Red> {
    let started = Instant::now();
    let chosen = steps::chosen(options)?;
    let folder = tree.target.join(FOLDER);
    let _alone = lock(&folder)?;
    let inputs = inputs(tree)?;
    let fresh = RefCell::default();
    let cache = build_cache::root().map_err(|error| Red::caller_first(error.to_string()))?;
    let context = Context { tree, cache, long: options.all, fresh };
    if fs::read_to_string(folder.join(NOTE)).ok().as_ref() != Some(&inputs) {
        context.made("the target folder was not built by a green run with these dependencies");
    }

    let mut finished: Vec<Finished> = Vec::new();
    for (number, step) in (1..).zip(&chosen) {
        let progress = format!("[{number:2}/{}] {:<10}", chosen.len(), step.name);
        finished.push(run_step(step, &progress, &context, &folder)?);
        if finished.last().is_some_and(Finished::is_red) && !options.keep_going {
            break;
        }
    }

    let is_whole = options.only.is_empty() && finished.len() == chosen.len();
    let reasons = context.fresh.into_inner();
    let budget = if reasons.is_empty() { WARM_BUDGET } else { FRESH_BUDGET };
    let report = Report {
        not_run: chosen[finished.len()..].iter().map(|step| step.name).collect(),
        finished,
        took: started.elapsed(),
        // The long run takes the time it takes.
        budget: (is_whole && !options.all).then_some(budget),
        fresh_because: reasons,
    };
    if is_whole && report.code() == 0 {
        let note = folder.join(NOTE);
        fs::write(&note, inputs).map_err(|error| Red::system("note the green run", &error))?;
    }
    print!("{}", report.render(Colours::of_stdout()));
    Ok(ExitCode::from(report.code()))
}

/// One run at a time in a target folder: the steps have fixed places there. The lock is gone with the process,
/// however it ends.
fn lock(folder: &Path) -> Result<File, Red> {
    let path = folder.join("lock");
    let system = |error: &io::Error| Red::system(&format!("lock {}", path.display()), error);
    fs::create_dir_all(folder).map_err(|error| system(&error))?;
    let file = File::create(&path).map_err(|error| system(&error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            Err(Red::caller_first("another `cargo verify` runs in this tree: wait until it ends"))
        }
        Err(TryLockError::Error(error)) => Err(system(&error)),
    }
}

/// What decides whether the target folder can be used again: the compiler and the dependencies.
fn inputs(tree: &Tree) -> Result<String, Red> {
    let version = Command::new("rustc").arg("--version").current_dir(&tree.root).output();
    let version = version.map_err(|error| Red::system("run rustc", &error))?;
    Ok(String::from_utf8_lossy(&version.stdout).into_owned() + &tree.read("Cargo.lock")?)
}

fn run_step(step: &Step, progress: &str, context: &Context, logs: &Path) -> Result<Finished, Red> {
    print!("{progress} ");
    // A standard output that is gone must not end the run before its result is told by its code.
    let _ = io::stdout().flush();
    let started = Instant::now();
    let mut log = Log::create(logs, step.name, step.limit)?;
    let result = (step.action)(context, &mut log);
    let finished = Finished { name: step.name, took: started.elapsed(), result };
    let colours = Colours::of_stdout();
    let took = duration(finished.took);
    if finished.is_red() {
        println!("{} {took:>11}  {}", colours.red("red  "), finished.words());
        println!("{}\n      from {}", indented(&finished.account(&log)), log.path().display());
    } else {
        println!("{} {took:>11}  {}", colours.green("green"), finished.words());
    }
    Ok(finished)
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("      {line}")).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_run_in_one_tree_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let first = lock(folder.path()).unwrap();
        let red = lock(folder.path()).unwrap_err();
        assert!(red.code == 2 && red.why.contains("another"), "{}", red.why);
        drop(first);
        lock(folder.path()).unwrap();
    }
}
