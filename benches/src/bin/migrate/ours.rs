//! Two daemons of ours that know each other, one in each namespace.

use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Child;
use std::time::{Duration, Instant};

use benches::{Connection, Executable, Guest, Stop, attach};
use serde_json::{Value, json};

use crate::flow::Flow;
use crate::load::Load;
use crate::outcome::{Ended, Moved, nanoseconds};
use crate::site::{Site, program};
use crate::usage::{Usage, Watched, thread_ns, vcpu_thread};
use benches::network::{DESTINATION, HOSTS, Network, SOURCE, inside};

/// The heading of its column.
pub(crate) const NAME: &str = "ours, TLS";

const MACHINE: &str = "guest";
/// The thread of its only vCPU.
const VCPU: &str = "vcpu0";
/// How long a daemon may take for anything but a move.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Hosts {
    daemons: [Daemon; 2],
}

impl Hosts {
    /// Starts both daemons, and tells each of the other.
    pub(crate) fn start(executable: &Executable, site: &Site) -> Result<Self, Stop> {
        let start = |host| Daemon::start(host, executable, site);
        let hosts = Self { daemons: [start(SOURCE)?, start(DESTINATION)?] };
        for host in [SOURCE, DESTINATION] {
            let other = 1 - host;
            let info = hosts.daemons[other].get("/v1/info")?;
            let address = Network::address(other).to_string();
            let peer = json!({"name": HOSTS[other], "address": address, "key": info["host_key"]});
            hosts.daemons[host].post("/v1/peers", &peer)?;
        }
        Ok(hosts)
    }

    /// How long it takes to open a connection from one to the other.
    pub(crate) fn round_trip_ns(&self) -> Result<u64, Stop> {
        let [_, destination] = &self.daemons;
        let info = destination.get("/v1/info")?;
        let to = info["peers_listen"][0].as_str().unwrap_or_default();
        let connected = inside(SOURCE, || {
            let began = Instant::now();
            TcpStream::connect(to).map(|_| nanoseconds(began.elapsed()))
        })?;
        connected.map_err(Stop::failed(to))
    }

    /// Starts a new guest, moves it, looks at it, and ends it.
    pub(crate) fn move_one(&self, load: &Load, rate: Option<u64>) -> Result<Ended, Stop> {
        let ended = self.try_one(load, rate)?;
        self.clean()?;
        Ok(ended)
    }

    fn try_one(&self, load: &Load, rate: Option<u64>) -> Result<Ended, Stop> {
        let [source, destination] = &self.daemons;
        let boot = json!({
            "type": "kernel",
            "kernel": load.kernel,
            "initrd": load.initrd,
            "command_line": load.command_line,
        });
        let spec = json!({"memory_bytes": load.memory_bytes, "boot": boot});
        source.post("/v1/machines", &json!({"name": MACHINE, "spec": spec}))?;
        let start = source.post(&format!("/v1/machines/{MACHINE}/start"), &json!({}))?;
        done(&source.wait(start, PATIENCE)?)?;
        let mut guest = Guest::new(attach(&source.socket, MACHINE)?)?;
        let writes_before = load.warm_up(&mut guest)?;

        let source_process = source.process_of_machine()?;
        let source_vcpu = Watched::start(source_process, vcpu_thread(source_process, VCPU)?)?;
        let usage = |daemon: &Daemon, machine, vcpu_ns: u64| {
            Ok::<_, Stop>(daemon.usage_ns(machine)?.saturating_sub(vcpu_ns))
        };
        let guest_before = source_vcpu.ns();
        let source_before = usage(source, source_process, guest_before)?;
        let destination_before = usage(destination, 0, 0)?;
        let flow = Flow::start(rate)?;
        let order = json!({"to": HOSTS[DESTINATION], "max_downtime_ms": load.downtime_ms});
        let order = source.post(&format!("/v1/machines/{MACHINE}/migrate"), &order)?;
        let operation = source.wait(order, load.limit)?;
        let flow = flow.end()?;
        if operation["state"] == "running" {
            return Ok(Ended::Late);
        }
        if let Err(why) = done(&operation) {
            return Ok(Ended::Failed(why.to_string()));
        }
        let process = destination.process_of_machine()?;
        let vcpu_ns = thread_ns(process, vcpu_thread(process, VCPU)?).unwrap_or(0);
        let cpu_ns = [
            usage(source, source_process, source_vcpu.ns())?.saturating_sub(source_before),
            usage(destination, process, vcpu_ns)?.saturating_sub(destination_before),
        ];
        let mut guest = Guest::new(attach(&destination.socket, MACHINE)?)?;
        let gap_ns = load.inspect(&mut guest, writes_before)?;
        let outcome = &operation["migration"];
        let causes = serde_json::from_value(outcome["causes"].clone());
        Ok(Ended::Moved(Moved {
            flow,
            pause_ns: outcome["blackout_ns"].as_u64().unwrap_or_default(),
            reported_pause_ns: None,
            gap_ns,
            cpu_ns,
            guest_ns: source_vcpu.ns() - guest_before,
            causes: causes.map_err(Stop::failed("the causes of a pause"))?,
            account: outcome.clone(),
        }))
    }

    /// No machine of a run is there for the next one.
    fn clean(&self) -> Result<(), Stop> {
        for daemon in &self.daemons {
            for operation in daemon.get("/v1/operations")?.as_array().into_iter().flatten() {
                if operation["state"] == "running" {
                    let id = operation["id"].as_str().unwrap_or_default();
                    let _ = daemon.post(&format!("/v1/operations/{id}/cancel"), &json!({}));
                    let _ = daemon.wait(operation.clone(), PATIENCE)?;
                }
            }
        }
        for daemon in &self.daemons {
            daemon.remove_machine()?;
        }
        Ok(())
    }
}

struct Daemon {
    child: Child,
    socket: PathBuf,
}

impl Daemon {
    fn start(host: usize, executable: &Executable, site: &Site) -> Result<Self, Stop> {
        let (sockets, state) = (site.sockets().join(HOSTS[host]), site.state(HOSTS[host]));
        std::fs::create_dir_all(&sockets).map_err(Stop::failed("a folder"))?;
        // A daemon of an earlier link may have been here; this one is another host.
        match std::fs::remove_dir_all(&state) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Stop::Failed(format!("{}: {error}", state.display())));
            }
            _ => {}
        }
        let socket = sockets.join("s");
        let log = std::fs::File::create(sockets.join("log")).map_err(Stop::failed("a log"))?;
        let mut command = program(executable.path());
        command.args(["daemon", "--config", "/dev/null", "--log", "warn", "--socket"]);
        command.arg(&socket).arg("--state").arg(&state).stderr(log);
        command.arg("--set").arg(format!("peers.listen={}", Network::address(host)));
        command.arg("--set").arg(format!("storage.folders={}", site.given().display()));
        let child = inside(host, || command.spawn())?.map_err(Stop::failed("a daemon"))?;
        let mut daemon = Self { child, socket };
        let end = Instant::now() + PATIENCE;
        while let Err(why) = daemon.get("/v1/info") {
            let has_ended = !matches!(daemon.child.try_wait(), Ok(None));
            if has_ended || Instant::now() > end {
                let log = std::fs::read_to_string(sockets.join("log")).unwrap_or_default();
                return Err(Stop::Failed(format!("a daemon does not answer: {why}\n{log}")));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(daemon)
    }

    fn call(&self, verb: &str, path: &str, body: &str) -> Result<String, Stop> {
        Connection::open(&self.socket)?.call(verb, path, body)
    }

    fn get(&self, path: &str) -> Result<Value, Stop> {
        serde_json::from_str(&self.call("GET", path, "")?).map_err(Stop::failed(path))
    }

    fn post(&self, path: &str, body: &Value) -> Result<Value, Stop> {
        let answer = self.call("POST", path, &body.to_string())?;
        serde_json::from_str(&answer).map_err(Stop::failed(path))
    }

    /// The operation when it has ended, or as it was after that time.
    fn wait(&self, operation: Value, most: Duration) -> Result<Value, Stop> {
        const EVERY: Duration = Duration::from_secs(1);
        let (mut operation, end) = (operation, Instant::now() + most);
        while operation["state"] == "running" && Instant::now() < end {
            let id = operation["id"].as_str().unwrap_or_default();
            let left = end.saturating_duration_since(Instant::now()).min(EVERY).as_millis();
            operation = self.get(&format!("/v1/operations/{id}?wait_ms={left}"))?;
        }
        Ok(operation)
    }

    fn process_of_machine(&self) -> Result<u32, Stop> {
        let machine = self.get(&format!("/v1/machines/{MACHINE}"))?;
        let process = machine["process_id"].as_u64().and_then(|id| u32::try_from(id).ok());
        process.ok_or_else(|| Stop::Failed(format!("a machine without a process: {machine}")))
    }

    /// Processor time of the daemon, of its machines that have ended, and of the one that may have.
    fn usage_ns(&self, machine: u32) -> Result<u64, Stop> {
        let daemon = || {
            let found = Usage::of(self.child.id());
            found.ok_or_else(|| Stop::Failed("a daemon has ended".into()))
        };
        loop {
            let before = daemon()?;
            let machine = Usage::of(machine).unwrap_or_default();
            let after = daemon()?;
            // Else the machine may have been counted twice, or not at all.
            if before.children_ns == after.children_ns {
                return Ok(after.own_ns + after.children_ns + machine.own_ns);
            }
        }
    }

    /// Ends the machine, if there is one, and deletes its record.
    fn remove_machine(&self) -> Result<(), Stop> {
        let machines = self.get("/v1/machines")?;
        let path = format!("/v1/machines/{MACHINE}");
        if machines.as_array().is_none_or(Vec::is_empty) {
            return Ok(());
        }
        // One that has moved away, or ended, has no process to be killed.
        let _ = self.call("POST", &format!("{path}/kill"), "");
        let end = Instant::now() + PATIENCE;
        while let Err(why) = self.call("DELETE", &path, "") {
            if Instant::now() > end {
                return Err(why);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let asked = self.call("POST", "/v1/shutdown", r#"{"stop_machines":true}"#);
        if asked.is_err() {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}

fn done(operation: &Value) -> Result<(), Stop> {
    match operation["state"].as_str() {
        Some("done") => Ok(()),
        _ => Err(Stop::Failed(format!("{}: {}", operation["method"], operation["error"]))),
    }
}
