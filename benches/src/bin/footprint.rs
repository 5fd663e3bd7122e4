//! P9: what a machine process owns besides its guest, idle and during a copying hand-over.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use benches::{
    Executable, Guest, Machine, ProcessMemory, Setting, Shape, Stop, Supervisor, Table, Verdict,
    finish, show,
};
use clap::Parser;
use machine::Form;
use serde::Serialize;

/// P9's targets: idle, and during a move that much and a hundredth of the guest.
const IDLE_KIB: u64 = 4 << 10;
const MOVING_KIB: u64 = 32 << 10;
const GUEST_KIB: u64 = 512 << 10;
/// How long a guest that has stamped its memory is left alone before it counts as idle.
const SETTLE: Duration = Duration::from_secs(1);
/// Between two looks at both processes; each look takes the kernel some milliseconds more, as it
/// walks the guest's mapping too.
const INTERVAL: Duration = Duration::from_millis(2);

/// Adds up the private dirty and anonymous memory of machine processes, less their guests
#[derive(Debug, Parser)]
struct Options {
    /// Copying hand-overs that are watched
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    times: u32,
    /// Numbers of vCPUs, one guest each
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [1, 2])]
    cpus: Vec<u32>,
    /// Figures as JSON, in KiB
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Outcome {
    setting: Setting,
    guests: Vec<GuestOutcome>,
    verdicts: Vec<Verdict>,
}

/// One guest of 512 MiB.
#[derive(Debug, Serialize)]
struct GuestOutcome {
    cpus: u32,
    /// In the process that booted it.
    idle: ProcessMemory,
    /// In the last process that it was handed to.
    idle_after_moves: ProcessMemory,
    /// Of all copying hand-overs, the predecessor's largest.
    predecessor_peak: ProcessMemory,
    /// Of all copying hand-overs, the successor's largest.
    successor_peak: ProcessMemory,
    /// How often both processes were looked at while they moved the guest.
    looks: usize,
}

fn main() -> ExitCode {
    finish(run(&Options::parse()))
}

fn run(options: &Options) -> Result<(), Stop> {
    let executable = Executable::find()?;
    let directory = executable.path().parent().map_or_else(PathBuf::new, PathBuf::from);
    let mut setting = Setting::now(executable.version());
    let supervisor = Supervisor::new(&executable, &directory);
    let measured = options.cpus.iter().map(|&cpus| measure(&supervisor, cpus, options.times));
    let guests: Vec<_> = measured.collect::<Result<_, Stop>>()?;
    setting.end();
    let verdicts = guests.iter().flat_map(verdicts).collect();
    let outcome = Outcome { setting, guests, verdicts };
    show(&outcome, options.json, print)
}

fn measure(supervisor: &Supervisor, cpus: u32, times: u32) -> Result<GuestOutcome, Stop> {
    let shape = Shape { cpus, memory: GUEST_KIB << 10, hole_start: 256 << 20 };
    // All memory is stamped; then a few pages a second, and hardly a word.
    let words = "rate=100 working_set=16M report=500";
    let (mut machine, console) = supervisor.boot(shape, words)?;
    let mut guest = Guest::new(console)?;
    guest.wait_until_ready()?;
    std::thread::sleep(SETTLE);
    let idle = ProcessMemory::of(machine.process_id())?;
    let mut predecessor_peak = ProcessMemory::default();
    let mut successor_peak = ProcessMemory::default();
    let mut looks = 0;
    for _ in 0..times {
        let seen = hand_over_watched(supervisor, &mut machine)?;
        looks += seen.len();
        for (predecessor, successor) in seen {
            keep_larger(&mut predecessor_peak, predecessor);
            keep_larger(&mut successor_peak, successor);
        }
    }
    std::thread::sleep(SETTLE);
    let idle_after_moves = ProcessMemory::of(machine.process_id())?;
    guest.verdict()?;
    machine.stop()?;
    Ok(GuestOutcome { cpus, idle, idle_after_moves, predecessor_peak, successor_peak, looks })
}

/// Both processes, again and again while one hands its guest to the other.
fn hand_over_watched(
    supervisor: &Supervisor,
    machine: &mut Machine,
) -> Result<Vec<(ProcessMemory, ProcessMemory)>, Stop> {
    let successor = supervisor.start()?;
    let (old, new) = (machine.process_id(), successor.id());
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut seen = Vec::new();
            while !is_over.load(Ordering::Acquire) {
                // The predecessor has gone when it has handed its guest over.
                let (Ok(old), Ok(new)) = (ProcessMemory::of(old), ProcessMemory::of(new)) else {
                    break;
                };
                seen.push((old, new));
                std::thread::sleep(INTERVAL);
            }
            seen
        });
        let outcome = machine.hand_over_to(successor, Form::Copying);
        is_over.store(true, Ordering::Release);
        let seen = watcher.join().map_err(|_| Stop::Failed("the watcher panicked".into()));
        outcome.and(seen)
    })
}

fn keep_larger(peak: &mut ProcessMemory, seen: ProcessMemory) {
    if seen.owned_kib > peak.owned_kib {
        *peak = seen;
    }
}

fn verdicts(guest: &GuestOutcome) -> [Verdict; 3] {
    let check = |what: &str, memory: &ProcessMemory, most_kib: u64| Verdict {
        what: format!("P9, {} vCPU, {what}:", guest.cpus),
        found: format!("{} KiB", memory.owned_kib),
        target: format!("{most_kib} KiB"),
        is_met: memory.owned_kib <= most_kib,
    };
    let moving_kib = MOVING_KIB + GUEST_KIB / 100;
    [
        check("idle", &guest.idle, IDLE_KIB),
        check("predecessor, moving", &guest.predecessor_peak, moving_kib),
        check("successor, moving", &guest.successor_peak, moving_kib),
    ]
}

fn print(outcome: &Outcome) {
    println!("{}", outcome.setting);
    for guest in &outcome.guests {
        println!("\noracle, {} vCPU, {} MiB, all of it stamped; KiB", guest.cpus, GUEST_KIB >> 10);
        let headings = ["process", "private dirty", "anonymous", "owned", "guest's Rss (apart)"];
        let mut table = Table::new(&headings);
        let mut row = |name: &str, memory: &ProcessMemory| {
            table.row([
                name.to_owned(),
                memory.private_dirty_kib.to_string(),
                memory.anonymous_kib.to_string(),
                memory.owned_kib.to_string(),
                memory.guest_rss_kib.to_string(),
            ]);
        };
        row("idle", &guest.idle);
        row("idle, after the hand-overs", &guest.idle_after_moves);
        row("predecessor's peak", &guest.predecessor_peak);
        row("successor's peak", &guest.successor_peak);
        print!("{table}");
        println!("  owned, by kind, idle:");
        for (kind, kib) in &guest.idle.by_kind {
            println!("    {:<20} {kib:>6}", kind.name());
        }
        println!("  {} looks at both processes during the hand-overs", guest.looks);
    }
    println!();
    for verdict in &outcome.verdicts {
        println!("{verdict}");
    }
}
