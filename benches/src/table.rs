//! Text tables, and figures against their targets.

use std::fmt;

use serde::Serialize;

use crate::statistics::ratio;

/// A table: the first column to the left, the others to the right.
#[derive(Debug)]
pub struct Table(Vec<Vec<String>>);

impl Table {
    /// A table with these headings.
    #[must_use]
    pub fn new(headings: &[&str]) -> Self {
        Self(vec![headings.iter().map(|&heading| heading.to_owned()).collect()])
    }

    /// Adds a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.0.push(cells.into_iter().collect());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.0.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.0.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<_> = (0..columns).map(width).collect();
        for row in &self.0 {
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                match column {
                    0 => write!(f, "  {cell:<width$}")?,
                    _ => write!(f, "  {cell:>width$}")?,
                }
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

/// Nanoseconds as milliseconds with three decimals: whole microseconds.
#[must_use]
pub fn milliseconds(ns: u64) -> String {
    format!("{:.3}", ratio(ns, 1_000_000))
}

/// A figure beside its target.
#[derive(Clone, Debug, Serialize)]
pub struct Verdict {
    /// What was measured.
    pub what: String,
    /// The figure, with its unit.
    pub found: String,
    /// The most that it may be, with its unit.
    pub target: String,
    /// Whether it is.
    pub is_met: bool,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let outcome = if self.is_met { "met" } else { "MISSED" };
        write!(f, "target {outcome}: {} {} (at most {})", self.what, self.found, self.target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(&["cause", "p50"]);
        table.row(["a".into(), "12.345".into()]);
        assert_eq!(table.to_string(), "  cause     p50\n  a      12.345\n");
    }

    #[test]
    fn nanoseconds_are_printed_as_milliseconds() {
        assert_eq!(milliseconds(1_234_567), "1.235");
    }
}
