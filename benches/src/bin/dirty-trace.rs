//! Records which pages a running guest writes, interval by interval: what `dwcp::pba`'s forecast of dirty
//! pages is judged by. The traces in `dwcp/traces` are made by this program.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use benches::{Stop, finish, tsc_khz};
use clap::Parser;
use dwcp::ledger::Ledger;
use dwcp::page::Gfn;
use dwcp::pba::trace::{Interval, Trace};
use firmware::oracle::options::{Options as OracleOptions, Pattern};
use machine::{BootSource, CpuCount, CpuModel, Host, MachineConfig, MemoryLayout, Paused};

/// The guest has stamped its memory by then.
const WARM_UP: Duration = Duration::from_secs(2);

/// Runs the oracle guest in every pattern and writes one trace each
#[derive(Debug, Parser)]
struct Options {
    /// Where the traces go
    #[arg(long, value_name = "DIRECTORY")]
    to: PathBuf,
    /// Time from one harvest to the next
    #[arg(long, value_name = "MS", default_value_t = 20)]
    interval: u64,
    /// Harvests a trace
    #[arg(long, value_name = "N", default_value_t = 100)]
    intervals: u32,
    /// Pages that the guest writes a second
    #[arg(long, value_name = "PAGES", default_value_t = 5_000)]
    rate: u64,
    /// MiB that it writes again and again
    #[arg(long, value_name = "MIB", default_value_t = 4)]
    working_set: u64,
}

fn main() -> ExitCode {
    finish(run(&Options::parse()))
}

fn run(options: &Options) -> Result<(), Stop> {
    for pattern in Pattern::ALL {
        let trace = record(pattern, options)?;
        let path = options.to.join(format!("{pattern}.zst"));
        let bytes = trace.to_bytes();
        let bytes = zstd::encode_all(&bytes[..], 19).map_err(Stop::failed("compressing"))?;
        println!("{pattern}: {} intervals, {} bytes", trace.intervals.len(), bytes.len());
        fs::write(&path, bytes).map_err(Stop::failed("writing the trace"))?;
    }
    Ok(())
}

fn record(pattern: Pattern, options: &Options) -> Result<Trace, Stop> {
    let host = Host::open().map_err(Stop::failed("/dev/kvm"))?;
    let memory = MemoryLayout::new(64 << 20, 32 << 20).map_err(Stop::failed("the layout"))?;
    let cpus = CpuCount::try_from(1_u32).map_err(Stop::failed("the vCPUs"))?;
    let mut machine = Paused::new(&host, MachineConfig { cpus, cpu: CpuModel::Host, memory })
        .map_err(Stop::failed("the machine"))?;
    let oracle = OracleOptions {
        pattern,
        rate: options.rate,
        working_set: options.working_set << 20,
        tsc_khz: tsc_khz()?,
        ..OracleOptions::default()
    };
    let command_line = oracle.to_string();
    let source = BootSource { kernel: firmware::ORACLE, initrd: None, command_line: &command_line };
    machine.boot(&source).map_err(Stop::failed("the guest"))?;
    let running = machine.resume();
    thread::sleep(WARM_UP);

    let limit = Gfn(memory.frame_limit());
    let mut log = running.start_dirty_log().map_err(Stop::failed("the dirty log"))?;
    // The first harvest is of everything.
    log.harvest(&mut Ledger::new(limit)).map_err(Stop::failed("the dirty log"))?;
    let mut since = Instant::now();
    let mut trace = Trace { limit, intervals: Vec::new() };
    for _ in 0..options.intervals {
        thread::sleep(Duration::from_millis(options.interval));
        let mut ledger = Ledger::new(limit);
        log.harvest(&mut ledger).map_err(Stop::failed("the dirty log"))?;
        let now = Instant::now();
        trace.intervals.push(Interval { span: now - since, dirty: ledger.owed_pages().clone() });
        since = now;
    }
    drop(running.pause());
    Ok(trace)
}
