//! The time-stamp counter.

use super::oracle::tempo::Watch;

/// The TSC of the vCPU that asks.
#[expect(unsafe_code, reason = "an intrinsic")]
pub(super) fn now() -> u64 {
    // SAFETY: every x86-64 processor has the instruction, and CR4.TSD is clear (entry.s).
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Lets `watch` take a reading.
pub(super) fn read(watch: &mut Watch) {
    watch.read(now());
}
