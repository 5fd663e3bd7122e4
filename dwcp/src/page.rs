//! Guest frame numbers and runs of them. Everything downstream of a dirty bitmap handles runs.

use std::fmt;
use std::num::NonZeroU64;

/// Bytes in a page: the granule of KVM's dirty log on x86-64, whatever page size backs the guest.
pub const PAGE_SIZE: u64 = 4096;

/// [`PAGE_SIZE`] as a length in memory.
#[allow(clippy::cast_possible_truncation, reason = "4096 fits every usize")]
pub const PAGE_BYTES: usize = PAGE_SIZE as usize;

/// The content of a page: a copy, never guest memory itself.
pub type Page = [u8; PAGE_BYTES];

/// One past the last frame number whose bytes all have 64-bit addresses.
const GFN_END: u64 = 1 << (64 - PAGE_SIZE.trailing_zeros());

/// A guest frame number: a guest-physical address divided by [`PAGE_SIZE`].
///
/// Holding one proves nothing about guest memory: the frame may lie in a hole or beyond the end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Gfn(pub u64);

impl fmt::Display for Gfn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "gfn {:#x}", self.0)
    }
}

/// A run of pages was to be made that cannot exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RunError {
    /// A run has at least one page
    #[error("a run of no pages, at {0}")]
    Empty(Gfn),
    /// Some byte of the run would have no 64-bit guest-physical address
    #[error("a run of {pages} pages from {first} ends beyond the 64-bit address space")]
    Overflow {
        /// The first frame.
        first: Gfn,
        /// How many pages were asked for.
        pages: u64,
    },
}

/// Consecutive guest pages: at least one, and each byte of them has a 64-bit address.
///
/// Holding one does not prove that the pages are guest memory.
///
/// ```
/// use dwcp::page::{Gfn, PageRun};
///
/// let run = PageRun::new(Gfn(0x100), 16)?;
/// assert_eq!(run.address(), 0x10_0000);
/// assert_eq!(run.end(), Gfn(0x110));
/// assert!(PageRun::new(Gfn(u64::MAX), 2).is_err());
/// # Ok::<(), dwcp::page::RunError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageRun {
    first: Gfn,
    pages: u64,
}

impl PageRun {
    /// A run of `pages` pages from `first`.
    ///
    /// # Errors
    /// When `pages` is 0, or the run ends beyond the 64-bit address space.
    pub fn new(first: Gfn, pages: u64) -> Result<Self, RunError> {
        if pages == 0 {
            return Err(RunError::Empty(first));
        }
        match first.0.checked_add(pages) {
            // The very last page is left out, so that `address() + bytes()` never overflows.
            Some(end) if end < GFN_END => Ok(Self { first, pages }),
            _ => Err(RunError::Overflow { first, pages }),
        }
    }

    /// For runs that were cut out of something already checked.
    pub(crate) fn known_valid(first: Gfn, pages: u64) -> Self {
        debug_assert!(Self::new(first, pages).is_ok());
        Self { first, pages }
    }

    /// The first frame.
    #[must_use]
    pub fn first(self) -> Gfn {
        self.first
    }

    /// How many pages; never 0.
    #[must_use]
    pub fn pages(self) -> u64 {
        self.pages
    }

    /// The frame after the last one.
    #[must_use]
    pub fn end(self) -> Gfn {
        Gfn(self.first.0 + self.pages)
    }

    /// The guest-physical address of the first byte.
    #[must_use]
    pub fn address(self) -> u64 {
        self.first.0 * PAGE_SIZE
    }

    /// Length in bytes.
    #[must_use]
    pub fn bytes(self) -> u64 {
        self.pages * PAGE_SIZE
    }

    /// Whether the frame lies in the run.
    #[must_use]
    pub fn contains(self, gfn: Gfn) -> bool {
        self.first <= gfn && gfn < self.end()
    }

    /// Each frame, ascending.
    pub fn frames(self) -> impl ExactSizeIterator<Item = Gfn> {
        // A run's length fits usize on every host that KVM runs 64-bit guests on; a longer one could
        // not have been backed by memory. `Range<u64>` has no exact size, `Range<usize>` has.
        let pages = usize::try_from(self.pages).unwrap_or(usize::MAX);
        (0..pages).map(move |index| Gfn(self.first.0 + index as u64))
    }

    /// The first `pages` pages and the rest, or `None` where one of the two would be empty.
    #[must_use]
    pub fn split_at(self, pages: u64) -> Option<(Self, Self)> {
        if pages == 0 || pages >= self.pages {
            return None;
        }
        let head = Self { first: self.first, pages };
        let tail = Self { first: head.end(), pages: self.pages - pages };
        Some((head, tail))
    }

    /// The run cut into runs of `max_pages`; the last one may be shorter.
    pub fn chunks(self, max_pages: NonZeroU64) -> impl Iterator<Item = Self> {
        let mut rest = Some(self);
        std::iter::from_fn(move || {
            let run = rest.take()?;
            let Some((head, tail)) = run.split_at(max_pages.get()) else { return Some(run) };
            rest = Some(tail);
            Some(head)
        })
    }
}

impl fmt::Display for PageRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} pages from {}", self.pages, self.first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(first: u64, pages: u64) -> PageRun {
        PageRun::new(Gfn(first), pages).unwrap()
    }

    #[test]
    fn a_run_has_pages_and_addresses_or_does_not_exist() {
        assert_eq!(PageRun::new(Gfn(7), 0), Err(RunError::Empty(Gfn(7))));
        for (first, pages) in [(0, GFN_END), (GFN_END - 1, 1), (u64::MAX, 1), (1, u64::MAX)] {
            let first = Gfn(first);
            assert_eq!(PageRun::new(first, pages), Err(RunError::Overflow { first, pages }));
        }
        let last = run(GFN_END - 2, 1);
        assert_eq!(last.address().checked_add(last.bytes()), Some(0xffff_ffff_ffff_f000));
    }

    #[test]
    fn both_parts_of_a_split_have_pages() {
        assert_eq!(run(10, 5).split_at(2), Some((run(10, 2), run(12, 3))));
        for at in [0, 5, 6, u64::MAX] {
            assert_eq!(run(10, 5).split_at(at), None, "split at {at}");
        }
    }

    #[test]
    fn chunks_cover_the_run_once() {
        for (pages, max, expected) in [(1, 4, 1), (4, 4, 1), (5, 4, 2), (9, 4, 3)] {
            let whole = run(100, pages);
            let chunks: Vec<_> = whole.chunks(NonZeroU64::new(max).unwrap()).collect();
            assert_eq!(chunks.len(), expected, "{pages} pages by {max}");
            assert!(chunks.iter().all(|chunk| chunk.pages() <= max));
            let frames: Vec<_> = chunks.iter().flat_map(|chunk| chunk.frames()).collect();
            assert!(frames.iter().copied().eq(whole.frames()), "{pages} pages by {max}");
        }
    }

    #[test]
    fn a_run_contains_its_first_and_last_frame_and_not_its_end() {
        let run = run(10, 3);
        let inside: Vec<_> = (8..15).filter(|gfn| run.contains(Gfn(*gfn))).collect();
        assert_eq!(inside, [10, 11, 12]);
    }
}
