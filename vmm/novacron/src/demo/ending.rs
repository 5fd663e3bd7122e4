//! How a demonstration ends, whatever happens: no process and no folder of it is left.

use std::collections::HashSet;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::process::{
    Pid, Signal, WaitOptions, getpid, kill_process, set_child_subreaper, waitpid,
};
use tempfile::TempDir;

use crate::signals::{on_signals, spawn};
use crate::{Failure, exit_code, log};

/// What asks this process to end; the last one, when its terminal goes.
const SIGNALS: [Signal; 3] = [Signal::TERM, Signal::INT, Signal::HUP];

/// Ends everything when it is dropped, and when this process is asked to end.
pub(super) struct Ending(Arc<Mutex<Started>>);

impl Ending {
    /// Once a process, before anything is started.
    pub(super) fn begin() -> Result<Self, Failure> {
        // Machines outlive their daemon: they become children of this process then, which can end them.
        let adopted = set_child_subreaper(Some(getpid()));
        adopted.map_err(|error| Failure::other("adopting machines")(error.into()))?;
        let others = children().map_err(Failure::other("/proc"))?;
        let started = Arc::new(Mutex::new(Started { folders: Vec::new(), others }));
        let of_signals = Arc::clone(&started);
        let act = move |_| {
            // Until this process has ended nobody starts anything more, or says that something has failed.
            let mut started = lock(&of_signals);
            started.end();
            log::last_words("asked to end; the demonstration's daemons and machines have ended");
            std::process::exit(exit_code::FAILED.into())
        };
        on_signals(SIGNALS, act).map_err(Failure::other("waiting for signals"))?;
        Ok(Self(started))
    }

    /// Makes a folder that goes in the end.
    pub(super) fn folder(&self) -> Result<PathBuf, Failure> {
        let mut started = lock(&self.0);
        let folder = TempDir::with_prefix("novacron-");
        let folder = folder.map_err(Failure::other("a folder for the demo"))?;
        let path = folder.path().to_owned();
        started.folders.push(folder);
        Ok(path)
    }

    /// Starts a process that is ended in the end, and what it has started.
    pub(super) fn start(&self, command: &mut Command) -> Result<Child, Failure> {
        let _nothing_ends = lock(&self.0);
        spawn(SIGNALS, command).map_err(Failure::other("a daemon cannot be started"))
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        lock(&self.0).end();
    }
}

/// What there is to end.
struct Started {
    folders: Vec<TempDir>,
    /// Children that this process had before, from whoever became it.
    others: HashSet<Pid>,
}

impl Started {
    fn end(&mut self) {
        // Who is killed leaves children to this process.
        while let Some(child) = self.child() {
            if kill_process(child, Signal::KILL).is_ok() {
                // What it has mapped and opened is free then.
                let _ = waitpid(Some(child), WaitOptions::empty());
            }
            // One that cannot be killed is not tried again.
            self.others.insert(child);
        }
        self.folders.clear();
    }

    fn child(&self) -> Option<Pid> {
        children().ok()?.difference(&self.others).next().copied()
    }
}

fn lock(started: &Mutex<Started>) -> MutexGuard<'_, Started> {
    started.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The processes whose parent this one is.
fn children() -> std::io::Result<HashSet<Pid>> {
    let own = std::process::id().to_string();
    let mut children = HashSet::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(Ok(id)) = name.to_str().map(str::parse) else { continue };
        // It may have ended.
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        // proc_pid_stat(5): the second field behind the name, which may have anything in it.
        let parent = stat.rsplit_once(')').and_then(|(_, fields)| fields.split_whitespace().nth(1));
        if parent == Some(own.as_str()) {
            children.extend(Pid::from_raw(id));
        }
    }
    Ok(children)
}
