//! [`Shadow`]: what the source last sent of its hot pages, as bases of deltas.

use std::fmt;

use super::Base;
use crate::ledger::SendNumber;
use crate::page::{Gfn, PAGE_BYTES, Page};

/// Places where one page may lie.
const WAYS: usize = 8;
/// However often a page is sent, it goes once all colder places of its set were taken anew this often.
const HEAT_MAX: u8 = 7;

/// What lies in a place. The number 0 is that of no send: the place is free.
#[derive(Clone, Copy, Debug)]
struct Entry {
    gfn: Gfn,
    number: SendNumber,
    /// How often it was sent lately. The least in a set is taken off all when a page goes.
    heat: u8,
}

const FREE: Entry = Entry { gfn: Gfn(0), number: SendNumber(0), heat: 0 };

/// The content of pages as they were last sent, bounded in bytes.
///
/// Pages lie in sets of eight places that their frame number selects. A page that is sent again
/// replaces itself, and grows hotter; one that is new takes the place of the coldest in its set,
/// whose heat the others lose. So the pages that are sent again and again stay, though all of memory
/// goes by once, and do not stay for ever. There is no list to keep and nothing to allocate.
///
/// It does not know what arrived. [`Shadow::get`] wants the number that the caller knows to be
/// acknowledged, and gives the content only if that is what was sent under it.
pub struct Shadow {
    entries: Vec<Entry>,
    content: Vec<u8>,
}

impl Shadow {
    /// A shadow that holds at most so many bytes of content, rounded down to whole sets of 32 KiB.
    /// Memory is touched as pages come in. With less than one set, it holds nothing.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        let places = bytes / (WAYS * PAGE_BYTES) * WAYS;
        Self { entries: vec![FREE; places], content: vec![0; places * PAGE_BYTES] }
    }

    /// Keeps what a page holds as it is sent.
    pub fn insert(&mut self, gfn: Gfn, number: SendNumber, content: &Page) {
        let Some(set) = self.set_of(gfn) else { return };
        let entries = &mut self.entries[set..set + WAYS];
        let own = entries.iter().position(|entry| entry.gfn == gfn && entry.number != FREE.number);
        let way = own.unwrap_or_else(|| coldest(entries));
        let before = entries[way].heat;
        let heat = if own.is_some() {
            HEAT_MAX.min(before + 1)
        } else {
            entries.iter_mut().for_each(|entry| entry.heat -= before);
            1
        };
        entries[way] = Entry { gfn, number, heat };
        if let Some(place) = self.content.as_chunks_mut().0.get_mut(set + way) {
            *place = *content;
        }
    }

    /// The page as it was sent under this number, if it is still there and was not sent since.
    #[must_use]
    pub fn get(&self, gfn: Gfn, number: SendNumber) -> Option<Base<'_>> {
        let set = self.set_of(gfn)?;
        let is_it = |entry: &Entry| entry.gfn == gfn && entry.number == number;
        let way = self.entries[set..set + WAYS].iter().position(is_it)?;
        let content = self.content.as_chunks().0.get(set + way)?;
        (number != FREE.number).then_some(Base { number, content })
    }

    /// Forgets every page.
    pub fn clear(&mut self) {
        self.entries.fill(FREE);
    }

    /// The first place of the page's set.
    fn set_of(&self, gfn: Gfn) -> Option<usize> {
        let sets = (self.entries.len() / WAYS) as u64;
        // Neighbours are hot together, and must not share a set: the golden ratio spreads any
        // arithmetic sequence evenly (Knuth, TAOCP 6.4). The upper bits choose without a division.
        let spread = gfn.0.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let set = (u128::from(spread) * u128::from(sets)) >> 64;
        let set = usize::try_from(set).ok()? * WAYS;
        (sets != 0).then_some(set)
    }
}

/// The place whose page goes: free or of the least heat, and of these the one sent first.
fn coldest(entries: &[Entry]) -> usize {
    let ways = entries.iter().enumerate();
    ways.min_by_key(|(_, entry)| (entry.heat, entry.number)).map_or(0, |(way, _)| way)
}

impl fmt::Debug for Shadow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let used = self.entries.iter().filter(|entry| entry.number != FREE.number).count();
        write!(f, "Shadow({used} of {} pages)", self.entries.len())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn page(seed: u64) -> Page {
        let mut page = [0; PAGE_BYTES];
        page[..8].copy_from_slice(&seed.to_le_bytes());
        page
    }

    fn sent_as(shadow: &Shadow, gfn: u64, number: u64) -> bool {
        shadow.get(Gfn(gfn), SendNumber(number)).is_some_and(|base| {
            assert_eq!(base.number, SendNumber(number));
            assert_eq!(*base.content, page(number), "another page's content");
            true
        })
    }

    proptest! {
        #[test]
        fn what_is_found_is_what_was_sent_last(
            sets in 0..4_usize, gfns in prop::collection::vec(0..60_u64, 1..300),
        ) {
            let mut shadow = Shadow::new(sets * WAYS * PAGE_BYTES + 5);
            let mut latest = std::collections::BTreeMap::new();
            for (number, gfn) in (1..).zip(gfns) {
                shadow.insert(Gfn(gfn), SendNumber(number), &page(number));
                prop_assert_eq!(sent_as(&shadow, gfn, number), sets > 0, "it has just been sent");
                if let Some(before) = latest.insert(gfn, number) {
                    prop_assert!(!sent_as(&shadow, gfn, before), "there is a newer one");
                }
            }
            let found = latest.iter().filter(|(gfn, number)| sent_as(&shadow, **gfn, **number));
            prop_assert!(found.count() <= sets * WAYS);
            shadow.clear();
            prop_assert!(!latest.iter().any(|(gfn, number)| sent_as(&shadow, *gfn, *number)));
        }
    }

    #[test]
    fn a_page_that_was_never_sent_is_not_there() {
        let mut shadow = Shadow::new(1 << 20);
        assert!(shadow.get(Gfn(0), SendNumber(0)).is_none(), "a free place is no page");
        shadow.insert(Gfn(9), SendNumber(5), &page(5));
        assert!(sent_as(&shadow, 9, 5) && !sent_as(&shadow, 9, 4) && !sent_as(&shadow, 8, 5));
        assert_eq!(format!("{shadow:?}"), "Shadow(1 of 256 pages)");
    }

    #[test]
    fn hot_pages_outlive_all_of_memory_going_by_once() {
        let mut shadow = Shadow::new(256 * PAGE_BYTES);
        let mut number = 0;
        let mut send = |shadow: &mut Shadow, gfn: u64| {
            number += 1;
            shadow.insert(Gfn(gfn), SendNumber(number), &page(number));
            number
        };
        let mut last = [0; 100];
        for _ in 0..5 {
            (0..100).for_each(|gfn| last[gfn as usize] = send(&mut shadow, gfn));
        }
        // Another 256 pages: as much as it holds.
        for gfn in 1000..1256 {
            send(&mut shadow, gfn);
        }
        let left = (0..100).filter(|gfn| sent_as(&shadow, *gfn, last[*gfn as usize])).count();
        assert!(left >= 60, "{left} of 100 hot pages");
        // What is not sent any more cools down.
        for gfn in 2000..6000 {
            send(&mut shadow, gfn);
        }
        assert!(!(0..100).any(|gfn| sent_as(&shadow, gfn, last[gfn as usize])));
    }

    #[test]
    fn neighbours_fill_nearly_all_places() {
        for stride in [1, 2, 8, 512] {
            let mut shadow = Shadow::new(1024 * PAGE_BYTES);
            for index in 0..1024 {
                shadow.insert(Gfn(index * stride), SendNumber(index + 1), &page(index + 1));
            }
            let kept =
                (0..1024).filter(|index| sent_as(&shadow, index * stride, index + 1)).count();
            assert!(kept >= 900, "{kept} of 1024 at a stride of {stride}");
        }
    }
}
