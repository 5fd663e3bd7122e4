//! Guest memory: where it lies, and the one way in and out.

mod available;
mod extents;
mod layout;
mod ram;
mod userfault;
mod written;

pub(crate) use available::{check_available, open_memory_info};
pub(crate) use extents::Extents;
pub(crate) use layout::MAX_HOLE_START;
pub use layout::{DEFAULT_HOLE_START, HOLE_END, LayoutError, MemoryLayout, Region};
pub use ram::{GuestRam, RamError};
pub(crate) use userfault::{Userfault, UserfaultFd};
