//! [`Wake`]: how one thread wakes another that waits for its socket.

use std::io;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

/// Wakes the thread of one stream.
#[derive(Debug)]
pub(super) struct Wake {
    event: OwnedFd,
    /// It was woken, and has not looked yet. Saves a system call for whoever wakes it again.
    is_woken: AtomicBool,
    is_over: AtomicBool,
}

impl Wake {
    pub(super) fn new() -> io::Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { event, is_woken: AtomicBool::new(false), is_over: AtomicBool::new(false) })
    }

    /// There may be something to do.
    pub(super) fn wake(&self) {
        if !self.is_woken.swap(true, Ordering::AcqRel) {
            // Fails only when the counter is full: it is awake then.
            let _ = rustix::io::write(&self.event, &1_u64.to_ne_bytes());
        }
    }

    /// The stream is to end.
    pub(super) fn end(&self) {
        self.is_over.store(true, Ordering::Release);
        self.wake();
    }

    pub(super) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Acquire)
    }

    /// Forgets that it was woken. What there is to do is looked for after this, and before [`Self::wait`].
    pub(super) fn clear(&self) {
        self.is_woken.store(false, Ordering::Release);
    }

    /// Waits for the socket, for whoever wakes it, or until a moment; false if that came.
    pub(super) fn wait(
        &self,
        socket: &TcpStream,
        writes: bool,
        until: Option<Instant>,
    ) -> io::Result<bool> {
        let interest = if writes { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
        let mut events = [PollFd::new(socket, interest), PollFd::new(&self.event, PollFlags::IN)];
        let timeout = match until {
            None => None,
            Some(until) => {
                let left = until.saturating_duration_since(Instant::now());
                Some(Timespec::try_from(left).map_err(|_| io::ErrorKind::InvalidInput)?)
            }
        };
        let ready = match poll(&mut events, timeout.as_ref()) {
            Ok(ready) => ready,
            Err(rustix::io::Errno::INTR) => return Ok(true),
            Err(error) => return Err(error.into()),
        };
        if !events[1].revents().is_empty() {
            let _ = rustix::io::read(&self.event, &mut [0; 8]);
        }
        Ok(ready > 0)
    }
}
