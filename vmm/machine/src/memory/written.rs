//! The marks of this process's own writes: one bit a page, found again without looking at all of them.

use std::sync::atomic::{AtomicU64, Ordering};

use dwcp::page::PAGE_BYTES;
use vm_memory::bitmap::{Bitmap, NewBitmap, RefSlice, WithBitmapSlice};

/// Bits of a word.
const BITS: usize = 64;

/// Which pages of a region were written through vm-memory.
///
/// vm-memory's own `AtomicBitmap` has to be looked through, and each of its words exchanged, to find the few pages of
/// ours: at every harvest, and once inside of every blackout. Here a second level has a bit for each word of the
/// first, that is for 64 pages, so that 16 GiB are looked through in 1,024 words.
#[derive(Debug, Default)]
pub(crate) struct WrittenPages {
    pages: Vec<AtomicU64>,
    words: Vec<AtomicU64>,
}

impl WrittenPages {
    /// Gives `keep` each word that has marks, with the number of its first page, and clears it.
    ///
    /// # Errors
    /// What `keep` says; the word is marked again.
    pub(super) fn take<E>(&self, mut keep: impl FnMut(u64, u64) -> Result<(), E>) -> Result<(), E> {
        for (group, words) in self.words.iter().enumerate() {
            // Looked at before it is exchanged: nearly all are empty, and stay in every processor's cache.
            if words.load(Ordering::Acquire) == 0 {
                continue;
            }
            let mut left = words.swap(0, Ordering::AcqRel);
            while left != 0 {
                let word = group * BITS + left.trailing_zeros() as usize;
                left &= left - 1;
                let marks = self.pages[word].swap(0, Ordering::AcqRel);
                if let Err(why) = keep((word * BITS) as u64, marks) {
                    self.pages[word].fetch_or(marks, Ordering::AcqRel);
                    words.fetch_or(left | 1 << (word % BITS), Ordering::AcqRel);
                    return Err(why);
                }
            }
        }
        Ok(())
    }
}

impl<'a> WithBitmapSlice<'a> for WrittenPages {
    type S = RefSlice<'a, Self>;
}

impl Bitmap for WrittenPages {
    fn mark_dirty(&self, offset: usize, len: usize) {
        let Some(last) = len.checked_sub(1).map(|most| offset.saturating_add(most) / PAGE_BYTES)
        else {
            return;
        };
        let first = offset / PAGE_BYTES;
        for word in first / BITS..=last / BITS {
            // vm-memory marks no more than it has written, which lies in the region.
            let Some(pages) = self.pages.get(word) else { return };
            let from = first.max(word * BITS) % BITS;
            let to = last.min(word * BITS + BITS - 1) % BITS;
            let mask = (u64::MAX << from) & (u64::MAX >> (BITS - 1 - to));
            pages.fetch_or(mask, Ordering::AcqRel);
            // After the pages: whoever takes this bit finds them. Taken in between, it is set once more for nothing.
            self.words[word / BITS].fetch_or(1 << (word % BITS), Ordering::AcqRel);
        }
    }

    fn dirty_at(&self, offset: usize) -> bool {
        let page = offset / PAGE_BYTES;
        let pages = self.pages.get(page / BITS).map_or(0, |word| word.load(Ordering::Acquire));
        pages & 1 << (page % BITS) != 0
    }

    fn slice_at(&self, offset: usize) -> RefSlice<'_, Self> {
        RefSlice::new(self, offset)
    }
}

impl NewBitmap for WrittenPages {
    fn with_len(len: usize) -> Self {
        let words = len.div_ceil(PAGE_BYTES).div_ceil(BITS);
        let zeros = |count| std::iter::repeat_with(AtomicU64::default).take(count).collect();
        Self { pages: zeros(words), words: zeros(words.div_ceil(BITS)) }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::convert::Infallible;

    use super::*;

    const PAGE: usize = PAGE_BYTES;

    fn taken(written: &WrittenPages) -> BTreeSet<u64> {
        let mut pages = BTreeSet::new();
        let keep = |first: u64, marks: u64| {
            pages.extend((0..64).filter(|bit| marks & 1 << bit != 0).map(|bit| first + bit));
            Ok::<_, Infallible>(())
        };
        written.take(keep).unwrap();
        pages
    }

    /// The pages of 64 MiB that writing these bytes marks.
    fn check(offset: usize, len: usize, expected: impl IntoIterator<Item = u64>) {
        let written = WrittenPages::with_len(64 << 20);
        written.mark_dirty(offset, len);
        let expected: BTreeSet<u64> = expected.into_iter().collect();
        for page in 0..16_384 {
            assert_eq!(written.dirty_at(page * PAGE + 7), expected.contains(&(page as u64)));
        }
        assert_eq!(taken(&written), expected);
        assert_eq!(taken(&written), BTreeSet::new(), "taken once");
    }

    #[test]
    fn every_page_that_a_write_touches_is_marked_and_no_other() {
        check(0, 0, []);
        check(0, 1, [0]);
        check(PAGE - 1, 2, [0, 1]);
        check(63 * PAGE, 2 * PAGE, [63, 64]);
        check(10, 4096 * PAGE, 0..=4096);
        // Over the borders of the second level's words, up to the last page.
        check(4095 * PAGE, 2 * PAGE, [4095, 4096]);
        check((64 << 20) - 1, 1, [16_383]);
        check((64 << 20) - 1, 2, [16_383]);
    }

    #[test]
    fn a_region_that_is_no_multiple_of_anything_has_its_last_page() {
        let written = WrittenPages::with_len(PAGE + 1);
        written.mark_dirty(PAGE, 1);
        assert_eq!(taken(&written), BTreeSet::from([1]));
    }

    #[test]
    fn what_is_not_kept_is_marked_still() {
        let written = WrittenPages::with_len(64 << 20);
        for page in [1, 2, 70, 5000, 16_000] {
            written.mark_dirty(page * PAGE, 1);
        }
        let mut kept = BTreeSet::new();
        let refused = written.take(|first, _| {
            kept.insert(first);
            if first == 64 { Err(first) } else { Ok(()) }
        });
        assert_eq!((refused, kept), (Err(64), BTreeSet::from([0, 64])));
        assert_eq!(taken(&written), BTreeSet::from([70, 5000, 16_000]));
    }

    #[test]
    fn nothing_is_lost_while_others_mark() {
        // All in one word of the second level, by two threads that share each word of the first.
        const PAGES: usize = 4096;
        let written = WrittenPages::with_len(PAGES * PAGE);
        for round in 0..300 {
            let mut found = BTreeSet::new();
            std::thread::scope(|scope| {
                let mark = |start: usize| {
                    let written = &written;
                    move || {
                        for page in (start..PAGES).step_by(2) {
                            written.mark_dirty(page * PAGE, 1);
                        }
                    }
                };
                let writers = [scope.spawn(mark(0)), scope.spawn(mark(1))];
                while writers.iter().any(|writer| !writer.is_finished()) {
                    found.extend(taken(&written));
                }
            });
            found.extend(taken(&written));
            assert_eq!(found.len(), PAGES, "round {round}");
        }
    }
}
