//! [`DigestSum`]: a sum of page digests modulo 2^256.

use std::fmt;
use std::iter::Sum;
use std::ops::{AddAssign, SubAssign};

use super::PageDigest;

/// Words of a sum, the lowest first.
const WORDS: usize = 4;

/// A sum of page digests modulo 2^256.
///
/// Its order does not matter and any part can be taken out again, so that it follows memory without
/// a pass over memory. As each digest covers its page's address, swapped pages change the sum.
///
/// It withstands errors and chance, and anybody who does not know the key. Whoever knows the key
/// could look for other pages with the same sum (a generalised birthday search makes that cheaper
/// than for a hash); only the two hosts that hold the guest's memory anyway know it.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct DigestSum([u64; WORDS]);

impl DigestSum {
    /// The sum of no digests, and of a memory of zeros.
    pub const ZERO: Self = Self([0; WORDS]);

    /// The sum as 32 bytes, little-endian.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 32] {
        let mut bytes = [0; 32];
        for (into, word) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(self.0) {
            *into = word.to_le_bytes();
        }
        bytes
    }

    /// The sum of 32 bytes, little-endian; every value is one.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        let mut words = [0; WORDS];
        for (word, from) in words.iter_mut().zip(bytes.as_chunks::<8>().0) {
            *word = u64::from_le_bytes(*from);
        }
        Self(words)
    }
}

impl AddAssign for DigestSum {
    fn add_assign(&mut self, other: Self) {
        let mut carry = false;
        for (word, other) in self.0.iter_mut().zip(other.0) {
            (*word, carry) = word.carrying_add(other, carry);
        }
    }
}

impl SubAssign for DigestSum {
    fn sub_assign(&mut self, other: Self) {
        let mut borrow = false;
        for (word, other) in self.0.iter_mut().zip(other.0) {
            (*word, borrow) = word.borrowing_sub(other, borrow);
        }
    }
}

impl AddAssign<PageDigest> for DigestSum {
    fn add_assign(&mut self, digest: PageDigest) {
        *self += Self::from_bytes(digest.0);
    }
}

impl SubAssign<PageDigest> for DigestSum {
    fn sub_assign(&mut self, digest: PageDigest) {
        *self -= Self::from_bytes(digest.0);
    }
}

impl<'a> Sum<&'a PageDigest> for DigestSum {
    fn sum<I: Iterator<Item = &'a PageDigest>>(digests: I) -> Self {
        digests.fold(Self::ZERO, |mut sum, digest| {
            sum += *digest;
            sum
        })
    }
}

impl fmt::Debug for DigestSum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d] = self.0;
        write!(f, "DigestSum({d:016x}{c:016x}{b:016x}{a:016x})")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sum(bytes: [u8; 32]) -> DigestSum {
        DigestSum::from_bytes(bytes)
    }

    #[test]
    fn carries_and_borrows_run_through_all_words_and_wrap() {
        let mut one = [0; 32];
        one[0] = 1;
        let mut all = sum([0xff; 32]);
        all += sum(one);
        assert_eq!(all, DigestSum::ZERO);
        all -= sum(one);
        assert_eq!(all, sum([0xff; 32]));

        let mut low = [0; 32];
        low[..8].fill(0xff);
        let mut carried = sum(low);
        carried += sum(one);
        let mut expected = [0; 32];
        expected[8] = 1;
        assert_eq!(carried.to_bytes(), expected);
    }

    proptest! {
        #[test]
        fn a_sum_does_not_depend_on_order_and_gives_back_its_parts(
            a in any::<[u8; 32]>(), b in any::<[u8; 32]>(), c in any::<[u8; 32]>(),
        ) {
            let digests = [PageDigest(a), PageDigest(b), PageDigest(c)];
            let mut there: DigestSum = digests.iter().sum();
            let back: DigestSum = digests.iter().rev().sum();
            prop_assert_eq!(there, back);
            there -= PageDigest(b);
            there -= PageDigest(a);
            prop_assert_eq!(there.to_bytes(), c);
        }
    }
}
