//! Where and when a figure was measured: without it, a figure says nothing.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::stop::Stop;

/// The machine, and how busy it was.
#[derive(Clone, Debug, Serialize)]
pub struct Setting {
    /// The processor's name.
    pub cpu: String,
    /// Processors that this process may use.
    pub cpus: usize,
    /// The kernel's release.
    pub kernel: String,
    /// Load averages of 1, 5 and 15 minutes as the measurement began.
    pub load_at_start: String,
    /// The same at its end.
    pub load_at_end: String,
    /// `novacron --version`.
    pub novacron: String,
}

impl Setting {
    /// The setting at the start of a measurement.
    #[must_use]
    pub fn now(novacron: &str) -> Self {
        let cpuinfo = read("/proc/cpuinfo");
        let name =
            cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1));
        Self {
            cpu: name.unwrap_or("unknown processor").to_owned(),
            cpus: std::thread::available_parallelism().map_or(0, usize::from),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            load_at_start: load_average(),
            load_at_end: String::new(),
            novacron: novacron.to_owned(),
        }
    }

    /// The measurement has ended.
    pub fn end(&mut self) {
        self.load_at_end = load_average();
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} on {} x {}, Linux {}", self.novacron, self.cpus, self.cpu, self.kernel)?;
        write!(
            f,
            "load average at the start {}, at the end {}",
            self.load_at_start, self.load_at_end
        )
    }
}

/// Load averages of 1, 5 and 15 minutes. What else runs here is in every figure.
#[must_use]
pub fn load_average() -> String {
    read("/proc/loadavg").split(' ').take(3).collect::<Vec<_>>().join(" ")
}

/// What cannot be read is left out of a measurement's heading; it is no reason to end it.
fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// The file system that a directory lies on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FileSystem {
    /// Its type: `ext4`.
    pub kind: String,
    /// What it lies on: `/dev/vda`.
    pub device: String,
    #[serde(skip)]
    mount_point: PathBuf,
}

impl FileSystem {
    /// That of `directory`, from this process's mount table.
    ///
    /// # Errors
    /// When there is no such directory, or no mount table.
    pub fn of(directory: &Path) -> Result<Self, Stop> {
        let directory = directory.canonicalize().map_err(Stop::failed("the record's directory"))?;
        let table = std::fs::read_to_string("/proc/self/mountinfo")
            .map_err(Stop::failed("/proc/self/mountinfo"))?;
        Self::find(&table, &directory).ok_or_else(|| {
            Stop::Failed(format!("{} lies on no mounted file system", directory.display()))
        })
    }

    /// Whether a synchronous write there reaches storage at all.
    #[must_use]
    pub fn is_storage(&self) -> bool {
        !matches!(self.kind.as_str(), "tmpfs" | "ramfs" | "devtmpfs")
    }

    /// The mount whose path is the longest prefix; of equals the last, which covers the others.
    fn find(table: &str, directory: &Path) -> Option<Self> {
        let mounts = table.lines().filter_map(Self::parse);
        mounts
            .filter(|mount| directory.starts_with(&mount.mount_point))
            .max_by_key(|mount| mount.mount_point.components().count())
    }

    /// A line of proc_pid_mountinfo(5): the fifth field is where, the two after " - " are what.
    fn parse(line: &str) -> Option<Self> {
        let (mount, what) = line.split_once(" - ")?;
        let mut what = what.split(' ');
        Some(Self {
            kind: what.next()?.to_owned(),
            device: what.next()?.to_owned(),
            mount_point: mount.split(' ').nth(4)?.into(),
        })
    }
}

impl fmt::Display for FileSystem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on {}", self.kind, self.device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_mount_holds_a_directory() {
        let table = "1 0 8:1 / / rw - ext4 /dev/root rw\n\
                     2 1 0:2 / /run rw shared:1 - tmpfs tmpfs rw\n\
                     3 1 8:2 / /runner rw - xfs /dev/sdb rw\n";
        let check = |directory: &str, kind: &str| {
            let found = FileSystem::find(table, Path::new(directory)).unwrap();
            assert_eq!(found.kind, kind, "{directory}");
        };
        check("/var/lib", "ext4");
        check("/run/novacron", "tmpfs");
        check("/runner", "xfs");
    }
}
