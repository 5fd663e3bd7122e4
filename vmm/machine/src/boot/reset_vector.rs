//! The reset vector of a PC's firmware: here, code that resets the machine.
//!
//! A kernel that knows no other way to reset jumps there in real mode. Linux does so on a platform whose
//! ACPI is hardware-reduced, if it was built with EFI's runtime services and has none: it takes EFI for the
//! only way to reset such a platform, and never tries the register that the FADT names
//! (`reboot_init`, `efi_reboot_required`).

use dwcp::page::PAGE_SIZE;

use crate::devices::ports::{I8042_COMMAND, I8042_RESET};
use crate::memory::{GuestRam, RamError};

/// The page that it lies in, which the memory map reserves.
pub(super) const PAGE: u64 = 0xf_f000;
/// Where a jump to f000:fff0 or ffff:0000 leads.
const VECTOR: u64 = 0xf_fff0;
/// The port fits into the one byte that the instruction has for it.
const PORT: u8 = I8042_COMMAND.to_le_bytes()[0];

/// 16-bit code.
const CODE: [u8; 8] = [
    0xfa, // cli
    0xb0,
    I8042_RESET, // mov al, 0xfe
    0xe6,
    PORT, // out 0x64, al
    0xf4, // hlt
    0xeb,
    0xfd, // jmp to the hlt
];

const _: () = {
    assert!(I8042_COMMAND <= 0xff);
    assert!(VECTOR + CODE.len() as u64 <= PAGE + PAGE_SIZE);
};

/// Writes it.
pub(super) fn write(ram: &GuestRam) -> Result<(), RamError> {
    ram.write(VECTOR, &CODE)
}
