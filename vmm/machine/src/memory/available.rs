//! How much memory this host can still give.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;

use super::RamError;

/// The kernel's own account of its memory; what is read of it is as old as the read.
const INFO: &str = "/proc/meminfo";
/// It has some 60 lines of 28 bytes, and the one that matters is the third.
const INFO_BYTES: usize = 4096;

/// Opens the account, once in a process: a process in its jail opens nothing any more.
pub(crate) fn open_memory_info() -> Option<&'static File> {
    static OPEN: OnceLock<Option<File>> = OnceLock::new();
    OPEN.get_or_init(|| File::open(INFO).ok()).as_ref()
}

/// Refuses at once what could only end in the kernel killing somebody later.
pub(crate) fn check_available(size: u64) -> Result<(), RamError> {
    let Some(available_kib) = available_kib() else { return Ok(()) };
    if size / 1024 > available_kib {
        return Err(RamError::TooLarge { needed: size >> 20, available: available_kib >> 10 });
    }
    Ok(())
}

/// Nothing where the host does not tell.
fn available_kib() -> Option<u64> {
    let mut bytes = [0; INFO_BYTES];
    let count = open_memory_info()?.read_at(&mut bytes, 0).ok()?;
    String::from_utf8_lossy(&bytes[..count])
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))
        .and_then(|rest| rest.trim().strip_suffix("kB"))
        .and_then(|number| number.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_host_has_is_read_anew_each_time() {
        let Some(before) = available_kib() else {
            return eprintln!("SKIPPED what_a_host_has_is_read_anew_each_time: no {INFO}");
        };
        assert!(before > 0);
        assert!(available_kib().is_some_and(|again| again > 0));
        assert!(check_available(1 << 20).is_ok());
        assert!(matches!(check_available(1 << 60), Err(RamError::TooLarge { .. })));
    }
}
