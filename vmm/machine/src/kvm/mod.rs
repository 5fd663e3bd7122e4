//! The host's KVM: opened once, its capabilities checked, and the few ioctls that kvm-ioctls does not wrap.

mod host;
mod ioctl;
mod ring;

pub(crate) use host::{
    CAP_MANUAL_DIRTY_LOG_PROTECT2, DIRTY_LOG_INITIALLY_SET, DIRTY_LOG_MANUAL_PROTECT_ENABLE,
};
pub use host::{Host, HostError};
pub(crate) use ioctl::{
    bitmap_words, clear_dirty_log, get_dirty_log, set_signal_mask, set_tsc_offset, tsc_offset,
    use_tsc_khz_of_host,
};
pub(crate) use ring::{DirtyPage, DirtyRing, enable_dirty_rings, reset_dirty_rings};
pub use ring::{RingEntries, RingEntriesError};
