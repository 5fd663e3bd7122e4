//! Moves bytes between the guest's serial port and the console's descriptor.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use event_manager::{EventOps, Events, MutEventSubscriber};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::EventFd;

use crate::devices::{Bus, Console, ConsoleLink, Input};

/// The subscriber. Its descriptor is watched edge-triggered: a console that nobody reads, or whose
/// input the guest does not take, must not make the loop spin.
#[derive(Debug)]
pub(super) struct ConsolePump {
    link: Arc<ConsoleLink>,
    console: Arc<Console>,
    bus: Arc<Bus>,
    input_room: Arc<EventFd>,
    /// Input has ended (the terminal is closed): the guest runs on without.
    input_ended: bool,
}

impl ConsolePump {
    pub(super) fn new(link: Arc<ConsoleLink>, console: Arc<Console>, bus: Arc<Bus>) -> Self {
        let input_room = bus.serial().input_room();
        Self { link, console, bus, input_room, input_ended: false }
    }

    fn pump(&mut self) -> io::Result<()> {
        self.link.send(&self.console)?;
        if !self.input_ended {
            self.input_ended = self.link.receive(&self.bus)? == Input::HasEnded;
        }
        Ok(())
    }
}

impl MutEventSubscriber for ConsolePump {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        let edge = EventSet::IN | EventSet::OUT | EventSet::EDGE_TRIGGERED;
        let watched = [
            Events::new_raw(self.link.descriptor().as_raw_fd(), edge),
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
