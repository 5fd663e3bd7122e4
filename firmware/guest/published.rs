//! A value that one vCPU makes and all may read.
#![allow(unsafe_code, reason = "std's OnceLock, without std")]

use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use core::sync::atomic::AtomicBool;
use core::sync::atomic::Ordering::{AcqRel, Acquire, Release};

/// A cell that is written once.
pub(super) struct Published<T> {
    taken: AtomicBool,
    ready: AtomicBool,
    value: UnsafeCell<MaybeUninit<T>>,
}

// SAFETY: other vCPUs get shared references only, and only after the one write is complete; so `T`
// must be shareable, and sendable because it is written on one vCPU and lives for all.
unsafe impl<T: Send + Sync> Sync for Published<T> {}

impl<T> Published<T> {
    pub(super) const fn new() -> Self {
        Self {
            taken: AtomicBool::new(false),
            ready: AtomicBool::new(false),
            value: UnsafeCell::new(MaybeUninit::uninit()),
        }
    }

    /// Publishes `value`. Panics when there is one.
    pub(super) fn publish(&'static self, value: T) -> &'static T {
        assert!(!self.taken.swap(true, AcqRel));
        // SAFETY: the swap lets one caller through, ever, and `ready` keeps readers out until below.
        let cell = unsafe { &mut *self.value.get() };
        let value = cell.write(value);
        self.ready.store(true, Release);
        value
    }

    /// The value, once it is published.
    pub(super) fn get(&'static self) -> Option<&'static T> {
        if !self.ready.load(Acquire) {
            return None;
        }
        // SAFETY: from when `ready` is set on, nobody writes the cell again.
        let cell = unsafe { &*self.value.get() };
        // SAFETY: `ready` was set after the value was written.
        Some(unsafe { cell.assume_init_ref() })
    }
}
