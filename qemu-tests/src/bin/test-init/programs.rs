//! The programs that a script can run: there is no shell and no coreutils in a host.

use std::fs;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Child, ChildStdout, Command, ExitCode, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use kvm_ioctls::Kvm;
use rustix::process::{Pid, Signal};

use crate::busy;
use crate::host::port;
use crate::obey::obey;
use crate::ping::{echo, ping};
use crate::storage;

/// A command line is wrong.
const USAGE: u8 = 64;

pub(crate) fn run(arguments: &[String]) -> ExitCode {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments.as_slice() {
        ["kvm"] => kvm(),
        ["answer", name] => answer(name),
        ["exit", code] => return code.parse::<u8>().map_or(ExitCode::from(USAGE), ExitCode::from),
        ["sleep", seconds] => sleep(seconds),
        ["obey"] => obey(),
        ["disk-read", serial, length] => storage::read(serial, length),
        ["disk-write", serial, text] => storage::write(serial, text),
        ["variable-get", name] => storage::variable(name),
        ["variable-set", name, text] => storage::set_variable(name, text),
        ["echo"] => echo(),
        ["ping", address, count, every_us] => ping(address, count, every_us),
        ["work", number] => number.parse().map_err(io::Error::other).and_then(busy::work),
        ["attend", program, arguments @ ..] => return passed_on(attend(program, arguments)),
        ["time", text, program, arguments @ ..] => time(text, program, arguments),
        ["type", prompt, line, program, arguments @ ..] => {
            return passed_on(type_at(prompt, line, program, arguments));
        }
        _ => Err(io::Error::other(
            "programs: kvm | answer PORT | exit CODE | sleep SECONDS | obey \
             | disk-read SERIAL BYTES | disk-write SERIAL TEXT | variable-get NAME | variable-set NAME TEXT | echo | ping ADDRESS COUNT MICROSECONDS \
             | work NUMBER | attend PROGRAM ARGUMENT... | time TEXT PROGRAM ARGUMENT... \
             | type PROMPT LINE PROGRAM ARGUMENT...",
        )),
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

/// Runs a program that runs a guest, passes its lines on, and does what they call for: a clock gets
/// this host's time beside it (`attend: clock <guest> <host>`), and a guest that waits for its power
/// button has it pressed where `novacron run` does that.
fn attend(program: &str, arguments: &[&str]) -> io::Result<ExitStatus> {
    let attended = arguments;
    let (mut child, output) = spawn(program, arguments)?;
    for line in output.lines() {
        let line = line?;
        println!("{line}");
        let line = line.trim_end();
        if let Some(seconds) = line.strip_prefix("guest: clock ") {
            let since = SystemTime::now().duration_since(UNIX_EPOCH).map_err(io::Error::other)?;
            println!("attend: clock {seconds} {}", since.as_secs());
        }
        if let Some(clocks) = line.strip_prefix("guest: clocks ") {
            let since = SystemTime::now().duration_since(UNIX_EPOCH).map_err(io::Error::other)?;
            println!("attend: clocks {} {clocks}", since.as_nanos());
        }
        if line == "guest: waits for its power button" && attended.contains(&"run") {
            let id = Pid::from_child(&child);
            rustix::process::kill_process(id, Signal::TERM)?;
        }
    }
    child.wait()
}

/// Starts a program that is given nothing, and what it prints.
fn spawn(program: &str, arguments: &[&str]) -> io::Result<(Child, BufReader<ChildStdout>)> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn()?;
    let output = child.stdout.take().ok_or_else(|| io::Error::other("no output"))?;
    Ok((child, BufReader::new(output)))
}

/// Runs a program that runs a guest, passes on what it prints, and types a line at the guest's console where
/// it prompts for the first time.
fn type_at(prompt: &str, line: &str, program: &str, arguments: &[&str]) -> io::Result<ExitStatus> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let (keyboard, screen) = (child.stdin.take(), child.stdout.take());
    let (Some(mut keyboard), Some(mut screen)) = (keyboard, screen) else {
        return Err(io::Error::other("no streams"));
    };
    let mut shown = Vec::new();
    let mut is_typed = false;
    let mut buffer = [0; 4096];
    loop {
        let count = screen.read(&mut buffer)?;
        if count == 0 {
            return child.wait();
        }
        io::stdout().write_all(&buffer[..count])?;
        io::stdout().flush()?;
        // A prompt is no line: it may come in parts, and nothing follows it.
        shown.extend_from_slice(&buffer[..count]);
        if !is_typed && shows(&shown, prompt) {
            writeln!(keyboard, "{line}")?;
            is_typed = true;
        }
        shown.drain(..shown.len().saturating_sub(prompt.len()));
    }
}

fn shows(shown: &[u8], prompt: &str) -> bool {
    // An empty one is there from the first byte.
    prompt.is_empty() || shown.windows(prompt.len()).any(|window| window == prompt.as_bytes())
}

/// A program's own exit code, where it has one.
fn passed_on(status: io::Result<ExitStatus>) -> ExitCode {
    match status {
        Ok(status) => {
            status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX).into()
        }
        Err(error) => {
            let _ = writeln!(io::stderr(), "test-init: {error}");
            ExitCode::from(USAGE)
        }
    }
}

/// Runs a program, says how long it took to the first line with this text (`time: <n> ms`), and ends it.
fn time(text: &str, program: &str, arguments: &[&str]) -> io::Result<()> {
    let started = Instant::now();
    let (mut child, output) = spawn(program, arguments)?;
    let mut said = Vec::new();
    for line in output.lines() {
        let line = line?;
        if line.contains(text) {
            println!("time: {} ms", started.elapsed().as_millis());
            child.kill()?;
            child.wait()?;
            return Ok(());
        }
        said.push(line);
    }
    Err(io::Error::other(format!("{program} did not say `{text}`, but: {said:#?}")))
}

fn sleep(seconds: &str) -> io::Result<()> {
    let seconds = seconds.parse().map_err(io::Error::other)?;
    thread::sleep(Duration::from_secs(seconds));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::shows;

    #[test]
    fn a_prompt_is_seen_wherever_it_stands_and_only_when_it_is_whole() {
        assert!(
            shows(b"(initramfs) ", "(initramfs) ")
                && shows(b"\r\n(initramfs) \x1b[6n", "(initramfs) ")
        );
        assert!(!shows(b"(initramfs)", "(initramfs) ") && !shows(b"", "$ ") && shows(b"x", ""));
    }
}
