//! [`Ledger`]: the pages that a migration owes its destination, and those on their way. See `SPEC.md`, 4.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU64;
use std::ops::Range;

use crate::page::{Gfn, PageRun};
use crate::page_set::{self, PageSet, PageSetError};

/// The number of one send of one page, drawn from the session's one counter when the page is read.
/// A larger number means newer content of the same page; nothing else orders streams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SendNumber(pub u64);

impl fmt::Display for SendNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "send {}", self.0)
    }
}

/// A run of pages to be read now and sent. Page `i` of the run has the number `first_number + i`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "these pages count as being in flight until they are settled or lost"]
pub struct PageSend {
    /// The pages.
    pub run: PageRun,
    /// The number of the first page's send.
    pub first_number: SendNumber,
}

impl PageSend {
    /// The numbers of the run's sends: what [`Ledger::settle`] and [`Ledger::lose`] take.
    #[must_use]
    pub fn numbers(&self) -> Range<SendNumber> {
        self.first_number..SendNumber(self.first_number.0 + self.run.pages())
    }
}

/// A ledger refused an entry. It is unchanged then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    /// Pages that the ledger's guest does not have
    #[error(transparent)]
    Pages(#[from] PageSetError),
    /// The peer acknowledged, or a stream claims to have carried, what was never sent
    #[error("{number} was named, but the next number to be drawn is {next}")]
    NeverSent {
        /// The last number named.
        number: SendNumber,
        /// The number that the next page to be read will get.
        next: SendNumber,
    },
}

/// The truth about what the destination still needs.
///
/// ```text
///             dirtied                next_run: a number is drawn, the page is read
///   (clean) ───────────► owed ─────────────────────────────────────────► in flight
///      ▲                  ▲  ▲                                            │  │  │
///      │                  │  └── lose, abort: read again, never replayed ─┘  │  │
///      │                  └────── dirtied meanwhile: owed *and* in flight ───┘  │
///      └───────────────── settle: written there, and its digest checked ────────┘
/// ```
///
/// A page leaves the ledger by proof of delivery of its **latest** send only, and only if it was not
/// dirtied after that. Whatever else happens to an attempt, the ledger stays true: the next attempt
/// needs no repair and no fresh start.
///
/// While the guest runs, a page has at most one send on its way ([`Ledger::next_run`] waits): a
/// delta may then take the acknowledged content as its base, and a page that is written all the time
/// cannot fill the link with copies of itself. Shortly before the guest stops only such pages wait
/// ([`Ledger::next_run_with_bases`]), and in the last burst none does
/// ([`Ledger::next_run_in_burst`]), since the guest is paused and what goes out is final.
///
/// ```
/// use std::num::NonZeroU64;
/// use dwcp::ledger::Ledger;
/// use dwcp::page::{Gfn, PageRun};
///
/// let mut ledger = Ledger::new(Gfn(512));
/// ledger.owe(PageRun::new(Gfn(7), 1)?)?;
/// let send = ledger.next_run(NonZeroU64::MIN).expect("one page is owed");
/// ledger.owe(send.run)?; // dirtied while it was on its way
/// ledger.settle(send.numbers())?; // what arrived is the older content
/// assert_eq!((ledger.owed(), ledger.in_flight()), (1, 0));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Ledger {
    owed: PageSet,
    /// Pages whose latest send is outstanding.
    in_flight: PageSet,
    /// Pages whose latest send is settled: the destination holds exactly that content.
    held: PageSet,
    /// The number of the latest send of each page; 0 for never. Plain numbers, since the allocator
    /// gives zeros of these without touching them.
    latest: Vec<u64>,
    /// Sends that are neither settled nor lost, by their first number, never overlapping. Entries
    /// are cut where only a part of a run is settled.
    outstanding: BTreeMap<SendNumber, PageRun>,
    next_number: SendNumber,
    /// Where the search for the next run goes on, so that a hot page at a low address cannot starve
    /// those above it.
    cursor: Gfn,
}

impl Ledger {
    /// A ledger for the guest pages below `limit`, with nothing owed. It takes about 2 MiB a GiB of
    /// guest.
    ///
    /// # Panics
    /// When that does not fit the address space.
    #[must_use]
    pub fn new(limit: Gfn) -> Self {
        let pages = usize::try_from(limit.0).expect("a limit checked before");
        Self {
            owed: PageSet::new(limit),
            in_flight: PageSet::new(limit),
            held: PageSet::new(limit),
            latest: vec![0; pages],
            outstanding: BTreeMap::new(),
            next_number: SendNumber(1),
            cursor: Gfn(0),
        }
    }

    /// Pages owed: not handed out since they were dirtied.
    #[must_use]
    pub fn owed(&self) -> u64 {
        self.owed.count()
    }

    /// Pages whose latest send is neither settled nor lost. One that was dirtied again meanwhile is
    /// also counted in [`Ledger::owed`].
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        self.in_flight.count()
    }

    /// The pages owed.
    #[must_use]
    pub fn owed_pages(&self) -> &PageSet {
        &self.owed
    }

    /// Whether the destination has proven that it holds every page as it is now.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.owed.is_empty() && self.in_flight.is_empty()
    }

    /// The number that the next page to be read will get. It only grows, over all attempts.
    #[must_use]
    pub fn next_number(&self) -> SendNumber {
        self.next_number
    }

    /// The latest send of a page, whatever became of it; `None` if it was never sent.
    #[must_use]
    pub fn latest_send(&self, gfn: Gfn) -> Option<SendNumber> {
        let number = *self.latest.get(usize::try_from(gfn.0).ok()?)?;
        (number != 0).then_some(SendNumber(number))
    }

    /// The latest send of a page, if it is settled: the destination holds the page exactly as it was
    /// read for that send, and will until another arrives. What a delta may build on.
    #[must_use]
    pub fn held_send(&self, gfn: Gfn) -> Option<SendNumber> {
        self.held.contains(gfn).then(|| SendNumber(self.latest[index(gfn)]))
    }

    /// Whether any of these sends is neither settled nor lost.
    #[must_use]
    pub fn is_outstanding(&self, numbers: &Range<SendNumber>) -> bool {
        let below = self.outstanding.range(..numbers.end).next_back();
        below.is_some_and(|(first, run)| first.0 + run.pages() > numbers.start.0)
    }

    /// Every number below this one is settled or lost: nobody will ask for it again.
    #[must_use]
    pub fn settled_below(&self) -> SendNumber {
        self.outstanding.first_key_value().map_or(self.next_number, |(number, _)| *number)
    }

    /// Adds a run of dirty pages. Returns how many were not owed before.
    ///
    /// # Errors
    /// When the run reaches beyond the limit.
    pub fn owe(&mut self, run: PageRun) -> Result<u64, LedgerError> {
        Ok(self.owed.insert(run)?)
    }

    /// Adds a part of a dirty bitmap; bit 0 of the first word is `first`, a multiple of 64. Returns
    /// how many pages were not owed before. See [`PageSet::merge_words`].
    ///
    /// # Errors
    /// When `first` is not a multiple of 64 or a page lies beyond the limit. Nothing of the bitmap is
    /// in the ledger then: do not clear the log that it came from.
    pub fn owe_words(&mut self, first: Gfn, words: &[u64]) -> Result<u64, LedgerError> {
        Ok(self.owed.merge_words(first, words)?)
    }

    /// Adds a set of dirty pages. Returns how many were not owed before.
    ///
    /// # Errors
    /// When the set has another limit.
    pub fn owe_set(&mut self, set: &PageSet) -> Result<u64, LedgerError> {
        Ok(self.owed.union(set)?)
    }

    /// The next pages to be read and sent while the guest runs, at most `max_pages`: owed, and with
    /// no send on its way. `None` does not mean that the ledger is settled.
    pub fn next_run(&mut self, max_pages: NonZeroU64) -> Option<PageSend> {
        let run = self.ready(max_pages, None)?;
        Some(self.send(run))
    }

    /// The same as [`Ledger::next_run`]; appends to `bases`, for each page, what
    /// [`Ledger::held_send`] said before: what a delta of this send may build on. Of pages with a send on its
    /// way, those in `hot` wait, and `None` is all of them.
    pub fn next_run_with_bases(
        &mut self,
        max_pages: NonZeroU64,
        hot: Option<&PageSet>,
        bases: &mut Vec<Option<SendNumber>>,
    ) -> Option<PageSend> {
        let run = self.ready(max_pages, hot)?;
        bases.extend(run.frames().map(|gfn| self.held_send(gfn)));
        Some(self.send(run))
    }

    /// The next pages to be read and sent in the last burst, while the guest is paused: all that are
    /// owed. One whose earlier send is still on its way goes out again, under its new number.
    pub fn next_run_in_burst(&mut self, max_pages: NonZeroU64) -> Option<PageSend> {
        let owed = self.owed.words();
        let run = self.find(|word| owed[word], max_pages)?;
        Some(self.send(run))
    }

    /// Takes proof of delivery: the destination has written the pages of these sends into the
    /// guest's memory and checked their digests. Returns how many pages are no longer in flight.
    ///
    /// Numbers that are settled already, were lost, or have a newer send of the same page after them
    /// change nothing: an old acknowledgement never settles a newer debt.
    ///
    /// # Errors
    /// When a number was never drawn: the peer is wrong, and nothing of the range is settled.
    pub fn settle(&mut self, numbers: Range<SendNumber>) -> Result<u64, LedgerError> {
        let mut settled = 0;
        self.take_outstanding(numbers, |ledger, page| {
            settled += ledger.in_flight.remove(page).expect("a page that was sent");
            ledger.held.insert(page).expect("a page that was sent");
        })?;
        Ok(settled)
    }

    /// Gives up sends whose stream has died: their pages are owed again, and will be **read** again
    /// under new numbers. Returns how many pages went back.
    ///
    /// # Errors
    /// When a number was never drawn; nothing changes then.
    pub fn lose(&mut self, numbers: Range<SendNumber>) -> Result<u64, LedgerError> {
        self.lose_with(numbers, |_| {})
    }

    /// The same as [`Ledger::lose`]; calls `each` with the pages that are owed again.
    ///
    /// # Errors
    /// When a number was never drawn; nothing changes then.
    pub fn lose_with(
        &mut self,
        numbers: Range<SendNumber>,
        mut each: impl FnMut(PageRun),
    ) -> Result<u64, LedgerError> {
        let mut lost = 0;
        self.take_outstanding(numbers, |ledger, run| {
            lost += ledger.in_flight.remove(run).expect("a page that was sent");
            ledger.owed.insert(run).expect("a page that was sent");
            each(run);
        })?;
        Ok(lost)
    }

    /// Ends an attempt: every page in flight is owed again, and nothing is held by whoever comes next.
    /// Returns how many went back.
    pub fn abort(&mut self) -> u64 {
        let lost = self.in_flight.count();
        self.owed.union(&self.in_flight).expect("both sets have the ledger's limit");
        self.in_flight.clear();
        self.held.clear();
        self.outstanding.clear();
        lost
    }

    /// The next run of pages that are owed and do not wait for the send that is on its way.
    fn ready(&self, max_pages: NonZeroU64, hot: Option<&PageSet>) -> Option<PageRun> {
        let (owed, in_flight) = (self.owed.words(), self.in_flight.words());
        let waits = |word| hot.map_or(u64::MAX, |hot| hot.words().get(word).copied().unwrap_or(0));
        self.find(|word| owed[word] & !(in_flight[word] & waits(word)), max_pages)
    }

    /// Searches from the cursor to the end, then from the start.
    fn find(&self, word_at: impl Fn(usize) -> u64, max_pages: NonZeroU64) -> Option<PageRun> {
        let words = self.owed.words().len();
        page_set::next_run(words, &word_at, self.cursor, max_pages)
            .or_else(|| page_set::next_run(words, &word_at, Gfn(0), max_pages))
    }

    fn send(&mut self, run: PageRun) -> PageSend {
        let first_number = self.next_number;
        for (gfn, number) in run.frames().zip(first_number.0..) {
            self.latest[index(gfn)] = number;
        }
        // At 10^9 pages a second the counter lasts for 584 years.
        self.next_number = SendNumber(first_number.0 + run.pages());
        self.owed.remove(run).expect("a run found in the set");
        self.held.remove(run).expect("a run below the limit");
        self.in_flight.insert(run).expect("a run below the limit");
        self.outstanding.insert(first_number, run);
        self.cursor = run.end();
        PageSend { run, first_number }
    }

    /// Takes what is outstanding of the range out, and calls `f` with the runs of pages whose latest
    /// send that was.
    fn take_outstanding(
        &mut self,
        numbers: Range<SendNumber>,
        mut f: impl FnMut(&mut Self, PageRun),
    ) -> Result<(), LedgerError> {
        if numbers.start >= numbers.end {
            return Ok(());
        }
        if numbers.end > self.next_number {
            let number = SendNumber(numbers.end.0 - 1);
            return Err(LedgerError::NeverSent { number, next: self.next_number });
        }
        self.cut_outstanding(numbers.start);
        self.cut_outstanding(numbers.end);
        while let Some((&first_number, &run)) = self.outstanding.range(numbers.clone()).next() {
            self.outstanding.remove(&first_number);
            let mut from = 0;
            while let Some(part) = self.latest_part(first_number, run, from) {
                f(self, part);
                from = part.end().0 - run.first().0;
            }
        }
        Ok(())
    }

    /// Cuts the entry that holds `number` somewhere behind its first, so that one begins there.
    fn cut_outstanding(&mut self, number: SendNumber) {
        let Some((first_number, run)) = self.outstanding.range_mut(..number).next_back() else {
            return;
        };
        if let Some((head, tail)) = run.split_at(number.0 - first_number.0) {
            *run = head;
            self.outstanding.insert(number, tail);
        }
    }

    /// The next pages of a send's run, `from` its page of that index on, that have no newer send.
    fn latest_part(&self, first_number: SendNumber, run: PageRun, from: u64) -> Option<PageRun> {
        let is_latest = |page: &u64| {
            let gfn = Gfn(run.first().0 + page);
            self.latest[index(gfn)] == first_number.0 + page
        };
        let start = (from..run.pages()).find(is_latest)?;
        let end = (start..run.pages()).find(|page| !is_latest(page)).unwrap_or(run.pages());
        Some(PageRun::known_valid(Gfn(run.first().0 + start), end - start))
    }
}

/// The place of a frame below the limit, which fits: the vector was allocated.
fn index(gfn: Gfn) -> usize {
    usize::try_from(gfn.0).expect("a frame below the limit")
}

#[cfg(test)]
mod tests;
