//! `cargo xtask coverage`: which lines of the protocol's core its own tests reach.
//!
//! Not a step of `cargo verify`: it needs `llvm-tools` of the very compiler, which rustup has and Debian has not.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use crate::log::Log;
use crate::process::{self, Red};
use crate::release::TRIPLE;
use crate::tree::Tree;

/// The package that is measured.
const PACKAGE: &str = "dwcp";
/// Modules that must reach [`LEAST`]: what a peer's bytes go through, and what decides who runs.
const REQUIRED: [&str; 4] = ["acp", "hde", "session", "wire"];
/// Per cent of lines.
const LEAST: f64 = 95.0;
/// Building, and the tests, which take several times as long as without counters.
const LIMIT: Duration = Duration::from_secs(1800);

/// Lines, and lines that were reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Lines {
    all: u64,
    reached: u64,
}

impl Lines {
    fn percent(self) -> f64 {
        #[allow(clippy::cast_precision_loss, reason = "numbers of lines")]
        let part = self.reached as f64 / self.all.max(1) as f64;
        100.0 * part
    }
}

/// Runs the tests and prints a line for each module.
///
/// # Errors
/// A test fails, a tool is missing, or a module is reached too little.
pub(crate) fn run(tree: &Tree) -> Result<ExitCode, Red> {
    let folder = tree.target.join("coverage");
    let profiles = folder.join("profiles");
    match fs::remove_dir_all(&profiles) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(Red::system(&format!("clear {}", profiles.display()), &error));
        }
        _ => {}
    }
    let mut log = Log::create(&folder, "coverage", LIMIT)?;
    let tools = tools(tree, &mut log)?;

    println!("{PACKAGE}: running its tests with counters");
    let mut test = process::cargo(&tree.root, &["test", "--package", PACKAGE, "--all-features"]);
    test.args(["--lib", "--tests", "--target-dir"]).arg(&folder);
    test.env("CARGO_ENCODED_RUSTFLAGS", "-Cinstrument-coverage");
    test.env("LLVM_PROFILE_FILE", profiles.join("%m-%p.profraw"));
    log.run(&mut test)?;
    let executables = executables(&log.text()?);

    let merged = folder.join("merged.profdata");
    let mut merge = Command::new(tools.join("llvm-profdata"));
    log.run(merge.args(["merge", "-sparse", "-o"]).arg(&merged).arg(&profiles))?;

    let mut export = Command::new(tools.join("llvm-cov"));
    export.args(["export", "-format=lcov", "-summary-only", "-instr-profile"]).arg(&merged);
    for executable in &executables {
        export.arg("-object").arg(executable);
    }
    let modules = modules(&log.ask(&mut export)?, &format!("{PACKAGE}/src/"));

    for (module, lines) in &modules {
        println!("{module:12} {:6.2} % of {:5} lines", lines.percent(), lines.all);
    }
    let percent = |module: &str| modules.get(module).map_or(0.0, |lines| lines.percent());
    let short: Vec<&str> = REQUIRED.into_iter().filter(|module| percent(module) < LEAST).collect();
    if short.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    Err(Red::new(format!("less than {LEAST} % of the lines of: {}", short.join(", "))))
}

/// The folder of the compiler's own LLVM tools.
fn tools(tree: &Tree, log: &mut Log) -> Result<PathBuf, Red> {
    let mut rustc = process::in_folder("rustc", &tree.root);
    let sysroot = log.ask(rustc.args(["--print", "sysroot"]))?;
    let folder = Path::new(sysroot.trim()).join("lib/rustlib").join(TRIPLE).join("bin");
    if folder.join("llvm-cov").is_file() {
        return Ok(folder);
    }
    Err(Red::caller_first("the compiler has no llvm-cov; run: rustup component add llvm-tools"))
}

/// The test executables that cargo says it runs.
fn executables(log: &str) -> Vec<PathBuf> {
    let running = log.lines().filter(|line| line.trim_start().starts_with("Running "));
    let path = |line: &str| Some(PathBuf::from(line.rsplit_once('(')?.1.strip_suffix(')')?));
    running.filter_map(path).collect()
}

/// Sums up the files of each module below `root`. Files of tests are left out; test modules inside of a file
/// are not.
fn modules(lcov: &str, root: &str) -> BTreeMap<String, Lines> {
    let mut modules: BTreeMap<String, Lines> = BTreeMap::new();
    let mut module = None;
    for line in lcov.lines() {
        let number = |text: &str| text.parse::<u64>().unwrap_or(0);
        if let Some(path) = line.strip_prefix("SF:") {
            let inside = path.split_once(root).map(|(_, inside)| inside);
            let inside =
                inside.filter(|path| !path.split('/').any(|part| part.starts_with("tests")));
            let first = inside.and_then(|path| path.split('/').next());
            module = first.map(|first| first.trim_end_matches(".rs").to_owned());
        } else if let (Some(module), Some(count)) = (&module, line.strip_prefix("LF:")) {
            modules.entry(module.clone()).or_default().all += number(count);
        } else if let (Some(module), Some(count)) = (&module, line.strip_prefix("LH:")) {
            modules.entry(module.clone()).or_default().reached += number(count);
        }
    }
    modules
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_summed_up_by_module_without_tests() {
        let lcov = "\
SF:/t/dwcp/src/wire/header.rs
LF:100
LH:90
end_of_record
SF:/t/dwcp/src/wire.rs
LF:10
LH:10
SF:/t/dwcp/src/wire/header/tests.rs
LF:1000
LH:1
SF:/t/dwcp/src/session/tests/limits.rs
LF:1000
LH:1
SF:/elsewhere/lib.rs
LF:7
LH:7
SF:/t/dwcp/src/page.rs
LF:3
LH:0";
        let modules = modules(lcov, "dwcp/src/");
        let wire = Lines { all: 110, reached: 100 };
        let expected = [("page", Lines { all: 3, reached: 0 }), ("wire", wire)];
        assert_eq!(modules, expected.map(|(name, lines)| (name.to_owned(), lines)).into());
        assert!((wire.percent() - 90.909).abs() < 0.001);
    }

    #[test]
    fn cargos_words_name_the_executables() {
        let log = "\
   Compiling dwcp v0.1.0 (/t/dwcp)
     Running unittests src/lib.rs (/t/target/coverage/debug/deps/dwcp-1)
running 3 tests
     Running tests/main.rs (/t/target/coverage/debug/deps/main-2)";
        let expected =
            ["dwcp-1", "main-2"].map(|name| format!("/t/target/coverage/debug/deps/{name}"));
        assert_eq!(executables(log), expected.map(PathBuf::from));
    }
}
