//! Which pages the guest, KVM or this process has written.

mod bitmap;
mod error;
mod kind;
mod ring;

pub use bitmap::KvmBitmapLog;
pub use error::DirtyLogError;
pub use kind::{DirtyLogKind, UnknownDirtyLog};
pub(crate) use ring::DirtyRings;
pub use ring::KvmRingLog;

use dwcp::ledger::Ledger;

use crate::memory::GuestRam;

/// Where dirty pages come from. The kernel's log is a hint that may be lost once it is read; the
/// ledger is the truth. So `harvest` writes into a ledger itself: whoever drops that has said so.
pub trait DirtyLog {
    /// Moves every page that was written since the last harvest into the ledger.
    ///
    /// Returns how many pages were found dirty, counting those already owed.
    ///
    /// # Errors
    /// When KVM refuses; what was harvested until then is in the ledger.
    fn harvest(&mut self, ledger: &mut Ledger) -> Result<u64, DirtyLogError>;
}

/// Moves the marks of this process's own writes into the ledger; returns how many they were. Here and nowhere else they
/// are merged with what KVM has logged.
fn owe_our_writes(ram: &GuestRam, ledger: &mut Ledger) -> Result<u64, DirtyLogError> {
    let mut found = 0;
    for region in ram.layout().regions() {
        ram.take_written(&region, |first, pages| {
            found += u64::from(pages.count_ones());
            ledger.owe_words(first, &[pages]).map(drop)
        })?;
    }
    Ok(found)
}
