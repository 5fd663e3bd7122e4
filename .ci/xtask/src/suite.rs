//! Runs `cargo test` and counts what it ran.

use std::collections::HashMap;

use serde_json::Value;

use crate::context::{Context, Outcome};
use crate::libtest;
use crate::log::Log;
use crate::process::{self, Red};
use crate::release;
use crate::tree::Tree;

/// Tests named so take long, and run in the long run only: they skip themselves without
/// `NOVACRON_LONG`.
const LONG_PREFIX: &str = "long_";

/// The package whose tests start QEMU machines: each wants the machine for itself.
const QEMU_TESTS: &str = "qemu-tests";

/// A selection of tests.
#[derive(Debug)]
pub(crate) struct Suite {
    /// Cargo's arguments that select packages and targets.
    packages: &'static [&'static str],
    /// The harness's arguments.
    harness: &'static [&'static str],
    /// Whether these are tests of the long run.
    is_long: bool,
    /// Whether they run the executable as it ships, which the step before them has built.
    run_release: bool,
}

/// Unit, property and integration tests, with the points where faults are injected.
pub(crate) const ORDINARY: Suite = Suite {
    packages: &[
        "--workspace",
        "--exclude",
        QEMU_TESTS,
        "--all-features",
        "--lib",
        "--bins",
        "--tests",
    ],
    harness: &[],
    is_long: false,
    run_release: false,
};

/// Examples in the documentation.
pub(crate) const EXAMPLES: Suite =
    Suite { packages: &["--workspace", "--all-features", "--doc"], ..ORDINARY };

/// Linux guests inside QEMU.
pub(crate) const QEMU: Suite = Suite {
    packages: &["--package", QEMU_TESTS],
    harness: &["--test-threads=1"],
    is_long: false,
    run_release: true,
};

/// Full matrices and long simulations: they use every processor themselves.
pub(crate) const LONG: Suite =
    Suite { harness: &["--test-threads=1", LONG_PREFIX], is_long: true, ..ORDINARY };

/// The long ones among the tests inside QEMU.
pub(crate) const LONG_QEMU: Suite =
    Suite { harness: &["--test-threads=1", LONG_PREFIX], is_long: true, ..QEMU };

impl Suite {
    /// Builds and runs the selection.
    ///
    /// # Errors
    /// Something does not build. Tests that fail are counted in the outcome.
    pub(crate) fn run(&self, context: &Context, log: &mut Log) -> Result<Outcome, Red> {
        let examples = self.packages.contains(&"--doc");
        // Examples are built as they run.
        let names = if examples { HashMap::new() } else { self.build(context.tree, log)? };
        let before = log.text()?.len();
        let mut command = process::cargo(&context.tree.root, &["test", "--no-fail-fast"]);
        command.args(self.packages).args(["--", "--show-output"]).args(self.harness);
        if self.is_long {
            command.env("NOVACRON_LONG", "1");
        } else {
            command.env_remove("NOVACRON_LONG");
            if context.long && !examples {
                // They follow in a step of their own.
                command.args(["--skip", LONG_PREFIX]);
            }
        }
        if self.run_release {
            command.env("NOVACRON_EXE", release::executable(context.tree));
        }
        let ended = log.run(&mut command);
        let binaries = libtest::parse(&log.text()?[before..], &names);
        let all_passed = binaries.iter().all(|binary| binary.failed.is_empty());
        match ended {
            Err(red) if all_passed => Err(red),
            Ok(()) if binaries.is_empty() => Err(Red::new("no test binary ran")),
            _ => Ok(Outcome { binaries, ..Outcome::default() }),
        }
    }

    /// Builds the test binaries: their names for people by their paths as cargo prints them.
    fn build(&self, tree: &Tree, log: &mut Log) -> Result<HashMap<String, String>, Red> {
        let mut command = process::cargo(&tree.root, &["test", "--no-run"]);
        command.arg("--message-format=json-render-diagnostics").args(self.packages);
        let messages = log.ask(&mut command)?;
        let messages = messages.lines().filter_map(|line| serde_json::from_str(line).ok());
        Ok(messages.filter_map(|message| named(&message, tree)).collect())
    }
}

/// A test binary in a message of cargo: its path, relative to the root where it is below it, and
/// its name for people.
fn named(message: &Value, tree: &Tree) -> Option<(String, String)> {
    let executable = message["executable"].as_str()?;
    if message["profile"]["test"] != Value::Bool(true) {
        return None;
    }
    let target = &message["target"];
    let root = tree.root.to_string_lossy();
    let below_root = |path: &str| {
        path.strip_prefix(root.as_ref())
            .and_then(|path| path.strip_prefix('/'))
            .unwrap_or(path)
            .to_owned()
    };
    let folder = below_root(message["manifest_path"].as_str()?.strip_suffix("/Cargo.toml")?);
    let name = match target["kind"][0].as_str()? {
        "test" => format!("{folder} tests/{}", target["name"].as_str()?),
        "bin" => format!("{folder} bin {}", target["name"].as_str()?),
        _ => folder,
    };
    Some((below_root(executable), name))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn test_binaries_are_named_after_the_folder_of_their_package() {
        let tree = Tree { root: "/t".into(), target: "/t/target".into(), packages: Vec::new() };
        let message = |is_test: bool, kind: &str, executable: &str| {
            json!({
                "manifest_path": "/t/vmm/machine/Cargo.toml", "profile": {"test": is_test},
                "target": {"name": "main", "kind": [kind]}, "executable": executable,
            })
        };
        for (message, expected) in [
            (message(true, "lib", "/t/target/a"), Some(("target/a", "vmm/machine"))),
            (message(true, "test", "/t/target/b"), Some(("target/b", "vmm/machine tests/main"))),
            (message(true, "bin", "/other/c"), Some(("/other/c", "vmm/machine bin main"))),
            (message(false, "bin", "/t/target/d"), None),
            (json!({"reason": "build-finished"}), None),
        ] {
            let expected = expected.map(|(path, name)| (path.to_owned(), name.to_owned()));
            assert_eq!(named(&message, &tree), expected);
        }
    }
}
