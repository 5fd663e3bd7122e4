//! The devices of a machine, and the port bus that leads to them.
//!
//! Each device is a live struct with a saved form of its own; none of them knows how a machine moves.

mod bus;
mod console;
pub(crate) mod ports;
mod serial;

pub(crate) use bus::{BusRequest, PortBus};
pub use console::{CONSOLE_HISTORY_BYTES, Console, ConsoleStateV1};
pub(crate) use serial::SerialPort;
pub use serial::SerialStateV1;
