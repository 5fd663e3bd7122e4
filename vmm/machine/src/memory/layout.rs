//! Where guest RAM lies in guest physical addresses.

use dwcp::page::{Gfn, PAGE_SIZE, PageRun};
use serde::{Deserialize, Serialize};

/// Devices are mapped between the hole's start and here.
pub const HOLE_END: u64 = 1 << 32;

/// The hole's usual start: 1 GiB below 4 GiB is for PCI and the interrupt controllers.
pub const DEFAULT_HOLE_START: u64 = 3 << 30;

/// The highest start that the hole may have: from 0xfec00000 on, addresses belong to the I/O APIC, the
/// LAPICs and the TSS, and below that lie PCI Express's configuration space and a little room for BARs.
pub(crate) const MAX_HOLE_START: u64 = 0xf980_0000;

/// Smallest guest: below this there is no room for a kernel beside the first MiB.
const MIN_SIZE: u64 = 8 << 20;

/// Largest guest: what 46 physical address bits hold, less room above for devices.
const MAX_SIZE: u64 = 1 << 45;

/// Why a memory layout was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// Too small, too large, or not whole pages
    #[error("guest memory of {0} bytes: give a multiple of 4 KiB between 8 MiB and 32 TiB")]
    Size(u64),
    /// The hole starts at a bad place
    #[error(
        "the hole below 4 GiB cannot start at {0:#x}: give a multiple of 2 MiB between 16 MiB and 3.9 GiB"
    )]
    HoleStart(u64),
}

/// One contiguous range of guest RAM: one KVM memory slot, one range of the memory file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// The KVM memory slot's number.
    pub slot: u32,
    /// First guest physical address, in bytes; page-aligned.
    pub start: u64,
    /// Length in bytes; whole pages.
    pub size: u64,
    /// Where it begins in the memory file, in bytes.
    pub file_offset: u64,
}

impl Region {
    /// First guest frame number.
    #[must_use]
    pub fn first_frame(&self) -> u64 {
        self.start / PAGE_SIZE
    }

    /// Pages in it.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.size / PAGE_SIZE
    }

    /// All of its pages.
    ///
    /// # Panics
    /// Never for a region of a layout.
    #[must_use]
    pub fn run(&self) -> PageRun {
        PageRun::new(Gfn(self.first_frame()), self.pages()).expect("a layout has such regions only")
    }

    /// One past its last guest physical address.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.start + self.size
    }
}

/// Size of guest RAM, and the start of the hole below 4 GiB that splits it.
///
/// ```text
/// 0 ──── low RAM ──── hole_start ──── devices ──── 4 GiB ──── high RAM ────
/// ```
/// The start of the hole is a parameter so that a test's small guest has two slots as a large one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "RawLayout")]
pub struct MemoryLayout {
    size: u64,
    hole_start: u64,
}

#[derive(Deserialize)]
struct RawLayout {
    size: u64,
    hole_start: u64,
}

impl TryFrom<RawLayout> for MemoryLayout {
    type Error = LayoutError;

    fn try_from(raw: RawLayout) -> Result<Self, LayoutError> {
        Self::new(raw.size, raw.hole_start)
    }
}

impl MemoryLayout {
    /// A layout of `size` bytes of RAM with a hole from `hole_start` to 4 GiB.
    ///
    /// # Errors
    /// Refuses sizes and hole starts that no guest could use.
    pub fn new(size: u64, hole_start: u64) -> Result<Self, LayoutError> {
        if !(MIN_SIZE..=MAX_SIZE).contains(&size) || !size.is_multiple_of(PAGE_SIZE) {
            return Err(LayoutError::Size(size));
        }
        // 2 MiB alignment lets huge pages line up, and puts each slot's first page at a multiple of 64.
        if !(16 << 20..=MAX_HOLE_START).contains(&hole_start) || !hole_start.is_multiple_of(2 << 20)
        {
            return Err(LayoutError::HoleStart(hole_start));
        }
        Ok(Self { size, hole_start })
    }

    /// Bytes of RAM.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// First guest physical address of the hole, whether or not RAM reaches it.
    #[must_use]
    pub fn hole_start(&self) -> u64 {
        self.hole_start
    }

    /// One past the last RAM address below 4 GiB.
    #[must_use]
    pub fn low_end(&self) -> u64 {
        self.size.min(self.hole_start)
    }

    /// The regions, lowest first: one, or two when RAM reaches the hole.
    pub fn regions(&self) -> impl Iterator<Item = Region> + use<> {
        let low = Region { slot: 0, start: 0, size: self.low_end(), file_offset: 0 };
        let high =
            Region { slot: 1, start: HOLE_END, size: self.size - low.size, file_offset: low.size };
        [low, high].into_iter().filter(|region| region.size > 0)
    }

    /// One past the last guest frame number: the limit of page sets over this layout.
    #[must_use]
    pub fn frame_limit(&self) -> u64 {
        self.regions().map(|region| region.end() / PAGE_SIZE).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ram_is_split_only_where_it_reaches_the_hole() {
        let check = |size: u64, hole: u64, expected: &[(u64, u64, u64)]| {
            let layout = MemoryLayout::new(size, hole).unwrap();
            let regions: Vec<_> =
                layout.regions().map(|r| (r.start, r.size, r.file_offset)).collect();
            assert_eq!(regions, expected, "{size:#x} with a hole at {hole:#x}");
            assert_eq!(regions.iter().map(|r| r.1).sum::<u64>(), size);
        };
        let mib = 1 << 20;
        check(64 * mib, 256 * mib, &[(0, 64 * mib, 0)]);
        check(256 * mib, 256 * mib, &[(0, 256 * mib, 0)]);
        check(512 * mib, 256 * mib, &[(0, 256 * mib, 0), (HOLE_END, 256 * mib, 256 * mib)]);
        check(256 * mib + 4096, 256 * mib, &[(0, 256 * mib, 0), (HOLE_END, 4096, 256 * mib)]);
    }

    #[test]
    fn unusable_layouts_are_refused() {
        for size in [0, 4096, (8 << 20) + 1, u64::MAX] {
            assert_eq!(MemoryLayout::new(size, DEFAULT_HOLE_START), Err(LayoutError::Size(size)));
        }
        for hole in [0, 4096, (256 << 20) + 4096, 0xfec0_0000, u64::MAX] {
            assert_eq!(MemoryLayout::new(64 << 20, hole), Err(LayoutError::HoleStart(hole)));
        }
    }

    #[test]
    fn a_layout_from_outside_is_checked_as_it_is_read() {
        let bytes = postcard::to_stdvec(&(0_u64, DEFAULT_HOLE_START)).unwrap();
        assert!(postcard::from_bytes::<MemoryLayout>(&bytes).is_err());
    }
}
