//! Moves bytes between the guest's serial port and the console's descriptor.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use event_manager::{EventOps, Events, MutEventSubscriber};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::EventFd;

use crate::devices::{Console, PortBus};

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
        *self.is_attached.lock().unwrap_or_else(PoisonError::into_inner) = false;
    }

    /// Goes on, after a hand-over that failed. The console is told, since events may have been
    /// passed over meanwhile.
    pub(crate) fn attach(&self, console: &Console) {
        *self.is_attached.lock().unwrap_or_else(PoisonError::into_inner) = true;
        let _ = console.written().write(1);
    }

    /// Sends on what is unsent, as far as the reader takes it at once.
    pub(crate) fn flush(&self, console: &Console) {
        let attached = self.is_attached.lock().unwrap_or_else(PoisonError::into_inner);
        if *attached && let Err(error) = self.send_on(console) {
            tracing::warn!(%error, "console");
        }
    }

    fn send_on(&self, console: &Console) -> io::Result<()> {
        console.send_on(|bytes| match rustix::io::write(&self.descriptor, bytes) {
            Ok(written) => Ok(written),
            // Whoever read has gone: the history is kept, the output counts as seen.
            Err(rustix::io::Errno::PIPE | rustix::io::Errno::CONNRESET) => Ok(bytes.len()),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(0),
            Err(error) => Err(error.into()),
        })
    }
}

/// The subscriber. Its descriptor is watched edge-triggered: a console that nobody reads, or whose
/// input the guest does not take, must not make the loop spin.
#[derive(Debug)]
pub(super) struct ConsolePump {
    link: Arc<ConsoleLink>,
    console: Arc<Console>,
    bus: Arc<PortBus>,
    input_room: Arc<EventFd>,
    /// Input has ended (the terminal is closed): the guest runs on without.
    input_ended: bool,
}

impl ConsolePump {
    pub(super) fn new(link: Arc<ConsoleLink>, console: Arc<Console>, bus: Arc<PortBus>) -> Self {
        let input_room = bus.serial().input_room();
        Self { link, console, bus, input_room, input_ended: false }
    }

    fn pump(&mut self) -> io::Result<()> {
        let attached = self.link.is_attached.lock().unwrap_or_else(PoisonError::into_inner);
        if !*attached {
            return Ok(());
        }
        let descriptor = self.link.descriptor.as_fd();
        self.link.send_on(&self.console)?;
        while !self.input_ended {
            let mut serial = self.bus.serial();
            let mut bytes = [0; 64];
            let room = serial.input_capacity().min(bytes.len());
            if room == 0 {
                break;
            }
            match rustix::io::read(descriptor, &mut bytes[..room]) {
                Ok(0) | Err(rustix::io::Errno::CONNRESET) => self.input_ended = true,
                Ok(count) => {
                    serial.input(&bytes[..count]);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

impl MutEventSubscriber for ConsolePump {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        let edge = EventSet::IN | EventSet::OUT | EventSet::EDGE_TRIGGERED;
        let watched = [
            Events::new_raw(self.link.descriptor.as_raw_fd(), edge),
            Events::new(self.console.written(), EventSet::IN),
            Events::new(self.input_room.as_ref(), EventSet::IN),
        ];
        for events in watched {
            if let Err(error) = ops.add(events) {
                // A console in a plain file cannot be watched, and need not be.
                tracing::debug!(?error, "console is not watched");
            }
        }
    }

    fn process(&mut self, events: Events, _ops: &mut EventOps<'_>) {
        if events.fd() == self.input_room.as_raw_fd() {
            let _ = self.input_room.read();
        }
        if events.fd() == self.console.written().as_raw_fd() {
            let _ = self.console.written().read();
        }
        if let Err(error) = self.pump() {
            tracing::warn!(%error, "console");
        }
    }
}
