//! I/O ports: a table on one screen.

use std::sync::{Mutex, MutexGuard, PoisonError};

use vm_superio::{I8042Device, Trigger};

use super::ports::{
    ACPI_SLEEP_CONTROL, ACPI_SLEEP_STATUS, COM1, I8042_COMMAND, I8042_DATA, S5_SLEEP_TYPE,
};
use super::serial::SerialPort;

const COM1_LAST: u16 = COM1 + 7;
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

/// The I/O ports of one machine. Called by every vCPU's thread.
#[derive(Debug)]
pub(crate) struct PortBus {
    serial: Mutex<SerialPort>,
}

impl PortBus {
    pub(crate) fn new(serial: SerialPort) -> Self {
        Self { serial: Mutex::new(serial) }
    }

    /// The serial port, for its input and its saved state.
    pub(crate) fn serial(&self) -> MutexGuard<'_, SerialPort> {
        // A panic aborts the process, so that no lock is ever poisoned.
        self.serial.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A write by the guest. Ports that nobody answers swallow it, as on a PC.
    pub(crate) fn write(&self, port: u16, data: &[u8]) -> Option<BusRequest> {
        // Every register here is one byte wide, and KVM gives all bytes of a string instruction at
        // once: they belong to this one port.
        data.iter().find_map(|byte| self.write_byte(port, *byte))
    }

    /// A read by the guest. Ports that nobody answers read as ones.
    pub(crate) fn read(&self, port: u16, data: &mut [u8]) {
        for byte in data {
            *byte = self.read_byte(port);
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
            _ => None,
        }
    }

    fn read_byte(&self, port: u16) -> u8 {
        match port {
            COM1..=COM1_LAST => self.serial().read(register(port, COM1)),
            I8042_DATA..=I8042_COMMAND => {
                I8042Device::new(ResetLine::default()).read(register(port, I8042_DATA))
            }
            ACPI_SLEEP_CONTROL | ACPI_SLEEP_STATUS => 0,
            _ => 0xff,
        }
    }
}

fn register(port: u16, base: u16) -> u8 {
    u8::try_from(port - base).expect("a device has at most 256 registers")
}
