//! What the loader hands over: `hvm_start_info` of the x86/HVM direct boot ABI (Xen,
//! `public/arch-x86/hvm/start_info.h`), and the memory that it leaves to the guest.

use super::extents::{Extents, TooManyExtents};

/// Bytes of the structure from its version 1 on.
pub const START_INFO_BYTES: u64 = 56;

/// Bytes of an entry of the memory map.
pub const MAP_ENTRY_BYTES: u64 = 24;

/// Bytes of an entry of the module list.
pub const MODULE_BYTES: u64 = 32;

/// Everything below is left to firmware, loaders and the trampoline.
const LOW_MEMORY: u64 = 1 << 20;

/// Page of the local APIC, with the 2 MiB that share its mapping.
const APIC: (u64, u64) = (0xfee0_0000, 2 << 20);

const MAGIC: u32 = 0x336e_c578;
const RAM: u32 = 1;

/// A start info that passed its checks. Addresses are physical and not checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StartInfo {
    /// Number of modules.
    pub modules: u32,
    /// Address of the module list.
    pub module_list: u64,
    /// Address of the command line, which ends with a zero byte; 0 when there is none.
    pub command_line: u64,
    /// Address of the memory map.
    pub memory_map: u64,
    /// Entries of the memory map.
    pub memory_map_entries: u32,
}

impl StartInfo {
    /// Parses the structure's bytes.
    ///
    /// # Errors
    /// In one word: it is not a start info, or it has no memory map.
    pub fn parse(bytes: &[u8]) -> Result<Self, &'static str> {
        let (Some(magic), Some(version)) = (word32(bytes, 0), word32(bytes, 4)) else {
            return Err("start-info-cut-short");
        };
        if magic != MAGIC {
            return Err("no-start-info");
        }
        if version < 1 {
            return Err("start-info-without-memory-map");
        }
        let parsed = || {
            Some(Self {
                modules: word32(bytes, 12)?,
                module_list: word64(bytes, 16)?,
                command_line: word64(bytes, 24)?,
                memory_map: word64(bytes, 40)?,
                memory_map_entries: word32(bytes, 48)?,
            })
        };
        parsed().ok_or("start-info-cut-short")
    }
}

/// A range of physical memory that is in use: (first address, bytes).
pub type Range = (u64, u64);

/// (address, bytes) of a module, from its 32 bytes in the module list.
#[must_use]
pub fn module(bytes: &[u8]) -> Option<Range> {
    Some((word64(bytes, 0)?, word64(bytes, 8)?))
}

/// Pages of the memory map's RAM that nobody else uses: above 1 MiB, below `limit`, outside
/// `in_use`.
///
/// # Errors
/// [`TooManyExtents`]
pub fn usable(
    memory_map: &[u8],
    limit: u64,
    in_use: impl IntoIterator<Item = Range>,
) -> Result<Extents, TooManyExtents> {
    let mut extents = Extents::new();
    for entry in memory_map.chunks_exact(super::index(MAP_ENTRY_BYTES)) {
        if let (Some(start), Some(bytes), Some(RAM)) =
            (word64(entry, 0), word64(entry, 8), word32(entry, 16))
        {
            extents.add(start, bytes)?;
        }
    }
    extents.remove(0, LOW_MEMORY)?;
    extents.remove(limit, u64::MAX - limit)?;
    extents.remove(APIC.0, APIC.1)?;
    for (start, bytes) in in_use {
        extents.remove(start, bytes)?;
    }
    Ok(extents)
}

fn word32(bytes: &[u8], offset: usize) -> Option<u32> {
    bytes.get(offset..)?.first_chunk().map(|word| u32::from_le_bytes(*word))
}

fn word64(bytes: &[u8], offset: usize) -> Option<u64> {
    bytes.get(offset..)?.first_chunk().map(|word| u64::from_le_bytes(*word))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::extents::Extent;

    fn map(entries: &[(u64, u64, u32)]) -> Vec<u8> {
        let entry = |&(start, bytes, kind): &(u64, u64, u32)| {
            [start.to_le_bytes(), bytes.to_le_bytes(), u64::from(kind).to_le_bytes()].concat()
        };
        entries.iter().flat_map(entry).collect()
    }

    fn start_info(magic: u32, version: u32) -> Vec<u8> {
        let mut bytes = [magic.to_le_bytes(), version.to_le_bytes()].concat();
        bytes.extend([0, 0, 0, 0, 2, 0, 0, 0]); // flags, modules
        for address in [0x5000u64, 0x6000, 0x7000, 0x8000] {
            bytes.extend(address.to_le_bytes()); // module list, command line, RSDP, memory map
        }
        bytes.extend([3, 0, 0, 0, 0, 0, 0, 0]);
        bytes
    }

    #[test]
    fn a_start_info_is_read_field_by_field() {
        let bytes = start_info(MAGIC, 1);
        assert_eq!(bytes.len() as u64, START_INFO_BYTES);
        let expected = StartInfo {
            modules: 2,
            module_list: 0x5000,
            command_line: 0x6000,
            memory_map: 0x8000,
            memory_map_entries: 3,
        };
        assert_eq!(StartInfo::parse(&bytes), Ok(expected));
    }

    #[test]
    fn what_is_not_a_start_info_with_a_memory_map_is_refused() {
        assert_eq!(StartInfo::parse(&start_info(1, 1)), Err("no-start-info"));
        assert_eq!(StartInfo::parse(&start_info(MAGIC, 0)), Err("start-info-without-memory-map"));
        let whole = start_info(MAGIC, 1);
        for bytes in 0..52 {
            assert_eq!(StartInfo::parse(&whole[..bytes]), Err("start-info-cut-short"), "{bytes}");
        }
    }

    #[test]
    fn only_ram_is_owned_and_only_what_nobody_uses() {
        let map = map(&[
            (0, 0x9_fc00, 1),
            (0x10_0000, 0xff0_0000, 1), // up to 256 MiB
            (0xc000_0000, 0x1000_0000, 2),
            (1 << 32, 0x1000_0800, 1),
        ]);
        let in_use = [(0x20_0000, 0x10_0000), (0x40_0123, 10), (0x500, 56)];
        let extents = usable(&map, 64 << 30, in_use).unwrap();
        let expected = [
            Extent { start: 0x10_0000, end: 0x20_0000 },
            Extent { start: 0x30_0000, end: 0x40_0000 },
            Extent { start: 0x40_1000, end: 0x1000_0000 },
            Extent { start: 1 << 32, end: (1 << 32) + 0x1000_0000 },
        ];
        assert_eq!(extents.as_slice(), expected);
    }

    #[test]
    fn memory_beyond_the_limit_and_at_the_apic_is_left_alone() {
        let map = map(&[(0xfec0_0000, 0x100_0000, 1)]);
        let extents = usable(&map, 0xff40_0000, []).unwrap();
        let expected = [
            Extent { start: 0xfec0_0000, end: 0xfee0_0000 },
            Extent { start: 0xff00_0000, end: 0xff40_0000 },
        ];
        assert_eq!(extents.as_slice(), expected);
    }

    #[test]
    fn a_module_is_its_address_and_size() {
        let bytes = [1u64.to_le_bytes(), 2u64.to_le_bytes(), [0; 8], [0; 8]].concat();
        assert_eq!(bytes.len() as u64, MODULE_BYTES);
        assert_eq!(module(&bytes), Some((1, 2)));
        assert_eq!(module(&bytes[..15]), None);
    }
}
