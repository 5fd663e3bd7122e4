//! Every limit on what a peer may send, in bytes of payload a frame. They are checked before
//! anything is allocated.

/// The most that any frame may carry: what a receiver's buffer must hold.
pub const PAYLOAD_MAX: u32 = 8 << 20;

/// One batch of encoded page runs. The largest useful batch is 4 MiB of pages; incompressible ones
/// grow a little, and each run has a head.
pub const PAGES_MAX: u32 = PAYLOAD_MAX;

/// A part of the machine's state, its head included. States of many vCPUs take several frames.
pub const STATE_MAX: u32 = 1 << 20;

/// What stands in front of a part of the machine's state.
pub const STATE_HEAD: u32 = 24;

/// The machine's state as a whole: 64 vCPUs with every register that they can have are below 2 MiB.
pub const STATE_TOTAL_MAX: u32 = 32 << 20;

/// What stands in front of the ranges of a `Welcome`.
pub const WELCOME_HEAD: u32 = 8;

/// Ranges of memory that the source announces as not zero.
pub const ANNOUNCE_MAX: u32 = 1 << 20;

/// Acknowledged or wanted send numbers.
pub const NUMBERS_MAX: u32 = 64 << 10;

/// A part of the manifest of what a destination has kept. The source hears a peer by whole frames: one of them must not
/// take a slow link longer than the peer may be silent.
pub const KEPT_MAX: u32 = 64 << 10;

/// What is said once or seldom.
pub const CONTROL_MAX: u32 = 4 << 10;
