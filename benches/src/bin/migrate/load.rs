//! The guest that moves: the same in both VMMs.

use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use benches::{Guest, Stop, tsc_khz};
use firmware::oracle::report::Rounds;

/// Bytes that the guest writes again and again.
const WORKING_SET: &str = "16M";
/// How long a guest runs before it moves, from its first round.
const WARM_UP: Duration = Duration::from_secs(1);
/// Reports of the guest after its move: the first may have been composed before.
const REPORTS_AFTER: usize = 2;
const PAGE_BYTES: usize = 4096;

/// One guest's memory, and what it does to it.
pub(crate) struct Load {
    pub(crate) memory_bytes: u64,
    /// The oracle, as a file.
    pub(crate) kernel: PathBuf,
    /// What fills the guest's memory, as a file.
    pub(crate) initrd: PathBuf,
    /// Bytes of that.
    pub(crate) content_bytes: u64,
    pub(crate) command_line: String,
    /// How long the guest may stand still, as both VMMs are told.
    pub(crate) downtime_ms: u64,
    /// How long a move may take.
    pub(crate) limit: Duration,
}

/// What is asked for of a guest.
pub(crate) struct Wanted {
    pub(crate) memory_bytes: u64,
    /// Pages a second.
    pub(crate) rate: u64,
    pub(crate) downtime_ms: u64,
    pub(crate) limit: Duration,
}

impl Load {
    /// Writes the guest's files to `folder`. `pages` is a file of memory pages.
    pub(crate) fn make(folder: &Path, wanted: &Wanted, pages: &Path) -> Result<Self, Stop> {
        let Wanted { memory_bytes, rate, downtime_ms, limit } = *wanted;
        let (kernel, initrd) = (folder.join("oracle.elf"), folder.join("pages"));
        fs::write(&kernel, firmware::ORACLE).map_err(Stop::failed("the oracle guest"))?;
        let content_bytes = copy_pages(pages, &initrd, memory_bytes / 2)?;
        let command_line = format!(
            "cpus=1 tsc_khz={} pattern=random rate={rate} working_set={WORKING_SET} \
             fill={WORKING_SET} report=200",
            tsc_khz()?
        );
        Ok(Self { memory_bytes, kernel, initrd, content_bytes, command_line, downtime_ms, limit })
    }

    /// Lets a new guest run for a while; what it had written then.
    pub(crate) fn warm_up(&self, guest: &mut Guest) -> Result<u64, Stop> {
        guest.wait_until_ready()?;
        let end = Instant::now() + WARM_UP;
        let mut writes = 0;
        while Instant::now() < end {
            writes = last(&guest.beyond(writes, 1)?).writes;
        }
        Ok(writes)
    }

    /// Looks at a guest that has moved, and had written so much before: how far its clock jumped, in
    /// nanoseconds. It fails unless all its pages are what the guest wrote.
    pub(crate) fn inspect(&self, guest: &mut Guest, writes_before: u64) -> Result<u64, Stop> {
        let reports = guest.beyond(writes_before, REPORTS_AFTER)?;
        let _ = guest.verdict()?;
        Ok(reports.iter().map(|report| report.gap_us * 1000).max().unwrap_or(0))
    }
}

fn last(reports: &[Rounds]) -> Rounds {
    reports.last().copied().unwrap_or_default()
}

/// Pages of a Debian's memory: those that `memory-image` makes, or has made.
pub(crate) fn memory_image() -> Result<PathBuf, Stop> {
    let mut command = match std::env::var_os("CARGO") {
        Some(cargo) => {
            let mut command = build_cache::in_folder(cargo, Path::new(env!("CARGO_MANIFEST_DIR")));
            command.args(["run", "--quiet", "--release", "--package", "benches", "--bin"]);
            command.args(["memory-image", "--"]);
            command
        }
        None => {
            let here = std::env::current_exe().map_err(Stop::failed("this program's path"))?;
            Command::new(here.with_file_name("memory-image"))
        }
    };
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let output = output.map_err(Stop::failed("memory-image"))?;
    let folder = String::from_utf8_lossy(&output.stdout);
    match folder.lines().next() {
        Some(folder) if output.status.success() => Ok(Path::new(folder).join("filled")),
        _ => Err(Stop::Failed(format!("memory-image ended with {}: {folder}", output.status))),
    }
}

/// Copies pages that are not zero, up to `most` bytes; returns how many bytes there are.
fn copy_pages(from: &Path, to: &Path, most: u64) -> Result<u64, Stop> {
    let what = from.display().to_string();
    let mut from =
        BufReader::with_capacity(1 << 20, File::open(from).map_err(Stop::failed(&what))?);
    let mut to = BufWriter::new(File::create_new(to).map_err(Stop::failed("a file of pages"))?);
    let (mut page, mut bytes) = ([0; PAGE_BYTES], 0);
    while bytes < most && from.read_exact(&mut page).is_ok() {
        if page.iter().any(|byte| *byte != 0) {
            to.write_all(&page).map_err(Stop::failed("a file of pages"))?;
            bytes += PAGE_BYTES as u64;
        }
    }
    to.flush().map_err(Stop::failed("a file of pages"))?;
    if bytes == 0 {
        return Err(Stop::Failed(format!("{what} holds no page that is not zero")));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_zeros_are_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        fs::write(&from, [[1; PAGE_BYTES], [0; PAGE_BYTES], [2; PAGE_BYTES]].concat()).unwrap();
        assert_eq!(copy_pages(&from, &to, 1 << 20).unwrap(), 2 * 4096);
        assert_eq!(fs::read(&to).unwrap(), [[1; PAGE_BYTES], [2; PAGE_BYTES]].concat());
        fs::remove_file(&to).unwrap();
        assert_eq!(copy_pages(&from, &to, 4096).unwrap(), 4096);
    }
}
