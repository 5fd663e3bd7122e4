//! Builds the tests, runs them, and counts what ran.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::context::{Context, Outcome};
use crate::libtest::{self, Binary};
use crate::log::Log;
use crate::process::{self, Red};
use crate::release;
use crate::tree::Tree;

/// What is built together shares its dependencies: every step selects the whole workspace with all
/// features, because cargo would compile a crate once more for every other set of its features.
pub(crate) const EVERYTHING: [&str; 2] = ["--workspace", "--all-features"];

/// Tests named so take long, and run in the long run only: they skip themselves without
/// `NOVACRON_LONG`.
/// The colons keep tests out that have the word elsewhere in their names: every test stands in a module.
const LONG_PREFIX: &str = "::long_";

/// The folder of the tests that start QEMU machines: each wants this machine for itself, and they
/// run the executable as it ships.
const QEMU_TESTS: &str = "qemu-tests";

/// A selection of tests.
#[derive(Debug)]
pub(crate) struct Suite {
    /// Whether it is those inside QEMU, or all others.
    in_qemu: bool,
    /// Whether it is those of the long run, which use every processor themselves.
    is_long: bool,
}

/// Unit, property and integration tests, with the points where faults are injected.
pub(crate) const ORDINARY: Suite = Suite { in_qemu: false, is_long: false };
/// Linux guests inside QEMU.
pub(crate) const QEMU: Suite = Suite { in_qemu: true, is_long: false };
/// Full matrices and long simulations.
pub(crate) const LONG: Suite = Suite { in_qemu: false, is_long: true };
/// The long ones among the tests inside QEMU.
pub(crate) const LONG_QEMU: Suite = Suite { in_qemu: true, is_long: true };

/// An executable that holds tests.
#[derive(Debug, PartialEq, Eq)]
struct TestExecutable {
    path: PathBuf,
    /// For people: the folder of its package, and what it is of it.
    name: String,
    /// The folder of its package, where it runs.
    folder: PathBuf,
}

impl Suite {
    /// Builds all tests and runs the selection.
    ///
    /// # Errors
    /// Something does not build, or nothing is selected. Tests that fail are in the outcome.
    pub(crate) fn run(&self, context: &Context, log: &mut Log) -> Result<Outcome, Red> {
        let qemu_tests = context.tree.root.join(QEMU_TESTS);
        let executables = build(context.tree, log)?;
        let selected = executables.iter().filter(|it| (it.folder == qemu_tests) == self.in_qemu);
        let binaries: Vec<_> = selected
            .map(|executable| self.run_one(executable, context, log))
            .collect::<Result<_, _>>()?;
        if binaries.is_empty() {
            return Err(Red::new("there are no such tests"));
        }
        Ok(Outcome { binaries, ..Outcome::default() })
    }

    /// Runs the tests of one executable as cargo would.
    fn run_one(
        &self,
        it: &TestExecutable,
        context: &Context,
        log: &mut Log,
    ) -> Result<Binary, Red> {
        let mut command = process::in_folder(&it.path, &it.folder);
        // A test that passes may have printed that it could not run.
        command.arg("--show-output").env("CARGO_MANIFEST_DIR", &it.folder);
        if self.is_long {
            command.env("NOVACRON_LONG", "1").args(["--test-threads=1", LONG_PREFIX]);
        } else {
            command.env_remove("NOVACRON_LONG");
        }
        if context.long && !self.is_long {
            // They follow in a step of their own.
            command.args(["--skip", LONG_PREFIX]);
        }
        if self.in_qemu {
            command.env("NOVACRON_EXE", release::executable(context.tree));
        }
        if self.in_qemu && !self.is_long {
            command.arg("--test-threads=1");
        }
        let before = log.text()?.len();
        let ended = log.run(&mut command);
        Ok(libtest::read(&it.name, &log.text()?[before..], ended.err().map(|red| red.why)))
    }
}

/// Builds and runs the examples of the documentation.
///
/// # Errors
/// Something does not build. Examples that fail are in the outcome.
pub(crate) fn run_examples(context: &Context, log: &mut Log) -> Result<Outcome, Red> {
    let mut command = process::cargo(&context.tree.root, &["test", "--doc", "--no-fail-fast"]);
    command.args(EVERYTHING).args(["--", "--show-output"]);
    let ended = log.run(&mut command);
    let binaries = libtest::read_examples(&log.text()?);
    let all_passed = binaries.iter().all(|binary| binary.failed.is_empty());
    match ended {
        Err(red) if all_passed => Err(red),
        _ => Ok(Outcome { binaries, ..Outcome::default() }),
    }
}

fn build(tree: &Tree, log: &mut Log) -> Result<Vec<TestExecutable>, Red> {
    let mut command =
        process::cargo(&tree.root, &["test", "--no-run", "--lib", "--bins", "--tests"]);
    command.args(EVERYTHING).arg("--message-format=json-render-diagnostics");
    let messages = log.ask(&mut command)?;
    let messages = messages.lines().filter_map(|line| serde_json::from_str(line).ok());
    let mut executables: Vec<_> =
        messages.filter_map(|message| built(&message, &tree.root)).collect();
    executables.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(executables)
}

/// The test executable that a message of cargo tells about.
fn built(message: &Value, root: &Path) -> Option<TestExecutable> {
    let path = message["executable"].as_str()?;
    if message["profile"]["test"] != Value::Bool(true) {
        return None;
    }
    let folder = Path::new(message["manifest_path"].as_str()?).parent()?;
    let package = folder.strip_prefix(root).ok()?.display();
    let target = &message["target"];
    let name = match target["kind"][0].as_str()? {
        "test" => format!("{package} tests/{}", target["name"].as_str()?),
        "bin" => format!("{package} bin {}", target["name"].as_str()?),
        _ => package.to_string(),
    };
    Some(TestExecutable { path: path.into(), name, folder: folder.to_owned() })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn test_executables_are_named_after_the_folder_of_their_package() {
        let message = |is_test: bool, kind: &str| {
            json!({
                "manifest_path": "/t/vmm/machine/Cargo.toml", "profile": {"test": is_test},
                "target": {"name": "main", "kind": [kind]}, "executable": "/t/target/a",
            })
        };
        for (message, expected) in [
            (message(true, "lib"), Some("vmm/machine")),
            (message(true, "test"), Some("vmm/machine tests/main")),
            (message(true, "bin"), Some("vmm/machine bin main")),
            (message(false, "bin"), None),
            (json!({"reason": "build-finished"}), None),
        ] {
            let expected = expected.map(|name| TestExecutable {
                path: "/t/target/a".into(),
                name: name.to_owned(),
                folder: "/t/vmm/machine".into(),
            });
            assert_eq!(built(&message, Path::new("/t")), expected);
        }
    }
}
