//! A daemon of the demonstration's own: it leaves nothing behind, and disturbs no other.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use control::api::{
    Boot, CreateMachine, HandOver, HandOverForm, HandOverOutcome, Machine, MachineName,
    MachineSpec, MachineState, Operation, RestoreOutcome, RestoreSnapshot, Shutdown,
    SnapshotOutcome, TakeSnapshot,
};
use control::{Client, ConsoleStream};
use tempfile::TempDir;

use crate::Failure;
use crate::cli::Shape;
use crate::connect::{daemon_command, wait_until_it_answers};
use crate::log::LogOptions;

/// How long a machine may take to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// A daemon that goes with the value, and a client of it.
pub(super) struct PrivateDaemon {
    daemon: Child,
    client: Client,
    folder: TempDir,
    machines: u32,
}

/// A machine of it that runs.
pub(super) struct Live {
    pub(super) name: MachineName,
}

impl PrivateDaemon {
    pub(super) fn start(log: &LogOptions) -> Result<Self, Failure> {
        let folder =
            TempDir::with_prefix("novacron-").map_err(Failure::other("a folder for the demo"))?;
        let socket = folder.path().join("s");
        let mut errors = File::options()
            .create(true)
            .append(true)
            .read(true)
            .open(folder.path().join("log"))
            .map_err(Failure::other("the daemon's log"))?;
        let mut command = daemon_command(&socket, &errors)?;
        // Not the host's configuration: what is shown must not depend on it.
        command.args(["--config", "/dev/null", "--state"]).arg(folder.path().join("state"));
        let daemon = command.envs(log.environment()).spawn();
        let daemon = daemon.map_err(Failure::other("a daemon cannot be started"))?;
        let client = Client::new(&socket).map_err(Failure::other("a client"))?;
        let mut started = Self { daemon, client, folder, machines: 0 };
        wait_until_it_answers(&started.client, &mut started.daemon, &mut errors, 0)?;
        Ok(started)
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// A folder that the daemon may write snapshots to.
    pub(super) fn snapshots(&self) -> PathBuf {
        self.folder.path().join("state/snapshots")
    }

    /// Boots a machine; returns it and its console.
    pub(super) fn boot(
        &mut self,
        shape: Shape,
        boot: Boot,
    ) -> Result<(Live, ConsoleStream), Failure> {
        let spec = MachineSpec {
            cpus: shape.cpus,
            cpu: shape.cpu.to_string(),
            memory_bytes: shape.memory.0,
            hole_start_bytes: shape.hole_start.0,
            dirty_log: shape.dirty_log.to_string(),
            boot,
            ..MachineSpec::default()
        };
        let name = self.next_name()?;
        let create = CreateMachine { name: name.clone(), spec };
        self.client.post::<Machine>("/v1/machines", &create)?;
        let operation = self.client.post(&format!("/v1/machines/{name}/start"), &())?;
        self.wait(operation)?;
        let console = self.client.console(&name)?;
        Ok((Live { name }, console))
    }

    pub(super) fn hand_over(
        &self,
        machine: &Live,
        form: HandOverForm,
    ) -> Result<HandOverOutcome, Failure> {
        let operation = self.client.post(&machine.path("/handover"), &HandOver { form })?;
        let outcome = self.wait(operation)?.hand_over;
        outcome.ok_or_else(|| Failure::Other("the hand-over has no outcome".to_owned()))
    }

    pub(super) fn snapshot(
        &self,
        machine: &Live,
        path: &Path,
        base: Option<&Path>,
    ) -> Result<SnapshotOutcome, Failure> {
        let name = |path: &Path| path.display().to_string();
        let request = TakeSnapshot { file: name(path), base: base.map(name), key_file: None };
        let operation = self.client.post(&machine.path("/snapshot"), &request)?;
        let outcome = self.wait(operation)?.snapshot;
        outcome.ok_or_else(|| Failure::Other("the snapshot has no outcome".to_owned()))
    }

    pub(super) fn restore(
        &mut self,
        path: &Path,
        lazy: bool,
    ) -> Result<(Live, ConsoleStream, RestoreOutcome), Failure> {
        let name = self.next_name()?;
        let request = RestoreSnapshot {
            file: path.display().to_string(),
            name: name.clone(),
            key_file: None,
            lazy,
            restart: control::api::RestartPolicy::Never,
        };
        let operation = self.client.post("/v1/snapshots/restore", &request)?;
        let outcome = self.wait(operation)?.restore;
        let outcome =
            outcome.ok_or_else(|| Failure::Other("the restore has no outcome".to_owned()))?;
        let console = self.client.console(&name)?;
        Ok((Live { name }, console, outcome))
    }

    /// As by `kill -9`.
    pub(super) fn kill(&self, machine: &Live) -> Result<(), Failure> {
        self.quick(machine, "/kill")?;
        self.wait_for_end(machine, PATIENCE).map(drop)
    }

    /// What is done at once.
    pub(super) fn quick(&self, machine: &Live, verb: &str) -> Result<(), Failure> {
        self.client.post::<Machine>(&machine.path(verb), &()).map(drop).map_err(Failure::from)
    }

    /// The machine as it is.
    pub(super) fn show(&self, machine: &Live) -> Result<Machine, Failure> {
        Ok(self.client.get(&machine.path(""))?)
    }

    /// Its process.
    pub(super) fn process(&self, machine: &Live) -> Result<u32, Failure> {
        Ok(self.show(machine)?.process_id.unwrap_or_default())
    }

    /// Waits until the guest has ended; None if that takes too long.
    pub(super) fn wait_for_end(
        &self,
        machine: &Live,
        limit: Duration,
    ) -> Result<Option<control::api::Ended>, Failure> {
        let end = Instant::now() + limit;
        while Instant::now() < end {
            let shown = self.show(machine)?;
            if shown.state == MachineState::Stopped {
                return Ok(shown.ended);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(None)
    }

    /// How the guest ended, if it has just done so: that says more than what failed for it.
    pub(super) fn why(&self, machine: &Live, failure: Failure) -> Failure {
        // Its attendant may not have noted it yet.
        match self.wait_for_end(machine, Duration::from_millis(500)) {
            Ok(Some(ended)) => Failure::Guest(ended.how),
            _ => failure,
        }
    }

    fn wait(&self, operation: Operation) -> Result<Operation, Failure> {
        Ok(self.client.wait(operation, &mut |_| {})?)
    }

    fn next_name(&mut self) -> Result<MachineName, Failure> {
        self.machines += 1;
        let name = format!("demo-{}", self.machines).parse();
        name.map_err(|error: control::api::NameError| Failure::Other(error.to_string()))
    }
}

impl Live {
    fn path(&self, rest: &str) -> String {
        format!("/v1/machines/{}{rest}", self.name)
    }
}

impl Drop for PrivateDaemon {
    fn drop(&mut self) {
        // No guest of a demonstration outlives it: killed one by one, whatever they are doing.
        for machine in self.client.get::<Vec<Machine>>("/v1/machines").unwrap_or_default() {
            if machine.process_id.is_some() {
                let live = Live { name: machine.name };
                let _ = self.quick(&live, "/kill");
                let _ = self.wait_for_end(&live, PATIENCE);
            }
        }
        let asked = self.client.post_for_nothing("/v1/shutdown", &Shutdown::default());
        if asked.is_err() {
            let _ = self.daemon.kill();
        }
        let _ = self.daemon.wait();
    }
}
