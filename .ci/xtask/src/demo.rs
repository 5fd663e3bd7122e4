//! `cargo demo`: builds the executable and becomes its demonstration.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use crate::packages::{self, Purpose};
use crate::process::{self, Red};
use crate::release;
use crate::tree::Tree;

/// A build on a slow machine takes minutes; one that takes longer than this hangs.
const LIMIT: Duration = Duration::from_secs(3600);

/// Major 10, minor 232 (Documentation/admin-guide/devices.txt), as `stat` gives them.
const KVM_DEVICE: u64 = (10 << 8) | 232;

/// Cargo's arguments that build the program which runs an executable inside a QEMU machine with KVM,
/// and what that needs beside itself. The machine's kernel it has built by itself.
const BUILD_IN_HOST: [&str; 4] = ["build", "--package", "qemu-tests", "--bins"];

/// A guest that an emulated processor can copy faster than it writes. What the caller asks for comes
/// after it, and counts.
const SMALL: [&str; 4] = ["--memory=64M", "--hole-start=32M", "--working-set=1M", "--rate=200"];

/// Builds, showing cargo's own progress, and then is replaced by the demonstration: Ctrl-C and the
/// exit code are its own. Where KVM does not open, the demonstration runs inside a QEMU machine.
///
/// # Errors
/// Something does not build or start; if the demonstration starts, this does not return.
pub(crate) fn run(tree: &Tree, arguments: &[String]) -> Result<ExitCode, Red> {
    let kvm = open_kvm();
    let purposes: &[_] =
        if kvm.is_ok() { &[Purpose::Build] } else { &[Purpose::Build, Purpose::Qemu] };
    packages::ensure(tree, purposes, |command| {
        // Standard output belongs to the demonstration.
        process::succeed(command.stdin(Stdio::null()).stdout(io::stderr()), LIMIT)
    })?;
    process::succeed(&mut process::cargo(&tree.root, &release::BUILD), LIMIT)?;
    let mut demonstration = match kvm {
        Ok(_) => {
            let mut command = Command::new(release::executable(tree));
            command.arg("demo");
            command
        }
        Err(error) => in_host(tree, &error)?,
    };
    let error = demonstration.args(arguments).exec();
    Err(Red::system(&format!("run `{}`", process::spelled(&demonstration)), &error))
}

/// Opens the host's KVM. A container may have something else in its place, which opens too.
fn open_kvm() -> io::Result<File> {
    let file = File::options().read(true).write(true).open("/dev/kvm")?;
    let metadata = file.metadata()?;
    if metadata.file_type().is_char_device() && metadata.rdev() == KVM_DEVICE {
        Ok(file)
    } else {
        Err(io::Error::other("it is another device"))
    }
}

/// The demonstration inside a QEMU machine, because of this `error` of KVM here.
fn in_host(tree: &Tree, error: &io::Error) -> Result<Command, Red> {
    eprintln!(
        "demo: /dev/kvm does not open here ({error}). The demonstration runs on the KVM inside of a \
         QEMU machine, whose emulated processor is much slower; so its guest is small \
         ({}), unless you say otherwise. That machine's kernel is built first, once: ten minutes.",
        SMALL.join(" ")
    );
    process::succeed(&mut process::cargo(&tree.root, &BUILD_IN_HOST), LIMIT)?;
    let program = tree.target.join(release::TRIPLE).join("debug/in-host");
    let mut command = process::in_folder(program, &tree.root);
    command.arg(release::executable(tree)).arg("demo").args(SMALL);
    Ok(command)
}
