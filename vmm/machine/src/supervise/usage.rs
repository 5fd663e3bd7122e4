//! What a machine process has used, as the kernel counts it.

use std::fs;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use rustix::param::{clock_ticks_per_second, page_size};

use super::death::has_ended;

/// What a machine process has used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Processor time of all its threads since it started, its guest's included, in the kernel's ticks of 10 ms.
    pub cpu_time: Duration,
    /// Bytes of memory that are there for it: what its guest has touched, and its own.
    pub resident_bytes: u64,
}

impl Usage {
    /// That of a process; none if it has ended, or the kernel does not tell.
    pub(super) fn of(pidfd: BorrowedFd<'_>) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", id(pidfd)?)).ok()?;
        // The number was its own all along if it lives now: whoever waits for it has not seen its end yet.
        let lives = !has_ended(pidfd, Duration::ZERO);
        lives.then(|| Self::parse(&stat)).flatten()
    }

    /// Fields 14, 15 and 24 of proc_pid_stat(5).
    fn parse(stat: &str) -> Option<Self> {
        // The second field is a name in parentheses, and may have spaces and parentheses in it.
        let (_, rest) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        let ticks = field(14)?.checked_add(field(15)?)?;
        let milliseconds = ticks.checked_mul(1000)? / clock_ticks_per_second().max(1);
        let page = u64::try_from(page_size()).ok()?;
        Some(Self {
            cpu_time: Duration::from_millis(milliseconds),
            resident_bytes: field(24)?.checked_mul(page)?,
        })
    }
}

/// The number of the process behind a descriptor, as the kernel says it.
pub(super) fn id(pidfd: BorrowedFd<'_>) -> Option<u32> {
    let path = format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd());
    let info = fs::read_to_string(path).ok()?;
    let line = info.lines().find_map(|line| line.strip_prefix("Pid:"))?;
    // -1 is one that has ended.
    line.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::process::Command;

    use rustix::process::{Pid, PidfdFlags, pidfd_open};

    use super::*;

    #[test]
    fn a_name_with_parentheses_moves_no_field() {
        let fields = "S 1 2 3 4 5 6 7 8 9 10 250 50 13 14 15 16 17 18 19 20 3 22";
        let usage = Usage::parse(&format!("7 (a) b) {fields}")).unwrap();
        assert_eq!(usage.cpu_time, Duration::from_secs(3));
        assert_eq!(usage.resident_bytes, 3 * 4096);
        for broken in ["", "7 (a", "7 (a) S 1 2", "7 (a) S 1 2 3 4 5 6 7 8 9 10 x 50 13"] {
            assert_eq!(Usage::parse(broken), None, "{broken}");
        }
    }

    #[test]
    fn a_process_that_works_uses_time_and_one_that_has_ended_is_not_asked() {
        let script = "i=0; while [ $i -lt 200000 ]; do i=$((i + 1)); done; read line";
        let mut child = Command::new("sh")
            .args(["-c", script])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).unwrap();
        let end = std::time::Instant::now() + Duration::from_secs(60);
        while Usage::of(pidfd.as_fd()).unwrap().cpu_time.is_zero() {
            assert!(std::time::Instant::now() < end, "it works, and uses no time");
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(Usage::of(pidfd.as_fd()).unwrap().resident_bytes > 0);
        child.kill().unwrap();
        assert!(has_ended(pidfd.as_fd(), Duration::from_secs(60)));
        // Still there for whoever waits, with its number, and not after that.
        assert_eq!(Usage::of(pidfd.as_fd()), None);
        child.wait().unwrap();
        assert_eq!(Usage::of(pidfd.as_fd()), None);
    }
}
