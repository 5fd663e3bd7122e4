//! The 16550 serial port: vm-superio's, with an interrupt line of the in-kernel irqchip.

use std::io;
use std::sync::Arc;

use kvm_ioctls::VmFd;
use serde::{Deserialize, Serialize};
use vm_superio::Serial;
use vm_superio::serial::{SerialEvents, SerialState};
use vmm_sys_util::eventfd::EventFd;

use super::console::Console;
use super::irq_line::IrqLine;
use super::ports::COM1_GSI;

/// The saved form of a 16550: its registers, by their names in the data sheet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SerialStateV1 {
    baud_divisor_low: u8,
    baud_divisor_high: u8,
    interrupt_enable: u8,
    interrupt_identification: u8,
    line_control: u8,
    line_status: u8,
    modem_control: u8,
    modem_status: u8,
    scratch: u8,
    /// Bytes that came in and have not been read by the guest; at most 64.
    in_buffer: Vec<u8>,
}

impl SerialStateV1 {
    fn of(state: SerialState) -> Self {
        Self {
            baud_divisor_low: state.baud_divisor_low,
            baud_divisor_high: state.baud_divisor_high,
            interrupt_enable: state.interrupt_enable,
            interrupt_identification: state.interrupt_identification,
            line_control: state.line_control,
            line_status: state.line_status,
            modem_control: state.modem_control,
            modem_status: state.modem_status,
            scratch: state.scratch,
            in_buffer: state.in_buffer,
        }
    }

    fn into_live(self) -> SerialState {
        SerialState {
            baud_divisor_low: self.baud_divisor_low,
            baud_divisor_high: self.baud_divisor_high,
            interrupt_enable: self.interrupt_enable,
            interrupt_identification: self.interrupt_identification,
            line_control: self.line_control,
            line_status: self.line_status,
            modem_control: self.modem_control,
            modem_status: self.modem_status,
            scratch: self.scratch,
            in_buffer: self.in_buffer,
        }
    }
}

/// Tells the device loop that the guest has read everything that came in.
#[derive(Debug)]
struct InputRoom(Arc<EventFd>);

impl SerialEvents for InputRoom {
    fn buffer_read(&self) {}
    fn out_byte(&self) {}
    fn tx_lost_byte(&self) {}
    fn in_buffer_empty(&self) {
        let _ = self.0.write(1);
    }
}

/// Appends the guest's output to the console.
#[derive(Debug)]
struct ConsoleWriter(Arc<Console>);

impl io::Write for ConsoleWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.append(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

type Uart = Serial<IrqLine, InputRoom, ConsoleWriter>;

/// COM1.
#[derive(Debug)]
pub(crate) struct SerialPort {
    uart: Uart,
    vm: Arc<VmFd>,
    console: Arc<Console>,
    room: Arc<EventFd>,
}

impl SerialPort {
    pub(crate) fn new(vm: Arc<VmFd>, console: Arc<Console>) -> io::Result<Self> {
        let room = Arc::new(EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?);
        let line = IrqLine::new(Arc::clone(&vm), COM1_GSI);
        let writer = ConsoleWriter(Arc::clone(&console));
        let uart = Serial::with_events(line, InputRoom(Arc::clone(&room)), writer);
        Ok(Self { uart, vm, console, room })
    }

    /// Readable when the guest has read all input.
    pub(crate) fn input_room(&self) -> Arc<EventFd> {
        Arc::clone(&self.room)
    }

    /// Input bytes that there is room for.
    pub(crate) fn input_capacity(&self) -> usize {
        self.uart.fifo_capacity()
    }

    /// Gives input to the guest; returns how much of it there was room for.
    pub(crate) fn input(&mut self, bytes: &[u8]) -> usize {
        match self.uart.enqueue_raw_bytes(bytes) {
            Ok(taken) => taken,
            Err(vm_superio::serial::Error::FullFifo) => 0,
            Err(error) => {
                tracing::warn!(?error, "serial input");
                bytes.len()
            }
        }
    }

    pub(super) fn write(&mut self, register: u8, value: u8) {
        if let Err(error) = self.uart.write(register, value) {
            tracing::warn!(?error, register, "serial write");
        }
    }

    pub(super) fn read(&mut self, register: u8) -> u8 {
        self.uart.read(register)
    }

    pub(crate) fn save(&self) -> SerialStateV1 {
        SerialStateV1::of(self.uart.state())
    }

    /// Replaces the registers.
    ///
    /// # Errors
    /// When the saved input buffer is longer than the device's.
    pub(crate) fn restore(&mut self, state: SerialStateV1) -> Result<(), String> {
        let line = IrqLine::new(Arc::clone(&self.vm), COM1_GSI);
        let writer = ConsoleWriter(Arc::clone(&self.console));
        let events = InputRoom(Arc::clone(&self.room));
        self.uart = Serial::from_state(&state.into_live(), line, events, writer)
            .map_err(|error| format!("{error:?}"))?;
        Ok(())
    }
}
