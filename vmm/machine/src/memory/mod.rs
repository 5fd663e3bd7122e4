//! Guest memory: where it lies, and the one way in and out.

mod layout;
mod ram;
mod written;

pub(crate) use layout::MAX_HOLE_START;
pub use layout::{DEFAULT_HOLE_START, HOLE_END, LayoutError, MemoryLayout, Region};
pub(crate) use ram::Extent;
pub use ram::{GuestRam, RamError};
