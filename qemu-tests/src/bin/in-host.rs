//! Runs one executable inside a QEMU machine that has KVM, where the machine underneath has none:
//! `in-host EXECUTABLE ARGUMENT…`. Its output appears as it is written; its exit code is passed on.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use qemu_tests::{Case, HostImage};

/// Where the executable lies in the host.
const PATH: &str = "/bin/it";
/// Emulation is slow.
const TIME_LIMIT: Duration = Duration::from_secs(900);

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let Some(executable) = arguments.next() else {
        eprintln!("in-host: which executable? Usage: in-host EXECUTABLE ARGUMENT...");
        return ExitCode::from(2);
    };
    match run(Path::new(&executable), arguments.collect()) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("in-host: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(executable: &Path, arguments: Vec<OsString>) -> Result<u8, Box<dyn std::error::Error>> {
    let mut command = vec![PATH.to_owned()];
    for argument in arguments {
        command.push(argument.into_string().map_err(|_| "an argument is no UTF-8")?);
    }
    let logs = tempfile::tempdir()?;
    let Some(case) = Case::begin("in-host", logs.path()) else { return Err("no QEMU".into()) };
    let mut host = HostImage::new(&test_init()?)?
        .program(PATH, executable)?
        .run(&command)
        .in_turns()
        .time_limit(TIME_LIMIT)
        .boot(&case)?;
    let code = host.follow(|line| println!("{line}"))?;
    host.finish()?;
    Ok(code)
}

/// The host's init, which cargo built beside this executable.
fn test_init() -> Result<PathBuf, Box<dyn std::error::Error>> {
    let path = std::env::current_exe()?.with_file_name("test-init");
    if path.is_file() { Ok(path) } else { Err(format!("{} is missing", path.display()).into()) }
}
