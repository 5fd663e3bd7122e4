//! The verbs that look at the daemon, and the one that ends it.

use clap::Args;
use control::api::{ChangeMove, Event, EventKind, Health, HealthState, Info, Operation, Shutdown};
use control::{CallError, Size};

use crate::Failure;
use crate::cli::OutputForm;
use crate::connect::connect;
use crate::globals::Globals;
use crate::migrate::{report_of, together};
use crate::output::{print, print_json};
use crate::table::Table;
use crate::top::whole_bytes;

#[derive(Debug, Args)]
pub(crate) struct OutputOption {
    /// For people or for programs
    #[arg(long, value_name = "FORM", default_value = "text")]
    pub(crate) output: OutputForm,
}

#[derive(Debug, Args)]
pub(crate) struct EventsOptions {
    /// Begin behind the event with this id
    #[arg(long, value_name = "ID")]
    pub(crate) after: Option<String>,
    /// For people or for programs, one JSON value a line
    #[arg(long, value_name = "FORM", default_value = "text")]
    pub(crate) output: OutputForm,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    novacron operation                                        all of them\n  \
    novacron operation 17 --set max-downtime=2s               let the guest of a move stand still for longer\n  \
    novacron operation 17 --set throttle=80% --set cpu=0.5    slow it down, and take less of the host's processors\n  \
    novacron operation 17 --set bandwidth=none                send as fast as the link takes it\n  \
    novacron operation 17 --cancel")]
pub(crate) struct OperationOptions {
    /// Its id; without it, all are shown
    pub(crate) id: Option<String>,
    /// Ask it to end, and to leave everything as it was
    #[arg(long, requires = "id")]
    pub(crate) cancel: bool,
    /// Give a move that is under way another limit, as `novacron migrate` has it: max-downtime, timeout, bandwidth,
    /// throttle, cpu; the last three can be none
    #[arg(long, value_name = "LIMIT=VALUE", requires = "id", conflicts_with = "cancel")]
    #[arg(value_parser = crate::migrate::change)]
    pub(crate) set: Vec<ChangeMove>,
    /// For people or for programs
    #[arg(long, value_name = "FORM", default_value = "text")]
    pub(crate) output: OutputForm,
}

#[derive(Debug, Args)]
pub(crate) struct ShutdownOptions {
    /// Stop every machine first
    #[arg(long)]
    pub(crate) stop_machines: bool,
}

pub(crate) fn events(options: &EventsOptions, globals: &Globals) -> Result<(), Failure> {
    let client = connect(globals)?;
    let mut events = client.events(options.after.as_deref())?;
    while let Some(event) = events.next_event()? {
        match options.output {
            OutputForm::Json => {
                let text = serde_json::to_string(&event);
                print(&(text.map_err(|error| Failure::Other(error.to_string()))? + "\n"))?;
            }
            OutputForm::Text => print(&(line(&event) + "\n"))?,
        }
    }
    Err(Failure::Other("the daemon has ended the events".to_owned()))
}

/// An event on one line.
fn line(event: &Event) -> String {
    format!("{}  {}", event.at, what_happened(&event.kind))
}

/// An event in words.
pub(crate) fn what_happened(event: &EventKind) -> String {
    match event {
        EventKind::DaemonStarted { adopted } => {
            format!("the daemon has started, and found {adopted} machines alive")
        }
        EventKind::MachineCreated { machine } => format!("{machine} was made"),
        EventKind::MachineDeleted { machine } => format!("{machine} was deleted"),
        EventKind::MachineState { machine, state, ended } => match ended {
            Some(ended) => format!("{machine} is {}: {}", state.name(), ended.how),
            None => format!("{machine} is {}", state.name()),
        },
        EventKind::OperationBegan { operation } => began(operation),
        EventKind::OperationEnded { operation } => ended(operation),
        EventKind::Gap {} => "something was missed: look at everything anew".to_owned(),
    }
}

fn began(operation: &Operation) -> String {
    format!("operation {} has begun: {}{}", operation.id, operation.method, on(operation))
}

fn ended(operation: &Operation) -> String {
    let how = match &operation.error {
        None => "done".to_owned(),
        Some(error) => error.to_string(),
    };
    format!("operation {} has ended: {}{}: {how}", operation.id, operation.method, on(operation))
}

fn on(operation: &Operation) -> String {
    operation.machine.as_ref().map_or_else(String::new, |machine| format!(" {machine}"))
}

pub(crate) fn operation(options: &OperationOptions, globals: &Globals) -> Result<(), Failure> {
    let client = connect(globals)?;
    let operations = match (&options.id, options.cancel) {
        (None, _) => client.get::<Vec<Operation>>("/v1/operations")?,
        (Some(id), false) if !options.set.is_empty() => {
            vec![client.patch(&format!("/v1/operations/{id}"), &together(&options.set))?]
        }
        (Some(id), true) => vec![client.post(&format!("/v1/operations/{id}/cancel"), &())?],
        (Some(id), false) => vec![client.get(&format!("/v1/operations/{id}"))?],
    };
    match (options.output, &options.id) {
        (OutputForm::Json, None) => return print_json(&operations),
        (OutputForm::Json, Some(_)) => return print_json(&operations[0]),
        (OutputForm::Text, _) => {}
    }
    // Of all operations at once, only what they have in common is shown.
    let moved = options.id.as_ref().and_then(|_| operations[0].migration.clone());
    let mut table = Table::new(&["ID", "METHOD", "MACHINE", "STATE", "BEGAN", "ERROR"]);
    for operation in operations {
        table.row(vec![
            operation.id,
            operation.method,
            operation.machine.map_or_else(String::new, |machine| machine.to_string()),
            format!("{:?}", operation.state).to_lowercase(),
            operation.began_at.to_string(),
            operation.error.map_or_else(String::new, |error| error.to_string()),
        ]);
    }
    let report =
        moved.map_or_else(String::new, |moved| format!("\n{}", report_of(&client, &moved)));
    print(&format!("{table}{report}"))
}

pub(crate) fn health(options: &OutputOption, globals: &Globals) -> Result<(), Failure> {
    let health: Health = connect(globals)?.get("/v1/health")?;
    match options.output {
        OutputForm::Json => print_json(&health)?,
        OutputForm::Text => {
            let mut table = Table::new(&["CHECK", "STATE", "FOUND"]);
            for check in &health.checks {
                let state = format!("{:?}", check.state).to_lowercase();
                table.row(vec![check.name.clone(), state, check.message.clone()]);
            }
            print(&table.to_string())?;
        }
    }
    match health.state {
        HealthState::Ready => Ok(()),
        state => {
            Err(Failure::Other(format!("the daemon is {}", format!("{state:?}").to_lowercase())))
        }
    }
}

pub(crate) fn info(options: &OutputOption, globals: &Globals) -> Result<(), Failure> {
    let info: Info = connect(globals)?.get("/v1/info")?;
    if options.output == OutputForm::Json {
        return print_json(&info);
    }
    let mut table = Table::new(&["version", &info.version]);
    let mut row = |name: &str, value: String| table.row(vec![name.to_owned(), value]);
    row("process", info.process_id.to_string());
    row("started", info.started_at.to_string());
    row("kernel", info.kernel);
    row("processor", format!("{} x {}", info.processors, info.processor));
    let free = Size(info.memory_available_bytes >> 20 << 20);
    row("memory", format!("{}, {free} available", Size(info.memory_bytes >> 20 << 20)));
    row("CPU models", info.cpu_models.join(", "));
    row("files in", info.folders.join(", "));
    row("key", info.host_key);
    let listens: Vec<_> = info.peers_listen.into_iter().collect();
    row("listens for hosts", if listens.is_empty() { "no".to_owned() } else { listens.join(", ") });
    let (kept, most) = (whole_bytes(info.kept_bytes), whole_bytes(info.kept_bytes_max));
    let kept = match info.kept_bytes_max {
        0 => "nothing".to_owned(),
        _ => format!("{kept} of {most}, of the memory of machines that have left"),
    };
    row("keeps", kept);
    row("your role", info.role);
    let machines = info.machines.iter().filter(|(_, count)| **count > 0);
    let machines: Vec<_> = machines.map(|(state, count)| format!("{count} {state}")).collect();
    row("machines", if machines.is_empty() { "none".to_owned() } else { machines.join(", ") });
    print(&table.to_string())
}

pub(crate) fn shutdown(options: &ShutdownOptions, globals: &Globals) -> Result<(), Failure> {
    let client = connect(globals)?;
    client.post_for_nothing("/v1/shutdown", &Shutdown { stop_machines: options.stop_machines })?;
    // It is gone when nobody answers any more.
    loop {
        match client.get::<Info>("/v1/info") {
            Ok(_) => std::thread::sleep(std::time::Duration::from_millis(20)),
            Err(CallError::NoDaemon { .. } | CallError::Broken { .. }) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}
