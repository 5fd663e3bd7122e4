//! [`Batch`]: the pages of one frame, and their send numbers.

use std::num::NonZeroU64;
use std::ops::Range;

use crate::ledger::{Ledger, SendNumber};
use crate::page::{Gfn, PAGE_BYTES, PageRun};

/// The most pages of a batch: 4 MiB of content. Larger ones compress no better that is worth the
/// wait, and what one frame can make a receiver hold is bounded by it.
pub const BATCH_PAGES_MAX: usize = 1024;

/// Runs and a first number that make no batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// A batch has at least one page
    #[error("a batch of no pages")]
    Empty,
    /// More pages than a batch may have
    #[error("a batch of more than {BATCH_PAGES_MAX} pages")]
    TooLarge,
    /// Numbers that no counter gives: they begin at 1, and the one after the last exists
    #[error("{pages} pages cannot have numbers from {first_number} on")]
    Numbers {
        /// The number of the first page.
        first_number: SendNumber,
        /// How many pages there are.
        pages: usize,
    },
}

/// Pages that travel in one frame: page *i* of all runs, in their order, has the send number
/// `first_number + i`. One batch is therefore one range of send numbers, and one acknowledgement.
///
/// Holding one proves that it is within its limits, and that each run could exist. It does not
/// prove that the pages are guest memory, nor that they are different pages.
///
/// ```
/// use dwcp::hde::Batch;
/// use dwcp::ledger::SendNumber;
/// use dwcp::page::{Gfn, PageRun};
///
/// let runs = vec![PageRun::new(Gfn(7), 2)?, PageRun::new(Gfn(100), 1)?];
/// let batch = Batch::new(SendNumber(41), runs)?;
/// assert_eq!(batch.numbers(), SendNumber(41)..SendNumber(44));
/// let runs = batch.into_runs(); // for the next one
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    first_number: SendNumber,
    runs: Vec<PageRun>,
    pages: usize,
}

impl Batch {
    /// The batch of these runs, whose first page has this number.
    ///
    /// # Errors
    /// When there is no page, or more than [`BATCH_PAGES_MAX`], or a number would be 0 or too large.
    pub fn new(first_number: SendNumber, runs: Vec<PageRun>) -> Result<Self, BatchError> {
        let mut pages = 0;
        for run in &runs {
            let more = usize::try_from(run.pages()).unwrap_or(usize::MAX);
            pages = Some(more)
                .filter(|more| *more <= BATCH_PAGES_MAX - pages)
                .map(|more| pages + more)
                .ok_or(BatchError::TooLarge)?;
        }
        if pages == 0 {
            return Err(BatchError::Empty);
        }
        if first_number.0 == 0 || first_number.0.checked_add(pages as u64).is_none() {
            return Err(BatchError::Numbers { first_number, pages });
        }
        Ok(Self { first_number, runs, pages })
    }

    /// Takes the next pages that a ledger owes, under consecutive numbers; `None` if it owes none.
    ///
    /// # Panics
    /// When `max_pages` is more than [`BATCH_PAGES_MAX`].
    #[must_use]
    pub fn take_owed(ledger: &mut Ledger, max_pages: NonZeroU64) -> Option<Self> {
        assert!(max_pages.get() <= BATCH_PAGES_MAX as u64, "{max_pages} pages in a batch");
        let first_number = ledger.next_number();
        let (mut runs, mut room) = (Vec::new(), Some(max_pages));
        while let Some(send) = room.and_then(|room| ledger.next_run(room)) {
            room = room.and_then(|room| NonZeroU64::new(room.get() - send.run.pages()));
            runs.push(send.run);
        }
        Self::new(first_number, runs).ok()
    }

    /// The send number of the first page; never 0.
    #[must_use]
    pub fn first_number(&self) -> SendNumber {
        self.first_number
    }

    /// The runs, in the order of their numbers.
    #[must_use]
    pub fn runs(&self) -> &[PageRun] {
        &self.runs
    }

    /// How many pages: 1 to [`BATCH_PAGES_MAX`].
    #[must_use]
    pub fn pages(&self) -> usize {
        self.pages
    }

    /// Bytes of their content.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.pages * PAGE_BYTES
    }

    /// The send numbers: what one acknowledgement names.
    #[must_use]
    pub fn numbers(&self) -> Range<SendNumber> {
        self.first_number..SendNumber(self.first_number.0 + self.pages as u64)
    }

    /// Each page with its number, in the order of their content.
    pub fn sends(&self) -> impl Iterator<Item = (Gfn, SendNumber)> {
        let frames = self.runs.iter().flat_map(|run| run.frames());
        frames.zip((self.first_number.0..).map(SendNumber))
    }

    /// The vector of runs, for the next batch.
    #[must_use]
    pub fn into_runs(self) -> Vec<PageRun> {
        self.runs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(first_number: u64, runs: &[(u64, u64)]) -> Result<Batch, BatchError> {
        let run = |&(first, pages): &(u64, u64)| PageRun::new(Gfn(first), pages).unwrap();
        Batch::new(SendNumber(first_number), runs.iter().map(run).collect())
    }

    #[test]
    fn pages_are_numbered_in_the_order_of_their_runs() {
        let batch = batch(41, &[(100, 2), (7, 1)]).unwrap();
        let sends: Vec<_> = batch.sends().map(|(gfn, number)| (gfn.0, number.0)).collect();
        assert_eq!(sends, [(100, 41), (101, 42), (7, 43)]);
        assert_eq!((batch.pages(), batch.bytes()), (3, 3 * 4096));
        assert_eq!(batch.numbers(), SendNumber(41)..SendNumber(44));
        assert_eq!(batch.runs().len(), batch.into_runs().len());
    }

    #[test]
    fn a_batch_is_within_its_limits_or_does_not_exist() {
        let most = BATCH_PAGES_MAX as u64;
        let numbers = |first: u64, pages| {
            let first_number = SendNumber(first);
            Err(BatchError::Numbers { first_number, pages })
        };
        assert_eq!(batch(1, &[]), Err(BatchError::Empty));
        assert!(batch(1, &[(0, most)]).is_ok());
        assert!(batch(1, &[(0, most - 1), (9, 1)]).is_ok());
        for runs in [&[(0, most + 1)][..], &[(0, most), (9, 1)], &[(9, 1), (0, 1 << 51)]] {
            assert_eq!(batch(1, runs), Err(BatchError::TooLarge), "{runs:?}");
        }
        assert_eq!(batch(0, &[(0, 2)]), numbers(0, 2));
        assert!(batch(u64::MAX - 2, &[(0, 2)]).is_ok());
        assert_eq!(batch(u64::MAX - 1, &[(0, 2)]), numbers(u64::MAX - 1, 2));
    }
}
