//! How a machine process has ended.

use std::fmt;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, WaitIdStatus, waitid};

/// How a process has ended that should not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// By this signal
    Signal(i32),
    /// With this exit code
    ExitCode(i32),
}

impl Death {
    /// Waits for the end of a child, as long as `limit`, and looks at it: it stays there for whoever started it. Nothing
    /// if it lives on, or was waited for already.
    pub(super) fn of(child: Pid, pidfd: BorrowedFd<'_>, limit: Duration) -> Option<Self> {
        has_ended(pidfd, limit);
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        Self::from_status(&waitid(WaitId::Pid(child), options).ok()??)
    }

    fn from_status(status: &WaitIdStatus) -> Option<Self> {
        let signal = status.terminating_signal().map(Self::Signal);
        signal.or_else(|| status.exit_status().map(Self::ExitCode))
    }
}

/// Whether a process ends within `limit`.
pub(super) fn has_ended(pidfd: BorrowedFd<'_>, limit: Duration) -> bool {
    let end = Instant::now() + limit;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let Ok(left) = Timespec::try_from(left) else { return false };
        match poll(&mut [PollFd::from_borrowed_fd(pidfd, PollFlags::IN)], Some(&left)) {
            Err(rustix::io::Errno::INTR) => {}
            ended => return ended.is_ok_and(|ended| ended > 0),
        }
    }
}

impl fmt::Display for Death {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Signal(libc::SIGSYS) => {
                write!(f, "it was killed for a forbidden system call (SIGSYS)")
            }
            Self::Signal(number) => match name(*number) {
                Some(name) => write!(f, "it was killed by {name}"),
                None => write!(f, "it was killed by signal {number}"),
            },
            Self::ExitCode(code) => write!(f, "it ended with exit code {code}"),
        }
    }
}

/// Those that a process dies of in practice.
fn name(signal: i32) -> Option<&'static str> {
    Some(match Signal::from_named_raw(signal)? {
        Signal::KILL => "SIGKILL",
        Signal::TERM => "SIGTERM",
        Signal::INT => "SIGINT",
        Signal::HUP => "SIGHUP",
        Signal::QUIT => "SIGQUIT",
        Signal::ABORT => "SIGABRT",
        Signal::SEGV => "SIGSEGV",
        Signal::BUS => "SIGBUS",
        Signal::ILL => "SIGILL",
        Signal::FPE => "SIGFPE",
        Signal::TRAP => "SIGTRAP",
        Signal::PIPE => "SIGPIPE",
        Signal::XCPU => "SIGXCPU",
        Signal::XFSZ => "SIGXFSZ",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::process::{Child, Command};

    use rustix::process::{PidfdFlags, pidfd_open};

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn shell(script: &str) -> Child {
        Command::new("sh").args(["-c", script]).spawn().unwrap()
    }

    fn death(child: &Child, limit: Duration) -> Option<Death> {
        let child = Pid::from_child(child);
        let pidfd = pidfd_open(child, PidfdFlags::empty()).ok()?;
        Death::of(child, pidfd.as_fd(), limit)
    }

    #[test]
    fn how_a_process_has_ended_is_said_in_words() {
        for (script, words) in [
            ("exit 3", "it ended with exit code 3"),
            ("kill -KILL $$", "it was killed by SIGKILL"),
            ("kill -SYS $$", "it was killed for a forbidden system call (SIGSYS)"),
            ("kill -40 $$", "it was killed by signal 40"),
        ] {
            let mut child = shell(script);
            let found = death(&child, LONG);
            assert_eq!(found.unwrap().to_string(), words);
            // It was looked at, and not taken from whoever waits for it.
            child.wait().unwrap();
            assert_eq!(death(&child, Duration::ZERO), None);
        }
    }

    #[test]
    fn a_process_that_lives_has_not_ended() {
        let mut child = shell("read line");
        assert_eq!(death(&child, Duration::ZERO), None);
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
