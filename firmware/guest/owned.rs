//! The pages of one vCPU, as memory.
#![allow(unsafe_code, reason = "turns physical addresses into references")]

use super::oracle::page::Page;
use super::oracle::plan::Share;

/// Exclusive access to the pages of a share.
pub(super) struct Owned {
    share: Share<'static>,
}

impl Owned {
    /// # Safety
    /// The identity map covers the plan's extents, nothing of the image or of the start info that is
    /// still in use lies in them, and there is no other `Owned` of the same share.
    pub(super) const unsafe fn new(share: Share<'static>) -> Self {
        Self { share }
    }

    pub(super) const fn share(&self) -> &Share<'static> {
        &self.share
    }

    /// Address and content of a page; `page` is a number within the share.
    pub(super) fn page(&mut self, page: u64) -> (u64, &mut Page) {
        let Some(address) = self.share.address(page) else {
            unreachable!("a vCPU keeps to its share");
        };
        let mut memory =
            core::ptr::with_exposed_provenance_mut::<Page>(super::oracle::index(address));
        // SAFETY: the block is empty. To the compiler it may have changed any memory and may return
        // any pointer: without it, it might take a page to hold what it was last seen to hold, and
        // the oracle would prove the compiler's reasoning instead of the hypervisor's.
        unsafe {
            core::arch::asm!("/* {0} */", inout(reg) memory, options(nostack, preserves_flags));
        };
        // SAFETY: the address is a whole page of RAM that is mapped and belongs to this share alone
        // (contract of `new`; shares are disjoint), `&mut self` keeps it to one reference at a time,
        // and every bit pattern is a `Page`.
        (address, unsafe { &mut *memory })
    }
}
