//! [`HotPages`]: which pages are written all the time.

use std::collections::VecDeque;

use crate::page::Gfn;
use crate::page_set::{PageSet, PageSetError};

/// Harvests that are remembered.
const KEPT: usize = 4;

/// Finds the pages that the guest writes all the time, from harvests that follow each other closely: those of
/// the last one that were in one of the few before it, too.
///
/// A page that was dirtied while it is on its way may go out again before the guest stops, to shorten the burst
/// behind the stop. For most pages that pays: the guest has gone on to others. A hot one will be in the burst
/// however often it goes out.
#[derive(Clone, Debug)]
pub struct HotPages {
    limit: Gfn,
    recent: VecDeque<PageSet>,
    hot: PageSet,
}

impl HotPages {
    /// For a guest whose frames are below `limit`; no page is hot yet.
    #[must_use]
    pub fn new(limit: Gfn) -> Self {
        Self { limit, recent: VecDeque::new(), hot: PageSet::new(limit) }
    }

    /// A harvest of the whole dirty log, with a bit for each frame from the first on.
    ///
    /// # Errors
    /// When a page lies beyond the limit.
    pub fn observe(&mut self, words: &[u64]) -> Result<(), PageSetError> {
        let mut dirty = PageSet::new(self.limit);
        dirty.merge_words(Gfn(0), words)?;
        let again: Vec<u64> = (0..dirty.words().len())
            .map(|word| {
                let before = self.recent.iter().fold(0, |bits, set| bits | set.words()[word]);
                dirty.words()[word] & before
            })
            .collect();
        self.hot.clear();
        self.hot.merge_words(Gfn(0), &again)?;
        if self.recent.len() == KEPT {
            self.recent.pop_front();
        }
        self.recent.push_back(dirty);
        Ok(())
    }

    /// The pages.
    #[must_use]
    pub fn pages(&self) -> &PageSet {
        &self.hot
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_back_soon_is_hot_until_it_stays_away() {
        let mut hot = HotPages::new(Gfn(100));
        let mut harvest = |word: u64| {
            hot.observe(&[word]).unwrap();
            hot.pages().words()[0]
        };
        assert_eq!(harvest(0b0111), 0, "nothing was seen before");
        assert_eq!(harvest(0b1001), 0b0001);
        assert_eq!(harvest(0b0010), 0b0010, "not in the last harvest: not hot");
        for _ in 0..2 {
            harvest(0);
        }
        assert_eq!(harvest(0b1101), 0b1001, "the third one was seen too long ago");
        assert!(hot.observe(&[0, 1 << 63]).is_err());
    }
}
