//! What a measurement makes outside of its own process, and how it goes again, whatever happens.
//!
//! A second process of this program, the guard, does nothing but wait for the end of a pipe, which
//! comes when this process ends in any way, a kill included; then it removes everything. Only if the
//! guard is killed, too, something stays, until the next measurement begins.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use benches::Stop;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use benches::network;

/// Stands in the environment of every process that a measurement starts, and of those that they start.
const MARK: (&str, &str) = ("BENCHES_MIGRATE", "of-a-measurement");
/// The name of the folders.
const NAME: &str = "novacron-migrate";
/// How long another measurement's guard may take to clean up.
const PATIENCE: Duration = Duration::from_secs(30);

/// The folders of a measurement. There is one at a time on a host: namespaces have fixed names.
pub(crate) struct Site {
    sockets: PathBuf,
    files: PathBuf,
    guard: Child,
}

impl Site {
    /// Removes what an earlier measurement left, and makes the folders, that of files in `records`.
    pub(crate) fn make(records: &Path) -> Result<Self, Stop> {
        let lock = lock()?;
        let files = records.join(NAME);
        sweep(&files)?;
        let this = std::env::current_exe().map_err(Stop::failed("this program's path"))?;
        let guard = Command::new(this)
            .arg("--guard")
            .arg(&files)
            .stdin(Stdio::piped())
            // The lock is held until both processes have ended.
            .stdout(lock)
            // Ctrl-C on the terminal is not for it.
            .process_group(0)
            .spawn()
            .map_err(Stop::failed("the guard"))?;
        let site = Self { sockets: std::env::temp_dir().join(NAME), files, guard };
        for folder in [&site.sockets, &site.files, &site.given()] {
            fs::create_dir(folder).map_err(Stop::failed("a folder"))?;
        }
        Ok(site)
    }

    /// Where sockets are, whose paths must be short.
    pub(crate) fn sockets(&self) -> &Path {
        &self.sockets
    }

    /// Where a daemon's state is, its permit records among it.
    pub(crate) fn state(&self, host: &str) -> PathBuf {
        self.files.join(host)
    }

    /// Where the guest's files are: a daemon reads none beside its own.
    pub(crate) fn given(&self) -> PathBuf {
        self.files.join("given")
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        // The end of the pipe.
        drop(self.guard.stdin.take());
        let _ = self.guard.wait();
    }
}

/// A program, marked as one of a measurement, which speaks to nobody.
pub(crate) fn program(path: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(path);
    command.env(MARK.0, MARK.1).stdin(Stdio::null()).stdout(Stdio::null());
    command
}

/// The guard's whole life.
pub(crate) fn guard(files: &Path) -> Result<(), Stop> {
    let mut nothing = Vec::new();
    io::stdin().read_to_end(&mut nothing).map_err(Stop::failed("the guard"))?;
    sweep(files)
}

fn lock() -> Result<File, Stop> {
    let path = std::env::temp_dir().join(format!("{NAME}.lock"));
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path);
    let file = file.map_err(Stop::failed("the lock of measurements"))?;
    let end = Instant::now() + PATIENCE;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < end => {
                std::thread::sleep(Duration::from_millis(100));
            }
            Err(error) => {
                let why =
                    format!("another measurement of moves is under way on this host: {error}");
                return Err(Stop::Failed(why));
            }
        }
    }
}

/// Removes everything: processes first, since they hold the rest.
fn sweep(files: &Path) -> Result<(), Stop> {
    kill_marked()?;
    network::remove()?;
    for folder in [files, &std::env::temp_dir().join(NAME)] {
        match fs::remove_dir_all(folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Stop::Failed(format!("{}: {error}", folder.display())));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Kills the processes that have the mark, and those that they start meanwhile.
fn kill_marked() -> Result<(), Stop> {
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        let processes = fs::read_dir("/proc").map_err(Stop::failed("/proc"))?;
        let names = processes.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let ids: Vec<_> = names.filter_map(|name| Pid::from_raw(name.parse().ok()?)).collect();
        if ids.into_iter().filter(|id| kill_if_marked(*id)).count() == 0 {
            return Ok(());
        }
    }
    Err(Stop::Failed("processes of an earlier measurement cannot be ended".into()))
}

/// The descriptor was opened before the mark was read, and so is of the process that has it.
fn kill_if_marked(id: Pid) -> bool {
    let Ok(process) = pidfd_open(id, PidfdFlags::empty()) else { return false };
    let environment = fs::read(format!("/proc/{id}/environ")).unwrap_or_default();
    let mark = format!("{}={}", MARK.0, MARK.1);
    if !environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes()) {
        return false;
    }
    let _ = pidfd_send_signal(&process, Signal::KILL);
    let second = Timespec { tv_sec: 1, tv_nsec: 0 };
    let _ = poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&second));
    true
}
