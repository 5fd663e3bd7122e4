//! How fast a machine is saved and restored, beside what the same bytes cost without a machine.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use benches::{
    Executable, FileSystem, Guest, Samples, Setting, Stop, Summary, Table, finish, milliseconds,
    oracle_file, ratio, show,
};
use clap::Parser;
use dwcp::archive::ArchiveKey;
use machine::{
    CpuCount, CpuModel, Images, MachineConfig, MemoryLayout, RestoreOptions, SnapshotOptions,
    Supervised,
};
use serde::Serialize;

/// How long the guest runs before it is saved, and after it is restored.
const WARM_UP: Duration = Duration::from_secs(1);

/// Saves a running guest and restores it, by turns with dd and memcpy of the same bytes
#[derive(Debug, Parser)]
struct Options {
    /// How often each is done
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    times: u32,
    /// MiB of guest memory
    #[arg(long, value_name = "MIB", default_value_t = 512)]
    memory: u64,
    /// Pages that each of two vCPUs writes a second
    #[arg(long, value_name = "PAGES", default_value_t = 5_000)]
    rate: u64,
    /// Encrypt
    #[arg(long)]
    encrypt: bool,
    /// Where snapshots are written; without it, beside this program
    #[arg(long, value_name = "DIRECTORY")]
    folder: Option<PathBuf>,
    /// Figures as JSON, in nanoseconds
    #[arg(long)]
    json: bool,
}

/// Nanoseconds, where nothing else is said.
#[derive(Debug, Serialize)]
struct Outcome {
    setting: Setting,
    folder: FileSystem,
    memory_bytes: u64,
    file_bytes: u64,
    increment_bytes: u64,
    rows: Vec<Row>,
}

/// One thing that was done many times.
#[derive(Debug, Serialize)]
struct Row {
    what: &'static str,
    ns: Summary,
    /// Bytes of guest memory or of the file that were gone through.
    bytes: u64,
}

/// What is measured of each turn.
#[derive(Debug, Default)]
struct Turns {
    save: Vec<u64>,
    save_paused: Vec<u64>,
    save_of_paused: Vec<u64>,
    increment: Vec<u64>,
    write_by_dd: Vec<u64>,
    restore: Vec<u64>,
    read_by_dd: Vec<u64>,
    lazy: Vec<u64>,
    lazy_first_word: Vec<u64>,
    memcpy: Vec<u64>,
}

fn main() -> ExitCode {
    finish(run(&Options::parse()))
}

fn run(options: &Options) -> Result<(), Stop> {
    let executable = Executable::find()?;
    let folder = executable.folder_or(options.folder.as_deref());
    let setting = Setting::now(executable.version());
    let file_system = FileSystem::of(&folder)?;
    let bench = Bench { executable: &executable, folder: &folder, options };
    let mut outcome = bench.run(setting, file_system)?;
    outcome.setting.end();
    show(&outcome, options.json, print)
}

struct Bench<'a> {
    executable: &'a Executable,
    folder: &'a Path,
    options: &'a Options,
}

impl Bench<'_> {
    fn run(&self, setting: Setting, folder: FileSystem) -> Result<Outcome, Stop> {
        let [full, increment, copy] = ["full", "increment", "copy"].map(|name| self.path(name));
        let outcome = self.turns(&full, &increment, &copy, setting, folder);
        remove([&full, &increment, &copy]);
        outcome
    }

    fn turns(
        &self,
        full: &Path,
        increment: &Path,
        copy: &Path,
        setting: Setting,
        folder: FileSystem,
    ) -> Result<Outcome, Stop> {
        let key = ArchiveKey::new([7; 32]);
        let key = self.options.encrypt.then_some(&key);
        let mut turns = Turns::default();
        let (mut file_bytes, mut increment_bytes) = (0, 0);
        let memory_bytes = self.options.memory << 20;
        let memory = memory_of(memory_bytes)?;
        let mut machine = self.boot()?;
        for _ in 0..self.options.times {
            remove([full, increment, copy]);
            let options = SnapshotOptions { key, ..SnapshotOptions::default() };
            let report = machine.snapshot(full, options).map_err(Stop::failed("a snapshot"))?;
            turns.save.push(report.total_ns);
            turns.save_paused.push(report.paused_ns);
            let options = SnapshotOptions { key, parent: Some(full), watch: None };
            let report = machine.snapshot(increment, options);
            let report = report.map_err(Stop::failed("an increment"))?;
            turns.increment.push(report.total_ns);
            increment_bytes = report.bytes;
            remove([full, increment, copy]);
            machine.pause().map_err(Stop::failed("a pause"))?;
            let options = SnapshotOptions { key, ..SnapshotOptions::default() };
            let report = machine.snapshot(full, options).map_err(Stop::failed("a snapshot"))?;
            turns.save_of_paused.push(report.total_ns);
            file_bytes = report.bytes;
            // Nobody writes memory while others are measured.
            drop(machine);
            turns.write_by_dd.push(dd(full, copy)?);
            turns.read_by_dd.push(dd(full, Path::new("/dev/null"))?);
            turns.memcpy.push(memcpy(&memory));
            let (lazy, first_word) = self.restore(full, true, key, &mut turns.lazy)?;
            turns.lazy_first_word.push(first_word);
            drop(lazy);
            (machine, _) = self.restore(full, false, key, &mut turns.restore)?;
            std::thread::sleep(WARM_UP);
        }
        let rows = [
            ("save, its vCPUs on both processors", turns.save, memory_bytes),
            ("  of it the guest stood still", turns.save_paused, 0),
            ("save what differs a moment later", turns.increment, memory_bytes),
            ("save, paused", turns.save_of_paused, memory_bytes),
            ("dd of the file, with its fsync", turns.write_by_dd, file_bytes),
            ("restore, to the first instruction", turns.restore, memory_bytes),
            ("dd of the file to /dev/null", turns.read_by_dd, file_bytes),
            ("memcpy of as much memory", turns.memcpy, memory_bytes),
            ("restore lazily, to the first instruction", turns.lazy, 0),
            ("  to the guest's first word, from the order", turns.lazy_first_word, 0),
        ];
        let rows = rows.into_iter().map(|(what, ns, bytes)| {
            let samples = Samples::new(ns);
            let samples = samples.ok_or_else(|| Stop::Failed("nothing was measured".into()))?;
            Ok(Row { what, ns: samples.summary(), bytes })
        });
        let rows = rows.collect::<Result<_, Stop>>()?;
        Ok(Outcome { setting, folder, memory_bytes, file_bytes, increment_bytes, rows })
    }

    fn boot(&self) -> Result<Supervised, Stop> {
        let memory = MemoryLayout::new(self.options.memory << 20, 256 << 20);
        let config = MachineConfig {
            cpus: CpuCount::try_from(2_u32).map_err(Stop::failed("vCPUs"))?,
            cpu: CpuModel::Host,
            memory: memory.map_err(Stop::failed("memory"))?,
        };
        let kernel = oracle_file().map_err(Stop::failed("a file for the oracle"))?;
        let command_line = format!(
            "cpus=2 tsc_khz={{tsc_khz}} pattern=random rate={} working_set=64M report=100",
            self.options.rate
        );
        let images = Images { kernel, initrd: None, command_line };
        let booted = Supervised::boot(self.as_machine(), self.folder, config, &images);
        let (machine, console) = booted.map_err(Stop::failed("a machine"))?;
        let mut guest = Guest::new(console)?;
        guest.wait_until_ready()?;
        guest.watch(WARM_UP)?;
        Ok(machine)
    }

    /// Restores, and waits for the guest's first word; returns when that came after the order.
    fn restore(
        &self,
        path: &Path,
        is_lazy: bool,
        key: Option<&ArchiveKey>,
        total_ns: &mut Vec<u64>,
    ) -> Result<(Supervised, u64), Stop> {
        let started = Instant::now();
        let options = RestoreOptions { key, is_lazy };
        let restored = Supervised::restore(self.as_machine(), self.folder, path, options);
        let (machine, mut console, report) = restored.map_err(Stop::failed("a restore"))?;
        total_ns.push(report.total_ns);
        console.read_exact(&mut [0]).map_err(Stop::failed("the console"))?;
        let first_word = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        // Somebody reads what it says.
        std::thread::spawn(move || std::io::copy(&mut console, &mut std::io::sink()));
        Ok((machine, first_word))
    }

    fn as_machine(&self) -> machine::Executable<'_> {
        let dirty_log = machine::DirtyLogKind::default();
        machine::Executable { path: self.executable.path(), environment: &[], dirty_log, nice: 0 }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(format!("save-restore-{}-{name}", std::process::id()))
    }
}

fn remove(paths: [&Path; 3]) {
    // The first time there is none.
    paths.iter().for_each(|path| drop(fs::remove_file(path)));
}

/// Pages that the kernel does not share.
fn memory_of(bytes: u64) -> Result<Vec<u8>, Stop> {
    let mut memory = vec![0; usize::try_from(bytes).map_err(Stop::failed("memory"))?];
    memory.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
    Ok(memory)
}

fn memcpy(from: &[u8]) -> u64 {
    // The target is touched before: what is measured is copying, not the kernel's zeroing.
    let mut to = vec![1; from.len()];
    let started = Instant::now();
    to.copy_from_slice(from);
    let ns = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
    assert_eq!(std::hint::black_box(&to)[0], from[0]);
    ns
}

fn dd(from: &Path, to: &Path) -> Result<u64, Stop> {
    let started = Instant::now();
    let status = Command::new("dd")
        .arg(format!("if={}", from.display()))
        .arg(format!("of={}", to.display()))
        .args(["bs=4M", "status=none"])
        .args((to != Path::new("/dev/null")).then_some("conv=fsync"))
        .stdin(Stdio::null())
        .status()
        .map_err(Stop::failed("dd"))?;
    if !status.success() {
        return Err(Stop::Failed(format!("dd ended with {status}")));
    }
    Ok(u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX))
}

fn print(outcome: &Outcome) {
    println!("{}", outcome.setting);
    println!("snapshots: {}", outcome.folder);
    let mib = |bytes: u64| bytes >> 20;
    println!(
        "\noracle, 2 vCPUs, {} MiB whose pages do not compress: a file of {} MiB, {} MiB a moment later\n",
        mib(outcome.memory_bytes),
        mib(outcome.file_bytes),
        mib(outcome.increment_bytes)
    );
    let mut table = Table::new(&["milliseconds", "p50", "p99", "max", "MB/s at p50"]);
    for row in &outcome.rows {
        let rate = benches::rate(row.bytes, row.ns.p50);
        table.row([
            row.what.to_owned(),
            milliseconds(row.ns.p50),
            milliseconds(row.ns.p99),
            milliseconds(row.ns.max),
            if row.bytes == 0 { String::new() } else { rate },
        ]);
    }
    print!("{table}");
    let p50 = |index: usize| outcome.rows[index].ns.p50;
    println!("\nsave, paused: {:.2} of dd's time", ratio(p50(3), p50(4)));
    println!(
        "restore: {:.1} of dd's time, {:.1} of memcpy's",
        ratio(p50(5), p50(6)),
        ratio(p50(5), p50(7))
    );
    println!(
        "restored lazily, the guest runs after {:.3} of the time of a whole restore",
        ratio(p50(8), p50(5))
    );
}
