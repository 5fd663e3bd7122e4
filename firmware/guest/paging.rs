//! The rest of the identity map.
//!
//! Ring 0 maps the first gigabyte and the local APIC. Ring 3 adds the rest: page tables are memory,
//! and an entry that was not present needs no flush when it becomes so (Intel SDM 3A, 4.10.2.3).

use core::sync::atomic::Ordering::{Relaxed, Release};

use super::entry::{self, GIGABYTES};
use super::oracle::extents::Extents;
use super::oracle::index;

const TABLE: u64 = 0x07; // present, writable, user-accessible
const LARGE: u64 = 0x87; // and a page of 2 MiB
const LARGE_BYTES: u64 = 2 << 20;
const GIGABYTE: u64 = 1 << 30;

/// First address that cannot be mapped.
pub(super) const LIMIT: u64 = GIGABYTES as u64 * GIGABYTE;

/// First address that is not mapped yet when Rust starts.
pub(super) const MAPPED_AT_ENTRY: u64 = GIGABYTE;

/// Maps the pages of 2 MiB that `extents` touch, all below [`LIMIT`].
pub(super) fn map(extents: &Extents) {
    for gigabyte in 1..GIGABYTES {
        let start = gigabyte as u64 * GIGABYTE;
        let inside = |address: u64| address.clamp(start, start + GIGABYTE);
        let ranges = extents.as_slice().iter().map(|e| (inside(e.start), inside(e.end)));
        if ranges.clone().all(|(start, end)| start == end) {
            continue;
        }
        let (directory, linked) = entry::directory(gigabyte);
        if !linked {
            directory.iter().for_each(|entry| entry.store(0, Relaxed));
        }
        for (from, to) in ranges {
            let mut address = from / LARGE_BYTES * LARGE_BYTES;
            while address < to {
                directory[index((address - start) / LARGE_BYTES)].store(address | LARGE, Relaxed);
                address += LARGE_BYTES;
            }
        }
        if !linked {
            let table = core::ptr::from_ref(directory).addr() as u64;
            entry::directory_pointers()[gigabyte].store(table | TABLE, Release);
        }
    }
}
