//! The table of machines: which columns there is room for, and what stands in them.

use control::api::Timestamp;
use ratatui::style::Style;
use ratatui::text::{Line, Span};

use super::state::Row;
use super::theme::Theme;
use super::words::{bytes, fit, percent, whole_bytes};
use crate::machines::age;

/// Between two columns.
const GAP: usize = 2;
/// The sign of the selected machine, and its gap.
const MARK: usize = 2;
/// A last column that is narrower than this says nothing.
const LEAST_REST: usize = 12;
/// Columns that go for the last one, if there is no room for both.
const LESS_THAN_REST: u8 = 6;
const LEAST_NAME: usize = 8;

struct Column {
    heading: &'static str,
    width: usize,
    is_to_the_right: bool,
    /// Where there is no room for all, the highest goes first.
    goes: u8,
    cell: fn(&Row<'_>, Timestamp) -> String,
}

/// Between the name and what the machine is about. A figure without a source is an empty cell.
const COLUMNS: [Column; 8] = [
    Column {
        heading: "STATE",
        width: 8,
        is_to_the_right: false,
        goes: 0,
        cell: |row, _| row.machine.state.name().to_owned(),
    },
    number("VCPUS", 5, 4, |row, _| row.machine.spec.cpus.to_string()),
    number("CPU", 6, 1, |row, _| row.rates.processors.map_or_else(String::new, percent)),
    number("MEMORY", 8, 2, |row, _| whole_bytes(row.machine.spec.memory_bytes)),
    number("RESIDENT", 8, 3, |row, _| row.counters.resident_bytes.map_or_else(String::new, bytes)),
    number("UP", 7, 5, |row, now| {
        let started_at = row.machine.started_at;
        started_at.map_or_else(String::new, |at| age(at.seconds_until(now)))
    }),
    number("RESTARTS", 8, 7, |row, _| row.machine.restarts.to_string()),
    number("CONSOLE/S", 9, 6, |row, _| row.rates.console_bytes.map_or_else(String::new, bytes)),
];

const fn number(
    heading: &'static str,
    width: usize,
    goes: u8,
    cell: fn(&Row<'_>, Timestamp) -> String,
) -> Column {
    Column { heading, width, is_to_the_right: true, goes, cell }
}

/// The columns that a width has room for.
pub(super) struct Columns {
    name: usize,
    shown: Vec<&'static Column>,
    /// For what the machine is about; 0 if there is no room for it.
    rest: usize,
}

impl Columns {
    /// `longest` is the length of the longest name.
    pub(super) fn fitting(width: usize, longest: usize) -> Self {
        let name = longest.clamp(LEAST_NAME, (width * 2 / 5).max(LEAST_NAME));
        let mut shown: Vec<_> = COLUMNS.iter().collect();
        let taken = |shown: &[&Column]| {
            MARK + name + shown.iter().map(|column| GAP + column.width).sum::<usize>()
        };
        let rest = |shown: &[&Column]| width.saturating_sub(taken(shown) + GAP);
        while let Some(first) = shown.iter().map(|column| column.goes).max() {
            let is_too_much = taken(&shown) > width && first > 0;
            // How a guest ended says more than the figures that go first.
            let is_in_its_way = rest(&shown) < LEAST_REST && first >= LESS_THAN_REST;
            if !is_too_much && !is_in_its_way {
                break;
            }
            shown.retain(|column| column.goes != first);
        }
        let rest = rest(&shown);
        Self { name, shown, rest: if rest >= LEAST_REST { rest } else { 0 } }
    }

    pub(super) fn headings(&self, theme: Theme) -> Line<'static> {
        let cell = |column: &&Column| column.padded(column.heading);
        let cells: String = self.shown.iter().map(cell).collect();
        let rest = if self.rest > 0 { "  WHAT" } else { "" };
        let width = self.name;
        let text = format!("  {:width$}{cells}{rest}", "NAME");
        Line::styled(text, theme.heading())
    }

    /// A machine, as it was at `now`.
    pub(super) fn line(
        &self,
        row: &Row<'_>,
        is_selected: bool,
        now: Timestamp,
        theme: Theme,
    ) -> Line<'static> {
        let mark = if is_selected { "> " } else { "  " };
        let (name, width) = (fit(row.machine.name.as_str(), self.name), self.name);
        let mut spans = vec![Span::raw(format!("{mark}{name:width$}"))];
        for column in &self.shown {
            let is_state = column.goes == 0;
            let style = if is_state { theme.machine(row.machine.state) } else { Style::new() };
            spans.push(Span::styled(column.padded(&(column.cell)(row, now)), style));
        }
        if self.rest > 0 {
            spans.push(Span::raw("  "));
            let is_failure = row.operation.is_none() && has_failed(row);
            let style = if is_failure { theme.alarm() } else { Style::new() };
            spans.push(Span::styled(fit(&what(row), self.rest), style));
        }
        let style = if is_selected { theme.selected() } else { Style::new() };
        Line::from(spans).style(style)
    }
}

impl Column {
    fn padded(&self, text: &str) -> String {
        let (text, width) = (fit(text, self.width), self.width);
        if self.is_to_the_right { format!("  {text:>width$}") } else { format!("  {text:width$}") }
    }
}

/// What is being done with it; else how its guest ended, if it has not been started since.
fn what(row: &Row<'_>) -> String {
    if let Some(operation) = row.operation {
        return operation.method.clone();
    }
    match row.machine.ended.as_ref().filter(|_| row.machine.process_id.is_none()) {
        Some(ended) if ended.failed => format!("failed: {}", ended.how),
        Some(ended) => ended.how.clone(),
        None => String::new(),
    }
}

fn has_failed(row: &Row<'_>) -> bool {
    row.machine.process_id.is_none() && row.machine.ended.as_ref().is_some_and(|end| end.failed)
}
