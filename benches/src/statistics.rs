//! Percentiles. Nothing is interpolated, and nothing is thrown away: each figure was measured.

use serde::Serialize;

/// Measured values in rising order; at least one.
#[derive(Clone, Debug)]
pub struct Samples(Vec<u64>);

/// The figures of a table's row, in the unit of the samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// How many values there are.
    pub count: usize,
    /// The smallest.
    pub min: u64,
    /// The median.
    pub p50: u64,
    /// The 99th percentile: of fewer than 100 values it is the largest.
    pub p99: u64,
    /// The largest.
    pub max: u64,
}

impl Samples {
    /// Sorts the values; `None` when there are none.
    #[must_use]
    pub fn new(mut values: Vec<u64>) -> Option<Self> {
        values.sort_unstable();
        (!values.is_empty()).then_some(Self(values))
    }

    /// The smallest value that at least `percent` of all values do not exceed (nearest rank).
    #[must_use]
    pub fn percentile(&self, percent: usize) -> u64 {
        let rank = (self.0.len() * percent.min(100)).div_ceil(100);
        self.0[rank.saturating_sub(1)]
    }

    /// The value in the middle; of an even number the lower of the two.
    #[must_use]
    pub fn median(&self) -> u64 {
        self.percentile(50)
    }

    /// All figures of a row.
    #[must_use]
    pub fn summary(&self) -> Summary {
        Summary {
            count: self.0.len(),
            min: self.percentile(0),
            p50: self.median(),
            p99: self.percentile(99),
            max: self.percentile(100),
        }
    }
}

/// How many times `of` the value is.
#[must_use]
#[allow(clippy::cast_precision_loss, reason = "measured values are far below 2^52")]
pub fn ratio(value: u64, of: u64) -> f64 {
    value as f64 / of as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(values: &[u64], percent: usize, expected: u64) {
        let found = Samples::new(values.to_vec()).unwrap().percentile(percent);
        assert_eq!(found, expected, "p{percent} of {values:?}");
    }

    #[test]
    fn the_median_of_an_odd_number_is_the_middle_one() {
        check(&[9, 1, 5], 50, 5);
    }

    #[test]
    fn the_median_of_an_even_number_is_the_lower_middle_one() {
        check(&[4, 3, 2, 1], 50, 2);
    }

    #[test]
    fn the_99th_of_a_hundred_leaves_one_out() {
        check(&(1..=100).collect::<Vec<_>>(), 99, 99);
    }

    #[test]
    fn the_99th_of_fifty_is_the_largest() {
        check(&(1..=50).collect::<Vec<_>>(), 99, 50);
    }

    #[test]
    fn the_ends_are_the_smallest_and_the_largest() {
        check(&[7, 3], 0, 3);
        check(&[7, 3], 100, 7);
    }

    #[test]
    fn one_value_is_every_percentile() {
        for percent in [0, 1, 50, 99, 100] {
            check(&[42], percent, 42);
        }
    }

    #[test]
    fn no_values_have_no_percentiles() {
        assert!(Samples::new(Vec::new()).is_none());
    }
}
