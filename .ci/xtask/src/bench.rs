//! `cargo xtask bench`: becomes a program of the package `benches`, with what it needs installed.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use crate::packages::{self, Purpose};
use crate::process::{self, Red};
use crate::tree::Tree;

/// Packages are fetched and installed in this time, or it hangs.
const LIMIT: Duration = Duration::from_secs(1800);

/// Is replaced by cargo, which builds and runs the program; these are its name and its arguments.
///
/// # Errors
/// A package is missing, or cargo does not start.
pub(crate) fn run(tree: &Tree, program: &str, arguments: &[String]) -> Result<ExitCode, Red> {
    packages::ensure(tree, &[Purpose::Build, Purpose::Qemu, Purpose::Benches], |command| {
        // Standard output belongs to the program.
        process::succeed(command.stdin(Stdio::null()).stdout(io::stderr()), LIMIT)
    })?;
    let mut cargo = process::cargo(
        &tree.root,
        &["run", "--quiet", "--release", "--package", "benches", "--bin"],
    );
    let error = cargo.arg(program).arg("--").args(arguments).exec();
    Err(Red::system(&format!("run `{}`", process::spelled(&cargo)), &error))
}
