//! Which pages the guest owns.

use super::PAGE_BYTES;

/// Most extents a machine may have: memory regions, cut by what the loader put into them.
const MAX_EXTENTS: usize = 32;

/// A range of physical addresses, page-aligned, not empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    /// First address.
    pub start: u64,
    /// First address beyond.
    pub end: u64,
}

impl Extent {
    const fn pages(&self) -> u64 {
        (self.end - self.start) / PAGE_BYTES
    }
}

/// A memory map in more pieces than the guest can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManyExtents;

/// Disjoint extents in ascending order.
#[derive(Clone, Copy, Debug, Default)]
pub struct Extents {
    extents: [Extent; MAX_EXTENTS],
    count: usize,
}

impl Extents {
    /// Nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the whole pages in `bytes` bytes from `start` on.
    ///
    /// # Errors
    /// [`TooManyExtents`], and nothing was added.
    pub fn add(&mut self, start: u64, bytes: u64) -> Result<(), TooManyExtents> {
        let end = start.saturating_add(bytes) / PAGE_BYTES * PAGE_BYTES;
        let start = start.div_ceil(PAGE_BYTES).saturating_mul(PAGE_BYTES);
        let before = *self;
        // A memory map may name memory twice; it still counts once.
        self.remove(start, end.saturating_sub(start))
            .and_then(|()| self.insert(start, end))
            .inspect_err(|_| *self = before)
    }

    /// Removes every page that `bytes` bytes from `start` on touch.
    ///
    /// # Errors
    /// [`TooManyExtents`]: the cut would leave too many pieces. What is removed then is unspecified.
    pub fn remove(&mut self, start: u64, bytes: u64) -> Result<(), TooManyExtents> {
        if bytes == 0 {
            return Ok(());
        }
        let end = start.saturating_add(bytes).div_ceil(PAGE_BYTES).saturating_mul(PAGE_BYTES);
        let start = start / PAGE_BYTES * PAGE_BYTES;
        let before = *self;
        self.count = 0;
        for extent in before.as_slice() {
            self.insert(extent.start, extent.end.min(start))?;
            self.insert(extent.start.max(end), extent.end)?;
        }
        Ok(())
    }

    /// The extents, ascending.
    #[must_use]
    pub fn as_slice(&self) -> &[Extent] {
        &self.extents[..self.count]
    }

    /// Pages in all extents.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.as_slice().iter().map(Extent::pages).sum()
    }

    /// Address of the page number `index`, counted from the lowest.
    #[must_use]
    pub fn address(&self, index: u64) -> Option<u64> {
        let mut index = index;
        for extent in self.as_slice() {
            if index < extent.pages() {
                return Some(extent.start + index * PAGE_BYTES);
            }
            index -= extent.pages();
        }
        None
    }

    /// Inserts at its place in the order; nothing when empty. It must not overlap what is there.
    fn insert(&mut self, start: u64, end: u64) -> Result<(), TooManyExtents> {
        if start >= end {
            return Ok(());
        }
        if self.count == MAX_EXTENTS {
            return Err(TooManyExtents);
        }
        let place = self.as_slice().partition_point(|extent| extent.start < start);
        self.extents.copy_within(place..self.count, place + 1);
        self.extents[place] = Extent { start, end };
        self.count += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        // The reference is a set of page numbers; addresses are unaligned on purpose.
        #[test]
        fn adding_and_removing_agrees_with_a_set_of_pages(
            changes in prop::collection::vec((any::<bool>(), 0u64..200_000, 0u64..60_000), 0..20),
        ) {
            let mut extents = Extents::new();
            let mut pages = BTreeSet::new();
            for (add, start, bytes) in changes {
                if add {
                    extents.add(start, bytes).unwrap();
                    pages.extend((start.div_ceil(4096)..(start + bytes) / 4096).map(|n| n * 4096));
                } else {
                    extents.remove(start, bytes).unwrap();
                    let touched = start / 4096..(start + bytes).div_ceil(4096);
                    pages.retain(|page| bytes == 0 || !touched.contains(&(page / 4096)));
                }
            }
            prop_assert_eq!(extents.pages(), pages.len() as u64);
            for (index, page) in pages.iter().enumerate() {
                prop_assert_eq!(extents.address(index as u64), Some(*page));
            }
            prop_assert_eq!(extents.address(pages.len() as u64), None);
        }
    }

    #[test]
    fn a_map_in_too_many_pieces_is_refused_not_cut_short() {
        let mut extents = Extents::new();
        for piece in 0..32 {
            assert_eq!(extents.add(piece << 20, 4096), Ok(()));
        }
        assert_eq!(extents.add(32 << 20, 4096), Err(TooManyExtents));
        assert_eq!(extents.pages(), 32);
    }

    #[test]
    fn memory_at_the_end_of_the_address_space_does_not_wrap() {
        let mut extents = Extents::new();
        assert_eq!(extents.add(u64::MAX - 8191, u64::MAX), Ok(()));
        assert_eq!(extents.remove(u64::MAX - 100, 4096), Ok(()));
        assert!(extents.pages() <= 2);
    }
}
