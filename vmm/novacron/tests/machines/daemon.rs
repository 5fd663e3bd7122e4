//! A daemon under test, with folders of its own.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use control::api::{
    Boot, CreateMachine, Info, Machine, MachineName, MachineSpec, MachineState, Operation,
    RestartPolicy, Shutdown,
};
use control::{CallError, Client};
use rustix::process::{Pid, Signal, kill_process};

/// Far more than anything takes on a loaded host.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Daemon {
    folder: tempfile::TempDir,
    environment: Vec<(String, String)>,
    settings: Vec<String>,
    child: Child,
    client: Client,
}

impl Daemon {
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// With more in its environment, which its machine processes have, too.
    pub(crate) fn start_with(environment: &[(&str, &str)]) -> Self {
        Self::start_as(environment, &[])
    }

    /// With fields of its configuration set.
    pub(crate) fn start_set(settings: &[&str]) -> Self {
        Self::start_as(&[], settings)
    }

    /// With fields of its configuration set, and another standard error than a file.
    pub(crate) fn start_logging_to(log: impl Into<Stdio>, settings: &[&str]) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), Some(log.into()), &[], settings)
    }

    pub(crate) fn start_as(environment: &[(&str, &str)], settings: &[&str]) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), None, environment, settings)
    }

    fn start_in(
        folder: tempfile::TempDir,
        log: Option<Stdio>,
        environment: &[(&str, &str)],
        settings: &[&str],
    ) -> Self {
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let environment: Vec<_> = environment.iter().map(own).collect();
        let settings: Vec<_> = settings.iter().map(|setting| (*setting).to_owned()).collect();
        let log = log.unwrap_or_else(|| log_file(folder.path()));
        let child = spawn(folder.path(), log, &environment, &settings);
        let client = Client::new(&folder.path().join("s")).unwrap();
        let mut daemon = Self { folder, environment, settings, child, client };
        daemon.wait_until_it_answers();
        daemon
    }

    /// Starts the next one, once this one has gone.
    pub(crate) fn start_again(&mut self) {
        self.child.wait().unwrap();
        let folder = self.folder.path();
        self.child = spawn(folder, log_file(folder), &self.environment, &self.settings);
        self.wait_until_it_answers();
    }

    /// Whatever its environment asked for, the next one is not asked for it.
    pub(crate) fn heal(&mut self) {
        self.environment.clear();
    }

    /// Waits for its end, which was asked for.
    pub(crate) fn wait_for_end(&mut self, limit: Duration) {
        let end = Instant::now() + limit;
        while self.child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < end, "it has not ended within {limit:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// As by `kill -9`.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn wait_until_it_answers(&mut self) {
        let end = Instant::now() + PATIENCE;
        while self.client.get::<Info>("/v1/info").is_err() {
            assert!(Instant::now() < end, "{}", self.log());
            assert!(self.child.try_wait().unwrap().is_none(), "{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("s")
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// A verb that speaks to it.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_novacron"));
        command.args(arguments).env("NOVACRON_SOCKET", self.socket()).current_dir(self.folder());
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    pub(crate) fn novacron(&self, arguments: &[&str]) -> Output {
        self.command(arguments).stdin(Stdio::null()).output().unwrap()
    }

    /// The standard output of a verb that must succeed.
    pub(crate) fn says(&self, arguments: &[&str]) -> String {
        let output = self.novacron(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}\n{}", self.log());
        String::from_utf8(output.stdout).unwrap()
    }

    /// Makes a machine that runs the oracle, and starts it.
    pub(crate) fn oracle(&self, name: &str, options: &str, restart: RestartPolicy) {
        let spec = MachineSpec {
            memory_bytes: 32 << 20,
            boot: Boot::Oracle { options: options.to_owned() },
            restart,
            ..MachineSpec::default()
        };
        let create = CreateMachine { name: name.parse().unwrap(), spec };
        self.client.post::<Machine>("/v1/machines", &create).unwrap();
        self.operate(name, "start").unwrap();
    }

    /// Does what takes time, and waits for it.
    pub(crate) fn operate(&self, name: &str, verb: &str) -> Result<Operation, CallError> {
        let nothing = serde_json::json!({});
        let operation = self.client.post(&format!("/v1/machines/{name}/{verb}"), &nothing)?;
        self.client.wait(operation, &mut |_| {})
    }

    pub(crate) fn show(&self, name: &str) -> Machine {
        self.client.get(&format!("/v1/machines/{name}")).unwrap()
    }

    /// Waits until a machine is as it should be.
    pub(crate) fn wait_for(&self, name: &str, is_it: impl Fn(&Machine) -> bool) -> Machine {
        let end = Instant::now() + PATIENCE;
        loop {
            let machine = self.show(name);
            if is_it(&machine) {
                return machine;
            }
            assert!(Instant::now() < end, "{machine:?}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn wait_for_state(&self, name: &str, state: MachineState) -> Machine {
        self.wait_for(name, |machine| machine.state == state)
    }

    /// Waits until a guest has printed this.
    pub(crate) fn wait_for_log(&self, name: &str, text: &str) {
        let end = Instant::now() + PATIENCE;
        while !self.says(&["logs", name]).contains(text) {
            assert!(Instant::now() < end, "{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn names(&self) -> Vec<MachineName> {
        let machines: Vec<Machine> = self.client.get("/v1/machines").unwrap();
        machines.into_iter().map(|machine| machine.name).collect()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.client.get::<Info>("/v1/info").is_err() {
            // Whatever its machines are, the next one finds them.
            let _ = self.child.kill();
            let _ = self.child.wait();
            let folder = self.folder.path();
            self.child = spawn(folder, log_file(folder), &[], &self.settings);
            let end = Instant::now() + PATIENCE;
            while self.client.get::<Info>("/v1/info").is_err() && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        let limit = Instant::now() + Duration::from_secs(10);
        // Again and again: one that an operation has cannot be stopped, and comes again if that is its policy.
        let machines = loop {
            let machines = self.client.get::<Vec<Machine>>("/v1/machines").unwrap_or_default();
            for machine in &machines {
                let stop = format!("/v1/machines/{}/stop", machine.name);
                let kill = format!("/v1/machines/{}/kill", machine.name);
                // One that waits for its next start has no process to be killed.
                let timeout = control::api::Stop { timeout_ms: Some(0) };
                let _ = self.client.post::<Operation>(&stop, &timeout);
                let _ = self.client.post::<Machine>(&kill, &());
            }
            if machines.iter().all(|it| it.process_id.is_none()) || Instant::now() >= limit {
                break machines;
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        let asked = self.client.post_for_nothing("/v1/shutdown", &Shutdown::default());
        if asked.is_err() {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
        // A test that has failed may leave a machine that does not do what it is told.
        machines.iter().filter_map(|machine| machine.process_id).for_each(end);
    }
}

/// Ends a process, if it is still a machine of ours.
fn end(process: u32) {
    let executable = std::fs::read_link(format!("/proc/{process}/exe"));
    if executable.is_ok_and(|path| path == Path::new(env!("CARGO_BIN_EXE_novacron")))
        && let Some(process) = i32::try_from(process).ok().and_then(Pid::from_raw)
    {
        let _ = kill_process(process, Signal::KILL);
    }
}

fn log_file(folder: &Path) -> Stdio {
    std::fs::File::options().create(true).append(true).open(folder.join("log")).unwrap().into()
}

fn spawn(
    folder: &Path,
    log: Stdio,
    environment: &[(String, String)],
    settings: &[String],
) -> Child {
    Command::new(env!("CARGO_BIN_EXE_novacron"))
        .args(["daemon", "--config", "/dev/null", "--socket"])
        .arg(folder.join("s"))
        .arg("--state")
        .arg(folder.join("state"))
        .args(settings.iter().flat_map(|setting| ["--set", setting]))
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .process_group(0)
        .spawn()
        .unwrap()
}
