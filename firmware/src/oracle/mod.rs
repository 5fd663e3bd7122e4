//! What guest and host share: pure functions over values, without allocation and without `unsafe`.
//!
//! The guest's crate includes this folder by path, so it uses nothing but `core`.

pub mod extents;
pub mod options;
pub mod page;
pub mod permutation;
pub mod plan;
pub mod report;
pub mod start_info;
pub mod tempo;
pub mod walk;

/// Bytes in a page.
pub const PAGE_BYTES: u64 = 4096;

/// vCPUs the guest can run on.
pub const MAX_CPUS: u32 = 64;

/// Scrambles a word: a bijection whose every output bit depends on every input bit.
///
/// The finaliser of SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators).
#[must_use]
pub const fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// A count or an offset within memory as an index: the guest's machine and the host's have 64 bits.
#[must_use]
pub(crate) const fn index(value: u64) -> usize {
    const { assert!(size_of::<usize>() == size_of::<u64>()) };
    #[expect(clippy::cast_possible_truncation, reason = "asserted above")]
    let index = value as usize;
    index
}
