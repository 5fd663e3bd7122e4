//! [`NumberSet`]: a set of send numbers, as ranges. Its gaps are what `SPEC.md`, 4, bounds, and its ranges what
//! `Welcome`, `Acknowledge` and `Want` carry (`SPEC.md`, 10.2).

use std::collections::BTreeMap;
use std::ops::Range;

use crate::ledger::SendNumber;

/// A set of send numbers, kept as the ranges it consists of: numbers come and go by whole batches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NumberSet {
    /// Start to end, neither touching nor overlapping.
    ranges: BTreeMap<SendNumber, SendNumber>,
}

impl NumberSet {
    /// The empty set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Of how many ranges the set consists: what it costs.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ranges.len()
    }

    /// Whether no number is in the set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Adds the numbers of a range; those that are in the set already change nothing.
    pub fn insert(&mut self, range: Range<SendNumber>) {
        if range.is_empty() {
            return;
        }
        let Range { mut start, mut end } = range;
        // Whatever touches the new range becomes a part of it.
        while let Some((&from, &to)) = self.ranges.range(..=end).next_back() {
            if to < start {
                break;
            }
            self.ranges.remove(&from);
            (start, end) = (start.min(from), end.max(to));
        }
        self.ranges.insert(start, end);
    }

    /// Forgets every number below `number`.
    pub fn forget_below(&mut self, number: SendNumber) {
        while let Some((&from, &to)) = self.ranges.first_key_value() {
            if from >= number {
                return;
            }
            self.ranges.remove(&from);
            if to > number {
                self.ranges.insert(number, to);
                return;
            }
        }
    }

    /// Takes out the lowest ranges, at most `count` of them.
    pub fn take_ranges(&mut self, count: usize) -> Vec<Range<SendNumber>> {
        let taken = std::iter::from_fn(|| self.ranges.pop_first());
        taken.take(count).map(|(start, end)| start..end).collect()
    }

    /// The ranges, ascending.
    pub fn ranges(&self) -> impl DoubleEndedIterator<Item = Range<SendNumber>> {
        self.ranges.iter().map(|(&start, &end)| start..end)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn range(start: u64, end: u64) -> Range<SendNumber> {
        SendNumber(start)..SendNumber(end)
    }

    fn flat(set: &NumberSet) -> BTreeSet<u64> {
        set.ranges().flat_map(|range| range.start.0..range.end.0).collect()
    }

    #[test]
    fn ranges_that_touch_become_one() {
        let mut set = NumberSet::new();
        for (start, end) in [(5, 7), (9, 12), (3, 3), (7, 9)] {
            set.insert(range(start, end));
        }
        assert_eq!(set.ranges().collect::<Vec<_>>(), [range(5, 12)]);
        set.forget_below(SendNumber(6));
        assert_eq!(set.take_ranges(4), [range(6, 12)]);
        assert!(set.is_empty());
    }

    proptest! {
        #[test]
        fn a_set_agrees_with_a_naive_one(
            steps in prop::collection::vec((0..3_u8, 0..60_u64, 0..12_u64), 0..60),
        ) {
            let (mut set, mut naive) = (NumberSet::new(), BTreeSet::new());
            for (what, start, length) in steps {
                if what < 2 {
                    set.insert(range(start, start + length));
                    naive.extend(start..start + length);
                } else {
                    set.forget_below(SendNumber(start));
                    naive.retain(|number| *number >= start);
                }
                prop_assert_eq!(flat(&set), naive.clone());
                let ranges: Vec<_> = set.ranges().collect();
                prop_assert!(ranges.windows(2).all(|two| two[0].end < two[1].start));
                prop_assert_eq!(set.len(), ranges.len());
            }
        }
    }
}
