//! The devices of a machine, and the port bus that leads to them.
//!
//! Each device is a live struct with a saved form of its own; none of them knows how a machine moves.

mod bus;
mod console;
mod console_link;
pub(crate) mod ports;
mod serial;

pub(crate) use bus::{BusRequest, PortBus};
pub(crate) use console::ConsoleStateV1;
pub use console::{CONSOLE_HISTORY_BYTES, Console};
pub(crate) use console_link::{ConsoleLink, Input};
pub(crate) use serial::SerialPort;
pub(crate) use serial::SerialStateV1;
