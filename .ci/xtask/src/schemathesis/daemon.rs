//! A daemon that is there to be asked, and what is left of it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::log::Log;
use crate::process::{self, Red};
use crate::release::TRIPLE;
use crate::tree::Tree;

/// Machines that run when the first request comes, where this host has KVM, and come back when their guests end.
const MACHINES: [&str; 2] = ["web-1", "a"];
const GUEST: [&str; 6] = [
    "--memory=16M",
    "--cpus=2",
    "--cmdline=fill=4M working_set=1M rate=200",
    "--restart=always",
    "--detach",
    "--",
];
/// Few, since each may run a guest.
const LIMIT: &str = "limits.machines=4";
/// Address space of each process in KiB: whatever a machine asks for, this is what it may have.
const ADDRESS_SPACE_KIB: u32 = 3 << 20;
/// What the daemon may have more of than in the beginning, once all machines are gone. Memory that its allocator keeps
/// for the next thread, operations and events that it remembers; a connection that is about to be closed.
const MORE_KIB: u64 = 96 << 10;
const MORE_DESCRIPTORS: usize = 24;
/// For what takes moments, on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct Daemon {
    folder: TempDir,
    executable: PathBuf,
    child: Child,
}

/// What a process holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Usage {
    memory_kib: u64,
    descriptors: usize,
}

impl Daemon {
    /// Starts one, and waits until it answers.
    pub(super) fn start(tree: &Tree, log: &mut Log) -> Result<Self, Red> {
        let told = |error: io::Error| Red::system("make a folder for a daemon", &error);
        let folder = tempfile::Builder::new().prefix("novacron-").tempdir().map_err(told)?;
        // Under a name of its own, its processes are told from everybody else's.
        let executable = folder.path().join("novacron");
        let built = tree.target.join(TRIPLE).join("debug/novacron");
        fs::copy(&built, &executable)
            .map_err(|error| Red::system(&format!("copy {}", built.display()), &error))?;
        let mut command = Command::new("bash");
        command.arg("-c").arg(format!("ulimit -v {ADDRESS_SPACE_KIB} && exec \"$@\"")).arg("bash");
        command.arg(&executable).args(["daemon", "--config", "/dev/null", "--set", LIMIT]);
        command.args(["--set", "log.level=warn"]).envs(environment(folder.path()));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log.stream()?);
        let child = command.spawn().map_err(|error| Red::system("run bash", &error))?;
        let mut daemon = Self { folder, executable, child };
        let end = Instant::now() + PATIENCE;
        while daemon.says(&["health"]).is_err() {
            daemon.is_alive()?;
            if Instant::now() > end {
                return Err(Red::new("the daemon does not answer"));
            }
            thread::sleep(Duration::from_millis(50));
        }
        for name in MACHINES {
            if let Err(red) = daemon.says(&[&["run"], &GUEST[..], &[name]].concat()) {
                // Most of the API needs no guest.
                log.say(&red.why);
            }
        }
        Ok(daemon)
    }

    /// Where its files are.
    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What a program has in its environment that speaks to it.
    pub(super) fn environment(&self) -> [(&'static str, PathBuf); 3] {
        let [socket, state] = environment(self.folder.path());
        [socket, state, ("NOVACRON_MACHINES", MACHINES.join(" ").into())]
    }

    pub(super) fn usage(&self) -> Result<Usage, Red> {
        let told = |error: io::Error| Red::system("look at the daemon's process", &error);
        let process = PathBuf::from(format!("/proc/{}", self.child.id()));
        let status = fs::read_to_string(process.join("status")).map_err(told)?;
        let descriptors = fs::read_dir(process.join("fd")).map_err(told)?.count();
        let memory_kib = resident(&status).ok_or_else(|| Red::new("/proc has no VmRSS"))?;
        Ok(Usage { memory_kib, descriptors })
    }

    /// Ends it, after its machines, and looks at what it came to.
    pub(super) fn end(&mut self, before: Usage, log: &mut Log) -> Result<String, Red> {
        self.is_alive()?;
        let health: Value = parse(&self.says(&["health", "--output", "json"])?)?;
        if health["state"] != "ready" {
            return Err(Red::new(format!("the daemon is not ready any more: {health}")));
        }
        let machines: Value = parse(&self.says(&["list", "--output", "json"])?)?;
        let machines = machines.as_array().cloned().unwrap_or_default();
        for machine in &machines {
            let name = machine["name"].as_str().unwrap_or_default();
            self.until(&format!("machine {name} is not deleted"), |daemon| {
                if daemon.says(&["delete", name]).is_ok() {
                    return true;
                }
                // Something else may be done with it just now, and may start it again: so each time.
                let _ = daemon.says(&["stop", name, "--timeout", "0s"]);
                false
            })?;
        }
        let mut usage = self.usage()?;
        // Connections of schemathesis that the daemon is about to close.
        let is_bounded = |usage: Usage| {
            usage.memory_kib <= before.memory_kib + MORE_KIB
                && usage.descriptors <= before.descriptors + MORE_DESCRIPTORS
        };
        let bounded = self.until("", |daemon| daemon.usage().is_ok_and(is_bounded));
        usage = self.usage().unwrap_or(usage);
        log.say(&format!("before: {before:?}; after: {usage:?}; {} machines", machines.len()));
        bounded.map_err(|_| Red::new(format!("the daemon had {before:?}, and has {usage:?}")))?;
        self.says(&["shutdown"])?;
        self.until("the daemon does not end", |daemon| {
            matches!(daemon.child.try_wait(), Ok(Some(_)))
        })?;
        let left = self.processes();
        if !left.is_empty() {
            return Err(Red::new(format!("processes are left: {left:?}")));
        }
        is_empty(&self.folder.path().join("state/machines"))?;
        let Usage { memory_kib, descriptors } = usage;
        Ok(format!("then {} MiB and {descriptors} descriptors", memory_kib >> 10))
    }

    fn is_alive(&mut self) -> Result<(), Red> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(Red::new(format!("the daemon has ended: {status}"))),
            Err(error) => Err(Red::system("wait for the daemon", &error)),
        }
    }

    /// The standard output of a verb, which must succeed.
    fn says(&self, arguments: &[&str]) -> Result<String, Red> {
        let mut command = Command::new(&self.executable);
        command.args(arguments).envs(self.environment()).stdin(Stdio::null());
        let words = process::spelled(&command);
        let output =
            command.output().map_err(|error| Red::system(&format!("run `{words}`"), &error))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(Red::new(format!("`{words}`: {}", String::from_utf8_lossy(&output.stderr).trim())))
    }

    fn until(&mut self, what: &str, mut is_so: impl FnMut(&mut Self) -> bool) -> Result<(), Red> {
        let end = Instant::now() + PATIENCE;
        while !is_so(self) {
            if Instant::now() > end {
                return Err(Red::new(what));
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// The processes of this executable.
    fn processes(&self) -> Vec<u32> {
        let all = fs::read_dir("/proc").into_iter().flatten().flatten();
        let numbers = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let is_ours = |number: &u32| {
            let line = fs::read(format!("/proc/{number}/cmdline")).unwrap_or_default();
            let first = line.split(|byte| *byte == 0).next().unwrap_or_default();
            first == self.executable.as_os_str().as_encoded_bytes()
        };
        numbers.filter(is_ours).collect()
    }
}

impl Drop for Daemon {
    /// Whatever went wrong, nothing of it stays.
    fn drop(&mut self) {
        let left = self.processes();
        if !left.is_empty() {
            let mut kill = Command::new("bash");
            kill.args(["-c", "kill -KILL \"$@\"", "kill"]).args(left.iter().map(u32::to_string));
            let _ = kill.stderr(Stdio::null()).status();
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn environment(folder: &Path) -> [(&'static str, PathBuf); 2] {
    [("NOVACRON_SOCKET", folder.join("s")), ("NOVACRON_STORAGE_STATE", folder.join("state"))]
}

fn parse(text: &str) -> Result<Value, Red> {
    serde_json::from_str(text).map_err(|error| Red::new(format!("{text}: {error}")))
}

/// `VmRSS:      1234 kB`
fn resident(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse().ok()
}

fn is_empty(folder: &Path) -> Result<(), Red> {
    let told = |error: io::Error| Red::system(&format!("list {}", folder.display()), &error);
    let left: Vec<_> = fs::read_dir(folder).map_err(told)?.flatten().collect();
    if left.is_empty() {
        return Ok(());
    }
    let names: Vec<_> = left.iter().map(fs::DirEntry::file_name).collect();
    Err(Red::new(format!("{} has {names:?} in it", folder.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_memory_is_read() {
        assert_eq!(resident("VmHWM:\t 99 kB\nVmRSS:\t    1234 kB\n"), Some(1234));
        assert_eq!(resident("Name:\tx\n"), None);
    }

    #[test]
    fn what_is_left_is_named() {
        let folder = tempfile::tempdir().unwrap();
        is_empty(folder.path()).unwrap();
        fs::write(folder.path().join(".new-00"), "").unwrap();
        assert!(is_empty(folder.path()).unwrap_err().why.contains(".new-00"));
    }
}
