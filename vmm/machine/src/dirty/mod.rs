//! Which pages the guest, KVM or this process has written.

mod bitmap;

pub use bitmap::{DirtyLogError, KvmBitmapLog};

use dwcp::ledger::Ledger;

/// Where dirty pages come from. The kernel's log is a hint that may be lost once it is read; the
/// ledger is the truth. So `harvest` writes into the ledger itself, and there is no way to take a
/// set of dirty pages out of a log and drop it.
pub trait DirtyLog {
    /// Moves every page that was written since the last harvest into the ledger.
    ///
    /// Returns how many pages were found dirty, counting those already owed.
    ///
    /// # Errors
    /// When KVM refuses; what was harvested until then is in the ledger.
    fn harvest(&mut self, ledger: &mut Ledger) -> Result<u64, DirtyLogError>;
}
