//! Where devices answer in memory: the one place that the bus and the ACPI tables take it from.
//!
//! ```text
//! hole start ── BARs of 32 bits ── 0xfd00_0000 ECAM ── 0xfe00_0000 ── nothing ── 0xfec0_0000 I/O APIC and on
//! end of RAM, on a GiB ── 32 GiB for BARs of 64 bits
//! ```
//! A guest learns these addresses once, from tables that move with its memory: for a machine that
//! runs they never change, whatever executable it is handed to.

use std::ops::RangeInclusive;

use crate::memory::{HOLE_END, MAX_HOLE_START, MemoryLayout};

/// PCI buses that there is configuration space for: one for functions of the host bridge itself, and
/// the others behind root ports.
pub(crate) const PCI_BUSES: u8 = 16;
/// The enhanced configuration access mechanism: a MiB a bus (PCI Firmware 3.3, 4.1.2), aligned to the
/// whole.
pub(crate) const ECAM_START: u64 = 0xfd00_0000;
/// Bytes of the ECAM.
pub(crate) const ECAM_BYTES: u64 = (PCI_BUSES as u64) << 20;

/// The lowest address that belongs to the interrupt controllers.
const IO_APIC_START: u64 = 0xfec0_0000;
/// What the smallest hole leaves for BARs of 32 bits.
const LEAST_LOW_WINDOW: u64 = 32 << 20;
/// Bytes for BARs of 64 bits: with little RAM all of it is below what the narrowest processor (36
/// address bits) reaches.
const HIGH_WINDOW_BYTES: u64 = 32 << 30;

const _: () = {
    assert!(ECAM_START.is_multiple_of(ECAM_BYTES));
    assert!(MAX_HOLE_START + LEAST_LOW_WINDOW <= ECAM_START);
    assert!(ECAM_START + ECAM_BYTES <= IO_APIC_START);
};

/// Where BARs of 32 bits may lie: from the start of the hole to the ECAM.
pub(crate) fn low_window(layout: MemoryLayout) -> RangeInclusive<u32> {
    let address = |address: u64| u32::try_from(address).expect("the hole ends at 4 GiB");
    address(layout.hole_start())..=address(ECAM_START - 1)
}

/// Where BARs of 64 bits may lie: above all RAM.
pub(crate) fn high_window(layout: MemoryLayout) -> RangeInclusive<u64> {
    let ram_end = layout.regions().map(|region| region.end()).max().unwrap_or(0);
    let start = ram_end.max(HOLE_END).next_multiple_of(1 << 30);
    start..=start + HIGH_WINDOW_BYTES - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_and_ecam_meet_neither_each_other_nor_ram() {
        let mib = 1_u64 << 20;
        for hole in [16 * mib, 256 * mib, 3 << 30, MAX_HOLE_START] {
            for size in [8 * mib, hole, hole + 4096, 6 << 30, 1 << 45] {
                let layout = MemoryLayout::new(size, hole).unwrap();
                let (low, high) = (low_window(layout), high_window(layout));
                let mut taken: Vec<(u64, u64)> =
                    layout.regions().map(|region| (region.start, region.end() - 1)).collect();
                taken.push((u64::from(*low.start()), u64::from(*low.end())));
                taken.push((ECAM_START, ECAM_START + ECAM_BYTES - 1));
                taken.push((IO_APIC_START, HOLE_END - 1));
                taken.push((*high.start(), *high.end()));
                taken.sort_unstable();
                for pair in taken.windows(2) {
                    assert!(pair[0].1 < pair[1].0, "{size:#x}, hole at {hole:#x}: {taken:x?}");
                }
            }
        }
    }
}
