//! `novacron run`: one machine in the foreground, its console on this terminal.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use machine::{
    CpuCount, DirtyLogKind, Ender, Executable, Host, Images, MachineConfig, MemoryLayout,
    Supervised,
};
use rustix::net::SendFlags;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

use crate::Failure;
use crate::cli::{RunOptions, Shape};
use crate::log::LogOptions;
use crate::signals::{Continue, on_request_to_end};

/// Ctrl-], as with telnet and virsh.
const ESCAPE: u8 = 0x1d;

pub(crate) fn run(options: &RunOptions, log: &LogOptions) -> Result<(), Failure> {
    let config = config(options.shape)?;
    check_host(options.shape)?;
    let images = match &options.kernel {
        Some(kernel) => images(kernel, options.initrd.as_deref(), &options.cmdline)?,
        None => oracle_images(options.shape.cpus, &options.cmdline)?,
    };
    tracing::info!(name = options.name, "boot");
    let (machine, console) = boot(config, options.shape.dirty_log, &images, log)?;
    let terminal = RawTerminal::enter();
    let input = console.try_clone().map_err(Failure::other("the console"))?;
    let ender = || machine.process().ender().map_err(Failure::other("the control socket"));
    // The oracle has no driver for a power button.
    obey_signals(ender()?, options.kernel.is_some())?;
    let control = ender()?;
    std::thread::spawn(move || forward_input(&input, &control));
    let output = std::thread::spawn(move || forward_output(console));
    let outcome = machine.wait();
    // The machine process has closed its end: what it wrote is read to the last byte.
    let _ = output.join();
    drop(terminal);
    eprintln!("novacron: {}", outcome?);
    Ok(())
}

/// Once asked to end, this process asks the guest to; asked again, it ends the guest. A guest without
/// a power button is ended at once.
fn obey_signals(control: Ender, has_power_button: bool) -> Result<(), Failure> {
    let act = move |asked| {
        if asked == 1 && has_power_button {
            eprintln!("novacron: the guest is asked to switch itself off; ask again to end it");
            control.press_power_button();
            Continue::Yes
        } else {
            control.stop();
            Continue::No
        }
    };
    on_request_to_end(act).map_err(Failure::other("waiting for signals"))
}

/// Boots a machine whose process is this very executable in another role.
pub(crate) fn boot(
    config: MachineConfig,
    dirty_log: DirtyLogKind,
    images: &Images,
    log: &LogOptions,
) -> Result<(Supervised, UnixStream), Failure> {
    let path = std::env::current_exe().map_err(Failure::other("the path of this executable"))?;
    let environment = log.environment();
    let executable = Executable { path: &path, environment: &environment, dirty_log };
    Ok(Supervised::boot(executable, &std::env::temp_dir(), config, images)?)
}

/// Before a process is started: the error is this host's, and says what to do.
pub(crate) fn check_host(shape: Shape) -> Result<(), Failure> {
    Ok(shape.dirty_log.check(&Host::open()?)?)
}

/// A machine's configuration from the command line.
pub(crate) fn config(shape: Shape) -> Result<MachineConfig, Failure> {
    let cpus = CpuCount::try_from(shape.cpus)
        .map_err(|error| Failure::Other(format!("--cpus: {error}")))?;
    let memory = MemoryLayout::new(shape.memory.0, shape.hole_start.0)
        .map_err(|error| Failure::Other(format!("--memory, --hole-start: {error}")))?;
    Ok(MachineConfig { cpus, cpu: shape.cpu, memory })
}

/// What a user's guest boots from.
pub(crate) fn images(
    kernel: &Path,
    initrd: Option<&Path>,
    cmdline: &str,
) -> Result<Images, Failure> {
    Ok(Images {
        kernel: open("--kernel", kernel)?,
        initrd: initrd.map(|path| open("--initrd", path)).transpose()?,
        command_line: cmdline.to_owned(),
    })
}

/// The oracle guest, with what only the machine knows on its command line.
pub(crate) fn oracle_images(cpus: u32, options: &str) -> Result<Images, Failure> {
    let file = rustix::fs::memfd_create("oracle", rustix::fs::MemfdFlags::CLOEXEC)
        .map_err(|error| Failure::Other(format!("a file for the oracle guest: {error}")))?;
    let mut kernel = File::from(file);
    let rewind = |kernel: &mut File| {
        kernel.write_all(firmware::ORACLE)?;
        io::Seek::rewind(kernel)
    };
    rewind(&mut kernel).map_err(Failure::other("a file for the oracle guest"))?;
    let command_line = format!("cpus={cpus} tsc_khz={{tsc_khz}} {options}");
    Ok(Images { kernel, initrd: None, command_line: command_line.trim_end().to_owned() })
}

fn open(option: &str, path: &Path) -> Result<File, Failure> {
    let open = || {
        let file = File::open(path)?;
        if file.metadata()?.is_dir() { Err(io::ErrorKind::IsADirectory.into()) } else { Ok(file) }
    };
    open().map_err(|error: io::Error| {
        Failure::Other(format!("{option} {}: {error}; is the path right?", path.display()))
    })
}

fn forward_output(mut console: UnixStream) {
    let mut output = io::stdout().lock();
    let mut bytes = [0; 4096];
    while let Ok(count @ 1..) = io::Read::read(&mut console, &mut bytes) {
        if output.write_all(&bytes[..count]).and_then(|()| output.flush()).is_err() {
            return;
        }
    }
}

fn forward_input(console: &UnixStream, control: &Ender) {
    let mut input = io::stdin().lock();
    let is_terminal = input.is_terminal();
    let mut bytes = [0; 4096];
    while let Ok(count @ 1..) = io::Read::read(&mut input, &mut bytes) {
        if is_terminal && bytes[..count].contains(&ESCAPE) {
            control.stop();
            return;
        }
        // A guest that does not read loses input, and never the way to end it.
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        match rustix::net::send(console, &bytes[..count], flags) {
            Ok(_) | Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            Err(_) => return,
        }
    }
}

/// The terminal without line editing and signals, until the value is dropped.
struct RawTerminal(Option<Termios>);

impl RawTerminal {
    fn enter() -> Self {
        let stdin = io::stdin();
        let Some(cooked) = stdin.is_terminal().then(|| tcgetattr(&stdin).ok()).flatten() else {
            return Self(None);
        };
        let mut raw = cooked.clone();
        raw.make_raw();
        // Output goes on as it was: a bare line feed from the guest starts a new line.
        raw.output_modes = cooked.output_modes;
        let is_raw = tcsetattr(&stdin, OptionalActions::Now, &raw).is_ok();
        Self(is_raw.then_some(cooked))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        if let Some(cooked) = &self.0 {
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, cooked);
        }
    }
}
