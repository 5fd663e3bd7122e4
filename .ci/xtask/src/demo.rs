//! `cargo demo`: builds the executable and becomes its demonstration.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use crate::packages::{self, Purpose};
use crate::process::{self, Red};
use crate::release;
use crate::tree::Tree;

/// A build on a slow machine takes minutes; one that takes longer than this hangs.
const LIMIT: Duration = Duration::from_secs(3600);

/// Builds, showing cargo's own progress, and then is replaced by the executable: Ctrl-C and the
/// exit code are its own.
///
/// # Errors
/// The executable does not build or start; if it starts, this does not return.
pub(crate) fn run(tree: &Tree, arguments: &[String]) -> Result<ExitCode, Red> {
    // Where KVM does not open, the demonstration runs inside a QEMU machine.
    let kvm_opens = File::options().read(true).write(true).open("/dev/kvm").is_ok();
    let purposes: &[_] =
        if kvm_opens { &[Purpose::Build] } else { &[Purpose::Build, Purpose::Qemu] };
    packages::ensure(tree, purposes, |command| {
        // Standard output belongs to the demonstration.
        process::succeed(command.stdin(Stdio::null()).stdout(std::io::stderr()), LIMIT)
    })?;
    process::succeed(&mut process::cargo(&tree.root, &release::BUILD), LIMIT)?;
    let executable = release::executable(tree);
    let error = Command::new(&executable).arg("demo").args(arguments).exec();
    Err(Red::system(&format!("run {}", executable.display()), &error))
}
