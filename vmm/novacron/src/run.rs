//! `novacron run`: one machine in the foreground, its console on this terminal.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use machine::{
    CpuCount, DirtyLogKind, Executable, Host, Images, MachineConfig, MemoryLayout, Supervised,
};

use crate::Failure;
use crate::cli::{RunOptions, Shape};
use crate::foreground::{self, Suspend};
use crate::log::LogOptions;

pub(crate) fn run(options: &RunOptions, log: &LogOptions) -> Result<(), Failure> {
    let config = config(options.shape)?;
    let suspend = Suspend::new(&options.suspend, options.key.as_deref())?;
    check_host(options.shape)?;
    let images = match &options.kernel {
        Some(kernel) => images(kernel, options.initrd.as_deref(), &options.cmdline)?,
        None => oracle_images(options.shape.cpus, &options.cmdline)?,
    };
    tracing::info!(name = options.name, "boot");
    let (machine, console) = boot(config, options.shape.dirty_log, &images, log)?;
    // The oracle has no driver for a power button.
    foreground::attend(machine, console, options.kernel.is_some(), suspend.as_ref())
}

/// Boots a machine whose process is this very executable in another role.
pub(crate) fn boot(
    config: MachineConfig,
    dirty_log: DirtyLogKind,
    images: &Images,
    log: &LogOptions,
) -> Result<(Supervised, UnixStream), Failure> {
    with_executable(dirty_log, log, |executable| {
        Ok(Supervised::boot(executable, &std::env::temp_dir(), config, images)?)
    })
}

/// Runs `with` on this very executable: it has every role.
pub(crate) fn with_executable<T>(
    dirty_log: DirtyLogKind,
    log: &LogOptions,
    with: impl FnOnce(Executable<'_>) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let path = std::env::current_exe().map_err(Failure::other("the path of this executable"))?;
    let environment = log.environment();
    with(Executable { path: &path, environment: &environment, dirty_log })
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
