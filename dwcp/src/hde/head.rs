//! [`Head`]: what a payload says of itself before anything is decompressed.

use std::ops::Range;

use super::varint::{self, Reader};
use super::{BATCH_PAGES_MAX, Batch, BatchError, DecodeError};
use crate::digest::DigestSum;
use crate::ledger::SendNumber;
use crate::page::{Gfn, PageRun, RunError};

/// Bytes of the fixed part.
pub(super) const FIXED_BYTES: usize = 60;

const FIRST_NUMBER: Range<usize> = 0..8;
const SETTLED_BELOW: Range<usize> = 8..16;
const SUM: Range<usize> = 16..48;
const RUNS: Range<usize> = 48..50;
const PAGES: Range<usize> = 50..52;
const DELTA_BYTES: Range<usize> = 52..56;
const ZSTD_BYTES: Range<usize> = 56..60;

const _: () = assert!(ZSTD_BYTES.end == FIXED_BYTES && BATCH_PAGES_MAX <= u16::MAX as usize);

/// The most bytes that one run takes: its distance from the one before, and its length.
pub(super) const RUN_BYTES_MAX: usize = varint::LONGEST + 2;

/// The head of a payload. Holding one proves that the batch is within its limits; it proves nothing
/// about content, and the pages may not be the guest's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    pub(super) batch: Batch,
    pub(super) settled_below: SendNumber,
    pub(super) sum: DigestSum,
    pub(super) delta_bytes: u32,
    pub(super) zstd_bytes: u32,
}

impl Head {
    /// The head of a payload of a `Pages` frame. It looks at nothing behind the runs.
    ///
    /// # Errors
    /// When the payload is no such payload: the peer is at fault.
    pub fn parse(payload: &[u8]) -> Result<Self, DecodeError> {
        Self::read(&mut Reader::new(payload), Vec::new())
    }

    /// The pages and their send numbers.
    #[must_use]
    pub fn batch(&self) -> &Batch {
        &self.batch
    }

    /// All smaller numbers are settled or lost at the source: it will not ask about them again. At
    /// most the first number of the batch.
    #[must_use]
    pub fn settled_below(&self) -> SendNumber {
        self.settled_below
    }

    /// The arrival check: the sum of the digests of the pages as they were read.
    #[must_use]
    pub fn sum(&self) -> DigestSum {
        self.sum
    }

    /// Takes a head from the reader. `runs` is a vector to use again; what it holds is lost.
    pub(super) fn read(
        reader: &mut Reader<'_>,
        mut runs: Vec<PageRun>,
    ) -> Result<Self, DecodeError> {
        let fixed: [u8; FIXED_BYTES] = reader.array()?;
        let first_number = SendNumber(u64::from_le_bytes(array(&fixed, FIRST_NUMBER)));
        let settled_below = SendNumber(u64::from_le_bytes(array(&fixed, SETTLED_BELOW)));
        let run_count = u16::from_le_bytes(array(&fixed, RUNS));
        // Each run has a page: this bounds what is allocated below.
        if usize::from(run_count) > BATCH_PAGES_MAX {
            return Err(BatchError::TooLarge.into());
        }
        runs.clear();
        runs.reserve(usize::from(run_count));
        let mut end = Gfn(0);
        for _ in 0..run_count {
            let first = Gfn(end.0.wrapping_add(varint::unzigzag(reader.varint()?)));
            let more = reader.varint()?;
            let pages = more.checked_add(1).ok_or(RunError::Overflow { first, pages: more })?;
            let run = PageRun::new(first, pages)?;
            runs.push(run);
            end = run.end();
        }
        let batch = Batch::new(first_number, runs)?;
        let announced = u16::from_le_bytes(array(&fixed, PAGES));
        if usize::from(announced) != batch.pages() {
            return Err(DecodeError::Pages { announced, found: batch.pages() });
        }
        if settled_below > first_number {
            return Err(DecodeError::SettledBelow { first: first_number, below: settled_below });
        }
        Ok(Self {
            batch,
            settled_below,
            sum: DigestSum::from_bytes(array(&fixed, SUM)),
            delta_bytes: u32::from_le_bytes(array(&fixed, DELTA_BYTES)),
            zstd_bytes: u32::from_le_bytes(array(&fixed, ZSTD_BYTES)),
        })
    }
}

fn array<const N: usize>(fixed: &[u8; FIXED_BYTES], range: Range<usize>) -> [u8; N] {
    fixed[range].try_into().expect("a range of the layout")
}

/// Appends the head of a batch. What is not known yet is filled in by [`fill`].
pub(super) fn put(batch: &Batch, settled_below: SendNumber, out: &mut Vec<u8>) {
    let mut fixed = [0; FIXED_BYTES];
    let count = |count: usize| u16::try_from(count).expect("a batch is within its limits");
    fixed[FIRST_NUMBER].copy_from_slice(&batch.first_number().0.to_le_bytes());
    fixed[SETTLED_BELOW].copy_from_slice(&settled_below.0.to_le_bytes());
    fixed[RUNS].copy_from_slice(&count(batch.runs().len()).to_le_bytes());
    fixed[PAGES].copy_from_slice(&count(batch.pages()).to_le_bytes());
    out.extend_from_slice(&fixed);
    let mut end = Gfn(0);
    for run in batch.runs() {
        varint::put(varint::zigzag(run.first().0.wrapping_sub(end.0)), out);
        varint::put(run.pages() - 1, out);
        end = run.end();
    }
}

/// Fills in what is known only once the batch is encoded. `payload` begins with the head.
pub(super) fn fill(payload: &mut [u8], sum: DigestSum, delta_bytes: usize, zstd_bytes: usize) {
    let length = |bytes: usize| u32::try_from(bytes).expect("a frame of at most a batch");
    payload[SUM].copy_from_slice(&sum.to_bytes());
    payload[DELTA_BYTES].copy_from_slice(&length(delta_bytes).to_le_bytes());
    payload[ZSTD_BYTES].copy_from_slice(&length(zstd_bytes).to_le_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn head_bytes(batch: &Batch, settled_below: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        put(batch, SendNumber(settled_below), &mut bytes);
        fill(&mut bytes, DigestSum::from_bytes([7; 32]), 11, 12);
        bytes
    }

    fn batch(first_number: u64, runs: &[(u64, u64)]) -> Batch {
        let run = |&(first, pages): &(u64, u64)| PageRun::new(Gfn(first), pages).unwrap();
        Batch::new(SendNumber(first_number), runs.iter().map(run).collect()).unwrap()
    }

    proptest! {
        #[test]
        fn a_head_survives_its_bytes(
            first in 1..u64::MAX / 2,
            runs in prop::collection::vec((0..1_u64 << 51, 0..52_u32, 1..5_u64), 1..200),
        ) {
            let runs: Vec<_> =
                runs.iter().map(|(first, shift, pages)| (first >> shift, *pages)).collect();
            let batch = batch(first, &runs);
            let bytes = head_bytes(&batch, first - 1);
            prop_assert!(bytes.len() <= FIXED_BYTES + runs.len() * RUN_BYTES_MAX);
            let head = Head::parse(&bytes).unwrap();
            prop_assert_eq!(head.batch(), &batch);
            prop_assert_eq!(head.settled_below(), SendNumber(first - 1));
            prop_assert_eq!(head.sum(), DigestSum::from_bytes([7; 32]));
            prop_assert_eq!((head.delta_bytes, head.zstd_bytes), (11, 12));
            for length in 0..bytes.len() {
                prop_assert_eq!(Head::parse(&bytes[..length]), Err(DecodeError::Truncated));
            }
        }

        #[test]
        fn any_bytes_are_a_head_or_an_error(
            mut bytes in prop::collection::vec(any::<u8>(), FIXED_BYTES..200), runs in 0..6_u16,
        ) {
            bytes[RUNS].copy_from_slice(&runs.to_le_bytes());
            if let Ok(head) = Head::parse(&bytes) {
                prop_assert!(head.batch().pages() <= BATCH_PAGES_MAX);
                prop_assert!(head.settled_below() <= head.batch().first_number());
            }
        }
    }

    #[test]
    fn a_head_that_cannot_be_is_refused_by_name() {
        let good = head_bytes(&batch(9, &[(5, 2), (3, 1)]), 9);
        assert!(Head::parse(&good).is_ok());
        let check = |range: Range<usize>, bytes: &[u8], expected: DecodeError| {
            let mut bad = good.clone();
            bad[range].copy_from_slice(bytes);
            assert_eq!(Head::parse(&bad), Err(expected));
        };
        let numbers = BatchError::Numbers { first_number: SendNumber(u64::MAX), pages: 3 };
        check(FIRST_NUMBER, &[0xff; 8], numbers.into());
        let (first, below) = (SendNumber(9), SendNumber(10));
        check(SETTLED_BELOW, &10_u64.to_le_bytes(), DecodeError::SettledBelow { first, below });
        check(RUNS, &[0, 0], BatchError::Empty.into());
        check(RUNS, &[1, 4], BatchError::TooLarge.into());
        check(RUNS, &[3, 0], DecodeError::Truncated);
        check(PAGES, &[4, 0], DecodeError::Pages { announced: 4, found: 3 });
        // The first run begins at -6, then one has no end.
        let first = Gfn(6_u64.wrapping_neg());
        check(60..61, &[11], RunError::Overflow { first, pages: 2 }.into());
        let mut endless = good[..FIXED_BYTES].to_vec();
        endless.push(2);
        varint::put(u64::MAX, &mut endless);
        let error = RunError::Overflow { first: Gfn(1), pages: u64::MAX };
        assert_eq!(Head::parse(&endless), Err(error.into()));
    }

    #[test]
    fn scattered_pages_of_one_region_take_two_or_three_bytes_each() {
        // Fixed fields would take ten: with deltas of 100 bytes a page, that is a tenth of all.
        let runs: Vec<_> = (0..1000).map(|index| (0x10_0000 + index * 37, 1)).collect();
        let bytes = head_bytes(&batch(1, &runs), 1).len() - FIXED_BYTES;
        assert!(bytes < 2 * 1000 + 10, "{bytes}");
    }
}
