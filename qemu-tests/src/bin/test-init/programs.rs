//! The programs that a script can run: there is no shell and no coreutils in a host.

use std::fs;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use kvm_ioctls::Kvm;

use crate::host::port;

/// A command line is wrong.
const USAGE: u8 = 64;

pub(crate) fn run(arguments: &[String]) -> ExitCode {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments.as_slice() {
        ["kvm"] => kvm(),
        ["answer", name] => answer(name),
        ["exit", code] => return code.parse::<u8>().map_or(ExitCode::from(USAGE), ExitCode::from),
        ["sleep", seconds] => sleep(seconds),
        _ => Err(io::Error::other("programs: kvm | answer PORT | exit CODE | sleep SECONDS")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "test-init: {error}");
            ExitCode::from(USAGE)
        }
    }
}

/// Says which KVM this host has, and makes a machine with it: the API's number alone is answered by
/// a KVM that could run nothing.
fn kvm() -> io::Result<()> {
    let kvm = Kvm::new()?;
    let machine = kvm.create_vm()?;
    let vcpu = machine.create_vcpu(0)?;
    let registers = vcpu.get_regs()?;
    let nested_paging = fs::read_to_string("/sys/module/kvm_amd/parameters/npt")?;
    println!(
        "kvm: api={} kvm_amd npt={} reset_rflags={:#x}",
        kvm.get_api_version(),
        nested_paging.trim_end(),
        registers.rflags
    );
    Ok(())
}

/// Reads one line from a port and sends it back with a greeting.
fn answer(name: &str) -> io::Result<()> {
    let mut port = port(name)?;
    let mut line = String::new();
    BufReader::new(port.try_clone()?).read_line(&mut line)?;
    write!(port, "answer: {line}")
}

fn sleep(seconds: &str) -> io::Result<()> {
    let seconds = seconds.parse().map_err(io::Error::other)?;
    thread::sleep(Duration::from_secs(seconds));
    Ok(())
}
