//! P13: how long a guest stands still while it is handed to a new process, by cause, and what the
//! guest itself saw of it.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use benches::{
    Executable, FileSystem, Guest, Machine, Samples, Setting, Shape, Stop, Summary, Supervisor,
    Table, Verdict, finish, milliseconds, show,
};
use clap::Parser;
use machine::{Cause, DirtyLogKind, Form, HandOverReport};
use serde::Serialize;

/// P13's target, shared form.
const TARGET_NS: u64 = 5_000_000;
const CAUSES: [Cause; 10] = [
    Cause::Pause,
    Cause::Drain,
    Cause::State,
    Cause::Harvest,
    Cause::Copy,
    Cause::Wire,
    Cause::Digest,
    Cause::Restore,
    Cause::Record,
    Cause::Resume,
];
/// How long the guest is watched before the first hand-over.
const WARM_UP: Duration = Duration::from_secs(2);
/// Reports of the guest after a hand-over: the first may have been written before it.
const REPORTS_AFTER: usize = 2;

/// Hands a running guest to new processes, in both forms by turns
#[derive(Debug, Parser)]
struct Options {
    /// Hand-overs in each form
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    times: u32,
    /// Pages that each vCPU writes a second; 0 is as many as it can
    #[arg(long, value_name = "PAGES", default_value_t = 10_000)]
    rate: u64,
    /// Numbers of vCPUs, one guest each
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [2, 1])]
    cpus: Vec<u32>,
    /// The dirty log of each process: bitmap, ring, or ring:N
    #[arg(long, value_name = "KIND", default_value_t)]
    dirty_log: DirtyLogKind,
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
    rate: u64,
    guests: Vec<GuestOutcome>,
    verdicts: Vec<Verdict>,
}

/// One guest, handed over many times.
#[derive(Debug, Serialize)]
struct GuestOutcome {
    cpus: u32,
    /// The longest jumps of the guest's clock without a hand-over, microseconds a report.
    gap_before_us: Summary,
    forms: Vec<FormOutcome>,
    pages_checked: u64,
}

/// All hand-overs of one guest in one form. Nanoseconds, where nothing else is said.
#[derive(Debug, Serialize)]
struct FormOutcome {
    form: Form,
    blackout: Summary,
    causes: Vec<(Cause, Summary)>,
    /// The longest jump of the guest's clock in the reports around each hand-over, microseconds.
    gap_us: Summary,
    /// From the first message to the guest running in its new process.
    total: Summary,
    /// Pages that were sent inside the blackout.
    pages_paused: Summary,
}

/// What is kept of each hand-over.
type Observed = (HandOverReport, u64);

fn main() -> ExitCode {
    finish(run(&Options::parse()))
}

fn run(options: &Options) -> Result<(), Stop> {
    let executable = Executable::find()?;
    let directory = executable.folder_or(options.record.as_deref());
    let mut outcome = Outcome {
        setting: Setting::now(executable.version()),
        record: FileSystem::of(&directory)?,
        rate: options.rate,
        guests: Vec::new(),
        verdicts: Vec::new(),
    };
    let supervisor = Supervisor::new(&executable, &directory).with_dirty_log(options.dirty_log);
    for &cpus in &options.cpus {
        outcome.guests.push(measure(&supervisor, cpus, options)?);
    }
    outcome.setting.end();
    outcome.verdicts = outcome.guests.iter().flat_map(verdict).collect();
    show(&outcome, options.json, print)
}

fn measure(supervisor: &Supervisor, cpus: u32, options: &Options) -> Result<GuestOutcome, Stop> {
    // RAM reaches over the hole: two slots.
    let shape = Shape { cpus, memory: 512 << 20, hole_start: 256 << 20 };
    let words = format!("pattern=random rate={} working_set=64M report=100", options.rate);
    let (mut machine, console) = supervisor.boot(shape, &words)?;
    let mut guest = Guest::new(console)?;
    guest.wait_until_ready()?;
    let before = guest.watch(WARM_UP)?;
    let mut shared = Vec::new();
    let mut copying = Vec::new();
    // By turns: what else this host does then befalls both alike.
    for _ in 0..options.times {
        shared.push(hand_over(&mut machine, &mut guest, Form::Shared)?);
        copying.push(hand_over(&mut machine, &mut guest, Form::Copying)?);
    }
    let verdict = guest.verdict()?;
    machine.stop()?;
    Ok(GuestOutcome {
        cpus,
        gap_before_us: summary(before.iter().map(|rounds| rounds.gap_us))?,
        forms: vec![of_form(Form::Shared, &shared)?, of_form(Form::Copying, &copying)?],
        pages_checked: verdict.checked,
    })
}

fn hand_over(machine: &mut Machine, guest: &mut Guest, form: Form) -> Result<Observed, Stop> {
    guest.gap_us(0)?;
    let report = machine.hand_over(form)?;
    let sum: u64 = report.blackout.parts().map(|(_, ns)| ns).sum();
    if sum != report.blackout.total_ns() {
        let why = format!("the causes sum to {sum} ns of {}", report.blackout.total_ns());
        return Err(Stop::Failed(why));
    }
    Ok((report, guest.gap_us(REPORTS_AFTER)?))
}

fn of_form(form: Form, observed: &[Observed]) -> Result<FormOutcome, Stop> {
    let reports = || observed.iter().map(|(report, _)| report);
    let of_cause = |cause| {
        let ns = |report: &HandOverReport| -> u64 {
            report.blackout.parts().filter(|part| part.0 == cause).map(|part| part.1).sum()
        };
        Ok((cause, summary(reports().map(ns))?))
    };
    Ok(FormOutcome {
        form,
        blackout: summary(reports().map(|report| report.blackout.total_ns()))?,
        causes: CAUSES.into_iter().map(of_cause).collect::<Result<_, Stop>>()?,
        gap_us: summary(observed.iter().map(|(_, gap_us)| *gap_us))?,
        total: summary(reports().map(|report| report.total_ns))?,
        pages_paused: summary(reports().map(|report| report.pages_sent_paused))?,
    })
}

fn summary(values: impl Iterator<Item = u64>) -> Result<Summary, Stop> {
    let samples = Samples::new(values.collect());
    Ok(samples.ok_or_else(|| Stop::Failed("nothing was measured".into()))?.summary())
}

fn verdict(guest: &GuestOutcome) -> Option<Verdict> {
    let shared = guest.forms.iter().find(|outcome| outcome.form == Form::Shared)?;
    Some(Verdict {
        what: format!("P13, {} vCPU, shared form, p50 of the blackout:", guest.cpus),
        found: format!("{} ms", milliseconds(shared.blackout.p50)),
        target: format!("{} ms", milliseconds(TARGET_NS)),
        is_met: shared.blackout.p50 <= TARGET_NS,
    })
}

fn print(outcome: &Outcome) {
    println!("{}", outcome.setting);
    println!("permit record: {}", outcome.record);
    if !outcome.record.is_storage() {
        println!("  that is no storage: writing the record costs nothing there; use --record");
    }
    for guest in &outcome.guests {
        let GuestOutcome { cpus, gap_before_us: before, .. } = guest;
        println!("\noracle, {cpus} vCPU, 512 MiB in two slots, {} pages/s a vCPU", outcome.rate);
        println!(
            "  its clock's longest jumps without a hand-over: p50 {} us, max {} us",
            before.p50, before.max
        );
        for form in &guest.forms {
            print_form(form);
        }
        println!("\n  verdict of the guest: ok, {} pages checked", guest.pages_checked);
    }
    println!();
    for verdict in &outcome.verdicts {
        println!("{verdict}");
    }
}

fn print_form(form: &FormOutcome) {
    let count = form.blackout.count;
    println!("\n{:?} form, {count} hand-overs, milliseconds", form.form);
    let mut table = Table::new(&["cause", "p50", "p99", "max"]);
    let mut row = |name: &str, ns: &Summary| {
        table.row([
            name.to_owned(),
            milliseconds(ns.p50),
            milliseconds(ns.p99),
            milliseconds(ns.max),
        ]);
    };
    for (cause, ns) in form.causes.iter().filter(|(_, ns)| ns.max > 0) {
        row(cause.name(), ns);
    }
    row("blackout", &form.blackout);
    let of_us = |us: u64| us * 1000;
    let gap = form.gap_us;
    row(
        "seen by the guest",
        &Summary {
            count,
            min: of_us(gap.min),
            p50: of_us(gap.p50),
            p99: of_us(gap.p99),
            max: of_us(gap.max),
        },
    );
    row("whole hand-over", &form.total);
    print!("{table}");
    println!("  (a hand-over's causes sum to its blackout exactly; percentiles of causes do not)");
    if form.form == Form::Copying {
        let pages = form.pages_paused;
        println!("  pages sent inside the blackout: p50 {}, max {}", pages.p50, pages.max);
    }
}
