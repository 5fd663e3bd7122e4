use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn run(first: u64, pages: u64) -> PageRun {
    PageRun::new(Gfn(first), pages).unwrap()
}

fn at_most(pages: u64) -> NonZeroU64 {
    NonZeroU64::new(pages).unwrap()
}

fn frames(set: &PageSet) -> Vec<u64> {
    set.runs(at_most(u64::MAX)).flat_map(PageRun::frames).map(|gfn| gfn.0).collect()
}

#[derive(Clone, Debug)]
enum Change {
    Insert(u64, u64),
    Remove(u64, u64),
    Merge(u64, Vec<u64>),
}

/// Frames around word borders and around the limit are as likely as all others together.
fn frame(limit: u64) -> impl Strategy<Value = u64> {
    prop_oneof![
        0..limit + 70,
        (0..limit / WORD_BITS + 1, 0..3u64)
            .prop_map(|(word, near)| (word * WORD_BITS + near).saturating_sub(1)),
        (0..4u64).prop_map(move |near| (limit + near).saturating_sub(2)),
    ]
}

fn change(limit: u64) -> impl Strategy<Value = Change> {
    let word =
        prop_oneof![Just(0), Just(u64::MAX), any::<u64>(), (0..64u32).prop_map(|bit| 1 << bit)];
    prop_oneof![
        (frame(limit), 1..200u64).prop_map(|(first, pages)| Change::Insert(first, pages)),
        (frame(limit), 1..200u64).prop_map(|(first, pages)| Change::Remove(first, pages)),
        (0..limit / WORD_BITS + 2, prop::collection::vec(word, 0..4))
            .prop_map(|(word, words)| Change::Merge(word * WORD_BITS, words)),
    ]
}

/// The frames that a change names, and whether it takes them out.
fn named(change: &Change) -> (Vec<u64>, bool) {
    match change {
        Change::Insert(first, pages) => ((*first..first + pages).collect(), false),
        Change::Remove(first, pages) => ((*first..first + pages).collect(), true),
        Change::Merge(first, words) => {
            let bits = words.iter().enumerate().flat_map(|(index, word)| {
                (0..WORD_BITS)
                    .filter(move |bit| word & (1 << bit) != 0)
                    .map(move |bit| index as u64 * WORD_BITS + bit)
            });
            (bits.map(|bit| first + bit).collect(), false)
        }
    }
}

fn apply(set: &mut PageSet, change: &Change) -> Result<u64, PageSetError> {
    match change {
        Change::Insert(first, pages) => set.insert(run(*first, *pages)),
        Change::Remove(first, pages) => set.remove(run(*first, *pages)),
        Change::Merge(first, words) => set.merge_words(Gfn(*first), words),
    }
}

proptest! {
    #[test]
    fn a_set_agrees_with_a_tree_of_frames_after_any_changes(
        (limit, changes) in (0..400u64).prop_flat_map(|limit| {
            (Just(limit), prop::collection::vec(change(limit), 0..24))
        }),
        longest in 1..150u64,
    ) {
        let mut set = PageSet::new(Gfn(limit));
        let mut naive = BTreeSet::new();
        for change in &changes {
            let (frames, removes) = named(change);
            let outcome = apply(&mut set, change);
            if let Some(beyond) = frames.iter().find(|frame| **frame >= limit) {
                let error = PageSetError::BeyondLimit { gfn: Gfn(*beyond), limit: Gfn(limit) };
                prop_assert_eq!(outcome, Err(error));
                continue;
            }
            let before = naive.len();
            for frame in frames {
                if removes { naive.remove(&frame) } else { naive.insert(frame) };
            }
            prop_assert_eq!(outcome, Ok(naive.len().abs_diff(before) as u64));
        }
        prop_assert_eq!(set.count(), naive.len() as u64);
        prop_assert!((0..limit + 130).all(|frame| set.contains(Gfn(frame)) == naive.contains(&frame)));
        prop_assert!(naive.iter().copied().eq(frames(&set)));
        for (left, right) in set.runs(at_most(longest)).zip(set.runs(at_most(longest)).skip(1)) {
            let is_apart = left.end() < right.first() || left.pages() == longest;
            prop_assert!(is_apart && left.pages() <= longest, "{left}, then {right}");
        }
        for from in 0..limit + 130 {
            let expected = naive.range(from..).next().copied();
            let found = set.next_run(Gfn(from), at_most(longest));
            prop_assert_eq!(found.map(|run| run.first().0), expected);
        }
    }

    #[test]
    fn a_union_counts_what_it_added(
        left in prop::collection::vec(any::<u64>(), 3),
        right in prop::collection::vec(any::<u64>(), 3),
    ) {
        let limit = Gfn(3 * WORD_BITS);
        let (mut set, mut other) = (PageSet::new(limit), PageSet::new(limit));
        set.merge_words(Gfn(0), &left).unwrap();
        other.merge_words(Gfn(0), &right).unwrap();
        let before = set.count();
        let added = set.union(&other).unwrap();
        let expected: Vec<_> = left.iter().zip(&right).map(|(left, right)| left | right).collect();
        prop_assert_eq!(set.words(), expected);
        prop_assert_eq!(set.count(), before + added);
    }
}

#[test]
fn bits_beyond_the_limit_are_an_error_and_change_nothing() {
    // A guest of 100 pages: its bitmap ends in the middle of a word.
    let mut set = PageSet::new(Gfn(100));
    let limit = Gfn(100);
    for (first, words, gfn) in [
        (0, vec![1, 1 << 36], 100),
        (64, vec![u64::MAX], 100),
        (0, vec![1, 0, 1], 128),
        (128, vec![1 << 63], 191),
        (u64::MAX - 63, vec![2], u64::MAX - 62),
        (u64::MAX - 63, vec![0, 1], u64::MAX),
    ] {
        let refused = set.merge_words(Gfn(first), &words);
        assert_eq!(refused, Err(PageSetError::BeyondLimit { gfn: Gfn(gfn), limit }), "{first}");
        assert!(set.is_empty() && frames(&set).is_empty(), "{first}");
    }
    assert_eq!(set.merge_words(Gfn(1), &[1]), Err(PageSetError::Unaligned(Gfn(1))));
    // KVM rounds a slot's bitmap up to whole words: zeros beyond the limit are no pages.
    assert_eq!(set.merge_words(Gfn(64), &[1 << 35, 0, 0]), Ok(1));
    assert_eq!(set.merge_words(Gfn(u64::MAX - 63), &[0, 0]), Ok(0));
    assert_eq!(frames(&set), [99]);
}

#[test]
fn the_last_page_below_the_limit_goes_in_and_out() {
    for limit in [1, 63, 64, 65, 128] {
        let mut set = PageSet::new(Gfn(limit));
        assert_eq!(set.insert(run(limit - 1, 1)), Ok(1));
        assert_eq!(set.next_run(Gfn(0), at_most(9)), Some(run(limit - 1, 1)), "{limit}");
        assert_eq!(set.next_run(Gfn(limit), at_most(9)), None, "{limit}");
        assert_eq!(set.remove(run(limit - 1, 1)), Ok(1));
        let refused = PageSetError::BeyondLimit { gfn: Gfn(limit), limit: Gfn(limit) };
        assert_eq!(set.insert(run(limit - 1, 2)), Err(refused), "{limit}");
        assert!(set.is_empty(), "{limit}");
    }
}

#[test]
fn bitmaps_of_two_slots_merge_on_both_sides_of_a_hole() {
    // 512 MiB of guest, the hole from 256 MiB to 4 GiB: the second slot begins at frame 0x10_0000.
    let (low_end, high, pages) = (0x1_0000, 0x10_0000, 0x1_0000);
    let mut set = PageSet::new(Gfn(high + pages));
    let slot = vec![u64::MAX; 0x400];
    assert_eq!(set.merge_words(Gfn(0), &slot), Ok(low_end));
    assert_eq!(set.merge_words(Gfn(high), &slot), Ok(pages));
    let runs: Vec<_> = set.runs(at_most(u64::MAX)).collect();
    assert_eq!(runs, [run(0, low_end), run(high, pages)], "no run reaches into the hole");
}

#[test]
fn sets_over_different_frames_do_not_combine() {
    let mut set = PageSet::new(Gfn(64));
    let refused = PageSetError::LimitsDiffer { left: Gfn(64), right: Gfn(65) };
    assert_eq!(set.union(&PageSet::new(Gfn(65))), Err(refused));
}
