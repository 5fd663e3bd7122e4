//! A pseudo-random order of `0..size` that is computed, not stored, in both directions.

use super::mix;

/// A bijection of `0..size`: an alternating Feistel network over the next power of two, walked on
/// until it lands inside (Black, Rogaway: Ciphers with Arbitrary Finite Domains).
#[derive(Clone, Copy, Debug)]
pub struct Permutation {
    size: u64,
    key: u64,
    /// Width of the lower half.
    low_bits: u32,
    /// Width of the upper half.
    high_bits: u32,
}

const ROUNDS: u64 = 6;

impl Permutation {
    /// The permutation number `key` of `0..size`. `size` is below 2^32.
    #[must_use]
    pub const fn new(size: u64, key: u64) -> Self {
        assert!(size > 0 && size < 1 << 32);
        // Two bits at least, so that both halves have one.
        let bits = 64 - ((size - 1) | 2).leading_zeros();
        let low_bits = bits / 2;
        Self { size, key, low_bits, high_bits: bits - low_bits }
    }

    /// Which element stands at `position`.
    #[must_use]
    pub fn element(&self, position: u64) -> u64 {
        self.walk(position, Self::encrypt)
    }

    /// At which position `element` stands.
    #[must_use]
    pub fn position(&self, element: u64) -> u64 {
        self.walk(element, Self::decrypt)
    }

    fn walk(&self, start: u64, step: impl Fn(&Self, u64) -> u64) -> u64 {
        debug_assert!(start < self.size);
        // Ends: the cycle that `start` is on returns to `start`, which is inside.
        let mut value = step(self, start);
        while value >= self.size {
            value = step(self, value);
        }
        value
    }

    fn encrypt(&self, value: u64) -> u64 {
        (0..ROUNDS).fold(value, |value, round| self.round(value, round))
    }

    fn decrypt(&self, value: u64) -> u64 {
        (0..ROUNDS).rev().fold(value, |value, round| self.round(value, round))
    }

    /// Changes one half by a function of the other: its own inverse.
    fn round(&self, value: u64, round: u64) -> u64 {
        let low = value & ((1 << self.low_bits) - 1);
        let high = value >> self.low_bits;
        let keyed = |half: u64| mix(self.key ^ (half << 8 | round));
        if round.is_multiple_of(2) {
            value ^ (keyed(low) & ((1 << self.high_bits) - 1)) << self.low_bits
        } else {
            value ^ (keyed(high) & ((1 << self.low_bits) - 1))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_element_stands_at_exactly_one_position(size in 1u64..3000, key: u64) {
            let permutation = Permutation::new(size, key);
            let mut seen = vec![false; super::super::index(size)];
            for position in 0..size {
                let element = permutation.element(position);
                prop_assert!(!core::mem::replace(&mut seen[super::super::index(element)], true));
                prop_assert_eq!(permutation.position(element), position);
            }
        }

        #[test]
        fn positions_of_large_sets_invert(size in 1u64 << 20..1 << 32, key: u64, at: u64) {
            let permutation = Permutation::new(size, key);
            let position = at % size;
            let element = permutation.element(position);
            prop_assert!(element < size);
            prop_assert_eq!(permutation.position(element), position);
        }
    }

    #[test]
    fn another_key_is_another_order() {
        let order = |key| (0..64).map(|i| Permutation::new(64, key).element(i)).collect::<Vec<_>>();
        assert_ne!(order(1), order(2));
        assert_ne!(order(1), (0..64).collect::<Vec<_>>(), "and not the sequential one");
    }
}
