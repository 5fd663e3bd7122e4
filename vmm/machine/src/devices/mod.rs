//! The devices of a machine, and the bus that leads to them.
//!
//! Each device is a live struct with a saved form of its own; none of them knows how a machine moves.

mod bus;
mod cmos;
mod console;
mod console_link;
mod events;
mod generation;
mod irq_line;
pub(crate) mod mmio;
mod pci;
pub(crate) mod ports;
mod serial;

pub(crate) use bus::{Bus, BusRequest};
pub(crate) use cmos::{CENTURY, CmosStateV1};
pub(crate) use console::ConsoleStateV1;
pub use console::{CONSOLE_HISTORY_BYTES, Console};
pub(crate) use console_link::{ConsoleLink, Input};
pub(crate) use events::{Event, Events, EventsStateV1};
pub(crate) use generation::{
    GENERATION_ID_ADDRESS, GENERATION_PAGE, GenerationId, GenerationStateV1,
};
pub(crate) use irq_line::IrqLine;
pub(crate) use pci::PciStateV1;
pub(crate) use serial::SerialPort;
pub(crate) use serial::SerialStateV1;
