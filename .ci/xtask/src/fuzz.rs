//! Fuzzing by time, guided by coverage, with the stable compiler.
//!
//! rustc's own coverage pass writes counters; Debian's libFuzzer reads them and drives the target.
//! What a run finds worth keeping stays in the target folder, and a finding too: whoever fixes it
//! adds it to the committed corpus, which ordinary tests replay.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use crate::command_line::FuzzOptions;
use crate::context::{Context, Outcome, Skip};
use crate::log::Log;
use crate::packages::{self, Purpose};
use crate::process::{self, Red};
use crate::release::TRIPLE;
use crate::terminal::{Colours, duration};
use crate::tree::Tree;

/// Whatever depends on this package is a package of fuzz targets.
const ENTRY: &str = "fuzzing";
/// For each target in the long run; and for those whose input is a file that a user hands over.
const LONG_RUN: Duration = Duration::from_secs(60);
const LONG_RUN_OF_FILES: Duration = Duration::from_secs(600);
const OF_FILES: [&str; 3] = ["kernel-image", "saved-state", "snapshot"];
/// Building all targets, on a slow machine; and what a target takes beyond its time.
const BUILD_LIMIT: Duration = Duration::from_secs(1800);

/// A counter for each edge, the table that maps them to code, and the operands of comparisons: what
/// libFuzzer steers by. Overflow is a finding.
const INSTRUMENTATION: [&str; 9] = [
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Cdebug-assertions=on",
    "-Coverflow-checks=on",
    // Counters of a function that is in two units would be two.
    "-Ccodegen-units=1",
];

/// Debian's libFuzzer without a `main` of its own, and what it puts in place of `memcmp` and its kin.
const DRIVER: &str = "libclang_rt.fuzzer_no_main-x86_64.a";
const MEMCMP: &str = "libclang_rt.fuzzer_interceptors-x86_64.a";

/// One input may take ten seconds and the target a gigabyte: more is a finding, too. The seconds are the
/// clock's, and on a busy machine an input of a millisecond was seen to take three. Inputs that come
/// closer to passing a comparison are worth keeping (`use_value_profile`): the optimiser makes one
/// branch of several conditions, and coverage alone does not see how many of them already hold.
const LIBFUZZER: [&str; 5] = [
    "-timeout=10",
    "-rss_limit_mb=1024",
    "-use_value_profile=1",
    "-print_final_stats=1",
    "-verbosity=1",
];

/// An executable to fuzz.
#[derive(Debug, PartialEq, Eq)]
struct Target {
    package: String,
    name: String,
    /// Committed inputs.
    corpus: PathBuf,
}

/// `cargo xtask fuzz`: the targets asked for, each for so long.
///
/// # Errors
/// There is no such target, or one finds something.
pub(crate) fn run(tree: &Tree, options: &FuzzOptions) -> Result<ExitCode, Red> {
    let limit = BUILD_LIMIT;
    packages::ensure(tree, &[Purpose::Build, Purpose::Long], |command| {
        process::succeed(command.stdin(Stdio::null()), limit)
    })?;
    let targets = chosen(targets(tree), &options.only)?;
    let each = Duration::from_secs(options.seconds.into());
    let mut log = Log::create(&folder(tree), "fuzz", limit)?;
    let (count, together) = (targets.len(), at_once());
    println!(
        "{count} targets, {} each, {together} at a time; first they are built",
        duration(each)
    );
    let tell = |target: &Target, outcome: &Result<String, Red>| match outcome {
        Ok(words) => println!("{}: {} {words}", target.name, Colours::of_stdout().green("ok")),
        Err(red) => println!("{}: {} {}", target.name, Colours::of_stdout().red("red"), red.why),
    };
    match fuzz_all(tree, &targets, |_| each, &mut log, &tell) {
        Ok(_) => Ok(ExitCode::SUCCESS),
        Err(red) => Err(Red::new(format!("{}\n(the build: {})", red.why, log.path().display()))),
    }
}

/// The step of the long run: every target.
///
/// # Errors
/// A target finds something.
pub(crate) fn check(context: &Context, log: &mut Log) -> Result<Outcome, Red> {
    let targets = targets(context.tree);
    if targets.is_empty() {
        let reason = format!("no package depends on `{ENTRY}`");
        let skip = Skip { name: "fuzzing".to_owned(), reason };
        return Ok(Outcome { skipped: vec![skip], ..Outcome::default() });
    }
    let words = fuzz_all(context.tree, &targets, in_the_long_run, log, &|_, _| ())?;
    Ok(Outcome::detail(words.join(", ")))
}

fn in_the_long_run(target: &Target) -> Duration {
    if OF_FILES.contains(&target.name.as_str()) { LONG_RUN_OF_FILES } else { LONG_RUN }
}

/// A target uses one processor.
fn at_once() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// Builds all targets, then fuzzes as many at once as there are processors. `tell` hears of each as it
/// ends; returned are a few words on each, in their order.
fn fuzz_all(
    tree: &Tree,
    targets: &[Target],
    time: impl Fn(&Target) -> Duration + Sync,
    log: &mut Log,
    tell: &(impl Fn(&Target, &Result<String, Red>) + Sync),
) -> Result<Vec<String>, Red> {
    let runtime = runtime()?;
    for target in targets {
        build(tree, target, &runtime, log)?;
    }
    let queue = Mutex::new(targets.iter().enumerate());
    let take = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    let outcomes = Mutex::new(BTreeMap::new());
    thread::scope(|scope| {
        for _ in 0..at_once() {
            scope.spawn(|| {
                while let Some((index, target)) = take() {
                    let outcome = fuzz(tree, target, time(target));
                    tell(target, &outcome);
                    outcomes.lock().unwrap_or_else(PoisonError::into_inner).insert(index, outcome);
                }
            });
        }
    });
    let outcomes = outcomes.into_inner().unwrap_or_else(PoisonError::into_inner);
    let named = |(index, outcome): (usize, Result<String, Red>)| {
        let name = &targets[index].name;
        match outcome {
            Ok(words) => Ok(format!("{name}: {words}")),
            Err(red) => Err(Red { why: format!("{name}: {}", red.why), ..red }),
        }
    };
    outcomes.into_iter().map(named).collect()
}

fn targets(tree: &Tree) -> Vec<Target> {
    let packages =
        tree.packages.iter().filter(|package| package.links.iter().any(|it| it == ENTRY));
    packages
        .flat_map(|package| {
            package.executables.iter().map(|name| Target {
                package: package.name.clone(),
                name: name.clone(),
                corpus: tree.root.join(&package.folder).join("corpus").join(name),
            })
        })
        .collect()
}

fn chosen(targets: Vec<Target>, only: &[String]) -> Result<Vec<Target>, Red> {
    let names: Vec<_> = targets.iter().map(|target| target.name.clone()).collect();
    if let Some(unknown) = only.iter().find(|name| !names.contains(name)) {
        let names = names.join(", ");
        return Err(Red::caller_first(format!("there is no target `{unknown}`, but: {names}")));
    }
    if targets.is_empty() {
        return Err(Red::caller_first(format!("there are no fuzz targets: none links `{ENTRY}`")));
    }
    Ok(targets.into_iter().filter(|it| only.is_empty() || only.contains(&it.name)).collect())
}

/// Where everything of fuzzing is: cargo's output apart from the ordinary one, found inputs.
fn folder(tree: &Tree) -> PathBuf {
    tree.target.join("fuzz")
}

fn build(tree: &Tree, target: &Target, runtime: &Path, log: &mut Log) -> Result<(), Red> {
    let mut build = process::cargo(&tree.root, &["build", "--package", &target.package, "--bin"]);
    build.arg(&target.name).arg("--target-dir").arg(folder(tree));
    log.run(build.env("CARGO_ENCODED_RUSTFLAGS", flags(runtime)))
}

/// Runs one target, with a log of its own: a few words on what it did.
fn fuzz(tree: &Tree, target: &Target, time: Duration) -> Result<String, Red> {
    // A slow last input is waited for.
    let mut log = Log::create(&folder(tree), &target.name, time + Duration::from_secs(60))?;
    let found = folder(tree).join("found").join(&target.name);
    let kept = folder(tree).join("corpus").join(&target.name);
    for folder in [&found, &kept] {
        fs::create_dir_all(folder)
            .map_err(|error| Red::system(&format!("create {}", folder.display()), &error))?;
    }
    let executable = folder(tree).join(TRIPLE).join("debug").join(&target.name);
    let mut run = Command::new(&executable);
    run.args(LIBFUZZER)
        .arg(format!("-max_total_time={}", time.as_secs()))
        .arg(format!("-artifact_prefix={}/", found.display()))
        // What is new goes to the first folder; the committed one is only read.
        .arg(kept);
    if target.corpus.is_dir() {
        run.arg(&target.corpus);
    }
    let ended = log.run(&mut run);
    let said = log.text()?;
    let red =
        |why: String| Red::new(format!("{why}\n{}\n(from {})", log.tail(), log.path().display()));
    if let Some(path) = after(&said, "Test unit written to ") {
        return Err(red(format!("the input {path} breaks it")));
    }
    ended.map_err(|it| red(it.why))?;
    match (after(&said, "stat::number_of_executed_units: "), counters(&said)) {
        (_, None | Some(0)) => {
            Err(red("it has no coverage counters: it was fuzzed blindly".into()))
        }
        (Some(runs), Some(counters)) => Ok(format!("{runs} runs over {counters} edges")),
        (None, _) => Err(red("libFuzzer did not tell how often it ran".into())),
    }
}

/// rustc's flags, in place of the tree's: libFuzzer is not linked statically. `runtime` is the
/// folder of clang's runtime libraries.
fn flags(runtime: &Path) -> String {
    let runtime = runtime.display();
    let link = [
        format!("-Clink-arg={runtime}/{DRIVER}"),
        // Its memcmp tells libFuzzer what was compared. The linker has found the C library's before
        // it gets here: it must take the whole archive, or magic numbers are never guessed.
        format!("-Clink-arg=-Wl,--whole-archive,{runtime}/{MEMCMP},--no-whole-archive"),
        "-Clink-arg=-lstdc++".to_owned(),
    ];
    let flags = INSTRUMENTATION.into_iter().chain(link.iter().map(String::as_str));
    flags.collect::<Vec<_>>().join("\x1f")
}

/// The folder of clang's runtime libraries, the newest if there are several.
fn runtime() -> Result<PathBuf, Red> {
    let below = |folder: PathBuf| fs::read_dir(folder).into_iter().flatten().flatten();
    below("/usr/lib".into())
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("llvm-"))
        .flat_map(|llvm| below(llvm.path().join("lib/clang")))
        .map(|version| version.path().join("lib/linux"))
        .filter(|folder| [DRIVER, MEMCMP].iter().all(|name| folder.join(name).is_file()))
        .max()
        .ok_or_else(|| Red::caller_first(format!("there is no {DRIVER} below /usr/lib/llvm-*")))
}

/// What follows `words` on the line that has them.
fn after<'a>(text: &'a str, words: &str) -> Option<&'a str> {
    text.lines().find_map(|line| Some(line.split_once(words)?.1.trim()))
}

/// `INFO: Loaded 1 modules   (1234 inline 8-bit counters): …`
fn counters(text: &str) -> Option<u64> {
    after(text, "INFO: Loaded ")?.split_once('(')?.1.split_once(' ')?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::Package;

    fn tree() -> Tree {
        let package = |name: &str, links: &str| Package {
            name: name.to_owned(),
            folder: format!("{name}/fuzz").into(),
            links: vec![links.to_owned()],
            executables: vec![format!("{name}-a"), format!("{name}-b")],
            ..Package::default()
        };
        let packages = vec![package("machine", "fuzzing"), package("novacron", "machine")];
        Tree { root: "/t".into(), target: "/t/target".into(), packages }
    }

    #[test]
    fn the_executables_of_what_links_the_entry_are_the_targets() {
        let found = targets(&tree());
        let names: Vec<_> = found.iter().map(|target| target.name.as_str()).collect();
        assert_eq!(names, ["machine-a", "machine-b"]);
        assert_eq!(found[1].corpus, Path::new("/t/machine/fuzz/corpus/machine-b"));
    }

    #[test]
    fn those_that_are_fuzzed_longer_exist() {
        let targets = targets(&Tree::find().unwrap());
        for name in OF_FILES {
            assert!(targets.iter().any(|target| target.name == name), "{name}");
        }
    }

    #[test]
    fn an_unknown_target_is_refused_with_the_names_of_the_known() {
        let one = chosen(targets(&tree()), &["machine-b".to_owned()]).unwrap();
        assert_eq!(one.len(), 1);
        let red = chosen(targets(&tree()), &["elf".to_owned()]).unwrap_err();
        assert!(red.why.contains("`elf`") && red.why.contains("machine-a"), "{}", red.why);
        assert!(chosen(Vec::new(), &[]).is_err());
    }

    #[test]
    fn libfuzzers_words_are_understood() {
        let text = "\
INFO: Loaded 1 modules   (4711 inline 8-bit counters): 4711 [0x5, 0x6),
INFO: Loaded 1 PC tables (4711 PCs): 4711
stat::number_of_executed_units: 12345
artifact_prefix='/t/'; Test unit written to /t/crash-00";
        assert_eq!(counters(text), Some(4711));
        assert_eq!(after(text, "stat::number_of_executed_units: "), Some("12345"));
        assert_eq!(after(text, "Test unit written to "), Some("/t/crash-00"));
        assert_eq!(counters("INFO: Running with entropic power schedule"), None);
    }
}
