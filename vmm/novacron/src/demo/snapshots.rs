//! The part of the demonstration in which the machine is saved, killed and restored.

use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use machine::{DirtyLogKind, RestoreOptions, SnapshotOptions, Supervised};
use tempfile::TempDir;

use super::view::View;
use crate::Failure;
use crate::cli::DemoOptions;
use crate::log::LogOptions;
use crate::run::with_executable;

/// A folder of snapshots, which goes with the value.
pub(super) struct Snapshots<'a> {
    folder: TempDir,
    view: &'a View,
    log: &'a LogOptions,
    times: u32,
    dirty_log: DirtyLogKind,
}

impl<'a> Snapshots<'a> {
    pub(super) fn new(
        options: &DemoOptions,
        view: &'a View,
        log: &'a LogOptions,
    ) -> Result<Self, Failure> {
        let folder =
            TempDir::with_prefix("novacron-").map_err(Failure::other("a folder for snapshots"))?;
        Ok(Self { folder, view, log, times: options.snapshots, dirty_log: options.dirty_log })
    }

    /// Saves the machine whole, kills it and restores it eagerly; then saves what differs, kills it and restores it
    /// lazily; so often. `after` each restore, it is given the machine's console and lets the guest run.
    pub(super) fn round_trips(
        &self,
        mut machine: Supervised,
        mut after: impl FnMut(&Supervised, UnixStream) -> Result<(), Failure>,
    ) -> Result<Supervised, Failure> {
        for nth in 1..=self.times {
            let (full, more) = (self.path("full", nth), self.path("more", nth));
            for (path, base) in [(&full, None), (&more, Some(&full))] {
                let options = SnapshotOptions {
                    parent: base.map(PathBuf::as_path),
                    ..SnapshotOptions::default()
                };
                let report = machine.snapshot(path, options)?;
                self.view.snapshot(&report, base.is_some(), nth, self.times);
                // As by `kill -9`.
                drop(machine);
                let options = RestoreOptions { key: None, is_lazy: base.is_some() };
                let (restored, console, report) =
                    with_executable(self.dirty_log, self.log, |executable| {
                        Ok(Supervised::restore(executable, self.folder.path(), path, options)?)
                    })?;
                self.view.restore(&report, nth, self.times, restored.process().id());
                after(&restored, console)?;
                machine = restored;
            }
            // A machine that still fetches its pages has them open.
            for path in [full, more] {
                std::fs::remove_file(path).map_err(Failure::other("a snapshot"))?;
            }
        }
        Ok(machine)
    }

    fn path(&self, kind: &str, nth: u32) -> PathBuf {
        self.folder.path().join(format!("{kind}-{nth}"))
    }
}
