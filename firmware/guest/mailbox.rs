//! Wrong pages that a vCPU found, on their way to the one that prints.
#![allow(unsafe_code, reason = "a ring between one sender and one receiver")]

use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use core::sync::atomic::AtomicUsize;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use super::oracle::report::WrongPage;

const SLOTS: usize = 4;

/// A ring of [`SLOTS`] messages.
///
/// ```text
/// received <= sent <= received + SLOTS
/// slot n % SLOTS holds message n, for received <= n < sent
/// ```
pub(super) struct Mailbox {
    sent: AtomicUsize,
    received: AtomicUsize,
    slots: [UnsafeCell<MaybeUninit<WrongPage>>; SLOTS],
}

// SAFETY: a slot is written only by the sender while it is outside `received..sent`, and read only
// by the receiver while it is inside; the counters' release and acquire order the two.
unsafe impl Sync for Mailbox {}

impl Mailbox {
    pub(super) const fn new() -> Self {
        Self {
            sent: AtomicUsize::new(0),
            received: AtomicUsize::new(0),
            slots: [const { UnsafeCell::new(MaybeUninit::uninit()) }; SLOTS],
        }
    }

    /// Sends, unless the ring is full.
    ///
    /// # Safety
    /// Only the vCPU that owns the mailbox sends.
    pub(super) unsafe fn send(&self, page: WrongPage) -> bool {
        let sent = self.sent.load(Relaxed);
        if sent.wrapping_sub(self.received.load(Acquire)) == SLOTS {
            return false;
        }
        // SAFETY: the slot is outside `received..sent`, so the receiver leaves it alone; there is
        // one sender, by the caller's contract.
        let slot = unsafe { &mut *self.slots[sent % SLOTS].get() };
        slot.write(page);
        self.sent.store(sent.wrapping_add(1), Release);
        true
    }

    /// Takes the oldest message.
    ///
    /// # Safety
    /// Only vCPU 0 receives.
    pub(super) unsafe fn receive(&self) -> Option<WrongPage> {
        let received = self.received.load(Relaxed);
        if self.sent.load(Acquire) == received {
            return None;
        }
        // SAFETY: the slot is inside `received..sent`, so the sender leaves it alone; there is one
        // receiver, by the caller's contract.
        let slot = unsafe { &*self.slots[received % SLOTS].get() };
        // SAFETY: it was written before `sent` passed it.
        let page = unsafe { slot.assume_init() };
        self.received.store(received.wrapping_add(1), Release);
        Some(page)
    }
}
