//! The functions that compiled code calls without being asked to.
//!
//! They are string instructions: written in Rust, a loop that copies bytes may be compiled into a
//! call of the very function it is in. Nothing in the guest's hot path uses them.
#![allow(unsafe_code, reason = "the C library's contracts, met with string instructions")]

use core::arch::asm;

/// Copies `bytes` bytes that do not overlap.
///
/// # Safety
/// `from` is readable and `to` writable for `bytes` bytes, and they do not overlap.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, bytes: usize) -> *mut u8 {
    // SAFETY: the caller's contract is that of the instruction; the direction flag is clear from
    // entry on, and nothing in the guest sets it for longer than one asm block.
    unsafe {
        asm!("rep movsb", inout("rcx") bytes => _, inout("rdi") to => _, inout("rsi") from => _,
            options(nostack, preserves_flags));
    }
    to
}

/// Copies `bytes` bytes that may overlap.
///
/// # Safety
/// `from` is readable and `to` writable for `bytes` bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, bytes: usize) -> *mut u8 {
    if to.addr().wrapping_sub(from.addr()) >= bytes {
        // SAFETY: copying upwards reads every byte before it is overwritten, as `to` does not lie
        // within `from..from + bytes`.
        return unsafe { memcpy(to, from, bytes) };
    }
    let (to_last, from_last) = (to.wrapping_add(bytes - 1), from.wrapping_add(bytes - 1));
    // SAFETY: the last bytes are at `bytes - 1`, and `bytes` is not 0 here: the distance is smaller.
    // The direction flag is restored within the block.
    unsafe {
        asm!("std", "rep movsb", "cld",
            inout("rcx") bytes => _,
            inout("rdi") to_last => _,
            inout("rsi") from_last => _,
            options(nostack));
    }
    to
}

/// Sets `bytes` bytes.
///
/// # Safety
/// `to` is writable for `bytes` bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, value: i32, bytes: usize) -> *mut u8 {
    // SAFETY: the caller's contract is that of the instruction, which takes the low byte only.
    unsafe {
        asm!("rep stosb", inout("rcx") bytes => _, inout("rdi") to => _, in("eax") value,
            options(nostack, preserves_flags));
    }
    to
}

/// Compares bytes as unsigned numbers.
///
/// # Safety
/// `left` and `right` are readable for `bytes` bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(left: *const u8, right: *const u8, bytes: usize) -> i32 {
    let (after_left, after_right): (*const u8, *const u8);
    // SAFETY: the caller's contract is that of the instruction. It stops behind the first pair that
    // differs, or behind the last pair.
    unsafe {
        asm!("repe cmpsb",
            inout("rcx") bytes => _,
            inout("rsi") left => after_left,
            inout("rdi") right => after_right,
            options(nostack, readonly));
    }
    if bytes == 0 {
        return 0;
    }
    // SAFETY: at least one pair was compared, so the byte before is one of `left`'s.
    let left = unsafe { after_left.wrapping_sub(1).read() };
    // SAFETY: the same for `right`.
    let right = unsafe { after_right.wrapping_sub(1).read() };
    i32::from(left) - i32::from(right)
}

/// Compares bytes for equality.
///
/// # Safety
/// As for [`memcmp`].
#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(left: *const u8, right: *const u8, bytes: usize) -> i32 {
    // SAFETY: the same contract.
    unsafe { memcmp(left, right, bytes) }
}
