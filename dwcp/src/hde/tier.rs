//! [`Tier`]: how a page travels.

use super::DecodeError;
use super::varint::{self, Reader};

/// How a page travels, the cheapest first. The numbers are those of the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Tier {
    /// All bytes are 0: nothing travels.
    Zero = 0,
    /// The destination has kept the same content at the same address: nothing travels.
    Kept = 1,
    /// The destination has the content from elsewhere: its digest travels.
    Content = 2,
    /// What differs from a page that the destination holds, compressed; with the number of that.
    Delta = 3,
    /// The content, compressed.
    Zstd = 4,
    /// The content.
    Raw = 5,
}

/// Bits of a tier in front of the count of pages that it applies to.
const TIER_BITS: u32 = 3;

impl Tier {
    /// Every tier, by its number.
    pub const ALL: [Self; 6] =
        [Self::Zero, Self::Kept, Self::Content, Self::Delta, Self::Zstd, Self::Raw];
}

/// Which tiers may be used. Those of an ablation row have one switched off; raw is always there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "four switches that do not know each other")]
pub struct Tiers {
    /// Zero pages travel as such.
    pub zero: bool,
    /// Content that the destination is known to have is named.
    pub known: bool,
    /// Pages travel as differences from what the destination holds.
    pub delta: bool,
    /// Pages are compressed. Without it, differences still are: they are mostly zeros.
    pub zstd: bool,
}

impl Tiers {
    /// Every tier.
    pub const ALL: Self = Self { zero: true, known: true, delta: true, zstd: true };
    /// None but raw.
    pub const NONE: Self = Self { zero: false, known: false, delta: false, zstd: false };
}

/// Pages, and the bytes that they took in payloads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// How many pages.
    pub pages: u64,
    /// Bytes of payload that are theirs alone: frames, digests, numbers of bases. Heads are not.
    pub bytes: u64,
}

/// Pages and bytes of each tier, of one batch or of many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TierCounts([Tally; Tier::ALL.len()]);

impl TierCounts {
    /// What travelled by this tier.
    #[must_use]
    pub fn of(&self, tier: Tier) -> Tally {
        self.0[tier as usize]
    }

    /// What travelled by all tiers.
    #[must_use]
    pub fn total(&self) -> Tally {
        let sum = |field: fn(&Tally) -> u64| self.0.iter().map(field).sum();
        Tally { pages: sum(|tally| tally.pages), bytes: sum(|tally| tally.bytes) }
    }

    /// Adds the counts of another batch.
    pub fn add(&mut self, other: &Self) {
        for (into, from) in self.0.iter_mut().zip(&other.0) {
            into.pages += from.pages;
            into.bytes += from.bytes;
        }
    }

    pub(crate) fn add_pages(&mut self, tier: Tier, pages: usize) {
        self.0[tier as usize].pages += pages as u64;
    }

    pub(crate) fn add_bytes(&mut self, tier: Tier, bytes: usize) {
        self.0[tier as usize].bytes += bytes as u64;
    }
}

/// Appends the tier of each page: runs of equal ones, each as a number.
pub(super) fn put(tiers: &[Tier], out: &mut Vec<u8>) {
    for run in tiers.chunk_by(|a, b| a == b) {
        let more = (run.len() - 1) as u64;
        varint::put(more << TIER_BITS | run[0] as u64, out);
    }
}

/// Reads the tiers of exactly `pages` pages into `tiers`.
pub(super) fn take(
    reader: &mut Reader<'_>,
    pages: usize,
    tiers: &mut Vec<Tier>,
) -> Result<(), DecodeError> {
    tiers.clear();
    while tiers.len() < pages {
        let value = reader.varint()?;
        let number = value & ((1 << TIER_BITS) - 1);
        let tier = Tier::ALL.into_iter().find(|tier| *tier as u64 == number);
        let tier = tier.ok_or(DecodeError::Tier(number))?;
        let left = pages - tiers.len();
        let more = usize::try_from(value >> TIER_BITS).unwrap_or(usize::MAX);
        // Two runs of one tier would be another form of one longer run.
        if more >= left || tiers.last() == Some(&tier) {
            return Err(DecodeError::TierRun);
        }
        tiers.resize(tiers.len() + 1 + more, tier);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn tiers_survive_their_bytes(numbers in prop::collection::vec((0..6_usize, 1..40_usize), 1..30)) {
            let tiers: Vec<_> =
                numbers.iter().flat_map(|(tier, count)| vec![Tier::ALL[*tier]; *count]).collect();
            let mut bytes = Vec::new();
            put(&tiers, &mut bytes);
            let mut reader = Reader::new(&bytes);
            let mut read = vec![Tier::Raw; 3];
            prop_assert_eq!(take(&mut reader, tiers.len(), &mut read), Ok(()));
            prop_assert_eq!(&read, &tiers);
            prop_assert!(reader.rest().is_empty());
            // With fewer pages, something is too long or left over.
            let mut reader = Reader::new(&bytes);
            let fewer = take(&mut reader, tiers.len() - 1, &mut read);
            prop_assert!(fewer.is_err() || !reader.rest().is_empty());
            let more = take(&mut Reader::new(&bytes), tiers.len() + 1, &mut read);
            prop_assert_eq!(more, Err(DecodeError::Truncated));
        }
    }

    #[test]
    fn tiers_that_make_no_batch_are_refused() {
        for (bytes, error) in [
            (&[6][..], DecodeError::Tier(6)),
            (&[7], DecodeError::Tier(7)),
            (&[4 << 3], DecodeError::TierRun),
            (&[4, 4], DecodeError::TierRun),
            (&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfd, 1], DecodeError::TierRun),
        ] {
            // Three bits of the last one are tier 5, the rest is more than any batch has.
            let mut bytes = bytes.to_vec();
            if bytes.len() == 10 {
                bytes[0] = 0xfd;
            }
            let found = take(&mut Reader::new(&bytes), 4, &mut Vec::new());
            assert_eq!(found, Err(error), "{bytes:02x?}");
        }
    }

    #[test]
    fn counts_add_up() {
        let mut one = TierCounts::default();
        one.add_pages(Tier::Zstd, 3);
        one.add_bytes(Tier::Zstd, 700);
        one.add_pages(Tier::Zero, 2);
        let mut both = one;
        both.add(&one);
        assert_eq!(both.of(Tier::Zstd), Tally { pages: 6, bytes: 1400 });
        assert_eq!(both.of(Tier::Raw), Tally::default());
        assert_eq!(both.total(), Tally { pages: 10, bytes: 1400 });
    }
}
