//! A host's init: runs the script, reports, switches the machine off.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use qemu_tests::script::{REPORT_PORT, SCRIPT, Script};
use rustix::system::RebootCommand;

use crate::{netlink, system};

/// Ports come and go by messages of the device, which take a moment after the driver starts.
const PORT_LIMIT: Duration = Duration::from_secs(5);

pub(crate) fn run() -> io::Result<()> {
    system::mount_all()?;
    netlink::loopback_up()?;
    let mut report = port(REPORT_PORT)?;
    writeln!(report, "host: init reached {}", system::facts())?;
    let script = Script::from_bytes(&fs::read(SCRIPT)?)?;
    if let Some(address) = script.address {
        netlink::wire_up(address)?;
    }
    for command in &script.commands {
        let words = command.join(" ");
        writeln!(report, "host: run {words}")?;
        let ending = match execute(command, &report) {
            Ok(status) => ending(status),
            Err(error) => {
                writeln!(report, "host: cannot run it: {error}")?;
                // The code that shells give to a program that they do not find.
                "exit 127".to_owned()
            }
        };
        writeln!(report, "host: {ending} {words}")?;
    }
    writeln!(report, "host: end")?;
    Err(system::end(RebootCommand::PowerOff))
}

fn execute(command: &[String], report: &File) -> io::Result<ExitStatus> {
    let (program, arguments) =
        command.split_first().ok_or_else(|| io::Error::other("the command is empty"))?;
    Command::new(program)
        .args(arguments)
        .env_clear()
        .envs([("PATH", "/bin"), ("HOME", "/tmp"), ("RUST_BACKTRACE", "1")])
        .stdin(Stdio::null())
        .stdout(report.try_clone()?)
        .stderr(report.try_clone()?)
        .status()
}

fn ending(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit {code}"),
        (None, signal) => format!("signal {}", signal.unwrap_or(0)),
    }
}

/// Opens the virtio-serial port of this name.
pub(crate) fn port(name: &str) -> io::Result<File> {
    let limit = Instant::now() + PORT_LIMIT;
    loop {
        if let Some(device) = find_port(name)? {
            return OpenOptions::new().read(true).write(true).open(device);
        }
        if Instant::now() >= limit {
            return Err(io::Error::other(format!("no port is named {name}")));
        }
        thread::sleep(Duration::from_millis(5));
    }
}

fn find_port(name: &str) -> io::Result<Option<PathBuf>> {
    let Ok(entries) = fs::read_dir("/sys/class/virtio-ports") else { return Ok(None) };
    for entry in entries {
        let entry = entry?;
        // A port without a name, or one that goes just now, has no such file.
        let found = fs::read_to_string(entry.path().join("name")).unwrap_or_default();
        if found.trim_end() == name {
            return Ok(Some(PathBuf::from("/dev").join(entry.file_name())));
        }
    }
    Ok(None)
}
