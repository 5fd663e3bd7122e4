//! A running guest moves from one host to another: two daemons of ours beside two QEMUs, by turns, over
//! the same link between two network namespaces, with the same guest and the same pages in its memory.

mod flow;
mod load;
mod ours;
mod outcome;
mod peer;
mod qmp;
mod report;
mod site;
mod usage;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use benches::network::{Kind, Network};
use benches::{Executable, FileSystem, Setting, Stop, finish};
use clap::Parser;
use load::{Load, Wanted};
use ours::Hosts;
use outcome::Ended;
use peer::Way;
use report::{Column, Link, Outcome};
use site::Site;

/// Moves a running guest between two network namespaces, with our VMM and with QEMU by turns
#[derive(Debug, Parser)]
struct Options {
    /// Moves in each way, over each link
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Links; without it, all
    #[arg(long, value_name = "LINK", value_delimiter = ',')]
    only: Vec<Kind>,
    /// Our own moves alone: for the percentiles of many
    #[arg(long)]
    alone: bool,
    /// The guest's memory, up to half of which holds pages of a Debian
    #[arg(long, value_name = "MIB", default_value_t = 512, value_parser = clap::value_parser!(u64).range(128..=2048))]
    memory: u64,
    /// Pages of 16 MiB that the guest writes a second, in random order
    #[arg(long, value_name = "PAGES", default_value_t = 2000)]
    rate: u64,
    /// Milliseconds that both VMMs are told the guest may stand still
    #[arg(long, value_name = "MS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    downtime: u64,
    /// A file of memory pages, those of zeros left out; without it, the one of `memory-image`
    #[arg(long, value_name = "FILE")]
    content: Option<PathBuf>,
    /// After so long a move counts as one that does not end
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
    limit: u64,
    /// Where the daemons' states and permit records are written; without it, beside this program
    #[arg(long, value_name = "DIRECTORY")]
    record: Option<PathBuf>,
    /// Writes all figures to a file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Removes what a measurement made in this folder, and elsewhere, once standard input has ended
    #[arg(long, value_name = "FOLDER", hide = true)]
    guard: Option<PathBuf>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    match &options.guard {
        Some(files) => finish(site::guard(files)),
        None => finish(run(&options)),
    }
}

fn run(options: &Options) -> Result<(), Stop> {
    if !rustix::process::geteuid().is_root() {
        return Err(Stop::Skipped("only root makes network namespaces and links".into()));
    }
    let executable = Executable::find()?;
    let qemu = peer::version()?;
    let records = executable.folder_or(options.record.as_deref());
    let records = records.canonicalize().map_err(Stop::failed("the folder of records"))?;
    let content = options.content.clone().map_or_else(load::memory_image, Ok)?;
    let site = Site::make(&records)?;
    let wanted = Wanted {
        memory_bytes: options.memory << 20,
        rate: options.rate,
        downtime_ms: options.downtime,
        limit: Duration::from_secs(options.limit),
    };
    let load = Load::make(&site.given(), &wanted, &content)?;
    let mut outcome = Outcome {
        setting: Setting::now(executable.version()),
        record: FileSystem::of(&records)?,
        qemu,
        congestion_control: congestion_control(),
        memory_bytes: load.memory_bytes,
        content_bytes: load.content_bytes,
        content: match &options.content {
            Some(file) => file.display().to_string(),
            None => "a Debian's memory, none of zeros".into(),
        },
        guest: load.command_line.clone(),
        downtime_ms: options.downtime,
        limit_seconds: options.limit,
        links: Vec::new(),
    };
    let links = if options.only.is_empty() { &Kind::ALL[..] } else { &options.only };
    for &kind in links {
        let ways = if options.alone { &[][..] } else { &peer::WAYS };
        outcome.links.push(measure(kind, options.runs, ways, &executable, &site, &load)?);
    }
    drop(site);
    outcome.setting.end();
    report::print(&outcome);
    if let Some(file) = &options.json {
        let text = serde_json::to_string_pretty(&outcome).map_err(Stop::failed("JSON"))?;
        fs::write(file, text + "\n").map_err(Stop::failed("--json"))?;
    }
    Ok(())
}

/// Moves over one link, each way in its turn: what else this host does then befalls all alike.
fn measure(
    kind: Kind,
    runs: u32,
    ways: &[Way],
    executable: &Executable,
    site: &Site,
    load: &Load,
) -> Result<Link, Stop> {
    let network = Network::make(kind)?;
    let hosts = Hosts::start(executable, site)?;
    let round_trip_ns = hosts.round_trip_ns()?;
    let mut ours = Vec::new();
    let mut theirs: Vec<_> = ways.iter().map(|way| (way, Vec::new())).collect();
    for run in 1..=runs {
        Network::forget()?;
        ours.push(told(kind, run, ours::NAME, hosts.move_one(load, kind.rate())?));
        for (way, ended) in &mut theirs {
            Network::forget()?;
            ended.push(told(kind, run, way.name, peer::move_one(site, load, kind.rate(), **way)?));
        }
    }
    let theirs = theirs.into_iter().map(|(way, ended)| Column::new(way.name, ended));
    let columns = [Column::new(ours::NAME, ours)].into_iter().chain(theirs).collect();
    Ok(Link { kind, round_trip_ns, dropped: network.dropped(), columns })
}

/// Says on standard error how far it is, since all of it takes many minutes.
fn told(kind: Kind, run: u32, name: &str, ended: Ended) -> Ended {
    let words = match &ended {
        Ended::Moved(moved) => format!("{} ms", moved.flow.total_ns / 1_000_000),
        Ended::Late => "does not end".to_owned(),
        Ended::Failed(why) => why.clone(),
    };
    eprintln!("migrate: {}, move {run}, {name}: {words}", kind.name());
    ended
}

/// What namespaces begin with.
fn congestion_control() -> String {
    let found = fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control");
    found.map_or_else(|_| "unknown".to_owned(), |name| name.trim().to_owned())
}
