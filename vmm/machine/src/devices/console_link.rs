//! The console's descriptor, and who may use it.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::bus::Bus;
use super::console::Console;

/// The console's descriptor, and whether this process may use it now.
///
/// During a hand-over's blackout neither process may: output would come twice, input would be lost.
#[derive(Debug)]
pub(crate) struct ConsoleLink {
    descriptor: OwnedFd,
    is_attached: Mutex<bool>,
}

impl ConsoleLink {
    /// A link that is in use. The descriptor becomes non-blocking.
    pub(crate) fn new(descriptor: OwnedFd) -> io::Result<Arc<Self>> {
        let flags = rustix::fs::fcntl_getfl(&descriptor)?;
        rustix::fs::fcntl_setfl(&descriptor, flags | rustix::fs::OFlags::NONBLOCK)?;
        Ok(Arc::new(Self { descriptor, is_attached: Mutex::new(true) }))
    }

    pub(crate) fn descriptor(&self) -> &OwnedFd {
        &self.descriptor
    }

    /// Stops all use; when this returns, none is under way.
    pub(crate) fn detach(&self) {
        *self.attached() = false;
    }

    /// Goes on, after a hand-over that failed. The console is told, since events may have been
    /// passed over meanwhile.
    pub(crate) fn attach(&self, console: &Console) {
        *self.attached() = true;
        let _ = console.written().write(1);
    }

    /// Sends on what is unsent, as far as the reader takes it at once.
    ///
    /// # Errors
    /// When the descriptor fails; a reader that has gone is none.
    pub(crate) fn send(&self, console: &Console) -> io::Result<()> {
        let attached = self.attached();
        if !*attached {
            return Ok(());
        }
        console.send_on(|bytes| match rustix::io::write(&self.descriptor, bytes) {
            Ok(written) => Ok(written),
            // Whoever read has gone: the history is kept, the output counts as seen.
            Err(rustix::io::Errno::PIPE | rustix::io::Errno::CONNRESET) => Ok(bytes.len()),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(0),
            Err(error) => Err(error.into()),
        })
    }

    /// Gives the guest the input that is there, as far as its serial port has room.
    ///
    /// # Errors
    /// When the descriptor fails.
    pub(crate) fn receive(&self, bus: &Bus) -> io::Result<Input> {
        let attached = self.attached();
        if !*attached {
            return Ok(Input::MayFollow);
        }
        loop {
            let mut serial = bus.serial();
            let mut bytes = [0; 64];
            let room = serial.input_capacity().min(bytes.len());
            if room == 0 {
                return Ok(Input::MayFollow);
            }
            match rustix::io::read(&self.descriptor, &mut bytes[..room]) {
                Ok(0) | Err(rustix::io::Errno::CONNRESET) => return Ok(Input::HasEnded),
                Ok(count) => {
                    serial.input(&bytes[..count]);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return Ok(Input::MayFollow),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn attached(&self) -> MutexGuard<'_, bool> {
        // A panic aborts the process, so that no lock is ever poisoned.
        self.is_attached.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether to look for input again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Input {
    /// More may come, or the guest has to make room first.
    MayFollow,
    /// The terminal is closed: the guest runs on without.
    HasEnded,
}
