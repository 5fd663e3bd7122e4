//! The init of the tests' hosts and guests, and the small programs that hosts run.
//!
//! As process 1 it is a host's init where a script lies in its initramfs, else a guest's; started
//! by a script it is the program that its first argument names. It never does anything else, and
//! never ends as process 1 while the machine runs.

mod busy;
mod cpuid;
mod guest;
mod host;
mod kmsg;
mod netlink;
mod obey;
mod ping;
mod platform;
mod programs;
mod storage;
mod system;

use std::io::Write as _;
use std::process::ExitCode;

use qemu_tests::script::SCRIPT;

fn main() -> ExitCode {
    if std::process::id() != 1 {
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        return programs::run(&arguments);
    }
    let role = if std::fs::exists(SCRIPT).unwrap_or(false) { host::run } else { guest::run };
    if let Err(error) = role() {
        let _ = writeln!(std::io::stderr(), "init: failed: {error}");
    }
    // Reached only when the machine could not be switched off. Ending makes the kernel panic, which
    // ends the machine and says why on its console.
    ExitCode::FAILURE
}
