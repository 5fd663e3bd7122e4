//! [`PageSet`]: a set of guest pages, as a flat bitmap.

use std::num::NonZeroU64;

use crate::page::{Gfn, PageRun};

/// Frames that one word of a bitmap stands for.
pub(crate) const WORD_BITS: u64 = 64;

/// Pages that a set cannot hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PageSetError {
    /// A page lies at or above the set's limit
    #[error("{gfn} is not below the limit {limit}")]
    BeyondLimit {
        /// A frame that cannot be in the set.
        gfn: Gfn,
        /// The first frame that cannot.
        limit: Gfn,
    },
    /// A bitmap starts in the middle of a word
    #[error("a bitmap must start at a multiple of {WORD_BITS} frames, not at {0}")]
    Unaligned(Gfn),
    /// Two sets over different frames were to be combined
    #[error("sets with the limits {left} and {right} cannot be combined")]
    LimitsDiffer {
        /// The limit of the set to be changed.
        left: Gfn,
        /// The limit of the other.
        right: Gfn,
    },
}

/// A set of the guest pages below a limit: one bit a page, 32 KiB a GiB of guest.
///
/// It is flat over all frame numbers, so that a page's place needs no search. Frames in a hole of
/// the guest's memory have bits too, which simply stay 0: below 4 GiB that is at most 128 KiB, and
/// no code needs to know where the hole is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageSet {
    words: Vec<u64>,
    limit: u64,
    count: u64,
}

impl PageSet {
    /// The empty set over the frames below `limit`. It allocates `limit / 8` bytes, untouched: the
    /// caller has checked the limit against the memory that it is willing to give a guest.
    ///
    /// # Panics
    /// When the limit's bitmap does not fit the address space.
    #[must_use]
    pub fn new(limit: Gfn) -> Self {
        let words = usize::try_from(limit.0.div_ceil(WORD_BITS)).expect("a limit checked before");
        Self { words: vec![0; words], limit: limit.0, count: 0 }
    }

    /// The first frame that cannot be in the set.
    #[must_use]
    pub fn limit(&self) -> Gfn {
        Gfn(self.limit)
    }

    /// How many pages are in the set; kept, not counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Whether no page is in the set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether the page is in the set. No page beyond the limit is.
    #[must_use]
    pub fn contains(&self, gfn: Gfn) -> bool {
        let (word, bit) = place(gfn.0);
        self.words.get(word).is_some_and(|word| word & bit != 0)
    }

    /// The bitmap: bit `n % 64` of word `n / 64` is frame `n`; bits beyond the limit are 0.
    #[must_use]
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    /// Adds the pages of a run. Returns how many were not in the set before.
    ///
    /// # Errors
    /// When the run reaches beyond the limit; the set is unchanged then.
    pub fn insert(&mut self, run: PageRun) -> Result<u64, PageSetError> {
        self.check(run)?;
        let mut added = 0;
        for (word, mask) in masks(run) {
            added += u64::from((mask & !self.words[word]).count_ones());
            self.words[word] |= mask;
        }
        self.count += added;
        Ok(added)
    }

    /// Takes the pages of a run out. Returns how many were in the set before.
    ///
    /// # Errors
    /// When the run reaches beyond the limit; the set is unchanged then.
    pub fn remove(&mut self, run: PageRun) -> Result<u64, PageSetError> {
        self.check(run)?;
        let mut removed = 0;
        for (word, mask) in masks(run) {
            removed += u64::from((mask & self.words[word]).count_ones());
            self.words[word] &= !mask;
        }
        self.count -= removed;
        Ok(removed)
    }

    /// Takes every page out.
    pub fn clear(&mut self) {
        self.words.fill(0);
        self.count = 0;
    }

    /// Adds a bitmap, as KVM gives one for a part of a memory slot: bit 0 of the first word is
    /// `first`, a multiple of 64. Returns how many pages were not in the set before.
    ///
    /// # Errors
    /// When `first` is not a multiple of 64, or a bit is set that stands for a page beyond the limit.
    /// The set is unchanged then: what was refused is still in the log that it came from.
    pub fn merge_words(&mut self, first: Gfn, words: &[u64]) -> Result<u64, PageSetError> {
        if !first.0.is_multiple_of(WORD_BITS) {
            return Err(PageSetError::Unaligned(first));
        }
        self.check_words(first, words)?;
        let start =
            usize::try_from(first.0 / WORD_BITS).unwrap_or(usize::MAX).min(self.words.len());
        let mut added = 0;
        for (have, new) in self.words[start..].iter_mut().zip(words) {
            added += u64::from((new & !*have).count_ones());
            *have |= new;
        }
        self.count += added;
        Ok(added)
    }

    /// Adds the pages of another set over the same frames. Returns how many were not in this one.
    ///
    /// # Errors
    /// When the limits differ.
    pub fn union(&mut self, other: &Self) -> Result<u64, PageSetError> {
        if self.limit != other.limit {
            return Err(PageSetError::LimitsDiffer { left: self.limit(), right: other.limit() });
        }
        self.merge_words(Gfn(0), &other.words)
    }

    /// The first run at or after `from`, of at most `max_pages` pages.
    #[must_use]
    pub fn next_run(&self, from: Gfn, max_pages: NonZeroU64) -> Option<PageRun> {
        next_run(self.words.len(), |word| self.words[word], from, max_pages)
    }

    /// The runs of the set, ascending, each as long as the set and `max_pages` allow.
    pub fn runs(&self, max_pages: NonZeroU64) -> impl Iterator<Item = PageRun> {
        let mut from = Gfn(0);
        std::iter::from_fn(move || {
            let run = self.next_run(from, max_pages)?;
            from = run.end();
            Some(run)
        })
    }

    fn check(&self, run: PageRun) -> Result<(), PageSetError> {
        if run.end().0 > self.limit {
            let gfn = Gfn(run.first().0.max(self.limit));
            return Err(PageSetError::BeyondLimit { gfn, limit: self.limit() });
        }
        Ok(())
    }

    /// Looks at the words that are not wholly below the limit only.
    fn check_words(&self, first: Gfn, words: &[u64]) -> Result<(), PageSetError> {
        let whole_below = usize::try_from(self.limit.saturating_sub(first.0) / WORD_BITS);
        let skip = whole_below.unwrap_or(usize::MAX).min(words.len());
        for (index, word) in words.iter().enumerate().skip(skip) {
            // Saturates only for frames that no guest has, and then still beyond the limit.
            let base = first.0.saturating_add((index as u64).saturating_mul(WORD_BITS));
            let beyond = match self.limit.saturating_sub(base) {
                below if below >= WORD_BITS => 0,
                below => word & (u64::MAX << below),
            };
            if beyond != 0 {
                let gfn = Gfn(base.saturating_add(u64::from(beyond.trailing_zeros())));
                return Err(PageSetError::BeyondLimit { gfn, limit: self.limit() });
            }
        }
        Ok(())
    }
}

/// The word and the bit of a frame.
fn place(gfn: u64) -> (usize, u64) {
    (usize::try_from(gfn / WORD_BITS).unwrap_or(usize::MAX), 1 << (gfn % WORD_BITS))
}

/// The words that a run touches, each with the bits of the run in it.
fn masks(run: PageRun) -> impl Iterator<Item = (usize, u64)> {
    let (first, end) = (run.first().0, run.end().0);
    (first / WORD_BITS..end.div_ceil(WORD_BITS)).map(move |word| {
        let base = word * WORD_BITS;
        let from = first.saturating_sub(base);
        let to = (end - base).min(WORD_BITS);
        let mask = (u64::MAX >> (WORD_BITS - (to - from))) << from;
        (place(base).0, mask)
    })
}

/// The first run of set bits at or after `from` in a bitmap that is given word by word: a page set,
/// or the combination of several, without building it.
pub(crate) fn next_run(
    words: usize,
    word_at: impl Fn(usize) -> u64,
    from: Gfn,
    max_pages: NonZeroU64,
) -> Option<PageRun> {
    let (mut index, bit) = place(from.0);
    if index >= words {
        return None;
    }
    // Bits below `from` do not count in its word.
    let mut word = word_at(index) & !(bit - 1);
    while word == 0 {
        index += 1;
        if index == words {
            return None;
        }
        word = word_at(index);
    }
    let skipped = word.trailing_zeros();
    let first = index as u64 * WORD_BITS + u64::from(skipped);
    let mut pages = u64::from((word >> skipped).trailing_ones());
    // The run goes on only where it reaches the end of the word.
    while (first + pages).is_multiple_of(WORD_BITS) && pages < max_pages.get() {
        index += 1;
        let more = if index < words { word_at(index).trailing_ones() } else { 0 };
        if more == 0 {
            break;
        }
        pages += u64::from(more);
    }
    Some(PageRun::known_valid(Gfn(first), pages.min(max_pages.get())))
}

#[cfg(test)]
mod tests;
