//! Every limit on what a peer may send, in bytes of payload a frame. They are checked before
//! anything is allocated.

/// The most that any frame may carry: what a receiver's buffer must hold.
pub const PAYLOAD_MAX: u32 = 8 << 20;

/// One batch of encoded page runs. The largest useful batch is 4 MiB of pages; incompressible ones
/// grow a little, and each run has a head.
pub const PAGES_MAX: u32 = PAYLOAD_MAX;

/// A part of the machine's state. States of many vCPUs take several frames.
pub const STATE_MAX: u32 = 1 << 20;

/// Ranges of memory that the source announces as not zero.
pub const ANNOUNCE_MAX: u32 = 1 << 20;

/// Acknowledged or wanted send numbers.
pub const NUMBERS_MAX: u32 = 64 << 10;

/// What is said once or seldom.
pub const CONTROL_MAX: u32 = 4 << 10;
