//! A vCPU's dirty ring: the memory that KVM fills with the pages that the vCPU has written.
#![allow(
    unsafe_code,
    reason = "the ring is a mapping that KVM writes to while it is read: no reference may point there"
)]

use std::io;
use std::mem::offset_of;
use std::num::TryFromIntError;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use kvm_bindings::{
    KVM_DIRTY_GFN_F_MASK, KVM_DIRTY_LOG_PAGE_OFFSET, KVMIO, kvm_dirty_gfn, kvm_enable_cap,
};
use kvm_ioctls::{VcpuFd, VmFd};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use serde::{Deserialize, Serialize};
use vmm_sys_util::errno::{Error, Result};
use vmm_sys_util::ioctl::ioctl;
use vmm_sys_util::ioctl_io_nr;

ioctl_io_nr!(KVM_RESET_DIRTY_RINGS, KVMIO, 0xc7);

/// `KVM_CAP_DIRTY_LOG_RING_ACQ_REL` (Documentation/virt/kvm/api.rst, 8.29), since Linux 6.1. It is the ring of
/// `KVM_CAP_DIRTY_LOG_RING`, with the promise that this side orders its accesses.
pub(crate) const CAP_DIRTY_LOG_RING_ACQ_REL: u32 = 223;
/// Where it is offered, KVM writes guest memory for no vCPU, and such a page is in no ring.
pub(crate) const CAP_DIRTY_LOG_RING_WITH_BITMAP: u32 = 225;

/// The flags of an entry that KVM has filled, and of one that it may reset: api.rst's `01` and `1X`.
const DIRTY: u32 = 1 << 0;
const HARVESTED: u32 = 1 << 1;

const ENTRY_BYTES: u32 = 16;
const _: () = assert!(size_of::<kvm_dirty_gfn>() == ENTRY_BYTES as usize);
const _: () = assert!(offset_of!(kvm_dirty_gfn, flags) == 0, "an entry begins with its flags");
const PAGE_BYTES: u64 = 4096;

/// Why a number of entries was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a dirty ring of {0} entries: give a power of two from {least} to {most}",
    least = RingEntries::LEAST.0, most = RingEntries::MOST.0)]
pub struct RingEntriesError(u32);

/// How many pages the dirty ring of one vCPU can name: a power of two, 1,024 to 65,536. It takes 16 bytes of the
/// kernel's memory for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u32")]
pub struct RingEntries(u32);

impl RingEntries {
    /// KVM keeps up to 576 entries back (64, and on Intel's processors the 512 that page-modification logging may
    /// deliver at once): fewer than this would be a ring that is never free, or refused.
    pub const LEAST: Self = Self(1024);
    /// 64 KiB a vCPU: what api.rst recommends at least.
    pub const USUAL: Self = Self(4096);
    /// `KVM_DIRTY_RING_MAX_ENTRIES` of the kernel.
    pub const MOST: Self = Self(65_536);

    /// The number.
    #[must_use]
    pub fn get(self) -> u32 {
        self.0
    }

    /// Entries of a ring of so many bytes, be it one that there can be or not.
    pub(crate) fn of_bytes(bytes: u32) -> u32 {
        bytes / ENTRY_BYTES
    }

    /// Bytes of such a ring.
    pub(crate) fn bytes(self) -> u32 {
        self.0 * ENTRY_BYTES
    }
}

impl TryFrom<u32> for RingEntries {
    type Error = RingEntriesError;

    fn try_from(entries: u32) -> std::result::Result<Self, RingEntriesError> {
        let is_in_range = (Self::LEAST.0..=Self::MOST.0).contains(&entries);
        if is_in_range && entries.is_power_of_two() {
            Ok(Self(entries))
        } else {
            Err(RingEntriesError(entries))
        }
    }
}

/// Gives every vCPU that is created from now on a ring. Refused once there is a vCPU.
///
/// From then on KVM keeps no dirty bitmap for this VM.
pub(crate) fn enable_dirty_rings(vm: &VmFd, entries: RingEntries) -> Result<()> {
    let mut cap = kvm_enable_cap { cap: CAP_DIRTY_LOG_RING_ACQ_REL, ..Default::default() };
    cap.args[0] = entries.bytes().into();
    vm.enable_cap(&cap)
}

/// Frees the entries that were handed back, of all vCPUs, and write-protects their pages. Returns how many they were:
/// all of them, unless a signal came in between.
pub(crate) fn reset_dirty_rings(vm: &VmFd) -> Result<u32> {
    // SAFETY: KVM_RESET_DIRTY_RINGS (api.rst, 8.29) has no argument, and reads and writes no memory of this process
    // but the rings' flags, which only `DirtyRing` looks at.
    let outcome = unsafe { ioctl(vm, KVM_RESET_DIRTY_RINGS()) };
    u32::try_from(outcome).map_err(|_: TryFromIntError| Error::last())
}

/// A page that KVM has named in a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DirtyPage {
    /// The address space and the memory slot: `as_id << 16 | slot`.
    pub(crate) slot: u32,
    /// Pages from the slot's beginning.
    pub(crate) offset: u64,
}

/// The ring of one vCPU, mapped.
///
/// ```text
///          dirtied: KVM          drain(): kept, then handed back       reset: KVM, when asked
///   00 ───────────────────► 01 ───────────────────────────────► 1X ───────────────────────► 00
/// ```
///
/// The mapping holds the vCPU, and the vCPU its VM, as long as it is there.
#[derive(Debug)]
pub(crate) struct DirtyRing {
    first: NonNull<kvm_dirty_gfn>,
    entries: RingEntries,
    /// The entry that KVM fills next, or has filled: counted on without end, taken modulo `entries`.
    next: u32,
}

// SAFETY: the mapping belongs to this value alone, and is not bound to a thread; KVM, which shares it, takes turns with
// this side through each entry's flags.
unsafe impl Send for DirtyRing {}

impl DirtyRing {
    /// Maps the ring of a vCPU that was created after `enable_dirty_rings` with as many entries.
    pub(crate) fn map(vcpu: &VcpuFd, entries: RingEntries) -> io::Result<Self> {
        let offset = u64::from(KVM_DIRTY_LOG_PAGE_OFFSET) * PAGE_BYTES;
        let bytes = entries.bytes() as usize;
        let (prot, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        // SAFETY: the descriptor is open as long as `vcpu` is, which is borrowed for the whole call.
        let vcpu = unsafe { BorrowedFd::borrow_raw(vcpu.as_raw_fd()) };
        // SAFETY: without MAP_FIXED no mapping is replaced, so nothing that exists changes.
        let mapped = unsafe { mmap(std::ptr::null_mut(), bytes, prot, flags, vcpu, offset) }?;
        let first = NonNull::new(mapped.cast()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Self { first, entries, next: 0 })
    }

    /// Gives `keep` the pages that KVM has named, in their order, and hands each entry back once it is kept; adds how
    /// many they were to `handed_back`. Not more than the ring has: KVM uses none twice before a reset, and so no vCPU
    /// that goes on writing keeps this busy.
    ///
    /// # Errors
    /// What `keep` says. That page comes again; those before it are handed back.
    pub(crate) fn drain<E>(
        &mut self,
        handed_back: &mut u64,
        mut keep: impl FnMut(DirtyPage) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        for _ in 0..self.entries.get() {
            let Some(page) = self.peek() else { break };
            keep(page)?;
            self.flags().store(HARVESTED, Ordering::Release);
            self.next = self.next.wrapping_add(1);
            *handed_back += 1;
        }
        Ok(())
    }

    /// The next page, if KVM has named it already.
    fn peek(&self) -> Option<DirtyPage> {
        // Acquire: what KVM wrote to the entry before its flags is seen after them.
        if self.flags().load(Ordering::Acquire) & KVM_DIRTY_GFN_F_MASK != DIRTY {
            return None;
        }
        // SAFETY: the entry lies in the mapping and is aligned, and KVM leaves one that is dirty alone until it is handed
        // back, which only `drain` does, after this.
        let kvm_dirty_gfn { slot, offset, .. } = unsafe { self.entry().read() };
        Some(DirtyPage { slot, offset })
    }

    fn entry(&self) -> NonNull<kvm_dirty_gfn> {
        let index = self.next % self.entries.get();
        // SAFETY: the mapping has `entries` of them, and `index` is below that.
        unsafe { self.first.add(index as usize) }
    }

    fn flags(&self) -> &AtomicU32 {
        // SAFETY: the entry lies in the mapping, which outlives the reference, and is aligned. KVM changes flags with
        // plain stores and loads of 32 bits, which are atomic on x86-64; nobody else of this process accesses them.
        unsafe { AtomicU32::from_ptr(self.entry().as_ptr().cast()) }
    }
}

impl Drop for DirtyRing {
    fn drop(&mut self) {
        // SAFETY: `first` is the mapping that `map` made, as long as it was made; no reference into it is left.
        let unmapped = unsafe { munmap(self.first.as_ptr().cast(), self.entries.bytes() as usize) };
        debug_assert!(unmapped.is_ok(), "{unmapped:?}");
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    /// KVM's half of a ring, as `virt/kvm/dirty_ring.c` has it.
    struct Kernel {
        first: *mut kvm_dirty_gfn,
        pushed: u32,
        reset: u32,
    }

    // SAFETY: it is used by one thread, and what it shares with the ring's are the entries, by turns.
    unsafe impl Send for Kernel {}

    impl Kernel {
        fn flags(&self, index: u32) -> &AtomicU32 {
            // SAFETY: an entry begins with its flags, and a test drops its ring after its kernel.
            unsafe { AtomicU32::from_ptr(self.entry(index).cast()) }
        }

        fn entry(&self, index: u32) -> *mut kvm_dirty_gfn {
            // SAFETY: the index is taken modulo the ring's size.
            unsafe { self.first.add((index % RingEntries::LEAST.get()) as usize) }
        }

        fn push(&mut self, slot: u32, offset: u64) {
            assert!(self.pushed - self.reset < RingEntries::LEAST.get(), "the ring is full");
            let entry = self.entry(self.pushed);
            // SAFETY: the entry is free, so the other side only looks at its flags.
            unsafe { (*entry).slot = slot };
            // SAFETY: as above.
            unsafe { (*entry).offset = offset };
            self.flags(self.pushed).store(DIRTY, Ordering::Release);
            self.pushed += 1;
        }

        fn reset(&mut self) -> u64 {
            let before = self.reset;
            while self.flags(self.reset).load(Ordering::Acquire) & HARVESTED != 0 {
                self.flags(self.reset).store(0, Ordering::Release);
                self.reset += 1;
            }
            u64::from(self.reset - before)
        }
    }

    /// The smallest ring, without a vCPU.
    fn ring() -> (DirtyRing, Kernel) {
        let entries = RingEntries::LEAST;
        let (prot, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        let bytes = entries.bytes() as usize;
        // SAFETY: without MAP_FIXED no mapping is replaced.
        let mapped =
            unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), bytes, prot, flags) };
        let first = NonNull::new(mapped.unwrap().cast()).unwrap();
        let kernel = Kernel { first: first.as_ptr(), pushed: 0, reset: 0 };
        (DirtyRing { first, entries, next: 0 }, kernel)
    }

    /// Everything that is there.
    fn drained(ring: &mut DirtyRing) -> Vec<u64> {
        let (mut pages, mut handed_back) = (Vec::new(), 0);
        let keep = |page: DirtyPage| {
            pages.push(page.offset);
            Ok::<_, Infallible>(())
        };
        ring.drain(&mut handed_back, keep).unwrap();
        assert_eq!(handed_back, pages.len() as u64);
        pages
    }

    #[test]
    fn pages_come_once_and_in_their_order_round_after_round() {
        let (mut ring, mut kernel) = ring();
        assert!(drained(&mut ring).is_empty());
        let mut offset = 0;
        for _ in 0..5 {
            // Not a divisor of the ring's size: the end is passed within a batch.
            let batch: Vec<u64> = (offset..offset + 700).collect();
            batch.iter().for_each(|offset| kernel.push(1, *offset));
            assert_eq!(drained(&mut ring), batch);
            assert!(drained(&mut ring).is_empty(), "they are handed back, and not dirty");
            assert_eq!(kernel.reset(), 700);
            offset += 700;
        }
    }

    #[test]
    fn a_page_that_is_not_kept_comes_again_and_is_not_handed_back() {
        let (mut ring, mut kernel) = ring();
        (0..10).for_each(|offset| kernel.push(0, offset));
        let mut handed_back = 0;
        let refused =
            ring.drain(
                &mut handed_back,
                |page| if page.offset == 7 { Err(page.offset) } else { Ok(()) },
            );
        assert_eq!((refused, handed_back), (Err(7), 7));
        assert_eq!(kernel.reset(), 7);
        assert_eq!(drained(&mut ring), [7, 8, 9]);
    }

    #[test]
    fn a_full_ring_is_drained_once() {
        let (mut ring, mut kernel) = ring();
        let all: Vec<u64> = (0..RingEntries::LEAST.get().into()).collect();
        all.iter().for_each(|offset| kernel.push(0, *offset));
        assert_eq!(drained(&mut ring), all);
        assert!(drained(&mut ring).is_empty());
    }

    #[test]
    fn nothing_is_lost_while_the_other_side_writes() {
        const PAGES: u64 = 200_000;
        let (mut ring, mut kernel) = ring();
        let (reset, asked) = std::sync::mpsc::channel::<()>();
        let (done, answered) = std::sync::mpsc::channel();
        let writer = std::thread::spawn(move || {
            let mut offset = 0;
            while offset < PAGES {
                if kernel.pushed - kernel.reset < RingEntries::LEAST.get() {
                    kernel.push((offset % 3) as u32, offset);
                    offset += 1;
                }
                while asked.try_recv().is_ok() {
                    done.send(kernel.reset()).unwrap();
                }
            }
        });
        let mut seen = 0;
        while seen < PAGES {
            let mut handed_back = 0;
            let keep = |page: DirtyPage| {
                assert_eq!((u64::from(page.slot), page.offset), (seen % 3, seen));
                seen += 1;
                Ok::<_, Infallible>(())
            };
            ring.drain(&mut handed_back, keep).unwrap();
            if handed_back > 0 && reset.send(()).is_ok() && seen < PAGES {
                assert_eq!(answered.recv().unwrap_or(handed_back), handed_back);
            }
        }
        writer.join().unwrap();
    }

    #[test]
    fn only_powers_of_two_that_every_kvm_takes_are_ring_sizes() {
        for entries in [1024, 4096, 65_536] {
            assert_eq!(RingEntries::try_from(entries).unwrap().get(), entries);
        }
        for entries in [0, 1, 512, 1000, 5000, 131_072, u32::MAX] {
            let error = RingEntries::try_from(entries).unwrap_err().to_string();
            assert!(error.contains("from 1024 to 65536"), "{error}");
        }
    }
}
