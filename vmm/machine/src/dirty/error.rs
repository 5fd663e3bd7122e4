//! Why a dirty log could not be read.

use dwcp::ledger::LedgerError;

/// A dirty log could not be read.
#[derive(Debug, thiserror::Error)]
pub enum DirtyLogError {
    /// An ioctl on a memory slot failed
    #[error("{call} failed on slot {slot}: {source}")]
    Ioctl {
        /// The ioctl's name.
        call: &'static str,
        /// The memory slot.
        slot: u32,
        /// What KVM said.
        source: kvm_ioctls::Error,
    },
    /// The log names pages outside of guest memory
    #[error("KVM reported a dirty page outside of guest memory: {0}")]
    Ledger(#[from] LedgerError),
    /// A dirty ring names a page that no slot has
    #[error("KVM reported dirty page {offset:#x} of memory slot {slot:#x}, which has no such page")]
    NoSuchPage {
        /// Address space and slot: `as_id << 16 | slot`.
        slot: u32,
        /// Pages from its beginning.
        offset: u64,
    },
    /// A vCPU's dirty ring could not be mapped
    #[error("cannot map a vCPU's dirty ring: {0}")]
    Map(#[source] std::io::Error),
    /// The pages of the dirty rings could not be write-protected again
    #[error("KVM_RESET_DIRTY_RINGS failed: {0}")]
    Reset(#[source] kvm_ioctls::Error),
    /// KVM does not take back what was handed back to it
    #[error("KVM_RESET_DIRTY_RINGS left {0} entries of the dirty rings as they were")]
    NotReset(u64),
}
