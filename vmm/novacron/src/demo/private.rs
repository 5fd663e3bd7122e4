//! A daemon of the demonstration's own: it disturbs no other.

use std::fs::File;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use control::api::{
    AddPeer, Boot, CreateMachine, HandOver, HandOverForm, HandOverOutcome, Info, Machine,
    MachineName, MachineSpec, MachineState, Migrate, MigrationOutcome, Operation, Peer,
    RestoreOutcome, RestoreSnapshot, SnapshotOutcome, TakeSnapshot,
};
use control::{Client, ConsoleStream};

use super::ending::Ending;
use crate::Failure;
use crate::cli::Shape;
use crate::connect::{daemon_command, wait_until_it_answers};
use crate::log::LogOptions;
use crate::migrate::carry_out;
use crate::progress::MoveProgress;

/// How long a machine may take to end, or to be there.
const PATIENCE: Duration = Duration::from_secs(30);

/// A daemon with folders of its own, to which other hosts can speak, and a client of it.
pub(super) struct PrivateDaemon {
    name: MachineName,
    client: Client,
    folder: PathBuf,
    key: String,
    address: String,
    machines: u32,
}

/// A machine of it that runs.
pub(super) struct Live {
    pub(super) name: MachineName,
}

impl PrivateDaemon {
    /// `name` is what other hosts call it.
    pub(super) fn start(name: &str, ending: &Ending, log: &LogOptions) -> Result<Self, Failure> {
        let name = machine_name(name)?;
        let folder = ending.folder()?;
        let socket = folder.join("s");
        let mut errors = File::options()
            .create(true)
            .append(true)
            .read(true)
            .open(folder.join("log"))
            .map_err(Failure::other("the daemon's log"))?;
        let mut command = daemon_command(&socket, &errors)?;
        command
            // Not the host's configuration: what is shown must not depend on it.
            .args(["--config", "/dev/null", "--set", "peers.listen=127.0.0.1:0", "--state"])
            .arg(folder.join("state"))
            .envs(log.environment())
            // Ctrl-C is for the demonstration, which ends it.
            .process_group(0);
        let mut daemon = ending.start(&mut command)?;
        let client = Client::new(&socket).map_err(Failure::other("a client"))?;
        let Info { host_key: key, peers_listen, .. } =
            wait_until_it_answers(&client, &mut daemon, &mut errors, 0)?;
        let address = peers_listen.into_iter().next();
        let address = address
            .ok_or_else(|| Failure::Other(format!("the daemon {name} listens for no hosts")))?;
        Ok(Self { name, client, folder, key, address, machines: 0 })
    }

    /// Lets machines go to another one, and come from it.
    pub(super) fn add_peer(&self, other: &Self) -> Result<(), Failure> {
        let (name, address, key) = (other.name.clone(), other.address.clone(), other.key.clone());
        self.client.post::<Peer>("/v1/peers", &AddPeer { name, address, key })?;
        Ok(())
    }

    pub(super) fn name(&self) -> &MachineName {
        &self.name
    }

    /// Its public key.
    pub(super) fn key(&self) -> &str {
        &self.key
    }

    /// Where other hosts reach it.
    pub(super) fn address(&self) -> &str {
        &self.address
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// A folder that the daemon may write snapshots to.
    pub(super) fn snapshots(&self) -> PathBuf {
        self.folder.join("state/snapshots")
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

    pub(super) fn migrate(
        &self,
        machine: &Live,
        order: &Migrate,
        progress: MoveProgress,
    ) -> Result<MigrationOutcome, Failure> {
        carry_out(&self.client, &machine.name, order, progress)
    }

    /// Bytes that a machine printed while it was here before; none, if it never was.
    pub(super) fn past(&self, machine: &Live) -> Result<u64, Failure> {
        let machines: Vec<Machine> = self.client.get("/v1/machines")?;
        if machines.iter().all(|other| other.name != machine.name) {
            return Ok(0);
        }
        Ok(self.client.get_bytes(&machine.path("/log"))?.len() as u64)
    }

    /// The console of a machine that has just come, without its `past` here.
    pub(super) fn console_after(
        &self,
        machine: &Live,
        past: u64,
    ) -> Result<ConsoleStream, Failure> {
        let end = Instant::now() + PATIENCE;
        loop {
            let Machine { state, ended, .. } = self.show(machine)?;
            match (state, ended) {
                (MachineState::Running, _) => break,
                (MachineState::Stopped, Some(ended)) => return Err(Failure::Guest(ended.how)),
                _ if Instant::now() >= end => {
                    let (machine, host, state) = (&machine.name, &self.name, state.name());
                    let why = format!("{machine} has come to {host}, and is {state} there");
                    return Err(Failure::Other(why));
                }
                _ => std::thread::sleep(Duration::from_millis(10)),
            }
        }
        let ConsoleStream { stream, first } = self.client.console(&machine.name)?;
        // A console keeps as much as it ever did: that many bytes come.
        let mut skipped = first.as_slice().chain(&stream).take(past);
        std::io::copy(&mut skipped, &mut std::io::sink()).map_err(Failure::other("the console"))?;
        let past = usize::try_from(past).unwrap_or(usize::MAX).min(first.len());
        Ok(ConsoleStream { first: first[past..].to_vec(), stream })
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
        machine_name(&format!("demo-{}", self.machines))
    }
}

fn machine_name(name: &str) -> Result<MachineName, Failure> {
    let name = name.parse();
    name.map_err(|error: control::api::NameError| Failure::Other(error.to_string()))
}

impl Live {
    fn path(&self, rest: &str) -> String {
        format!("/v1/machines/{}{rest}", self.name)
    }
}
