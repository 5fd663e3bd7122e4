//! What a guest's access to a port, or to memory that is not RAM, leads to: two tables on one screen.

use std::sync::{Mutex, MutexGuard, PoisonError};

use vm_superio::{I8042Device, Trigger};

use super::cmos::Cmos;
use super::events::Events;
use super::mmio::{ECAM_BYTES, ECAM_START};
use super::pci::{self, ConfigAddress};
use super::ports::{
    ACPI_SLEEP_CONTROL, ACPI_SLEEP_STATUS, CMOS_DATA, CMOS_INDEX, COM1, EVENTS, I8042_COMMAND,
    I8042_DATA, PCI_ADDRESS, PCI_DATA, RESET_CONTROL, RESET_CPU, S5_SLEEP_TYPE,
};
use super::serial::SerialPort;
use crate::clock::realtime_ns;

const COM1_LAST: u16 = COM1 + 7;
const PCI_DATA_LAST: u16 = PCI_DATA + 3;
/// `SLP_EN` of the sleep control register.
const SLEEP_ENABLE: u8 = 1 << 5;

/// What a device asks of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BusRequest {
    /// A reset.
    Reset,
    /// Switching off.
    PowerOff,
}

/// The i8042's reset line. The device calls it inside of a port write, which then asks the machine.
#[derive(Debug, Default)]
struct ResetLine(std::cell::Cell<bool>);

impl Trigger for ResetLine {
    type E = std::convert::Infallible;

    fn trigger(&self) -> Result<(), Self::E> {
        self.0.set(true);
        Ok(())
    }
}

/// The devices of one machine, as its guest reaches them. Called by every vCPU's thread.
#[derive(Debug)]
pub(crate) struct Bus {
    serial: Mutex<SerialPort>,
    cmos: Mutex<Cmos>,
    events: Events,
    pci: ConfigAddress,
}

impl Bus {
    pub(crate) fn new(serial: SerialPort, events: Events) -> Self {
        Self {
            serial: Mutex::new(serial),
            cmos: Mutex::new(Cmos::new()),
            events,
            pci: ConfigAddress::default(),
        }
    }

    /// The serial port, for its input and its saved state.
    pub(crate) fn serial(&self) -> MutexGuard<'_, SerialPort> {
        // A panic aborts the process, so that no lock is ever poisoned.
        self.serial.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The CMOS clock, for its saved state.
    pub(crate) fn cmos(&self) -> MutexGuard<'_, Cmos> {
        self.cmos.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the host raises in the guest.
    pub(crate) fn events(&self) -> &Events {
        &self.events
    }

    /// The address of PCI's ports, for its saved state.
    pub(crate) fn pci(&self) -> &ConfigAddress {
        &self.pci
    }

    /// A write to a port by the guest. Ports that nobody answers swallow it, as on a PC.
    pub(crate) fn write_port(&self, port: u16, data: &[u8]) -> Option<BusRequest> {
        match (port, data) {
            (PCI_ADDRESS, &[a, b, c, d]) => {
                self.pci.set(u32::from_le_bytes([a, b, c, d]));
                None
            }
            (PCI_DATA..=PCI_DATA_LAST, _) => {
                let offset = self.pci.offset(port - PCI_DATA, data.len());
                if !offset.is_some_and(|offset| pci::write(offset, data)) {
                    tracing::trace!(port = format_args!("{port:#x}"), ?data, "unclaimed write");
                }
                None
            }
            // Every other register is one byte wide, and KVM gives all bytes of a string instruction at
            // once: they belong to this one port.
            _ => data.iter().find_map(|byte| self.write_byte(port, *byte)),
        }
    }

    /// A read of a port by the guest. Ports that nobody answers read as ones.
    pub(crate) fn read_port(&self, port: u16, data: &mut [u8]) {
        match (port, data.len()) {
            (PCI_ADDRESS, 4) => data.copy_from_slice(&self.pci.get().to_le_bytes()),
            (PCI_DATA..=PCI_DATA_LAST, bytes) => {
                let offset = self.pci.offset(port - PCI_DATA, bytes);
                if !offset.is_some_and(|offset| pci::read(offset, data)) {
                    tracing::trace!(port = format_args!("{port:#x}"), bytes, "unclaimed read");
                    data.fill(0xff);
                }
            }
            _ => data.iter_mut().for_each(|byte| *byte = self.read_byte(port)),
        }
    }

    /// A write by the guest to memory that is not RAM. What nobody claims swallows it.
    pub(crate) fn write_memory(&self, address: u64, data: &[u8]) {
        let is_claimed = ecam(address, data.len()).is_some_and(|offset| pci::write(offset, data));
        if !is_claimed {
            tracing::trace!(address = format_args!("{address:#x}"), ?data, "unclaimed write");
        }
    }

    /// A read by the guest of memory that is not RAM. What nobody claims reads as ones.
    pub(crate) fn read_memory(&self, address: u64, data: &mut [u8]) {
        let is_claimed = ecam(address, data.len()).is_some_and(|offset| pci::read(offset, data));
        if !is_claimed {
            let bytes = data.len();
            tracing::trace!(address = format_args!("{address:#x}"), bytes, "unclaimed read");
            data.fill(0xff);
        }
    }

    fn write_byte(&self, port: u16, byte: u8) -> Option<BusRequest> {
        match port {
            COM1..=COM1_LAST => {
                self.serial().write(register(port, COM1), byte);
                None
            }
            I8042_DATA..=I8042_COMMAND => {
                let mut i8042 = I8042Device::new(ResetLine::default());
                let _ = i8042.write(register(port, I8042_DATA), byte);
                i8042.reset_evt().0.get().then_some(BusRequest::Reset)
            }
            ACPI_SLEEP_CONTROL => {
                let is_s5 = byte & SLEEP_ENABLE != 0 && (byte >> 2) & 7 == S5_SLEEP_TYPE;
                is_s5.then_some(BusRequest::PowerOff)
            }
            // The other bits choose between kinds of reset that are one here.
            RESET_CONTROL => (byte & RESET_CPU != 0).then_some(BusRequest::Reset),
            CMOS_INDEX => {
                self.cmos().select(byte);
                None
            }
            CMOS_DATA => {
                self.cmos().write(byte, i128::from(realtime_ns()));
                None
            }
            // What the guest has taken is gone already.
            EVENTS => None,
            _ => {
                tracing::trace!(port = format_args!("{port:#x}"), byte, "unclaimed write");
                None
            }
        }
    }

    fn read_byte(&self, port: u16) -> u8 {
        match port {
            COM1..=COM1_LAST => self.serial().read(register(port, COM1)),
            I8042_DATA..=I8042_COMMAND => {
                I8042Device::new(ResetLine::default()).read(register(port, I8042_DATA))
            }
            ACPI_SLEEP_CONTROL | ACPI_SLEEP_STATUS | RESET_CONTROL => 0,
            CMOS_DATA => self.cmos().read(i128::from(realtime_ns())),
            EVENTS => self.events.take(),
            _ => {
                tracing::trace!(port = format_args!("{port:#x}"), "unclaimed read");
                0xff
            }
        }
    }
}

/// Where in the ECAM an access begins that lies in it as a whole.
fn ecam(address: u64, length: usize) -> Option<u64> {
    let offset = address.checked_sub(ECAM_START)?;
    let end = offset.checked_add(length as u64)?;
    (end <= ECAM_BYTES).then_some(offset)
}

fn register(port: u16, base: u16) -> u8 {
    u8::try_from(port - base).expect("a device has at most 256 registers")
}

#[cfg(test)]
#[path = "bus_tests.rs"]
mod tests;
