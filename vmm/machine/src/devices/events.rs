//! Events that the host raises in the guest, which takes them through a generic event device
//! (ACPI 6.5, 5.6.9).
//!
//! ```text
//! raise() ──► bit, line high ──► guest's handler reads port 0x602 ──► bits taken, line low ──► Notify
//! ```
//! The line is held, not pulsed: what is raised before the guest's driver runs waits for it.

use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::irq_line::IrqLine;

/// What happened. The DSDT turns each into a notification of the device that it concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// The power button was pressed: the guest is asked to switch itself off.
    PowerButton,
    /// The generation id is another.
    NewGeneration,
}

impl Event {
    /// Its bit in the register. Guests know it.
    pub(crate) const fn bit(self) -> u8 {
        match self {
            Self::PowerButton => 1 << 0,
            Self::NewGeneration => 1 << 1,
        }
    }

    const ALL_BITS: u8 = Self::PowerButton.bit() | Self::NewGeneration.bit();
}

/// The saved form: what the guest has not taken yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EventsStateV1 {
    pending: u8,
}

/// The register, and the line that is high while a bit of it is set.
#[derive(Debug)]
pub(crate) struct Events {
    pending: Mutex<u8>,
    line: IrqLine,
}

impl Events {
    pub(crate) fn new(line: IrqLine) -> Self {
        Self { pending: Mutex::new(0), line }
    }

    /// Raises an event. One that is pending already stays one.
    ///
    /// # Errors
    /// When KVM does not raise the line; the event stays pending.
    pub(crate) fn raise(&self, event: Event) -> Result<(), kvm_ioctls::Error> {
        let mut pending = self.pending();
        *pending |= event.bit();
        // With the lock held: register and line are one.
        self.line.set(true)
    }

    /// A read by the guest.
    pub(super) fn take(&self) -> u8 {
        let mut pending = self.pending();
        if let Err(error) = self.line.set(false) {
            tracing::warn!(%error, "the line of the events stays high");
        }
        std::mem::take(&mut *pending)
    }

    pub(crate) fn save(&self) -> EventsStateV1 {
        EventsStateV1 { pending: *self.pending() }
    }

    /// Replaces the register. Of the line the I/O APIC knows: it comes back with its inputs as they were.
    ///
    /// # Errors
    /// When an event is pending that there is none of.
    pub(crate) fn restore(&self, state: &EventsStateV1) -> Result<(), String> {
        #[cfg(feature = "fault-injection")]
        if crate::fault::drops_event() {
            return Ok(());
        }
        if state.pending & !Event::ALL_BITS != 0 {
            return Err(format!("events {:#04x} are pending, which are unknown", state.pending));
        }
        *self.pending() = state.pending;
        Ok(())
    }

    fn pending(&self) -> MutexGuard<'_, u8> {
        // A panic aborts the process, so that no lock is ever poisoned.
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
