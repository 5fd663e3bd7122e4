//! Snapshots, seen from whoever starts machine processes.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

use dwcp::archive::ArchiveKey;

use super::home::Birth;
use super::{Executable, MachineProcess, PATIENCE, SuperviseError, Supervised, Watch, unexpected};
use crate::ipc::MAX_DESCRIPTORS;
use crate::random::random;
use crate::role::{Order, Report, RestoreOrder, SnapshotOrder};
use crate::snapshot::{
    MOST_ARCHIVES, RestoreReport, SnapshotError, SnapshotFile, SnapshotPath, SnapshotReport,
    find_chain,
};

/// A restore's order comes with all files of a chain, the record and the console.
const _: () = assert!(MOST_ARCHIVES + 2 <= MAX_DESCRIPTORS);

/// How a snapshot is taken.
#[derive(Clone, Copy, Debug, Default)]
pub struct SnapshotOptions<'a> {
    /// The key under which it is encrypted.
    pub key: Option<&'a ArchiveKey>,
    /// An earlier snapshot of the machine: only what differs from it is written. It must lie in the same folder, and be
    /// encrypted under the same key.
    pub parent: Option<&'a Path>,
    /// Who is told how far it is.
    pub watch: Option<Watch<'a>>,
}

/// How a snapshot is restored.
#[derive(Clone, Copy, Debug, Default)]
pub struct RestoreOptions<'a> {
    /// The key of its files.
    pub key: Option<&'a ArchiveKey>,
    /// Run the guest at once, and fetch its pages as they are touched.
    pub is_lazy: bool,
}

impl Supervised {
    /// Writes the machine as it is now into a new file, whether it runs or is paused; it goes on as it was.
    ///
    /// # Errors
    /// `SnapshotFailed` and `Snapshot` when there is no snapshot, and the machine is as it was; else the process is
    /// lost, or the guest has ended.
    pub fn snapshot(
        &self,
        path: &Path,
        options: SnapshotOptions<'_>,
    ) -> Result<SnapshotReport, SuperviseError> {
        let SnapshotOptions { key, parent, watch } = options;
        let file = SnapshotFile::create(path)?;
        let (parents, parent_name) = match parent {
            Some(parent) => {
                let chain = find_chain(parent, key)?;
                if chain.len() == MOST_ARCHIVES {
                    let name = path.display().to_string();
                    return Err(
                        SnapshotError::ChainTooLong { name, most: MOST_ARCHIVES - 1 }.into()
                    );
                }
                (chain, Some(name_beside(parent, path)?))
            }
            None => (Vec::new(), None),
        };
        let order = Order::Snapshot(SnapshotOrder {
            id: random()?,
            key: key.map(|key| *key.secret_bytes()),
            parent_names: parents.iter().map(SnapshotPath::name).collect(),
            parent_name,
        });
        let mut descriptors: Vec<&dyn AsFd> = vec![&file];
        descriptors.extend(parents.iter().map(|parent| &parent.file as &dyn AsFd));
        self.process.order(&order, &descriptors)?;
        match self.job_report(watch)? {
            Report::Snapshotted(report) => {
                file.publish()?;
                Ok(report)
            }
            Report::SnapshotFailed { why } | Report::Declined { why } => {
                Err(SuperviseError::SnapshotFailed(why))
            }
            Report::Exited { how, end } => Err(SuperviseError::GuestEnded { how, end }),
            other => Err(unexpected(&other)),
        }
    }

    /// Restores a snapshot in a new process, as a new machine; returns it and this end of its console.
    ///
    /// `directory` decides which storage the permit record is written to.
    ///
    /// # Errors
    /// When a file is missing or no snapshot, the process cannot be started, or refuses it.
    pub fn restore(
        executable: Executable<'_>,
        directory: &Path,
        path: &Path,
        options: RestoreOptions<'_>,
    ) -> Result<(Self, UnixStream, RestoreReport), SuperviseError> {
        Self::restore_as(executable, || Birth::nameless(directory), path, options)
    }

    pub(super) fn restore_as(
        executable: Executable<'_>,
        birth: impl FnOnce() -> Result<Birth, SuperviseError>,
        path: &Path,
        options: RestoreOptions<'_>,
    ) -> Result<(Self, UnixStream, RestoreReport), SuperviseError> {
        let RestoreOptions { key, is_lazy } = options;
        let chain = find_chain(path, key)?;
        let mut process = MachineProcess::start(executable)?;
        let birth = birth()?;
        birth.keep(&mut process)?;
        let Birth { vm, runner, held, watch, home } = birth;
        let (console, theirs) = UnixStream::pair()?;
        let order = Order::Restore(RestoreOrder {
            vm,
            runner,
            names: chain.iter().map(SnapshotPath::name).collect(),
            key: key.map(|key| *key.secret_bytes()),
            is_lazy,
            dirty_log: executable.dirty_log,
        });
        let mut descriptors: Vec<&dyn AsFd> = vec![&held, &theirs];
        descriptors.extend(chain.iter().map(|archive| &archive.file as &dyn AsFd));
        process.order(&order, &descriptors)?;
        // From here on the machine process alone holds the life lock.
        drop(held);
        process.control.set_time_limit(None)?;
        let report = process.report();
        process.control.set_time_limit(Some(PATIENCE))?;
        match report? {
            Report::Restored(report) => Ok((Self { process, watch, home }, console, report)),
            Report::Failed { why } => Err(SuperviseError::Refused(why)),
            other => Err(unexpected(&other)),
        }
    }
}

/// The name by which a file finds the one on which it builds.
fn name_beside(parent: &Path, path: &Path) -> Result<String, SnapshotError> {
    let failed = |why: &str| SnapshotError::File {
        name: parent.display().to_string(),
        source: std::io::Error::other(why.to_owned()),
        hint: "; a snapshot and the one on which it builds must lie in one folder",
    };
    let folder = |path: &Path| {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        folder.unwrap_or(Path::new(".")).canonicalize()
    };
    let is_beside = folder(parent).ok().zip(folder(path).ok()).is_some_and(|(a, b)| a == b);
    let name = parent.file_name().and_then(|name| name.to_str()).map(str::to_owned);
    match name {
        Some(name) if is_beside => Ok(name),
        Some(_) => Err(failed("in another folder")),
        None => Err(failed("not a name in UTF-8")),
    }
}
