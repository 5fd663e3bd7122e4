//! I/O ports. Ring 3 may use those that its task state segment permits (`entry.s`).
#![allow(unsafe_code, reason = "port instructions exist only in assembly")]

use core::arch::asm;

/// Reads a byte.
pub(super) fn read(port: u16) -> u8 {
    let value;
    // SAFETY: `in` touches no memory and no flags, and where the port is not
    // permitted, it faults. Every port that this guest names is a register of a device without access to memory.
    unsafe {
        asm!("in al, dx", out("al") value, in("dx") port, options(nomem, nostack, preserves_flags));
    }
    value
}

/// Writes a byte.
pub(super) fn write(port: u16, value: u8) {
    // SAFETY: as for `read`; the i8042's reset command ends the machine, which is what it is for.
    unsafe {
        asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack, preserves_flags));
    }
}
