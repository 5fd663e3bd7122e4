//! P8: from the start of a machine process to the guest's first byte, beside the bare ioctls and
//! QEMU's microvm, by turns in one run.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use benches::{
    BareStart, Executable, FileSystem, Qemu, Samples, Scheduled, Setting, Shape, Stop, Summary,
    Supervisor, Table, Verdict, finish, milliseconds, ratio, read_hello, show, start_bare,
    wait_until_it_answers,
};
use clap::Parser;
use serde::Serialize;

/// P8's targets: so much above the bare ioctls, and so much of QEMU.
const ABOVE_BARE_NS: u64 = 5_000_000;
const OF_QEMU: f64 = 0.15;
const MEMORY_MIB: u64 = 512;

/// Starts the oracle guest in three ways by turns, to its first byte
#[derive(Debug, Parser)]
struct Options {
    /// Starts in each way
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    times: u32,
    /// Where the permit record is written; without it, beside this program
    #[arg(long, value_name = "DIRECTORY")]
    record: Option<PathBuf>,
    /// Figures as JSON, in nanoseconds
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Outcome {
    setting: Setting,
    record: FileSystem,
    /// `novacron machine`, from its spawn.
    machine: Summary,
    /// Of that, its threads on a processor.
    ran: Summary,
    /// Of that, its threads ready to run and waiting for a processor: others' load.
    waited: Summary,
    /// A process without a guest: from its spawn until it answers an order.
    process: Summary,
    /// The bare ioctls in this process.
    bare: Summary,
    bare_parts: Vec<(&'static str, Summary)>,
    /// QEMU's microvm, from its spawn; `None` where there is no QEMU.
    qemu: Option<Summary>,
    qemu_version: Option<String>,
    verdicts: Vec<Verdict>,
}

#[derive(Debug, Default)]
struct Observed {
    machine: Vec<u64>,
    scheduled: Vec<Scheduled>,
    process: Vec<u64>,
    bare: Vec<BareStart>,
    qemu: Vec<u64>,
}

fn main() -> ExitCode {
    finish(run(&Options::parse()))
}

fn run(options: &Options) -> Result<(), Stop> {
    let executable = Executable::find()?;
    let directory = executable.folder_or(options.record.as_deref());
    let record = FileSystem::of(&directory)?;
    let qemu = match Qemu::find(firmware::ORACLE) {
        Ok(qemu) => Some(qemu),
        Err(Stop::Skipped(why)) => {
            eprintln!("the rows of QEMU are skipped: {why}");
            None
        }
        Err(stop) => return Err(stop),
    };
    let setting = Setting::now(executable.version());
    let supervisor = Supervisor::new(&executable, &directory);
    // Once without a clock: what is read from disk then is not read again.
    measure(&supervisor, qemu.as_ref(), &mut Observed::default())?;
    let mut observed = Observed::default();
    for _ in 0..options.times {
        measure(&supervisor, qemu.as_ref(), &mut observed)?;
    }
    let mut outcome = summarise(setting, record, qemu.as_ref(), &observed)?;
    outcome.setting.end();
    show(&outcome, options.json, print)
}

/// One start in each way.
fn measure(
    supervisor: &Supervisor,
    qemu: Option<&Qemu>,
    observed: &mut Observed,
) -> Result<(), Stop> {
    let (took_ns, scheduled) = start_machine(supervisor)?;
    observed.machine.push(took_ns);
    observed.scheduled.push(scheduled);
    observed.bare.push(start_bare(firmware::ORACLE, MEMORY_MIB << 20)?);
    if let Some(qemu) = qemu {
        observed.qemu.push(qemu.start_ns(MEMORY_MIB)?);
    }
    let spawned = Instant::now();
    let process = supervisor.start()?;
    wait_until_it_answers(&process)?;
    observed.process.push(nanoseconds(spawned.elapsed()));
    Ok(())
}

fn start_machine(supervisor: &Supervisor) -> Result<(u64, Scheduled), Stop> {
    let shape =
        Shape { cpus: 1, memory: MEMORY_MIB << 20, hole_start: machine::DEFAULT_HOLE_START };
    let launched = supervisor.launch(shape, "")?;
    let process_id = launched.machine.process_id();
    let first_byte = read_hello(&launched.console, || Scheduled::of(process_id));
    // A machine that did not start says why here.
    launched.machine.wait_until_running()?;
    let (came, scheduled) = first_byte?;
    launched.machine.stop()?;
    Ok((nanoseconds(came - launched.spawned), scheduled?))
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn summarise(
    setting: Setting,
    record: FileSystem,
    qemu: Option<&Qemu>,
    observed: &Observed,
) -> Result<Outcome, Stop> {
    let names = observed.bare.iter().flat_map(|bare| &bare.parts).map(|(name, _)| *name);
    let count = observed.bare.first().map_or(0, |bare| bare.parts.len());
    let of_part = |(index, name): (usize, _)| {
        let values = observed.bare.iter().map(|bare| bare.parts[index].1);
        Ok((name, summary(values.collect())?))
    };
    let bare_parts = names.take(count).enumerate().map(of_part).collect::<Result<_, Stop>>()?;
    let machine = summary(observed.machine.clone())?;
    let bare = summary(observed.bare.iter().map(BareStart::total_ns).collect())?;
    let qemu_ns = qemu.map(|_| summary(observed.qemu.clone())).transpose()?;
    Ok(Outcome {
        setting,
        record,
        machine,
        ran: summary(observed.scheduled.iter().map(|times| times.ran_ns).collect())?,
        waited: summary(observed.scheduled.iter().map(|times| times.waited_ns).collect())?,
        process: summary(observed.process.clone())?,
        bare,
        bare_parts,
        qemu: qemu_ns,
        qemu_version: qemu.map(|qemu| qemu.version().to_owned()),
        verdicts: verdicts(machine, bare, qemu_ns),
    })
}

fn summary(values: Vec<u64>) -> Result<Summary, Stop> {
    let samples = Samples::new(values);
    Ok(samples.ok_or_else(|| Stop::Failed("nothing was measured".into()))?.summary())
}

fn verdicts(machine: Summary, bare: Summary, qemu: Option<Summary>) -> Vec<Verdict> {
    let above_bare = machine.p50.saturating_sub(bare.p50);
    let mut verdicts = vec![Verdict {
        what: "P8, above the bare ioctls, medians:".into(),
        found: format!("{} ms", milliseconds(above_bare)),
        target: format!("{} ms", milliseconds(ABOVE_BARE_NS)),
        is_met: above_bare <= ABOVE_BARE_NS,
    }];
    verdicts.extend(qemu.map(|qemu| {
        let share = ratio(machine.p50, qemu.p50);
        Verdict {
            what: "P8, against QEMU microvm, medians:".into(),
            found: format!("{share:.3} x"),
            target: format!("{OF_QEMU:.3} x"),
            is_met: share <= OF_QEMU,
        }
    }));
    verdicts
}

fn print(outcome: &Outcome) {
    println!("{}", outcome.setting);
    println!(
        "permit record: {}; peer: {}",
        outcome.record,
        outcome.qemu_version.as_deref().unwrap_or("none")
    );
    println!(
        "oracle, 1 vCPU, {MEMORY_MIB} MiB, {} starts in each way by turns, milliseconds\n",
        outcome.machine.count
    );
    let mut table =
        Table::new(&["to the guest's first byte", "min", "p50", "max", "x bare", "x QEMU"]);
    let mut row = |name: &str, ns: &Summary| {
        let of = |other: Option<Summary>| {
            other.map_or_else(|| "-".into(), |other| format!("{:.3}", ratio(ns.p50, other.p50)))
        };
        table.row([
            name.to_owned(),
            milliseconds(ns.min),
            milliseconds(ns.p50),
            milliseconds(ns.max),
            of(Some(outcome.bare)),
            of(outcome.qemu),
        ]);
    };
    row("novacron machine, from its spawn", &outcome.machine);
    row("  its threads on a processor", &outcome.ran);
    row("  its threads waiting for one", &outcome.waited);
    row("a process without a guest", &outcome.process);
    row("bare ioctls, in this process", &outcome.bare);
    for (name, ns) in &outcome.bare_parts {
        row(&format!("  {name}"), ns);
    }
    if let Some(qemu) = &outcome.qemu {
        row("QEMU microvm, from its spawn", qemu);
    }
    println!("{table}");
    for verdict in &outcome.verdicts {
        println!("{verdict}");
    }
}
