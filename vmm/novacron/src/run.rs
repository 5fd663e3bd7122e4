//! `novacron run` and `novacron restore`: a new machine, its console on this terminal.

use std::path::{Path, PathBuf};

use clap::Args;
use control::Client;
use control::api::{
    Boot, CreateMachine, Machine, MachineName, MachineSpec, Operation, RestartPolicy,
    RestoreSnapshot,
};
use machine::{CpuCount, Host, MachineConfig, MemoryLayout};

use crate::Failure;
use crate::attach::{Left, OnSignal, attach, conclude};
use crate::cli::Shape;
use crate::connect::{connect_or_start, name_file, name_in_folder};
use crate::globals::Globals;
use crate::progress::Progress;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    novacron run oracle --memory 512M --cpus 2\n  \
    novacron run linux --kernel bzImage --initrd initrd.img --cmdline 'console=ttyS0' --memory 1G\n  \
    novacron run web --kernel bzImage --detach --restart on-failure\n\n\
    A daemon is started if there is none. On a terminal, Ctrl-] leaves the console, and the machine runs on;\n\
    SIGTERM or SIGINT presses the guest's power button, and a second one ends the machine.")]
pub(crate) struct RunOptions {
    /// The machine's name
    pub(crate) name: MachineName,
    /// The kernel: a vmlinux (ELF) or bzImage; without it the oracle guest runs
    #[arg(long, value_name = "FILE")]
    pub(crate) kernel: Option<PathBuf>,
    /// The initial RAM disk
    #[arg(long, value_name = "FILE", requires = "kernel")]
    pub(crate) initrd: Option<PathBuf>,
    /// The guest's command line
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub(crate) cmdline: String,
    #[command(flatten)]
    pub(crate) how: How,
    #[command(flatten)]
    pub(crate) shape: Shape,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    novacron restore oracle.nova --name copy\n  \
    novacron restore oracle.nova --name copy --lazy --detach\n\n\
    The file is not changed: each restore of it is another machine, which starts where it was saved.")]
pub(crate) struct RestoreOptions {
    /// The file that it was saved to
    pub(crate) file: PathBuf,
    /// The new machine's name
    #[arg(long)]
    pub(crate) name: MachineName,
    /// Run at once, and fetch memory as it is touched
    #[arg(long)]
    pub(crate) lazy: bool,
    /// The file of the 32 bytes under which it is encrypted
    #[arg(long, value_name = "FILE")]
    pub(crate) key: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) how: How,
}

/// What becomes of the machine, and of this process.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct How {
    /// Start it, and leave it alone
    #[arg(long, short)]
    pub(crate) detach: bool,
    /// Delete the machine when its guest has ended
    #[arg(long, conflicts_with = "detach")]
    pub(crate) rm: bool,
    /// What is done when its guest ends: never, on-failure or always start it again
    #[arg(long, value_name = "POLICY", default_value = "never", value_parser = restart_policy)]
    pub(crate) restart: RestartPolicy,
}

fn restart_policy(text: &str) -> Result<RestartPolicy, String> {
    match text {
        "never" => Ok(RestartPolicy::Never),
        "on-failure" => Ok(RestartPolicy::OnFailure),
        "always" => Ok(RestartPolicy::Always),
        _ => Err("write never, on-failure or always".to_owned()),
    }
}

pub(crate) fn run(options: &RunOptions, globals: &Globals) -> Result<(), Failure> {
    let Shape { cpus, cpu, memory, hole_start, dirty_log } = options.shape;
    // Before anything is made: the commonest mistakes are said in this command's own words.
    config(options.shape)?;
    check_host(options.shape)?;
    for (option, path) in [("--kernel", &options.kernel), ("--initrd", &options.initrd)] {
        path.as_deref().map_or(Ok(()), |path| check_image(option, path))?;
    }
    let client = connect_or_start(globals)?;
    let boot = match &options.kernel {
        Some(kernel) => Boot::Kernel {
            kernel: name_file(&client, "--kernel", kernel)?,
            initrd: options
                .initrd
                .as_deref()
                .map(|initrd| name_file(&client, "--initrd", initrd))
                .transpose()?,
            command_line: options.cmdline.clone(),
        },
        None => Boot::Oracle { options: options.cmdline.clone() },
    };
    let spec = MachineSpec {
        cpus,
        cpu: cpu.to_string(),
        memory_bytes: memory.0,
        hole_start_bytes: hole_start.0,
        dirty_log: dirty_log.to_string(),
        boot,
        restart: options.how.restart,
    };
    let create = CreateMachine { name: options.name.clone(), spec };
    client.post::<Machine>("/v1/machines", &create)?;
    let start: Result<Operation, _> =
        client.post(&format!("/v1/machines/{}/start", options.name), &());
    let started = start.map_err(Failure::from).and_then(|operation| wait(&client, operation));
    see(&client, globals, &options.name, options.how, started)
}

pub(crate) fn restore(options: &RestoreOptions, globals: &Globals) -> Result<(), Failure> {
    check_image("the snapshot", &options.file)?;
    Host::open()?;
    let client = connect_or_start(globals)?;
    let request = RestoreSnapshot {
        file: name_in_folder(&client, "the snapshot", &options.file)?,
        name: options.name.clone(),
        key_file: options.key.as_deref().map(|key| name_file(&client, "--key", key)).transpose()?,
        lazy: options.lazy,
        restart: options.how.restart,
    };
    let operation: Operation = client.post("/v1/snapshots/restore", &request)?;
    let started = wait(&client, operation);
    see(&client, globals, &options.name, options.how, started)
}

fn wait(client: &Client, operation: Operation) -> Result<(), Failure> {
    let mut progress = Progress::new("starting");
    client.wait(operation, &mut |operation| progress.show(operation))?;
    Ok(())
}

/// Follows a machine that was started, as far as that was asked for.
fn see(
    client: &Client,
    globals: &Globals,
    name: &MachineName,
    how: How,
    started: Result<(), Failure>,
) -> Result<(), Failure> {
    let path = format!("/v1/machines/{name}");
    if let Err(failure) = started {
        // It never ran: nothing of it is worth keeping, and its name is free for the next try.
        let _ = client.delete(&path);
        return Err(failure);
    }
    if how.detach {
        println!("{name}");
        return Ok(());
    }
    let left = attach(client, globals, name, OnSignal::Stop)?;
    if how.rm && matches!(left, Left::Ended(_)) {
        client.delete(&path)?;
    }
    conclude(left, name)
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

fn check_image(option: &str, path: &Path) -> Result<(), Failure> {
    let wrong = |why: String| {
        Failure::Other(format!("{option} {}: {why}; is the path right?", path.display()))
    };
    let metadata = path.metadata().map_err(|error| wrong(error.to_string()))?;
    if metadata.is_dir() {
        return Err(wrong(std::io::Error::from(std::io::ErrorKind::IsADirectory).to_string()));
    }
    Ok(())
}
