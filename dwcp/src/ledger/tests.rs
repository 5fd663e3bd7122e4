use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

fn run(first: u64, pages: u64) -> PageRun {
    PageRun::new(Gfn(first), pages).unwrap()
}

fn at_most(pages: u64) -> NonZeroU64 {
    NonZeroU64::new(pages).unwrap()
}

fn numbers(first: u64, end: u64) -> Range<SendNumber> {
    SendNumber(first)..SendNumber(end)
}

/// Sends everything that is ready, in runs of at most `max` pages.
fn send_all(ledger: &mut Ledger, max: u64) -> Vec<PageSend> {
    std::iter::from_fn(|| ledger.next_run(at_most(max))).collect()
}

#[test]
fn aborted_round_leaves_pages_owed() {
    let mut ledger = Ledger::new(Gfn(200));
    ledger.owe(run(10, 100)).unwrap();
    let sends = send_all(&mut ledger, 7);
    ledger.settle(sends[0].numbers()).unwrap();
    assert_eq!((ledger.owed(), ledger.in_flight()), (0, 93));
    assert_eq!(ledger.abort(), 93);
    assert_eq!((ledger.owed(), ledger.in_flight()), (93, 0));
    let again = send_all(&mut ledger, 200);
    assert_eq!(again.iter().map(|send| send.run).collect::<Vec<_>>(), [run(17, 93)]);
    assert!(again[0].first_number >= sends.last().unwrap().numbers().end, "numbers only grow");
}

#[test]
fn an_old_acknowledgement_never_settles_a_newer_debt() {
    let mut ledger = Ledger::new(Gfn(64));
    ledger.owe(run(7, 1)).unwrap();
    let old = ledger.next_run(at_most(1)).unwrap();

    ledger.owe(run(7, 1)).unwrap();
    assert_eq!(ledger.settle(old.numbers()), Ok(1));
    assert_eq!((ledger.owed(), ledger.in_flight()), (1, 0), "dirtied after it was read");

    let new = ledger.next_run(at_most(1)).unwrap();
    assert_eq!(ledger.settle(old.numbers()), Ok(0), "said twice");
    assert_eq!((ledger.owed(), ledger.in_flight()), (0, 1));

    ledger.lose(new.numbers()).unwrap();
    assert_eq!(ledger.settle(new.numbers()), Ok(0), "its stream was given up before it was heard");
    assert_eq!((ledger.owed(), ledger.in_flight()), (1, 0));
}

#[test]
fn a_page_on_its_way_waits_while_the_guest_runs_and_not_in_the_burst() {
    let mut ledger = Ledger::new(Gfn(64));
    ledger.owe(run(0, 4)).unwrap();
    let first = ledger.next_run(at_most(9)).unwrap();
    ledger.owe(run(2, 4)).unwrap();
    let second = ledger.next_run(at_most(9)).unwrap();
    assert_eq!(second.run, run(4, 2), "pages 2 and 3 wait for their acknowledgement");
    assert_eq!(ledger.next_run(at_most(9)), None);
    let burst = ledger.next_run_in_burst(at_most(9)).unwrap();
    assert_eq!(burst.run, run(2, 2));

    // The late acknowledgement of the first send settles pages 0 and 1 only.
    assert_eq!(ledger.settle(first.numbers()), Ok(2));
    assert_eq!(ledger.settle(second.numbers()), Ok(2));
    assert!(!ledger.is_settled());
    assert_eq!(ledger.settle(burst.numbers()), Ok(2));
    assert!(ledger.is_settled());
}

#[test]
fn losing_a_superseded_send_owes_nothing_again() {
    let mut ledger = Ledger::new(Gfn(64));
    ledger.owe(run(7, 1)).unwrap();
    let old = ledger.next_run(at_most(1)).unwrap();
    ledger.owe(run(7, 1)).unwrap();
    let new = ledger.next_run_in_burst(at_most(1)).unwrap();
    assert_eq!(ledger.lose(old.numbers()), Ok(0), "its newer send is still on its way");
    assert_eq!(ledger.settle(new.numbers()), Ok(1));
    assert!(ledger.is_settled());
}

#[test]
fn page_seven_survives_a_dead_stream_in_the_ledger() {
    let mut ledger = Ledger::new(Gfn(64));
    ledger.owe(run(7, 1)).unwrap();
    let on_b = ledger.next_run(at_most(1)).unwrap();
    ledger.owe(run(7, 1)).unwrap();
    ledger.lose(on_b.numbers()).unwrap();
    let on_a = ledger.next_run(at_most(1)).unwrap();
    ledger.settle(on_a.numbers()).unwrap();
    ledger.owe(run(7, 1)).unwrap();
    let on_c = ledger.next_run(at_most(1)).unwrap();
    ledger.settle(on_b.numbers()).unwrap();
    assert!(!ledger.is_settled(), "the late copy proves nothing");
    ledger.settle(on_c.numbers()).unwrap();
    assert!(ledger.is_settled());
    assert_eq!(ledger.latest_send(Gfn(7)), Some(on_c.first_number));
    assert_eq!((ledger.latest_send(Gfn(8)), ledger.latest_send(Gfn(64))), (None, None));
}

#[test]
fn what_was_never_sent_cannot_be_acknowledged() {
    let mut ledger = Ledger::new(Gfn(64));
    ledger.owe(run(0, 10)).unwrap();
    let send = ledger.next_run(at_most(4)).unwrap();
    assert_eq!(send.numbers(), numbers(1, 5));
    for (range, number) in [(1..6, 5), (5..6, 5), (0..u64::MAX, u64::MAX - 1)] {
        let refused = LedgerError::NeverSent { number: SendNumber(number), next: SendNumber(5) };
        assert_eq!(ledger.settle(numbers(range.start, range.end)), Err(refused));
        assert_eq!(ledger.lose(numbers(range.start, range.end)), Err(refused));
        assert_eq!((ledger.owed(), ledger.in_flight()), (6, 4), "nothing of the range was taken");
    }
    assert_eq!(ledger.settle(numbers(4, 2)), Ok(0), "an empty range names nothing");
    assert_eq!(ledger.settle(numbers(0, 5)), Ok(4));
}

#[test]
fn a_run_is_settled_in_parts() {
    let mut ledger = Ledger::new(Gfn(64));
    ledger.owe(run(20, 10)).unwrap();
    let send = ledger.next_run(at_most(10)).unwrap();
    assert_eq!(send.first_number, SendNumber(1));
    assert_eq!(ledger.settle(numbers(4, 6)), Ok(2));
    assert_eq!(ledger.lose(numbers(1, 11)), Ok(8));
    let again: Vec<_> = send_all(&mut ledger, 64).iter().map(|send| send.run).collect();
    assert_eq!(again, [run(20, 3), run(25, 5)], "pages 23 and 24 are there");
}

#[test]
fn a_hot_page_at_a_low_address_does_not_starve_the_others() {
    let mut ledger = Ledger::new(Gfn(64));
    ledger.owe(run(0, 64)).unwrap();
    for expected in 0..64 {
        let send = ledger.next_run(at_most(1)).unwrap();
        assert_eq!(send.run, run(expected, 1));
        ledger.settle(send.numbers()).unwrap();
        ledger.owe(run(0, 1)).unwrap();
    }
    assert_eq!(ledger.next_run(at_most(1)).unwrap().run, run(0, 1));
}

#[test]
fn slots_on_both_sides_of_the_hole_and_the_last_page_are_sent() {
    // The hole from 256 MiB to 4 GiB; the second slot ends in the middle of a word.
    let (low_end, high, limit) = (0x1_0000, 0x10_0000, 0x10_0000 + 100);
    let mut ledger = Ledger::new(Gfn(limit));
    ledger.owe_words(Gfn(low_end - 64), &[1 << 63]).unwrap();
    ledger.owe_words(Gfn(high), &[1, 1 << 35]).unwrap();
    assert!(ledger.owe_words(Gfn(high), &[0, 1 << 36]).is_err());
    let sent: Vec<_> = send_all(&mut ledger, 512).iter().map(|send| send.run).collect();
    assert_eq!(sent, [run(low_end - 1, 1), run(high, 1), run(limit - 1, 1)]);
}

#[derive(Clone, Debug)]
enum Step {
    Owe(u64, u64),
    OweWord(u64, u64),
    Next(u64),
    /// With the pages at every third place hot.
    Hurry(u64, u64),
    Burst(u64),
    Settle(u64, u64),
    Lose(u64, u64),
    Abort,
}

/// A guest with a hole: frames 128 to 255 do not exist, and the end is not a multiple of 64.
const LIMIT: u64 = 300;
const HOLE: Range<u64> = 128..256;

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..LIMIT, 1..80u64).prop_map(|(first, pages)| Step::Owe(first, pages)),
        2 => (prop_oneof![Just(0), Just(1), Just(4)], any::<u64>()).prop_map(|(at, word)| {
            Step::OweWord(at, if at == 4 { word & ((1 << (LIMIT - 256)) - 1) } else { word })
        }),
        6 => (1..40u64).prop_map(Step::Next),
        3 => (1..40u64, 0..3u64).prop_map(|(max, place)| Step::Hurry(max, place)),
        3 => (1..40u64).prop_map(Step::Burst),
        4 => (0..400u64, 0..60u64).prop_map(|(back, length)| Step::Settle(back, length)),
        2 => (0..400u64, 0..60u64).prop_map(|(back, length)| Step::Lose(back, length)),
        1 => Just(Step::Abort),
    ]
}

/// The same, page by page and send by send, and a destination that remembers what it was given.
#[derive(Default)]
struct Naive {
    /// How often each page was dirtied.
    version: BTreeMap<u64, u64>,
    owed: BTreeSet<u64>,
    /// Sends that are neither settled nor lost: page, and version that was read.
    outstanding: BTreeMap<u64, (u64, u64)>,
    latest: BTreeMap<u64, u64>,
    /// The version of each page that is proven to be at the destination.
    proven: BTreeMap<u64, u64>,
    /// Pages whose latest send is settled.
    held: BTreeSet<u64>,
}

impl Naive {
    fn dirty(&mut self, page: u64) {
        *self.version.entry(page).or_default() += 1;
        self.owed.insert(page);
    }

    /// `waits` says which pages wait for the acknowledgement of an earlier send.
    fn send(&mut self, send: PageSend, waits: impl Fn(u64) -> bool) -> Result<(), TestCaseError> {
        for (gfn, number) in send.run.frames().zip(send.first_number.0..) {
            let page = gfn.0;
            prop_assert!(self.owed.remove(&page), "page {} was not owed", page);
            prop_assert!(!HOLE.contains(&page), "page {} does not exist", page);
            prop_assert!(!(waits(page) && self.is_in_flight(page)), "page {} had to wait", page);
            prop_assert!(self.latest.insert(page, number).is_none_or(|older| older < number));
            self.held.remove(&page);
            self.outstanding.insert(number, (page, self.version[&page]));
        }
        Ok(())
    }

    fn is_in_flight(&self, page: u64) -> bool {
        self.latest.get(&page).is_some_and(|number| self.outstanding.contains_key(number))
    }

    fn settle(&mut self, range: Range<u64>) {
        for number in range {
            if let Some((page, version)) = self.outstanding.remove(&number) {
                let proven = self.proven.entry(page).or_default();
                *proven = version.max(*proven);
                if self.latest[&page] == number {
                    self.held.insert(page);
                }
            }
        }
    }

    fn lose(&mut self, range: Range<u64>) {
        for number in range {
            if let Some((page, _)) = self.outstanding.remove(&number)
                && self.latest[&page] == number
            {
                self.owed.insert(page);
            }
        }
    }

    fn check(&self, ledger: &Ledger) -> Result<(), TestCaseError> {
        let in_flight = (0..LIMIT).filter(|page| self.is_in_flight(*page)).count() as u64;
        prop_assert_eq!(ledger.in_flight(), in_flight);
        prop_assert_eq!(ledger.owed(), self.owed.len() as u64);
        let outstanding: u64 = ledger.outstanding.values().map(|run| run.pages()).sum();
        prop_assert_eq!(outstanding, self.outstanding.len() as u64, "what is over is let go");
        let oldest = self.outstanding.keys().next().copied();
        prop_assert_eq!(ledger.settled_below().0, oldest.unwrap_or(ledger.next_number().0));
        for page in 0..LIMIT {
            let held = self.held.contains(&page).then(|| SendNumber(self.latest[&page]));
            prop_assert_eq!(ledger.held_send(Gfn(page)), held);
        }
        for (page, version) in &self.version {
            let is_proven = self.proven.get(page) == Some(version);
            let is_remembered = self.owed.contains(page) || self.is_in_flight(*page);
            prop_assert!(is_proven || is_remembered, "page {} was forgotten", page);
        }
        if ledger.is_settled() {
            prop_assert_eq!(&self.version, &self.proven);
        }
        Ok(())
    }
}

/// A range of `length` numbers that ends `back` numbers before the next one.
fn range_back(ledger: &Ledger, back: u64, length: u64) -> Range<u64> {
    let end = ledger.next_number().0.saturating_sub(back).max(1);
    end.saturating_sub(length).max(1)..end
}

fn take(step: &Step, ledger: &mut Ledger, naive: &mut Naive) -> Result<(), TestCaseError> {
    match *step {
        Step::Owe(first, pages) => {
            let end = (first + pages).min(LIMIT);
            let pieces = [(first, end.min(HOLE.start)), (first.max(HOLE.end), end)];
            for (first, end) in pieces.into_iter().filter(|(first, end)| first < end) {
                ledger.owe(run(first, end - first)).unwrap();
                (first..end).for_each(|page| naive.dirty(page));
            }
        }
        Step::OweWord(at, word) => {
            ledger.owe_words(Gfn(at * 64), &[word]).unwrap();
            (0..64).filter(|bit| word & (1 << bit) != 0).for_each(|bit| naive.dirty(at * 64 + bit));
        }
        Step::Next(max) | Step::Hurry(max, _) | Step::Burst(max) => {
            let waits = |page: u64| match step {
                Step::Hurry(_, place) => page % 3 == *place,
                step => matches!(step, Step::Next(_)),
            };
            let mut hot = PageSet::new(Gfn(LIMIT));
            for page in (0..LIMIT).filter(|page| waits(*page)) {
                hot.insert(run(page, 1)).unwrap();
            }
            let next = match step {
                Step::Next(_) => ledger.next_run(at_most(max)),
                Step::Burst(_) => ledger.next_run_in_burst(at_most(max)),
                _ => ledger.next_run_with_bases(at_most(max), Some(&hot), &mut Vec::new()),
            };
            match next {
                Some(send) => {
                    prop_assert!(send.run.pages() <= max);
                    naive.send(send, waits)?;
                }
                None => prop_assert!(
                    naive.owed.iter().all(|page| waits(*page) && naive.is_in_flight(*page)),
                    "a page is ready and was not handed out"
                ),
            }
        }
        Step::Settle(back, length) => {
            let range = range_back(ledger, back, length);
            ledger.settle(numbers(range.start, range.end)).unwrap();
            naive.settle(range);
        }
        Step::Lose(back, length) => {
            let range = range_back(ledger, back, length);
            ledger.lose(numbers(range.start, range.end)).unwrap();
            naive.lose(range);
        }
        Step::Abort => {
            ledger.abort();
            naive.lose(1..ledger.next_number().0);
            naive.held.clear();
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn no_page_is_ever_forgotten(steps in prop::collection::vec(step(), 1..60), end in 1..100u64) {
        let mut ledger = Ledger::new(Gfn(LIMIT));
        let mut naive = Naive::default();
        for step in &steps {
            take(step, &mut ledger, &mut naive)?;
            naive.check(&ledger)?;
        }
        // Whatever happened, one last burst that arrives whole settles everything.
        ledger.abort();
        naive.lose(1..ledger.next_number().0);
        naive.held.clear();
        while let Some(send) = ledger.next_run_in_burst(at_most(end)) {
            naive.send(send, |_| false)?;
            ledger.settle(send.numbers()).unwrap();
            naive.settle(send.numbers().start.0..send.numbers().end.0);
        }
        prop_assert!(ledger.is_settled());
        naive.check(&ledger)?;
    }
}
