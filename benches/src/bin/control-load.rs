//! The control socket under load: many records, running guests, and more callers than processors.

use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use benches::{
    Connection, Executable, Samples, Setting, Stop, Table, Verdict, finish, milliseconds, show,
};
use clap::Parser;
use serde::Serialize;

/// The target of the 95th percentile of reads.
const READ_P95_NS: u64 = 50_000_000;
/// How long the daemon may take for anything.
const PATIENCE: Duration = Duration::from_secs(60);
/// Little work, so that the callers and not the guests have the processors.
const GUEST: &str = "fill=2M working_set=1M rate=20 report=1000";

/// Calls a daemon's API from many connections at a time, each of them kept for one call after another
#[derive(Debug, Parser)]
struct Options {
    /// Records of machines, those that run included
    #[arg(long, value_name = "N", default_value_t = 1000)]
    machines: u32,
    /// Machines that run the oracle guest
    #[arg(long, value_name = "N", default_value_t = 40)]
    running: u32,
    /// Calls
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    calls: u32,
    /// Callers at a time
    #[arg(long, value_name = "N", default_value_t = 256)]
    clients: u32,
    /// `machines.nice` of the daemon
    #[arg(long, value_name = "N", default_value_t = 19)]
    nice: u8,
    /// Figures as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Outcome {
    setting: Setting,
    machines: u32,
    running: u32,
    clients: u32,
    nice: u8,
    calls: Vec<CallOutcome>,
    errors: u32,
    /// From the first call to the last answer.
    total_ns: u64,
    daemon_kib_before: u64,
    daemon_kib_after: u64,
    descriptors_before: usize,
    descriptors_after: usize,
    verdicts: Vec<Verdict>,
}

#[derive(Debug, Serialize)]
struct CallOutcome {
    call: &'static str,
    count: usize,
    p50_ns: u64,
    p95_ns: u64,
    p99_ns: u64,
    max_ns: u64,
}

/// What is called: most look at one machine, some at the host, a few at all machines.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Show,
    Info,
    List,
}

impl Kind {
    const ALL: [(Self, &str); 3] =
        [(Self::Show, "one machine"), (Self::Info, "the host"), (Self::List, "all machines")];

    fn of(number: u32) -> Self {
        match number % 20 {
            0 => Self::List,
            1 | 2 => Self::Info,
            _ => Self::Show,
        }
    }
}

/// A daemon that goes with the value.
struct Daemon {
    child: Child,
    folder: std::path::PathBuf,
}

impl Daemon {
    fn start(executable: &Executable, nice: u8) -> Result<Self, Stop> {
        let folder = std::env::temp_dir().join(format!("novacron-load-{}", std::process::id()));
        std::fs::create_dir(&folder).map_err(Stop::failed("a folder"))?;
        let log = std::fs::File::create(folder.join("log")).map_err(Stop::failed("a log"))?;
        let child = Command::new(executable.path())
            .args(["daemon", "--config", "/dev/null", "--log", "warn", "--socket"])
            .arg(folder.join("s"))
            .arg("--state")
            .arg(folder.join("state"))
            .args(["--set", &format!("machines.nice={nice}")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .map_err(Stop::failed("the daemon"))?;
        let daemon = Self { child, folder };
        let end = Instant::now() + PATIENCE;
        while daemon.call("GET", "/v1/info", "").is_err() {
            if Instant::now() > end {
                return Err(Stop::Failed("the daemon does not answer".into()));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(daemon)
    }

    fn call(&self, verb: &str, path: &str, body: &str) -> Result<String, Stop> {
        self.connect()?.call(verb, path, body)
    }

    fn connect(&self) -> Result<Connection, Stop> {
        Connection::open(&self.folder.join("s"))
    }

    fn resident_kib(&self) -> u64 {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(path).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok()).unwrap_or(0)
    }

    fn descriptors(&self) -> usize {
        let path = format!("/proc/{}/fd", self.child.id());
        std::fs::read_dir(path).map_or(0, Iterator::count)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let asked = self.call("POST", "/v1/shutdown", r#"{"stop_machines":true}"#);
        if asked.is_err() {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn main() -> ExitCode {
    finish(measure(&Options::parse()))
}

fn measure(options: &Options) -> Result<(), Stop> {
    let executable = Executable::find()?;
    let daemon = Daemon::start(&executable, options.nice)?;
    let mut setting = Setting::now(executable.version());
    for number in 0..options.machines {
        let boot = format!(r#"{{"type":"oracle","options":"{GUEST}"}}"#);
        let spec = format!(r#"{{"memory_bytes":16777216,"boot":{boot}}}"#);
        let body = format!(r#"{{"name":"m{number}","spec":{spec}}}"#);
        daemon.call("POST", "/v1/machines", &body)?;
    }
    for number in 0..options.running {
        daemon.call("POST", &format!("/v1/machines/m{number}/start"), "")?;
    }
    wait_until_they_run(&daemon, options.running)?;
    // What the first calls make the daemon keep for good, is no leak.
    run(&daemon, options, options.clients * 4);
    let (kib, descriptors) = (daemon.resident_kib(), daemon.descriptors());
    let started = Instant::now();
    let (times, errors) = run(&daemon, options, options.calls);
    let total_ns = nanoseconds(started.elapsed());
    wait_until_they_run(&daemon, options.running)?;
    let calls: Vec<_> = Kind::ALL
        .iter()
        .filter_map(|(kind, call)| {
            let times = times.iter().filter(|(found, _)| found == kind).map(|(_, ns)| *ns);
            let samples = Samples::new(times.collect())?;
            Some(CallOutcome {
                call,
                count: samples.summary().count,
                p50_ns: samples.median(),
                p95_ns: samples.percentile(95),
                p99_ns: samples.percentile(99),
                max_ns: samples.percentile(100),
            })
        })
        .collect();
    setting.end();
    let all = Samples::new(times.iter().map(|(_, ns)| *ns).collect());
    let p95 = all.map_or(0, |all| all.percentile(95));
    let outcome = Outcome {
        setting,
        machines: options.machines,
        running: options.running,
        clients: options.clients,
        nice: options.nice,
        verdicts: vec![Verdict {
            what: "p95 of all reads".to_owned(),
            found: format!("{} ms", milliseconds(p95)),
            target: format!("{} ms", milliseconds(READ_P95_NS)),
            is_met: p95 <= READ_P95_NS,
        }],
        calls,
        errors,
        total_ns,
        daemon_kib_before: kib,
        daemon_kib_after: daemon.resident_kib(),
        descriptors_before: descriptors,
        descriptors_after: daemon.descriptors(),
    };
    drop(daemon);
    show(&outcome, options.json, print)
}

fn wait_until_they_run(daemon: &Daemon, running: u32) -> Result<(), Stop> {
    let end = Instant::now() + PATIENCE;
    let wanted = format!("\"running\":{running}");
    while !daemon.call("GET", "/v1/info", "")?.contains(&wanted) {
        if Instant::now() > end {
            return Err(Stop::Failed(format!("{running} machines do not run")));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Makes so many calls; how long each took, and how many failed.
fn run(daemon: &Daemon, options: &Options, calls: u32) -> (Vec<(Kind, u64)>, u32) {
    let (next, errors) = (AtomicU32::new(0), AtomicU32::new(0));
    let client = || {
        let mut times = Vec::new();
        let mut connection = None;
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= calls {
                return times;
            }
            let kind = Kind::of(number);
            let path = match kind {
                Kind::Show => format!("/v1/machines/m{}", number % options.machines.max(1)),
                Kind::Info => "/v1/info".to_owned(),
                Kind::List => "/v1/machines".to_owned(),
            };
            let started = Instant::now();
            // What a failed call leaves on its connection could be taken for the next one's answer.
            let open = connection.take().map_or_else(|| daemon.connect(), Ok);
            let answer = open.and_then(|mut open| {
                open.call("GET", &path, "")?;
                Ok(open)
            });
            match answer {
                Ok(open) => {
                    times.push((kind, nanoseconds(started.elapsed())));
                    connection = Some(open);
                }
                Err(_) => drop(errors.fetch_add(1, Ordering::Relaxed)),
            }
        }
    };
    let times = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..options.clients).map(|_| scope.spawn(client)).collect();
        clients.into_iter().flat_map(|client| client.join().unwrap_or_default()).collect()
    });
    (times, errors.load(Ordering::Relaxed))
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn print(outcome: &Outcome) {
    println!("{}", outcome.setting);
    println!(
        "{} records, {} guests that run at nice {}, {} callers at a time",
        outcome.machines, outcome.running, outcome.nice, outcome.clients
    );
    let mut table = Table::new(&["call", "count", "p50 ms", "p95 ms", "p99 ms", "max ms"]);
    for call in &outcome.calls {
        table.row([
            call.call.to_owned(),
            call.count.to_string(),
            milliseconds(call.p50_ns),
            milliseconds(call.p95_ns),
            milliseconds(call.p99_ns),
            milliseconds(call.max_ns),
        ]);
    }
    print!("{table}");
    println!("  {} errors, {} ms in all", outcome.errors, milliseconds(outcome.total_ns));
    println!(
        "  the daemon: {} KiB before, {} KiB after; {} descriptors before, {} after",
        outcome.daemon_kib_before,
        outcome.daemon_kib_after,
        outcome.descriptors_before,
        outcome.descriptors_after
    );
    for verdict in &outcome.verdicts {
        println!("  {verdict}");
    }
}
