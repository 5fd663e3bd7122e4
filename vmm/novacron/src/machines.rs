//! The verbs about machines.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use control::api::{
    HandOver, HandOverForm, HandOverOutcome, Machine, MachineName, MachineState, Operation,
    SnapshotOutcome, Stop, TakeSnapshot, Timestamp,
};
use control::{Client, Size, TimeSpan};

use crate::Failure;
use crate::attach::{OnSignal, attach, conclude};
use crate::cli::OutputForm;
use crate::connect::{connect, name_file, name_in_folder};
use crate::globals::Globals;
use crate::output::{plain, print, print_json};
use crate::progress::Progress;
use crate::table::Table;
use crate::top::whole_bytes;

/// A verb that needs a machine's name and nothing else.
#[derive(Debug, Args)]
pub(crate) struct NameOption {
    /// The machine's name
    pub(crate) name: MachineName,
}

#[derive(Debug, Args)]
pub(crate) struct ListOptions {
    /// For people or for programs
    #[arg(long, value_name = "FORM", default_value = "text")]
    pub(crate) output: OutputForm,
}

#[derive(Debug, Args)]
pub(crate) struct ShowOptions {
    /// The machine's name
    pub(crate) name: MachineName,
    /// For people or for programs
    #[arg(long, value_name = "FORM", default_value = "text")]
    pub(crate) output: OutputForm,
}

#[derive(Debug, Args)]
pub(crate) struct StopOptions {
    /// The machine's name
    pub(crate) name: MachineName,
    /// How long the guest has to switch itself off; the daemon's machines.stop_timeout if not given
    #[arg(long, value_name = "TIME")]
    pub(crate) timeout: Option<TimeSpan>,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    novacron snapshot web web-1.nova\n  \
    novacron snapshot web web-2.nova --base web-1.nova       only what differs\n  \
    head -c 32 /dev/urandom > key; novacron snapshot web web.nova --key key")]
pub(crate) struct SnapshotOptions {
    /// The machine's name
    pub(crate) name: MachineName,
    /// The new file; nothing is overwritten
    pub(crate) file: PathBuf,
    /// Write only what differs from this earlier file of the machine, in the same folder
    #[arg(long, value_name = "FILE")]
    pub(crate) base: Option<PathBuf>,
    /// Encrypt it under the 32 bytes in this file
    #[arg(long, value_name = "FILE")]
    pub(crate) key: Option<PathBuf>,
    /// For people or for programs
    #[arg(long, value_name = "FORM", default_value = "text")]
    pub(crate) output: OutputForm,
}

#[derive(Debug, Args)]
pub(crate) struct HandOverOptions {
    /// The machine's name
    pub(crate) name: MachineName,
    /// Copy its memory page by page, as a migration does, instead of sharing it
    #[arg(long)]
    pub(crate) copying: bool,
    /// For people or for programs
    #[arg(long, value_name = "FORM", default_value = "text")]
    pub(crate) output: OutputForm,
}

pub(crate) fn list(options: &ListOptions, globals: &Globals) -> Result<(), Failure> {
    let machines: Vec<Machine> = connect(globals)?.get("/v1/machines")?;
    if options.output == OutputForm::Json {
        return print_json(&machines);
    }
    let mut table = Table::new(&["NAME", "STATE", "CPUS", "MEMORY", "UP", "PROCESS", "LATELY"]);
    for machine in &machines {
        table.row(vec![
            machine.name.to_string(),
            machine.state.name().to_owned(),
            machine.spec.cpus.to_string(),
            Size(machine.spec.memory_bytes).to_string(),
            up(machine),
            machine.process_id.map_or_else(String::new, |id| id.to_string()),
            lately(machine),
        ]);
    }
    print(&table.to_string())
}

/// Where it has gone, or how its guest ended, if it is not here.
fn lately(machine: &Machine) -> String {
    let host = machine.peer.as_deref().map(plain);
    match (machine.state, host) {
        (MachineState::Moved, Some(host)) => format!("went to {host}"),
        (MachineState::Arriving, Some(host)) => format!("comes from {host}"),
        (MachineState::InDoubt, Some(host)) => format!("may run on {host}"),
        _ if machine.process_id.is_some() => String::new(),
        _ => machine.ended.as_ref().map_or_else(String::new, |ended| ended.how.clone()),
    }
}

/// How long it runs.
fn up(machine: &Machine) -> String {
    let started_at = machine.started_at;
    started_at.map_or_else(String::new, |at| age(at.seconds_until(Timestamp::now())))
}

/// So many seconds in the unit that says most.
pub(crate) fn age(seconds: u64) -> String {
    match seconds {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds @ 7200..172_800 => format!("{} h", seconds / 3600),
        seconds => format!("{} d", seconds / 86_400),
    }
}

pub(crate) fn show(options: &ShowOptions, globals: &Globals) -> Result<(), Failure> {
    let machine: Machine = connect(globals)?.get(&path(&options.name, ""))?;
    if options.output == OutputForm::Json {
        return print_json(&machine);
    }
    let mut table = Table::new(&["name", machine.name.as_str()]);
    let mut row = |name: &str, value: String| table.row(vec![name.to_owned(), value]);
    row("id", machine.id.clone());
    row("state", machine.state.name().to_owned());
    row("cpus", format!("{} ({})", machine.spec.cpus, machine.spec.cpu));
    row("memory", Size(machine.spec.memory_bytes).to_string());
    row("boots", boots(&machine));
    row("restart", word(&machine.spec.restart));
    row("created", machine.created_at.to_string());
    if let Some(started_at) = machine.started_at {
        row("started", started_at.to_string());
    }
    if let Some(process) = machine.process_id {
        row("process", process.to_string());
    }
    if machine.restarts > 0 {
        row("restarts", machine.restarts.to_string());
    }
    if let Some(ended) = &machine.ended {
        row("ended", format!("{} ({})", ended.how, ended.at));
    }
    if let Some(operation) = &machine.operation {
        row("operation", operation.clone());
    }
    if let Some(peer) = &machine.peer {
        row("peer", peer.clone());
    }
    if let Some(kept) = &machine.kept {
        row("kept", format!("{} of its memory, since {}", whole_bytes(kept.bytes), kept.made_at));
    }
    print(&table.to_string())
}

/// What it boots, in words.
pub(crate) fn boots(machine: &Machine) -> String {
    use control::api::Boot;
    match &machine.spec.boot {
        Boot::Oracle { options } => format!("the oracle guest {options}").trim_end().to_owned(),
        Boot::Kernel { kernel, initrd: None, command_line } => format!("{kernel} '{command_line}'"),
        Boot::Kernel { kernel, initrd: Some(initrd), command_line } => {
            format!("{kernel} {initrd} '{command_line}'")
        }
        Boot::Snapshot { file, .. } => format!("the snapshot {file}"),
    }
}

/// A word of the API.
pub(crate) fn word(value: &impl serde::Serialize) -> String {
    let json = serde_json::to_value(value).unwrap_or_default();
    json.as_str().unwrap_or_default().to_owned()
}

pub(crate) fn console(options: &NameOption, globals: &Globals) -> Result<(), Failure> {
    let client = connect(globals)?;
    let left = attach(&client, globals, &options.name, OnSignal::Detach)?;
    conclude(left, &options.name)
}

pub(crate) fn logs(options: &NameOption, globals: &Globals) -> Result<(), Failure> {
    let text = connect(globals)?.get_bytes(&path(&options.name, "/log"))?;
    let mut output = std::io::stdout().lock();
    // Who reads no more has seen enough.
    let _ = output.write_all(&text).and_then(|()| output.flush());
    Ok(())
}

pub(crate) fn start(options: &NameOption, globals: &Globals) -> Result<(), Failure> {
    let client = connect(globals)?;
    let operation = client.post(&path(&options.name, "/start"), &())?;
    wait(&client, operation, "starting").map(drop)
}

pub(crate) fn stop(options: &StopOptions, globals: &Globals) -> Result<(), Failure> {
    let client = connect(globals)?;
    let timeout = options.timeout.map(|time| time.duration().as_millis());
    let timeout_ms = timeout.map(|ms| u64::try_from(ms).unwrap_or(u64::MAX));
    let operation = client.post(&path(&options.name, "/stop"), &Stop { timeout_ms })?;
    wait(&client, operation, "stopping").map(drop)
}

/// What is done at once.
pub(crate) fn quick(options: &NameOption, verb: &str, globals: &Globals) -> Result<(), Failure> {
    let _: Machine = connect(globals)?.post(&path(&options.name, &format!("/{verb}")), &())?;
    Ok(())
}

pub(crate) fn delete(options: &NameOption, globals: &Globals) -> Result<(), Failure> {
    Ok(connect(globals)?.delete(&path(&options.name, ""))?)
}

pub(crate) fn snapshot(options: &SnapshotOptions, globals: &Globals) -> Result<(), Failure> {
    let client = connect(globals)?;
    let base = options.base.as_deref().map(|base| name_in_folder(&client, "--base", base));
    let key = options.key.as_deref().map(|key| name_file(&client, "--key", key));
    let request = TakeSnapshot {
        file: name_in_folder(&client, "the snapshot", &options.file)?,
        base: base.transpose()?,
        key_file: key.transpose()?,
    };
    let operation = client.post(&path(&options.name, "/snapshot"), &request)?;
    let operation = wait(&client, operation, "saving")?;
    if options.output == OutputForm::Json {
        return print_json(&operation);
    }
    if let Some(outcome) = &operation.snapshot {
        println!("{}", saved(&options.file, outcome));
    }
    Ok(())
}

fn saved(file: &Path, outcome: &SnapshotOutcome) -> String {
    let SnapshotOutcome { bytes, paused_ns, total_ns, .. } = outcome;
    format!(
        "saved to {}: {} MiB in {:.2} s, the guest stood still for {}",
        file.display(),
        bytes >> 20,
        std::time::Duration::from_nanos(*total_ns).as_secs_f64(),
        milliseconds(*paused_ns)
    )
}

pub(crate) fn hand_over(options: &HandOverOptions, globals: &Globals) -> Result<(), Failure> {
    let client = connect(globals)?;
    let form = if options.copying { HandOverForm::Copying } else { HandOverForm::Shared };
    let operation = client.post(&path(&options.name, "/handover"), &HandOver { form })?;
    let operation = wait(&client, operation, "handing over")?;
    if options.output == OutputForm::Json {
        return print_json(&operation);
    }
    if let Some(HandOverOutcome { blackout_ns, causes, .. }) = &operation.hand_over {
        let causes = causes.iter().map(|(name, ns)| format!("{name} {}", milliseconds(*ns)));
        println!("blackout {}", milliseconds(*blackout_ns));
        println!("  {}", causes.collect::<Vec<_>>().join(", "));
    }
    Ok(())
}

/// As people read times.
pub(crate) fn milliseconds(ns: u64) -> String {
    format!("{}.{:02} ms", ns / 1_000_000, ns % 1_000_000 / 10_000)
}

fn wait(client: &Client, operation: Operation, doing: &'static str) -> Result<Operation, Failure> {
    let mut progress = Progress::new(doing);
    Ok(client.wait(operation, &mut |operation| progress.show(operation))?)
}

fn path(name: &MachineName, rest: &str) -> String {
    format!("/v1/machines/{name}{rest}")
}
