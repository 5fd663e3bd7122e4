//! Figures as people read them, and texts that fit.

use control::api::{HealthState, Operation, OperationProgress, Timestamp};
use ratatui::text::Span;

/// Characters of a text that are looked at: an event may be a megabyte.
const LONGEST: usize = 2000;
/// Characters of an operation's bar.
const BAR: usize = 20;

/// Bytes in the unit that says most.
pub(super) fn bytes(bytes: f64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut value, mut unit) = (bytes.max(0.0), 0);
    // What would be rounded to the next unit is said in it.
    while value >= 1023.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit > 0 && value < 9.95 {
        format!("{value:.1} {}", UNITS[unit])
    } else {
        format!("{value:.0} {}", UNITS[unit])
    }
}

/// The same of what the API says in whole bytes.
pub(crate) fn whole_bytes(count: u64) -> String {
    #[allow(clippy::cast_precision_loss, reason = "three digits of it are shown")]
    bytes(count as f64)
}

/// Hundredths of one processor.
pub(super) fn percent(processors: f64) -> String {
    format!("{:.0} %", processors * 100.0)
}

/// Hours, minutes and seconds, in UTC.
pub(super) fn time_of_day(at: Timestamp) -> String {
    let text = at.to_string();
    text.split_once('T').map_or_else(String::new, |(_, time)| time.chars().take(8).collect())
}

/// The API's word.
pub(super) fn health(state: HealthState) -> &'static str {
    match state {
        HealthState::Ready => "ready",
        HealthState::Degraded => "degraded",
        HealthState::Live => "live",
    }
}

/// How far an operation is, where it says so.
pub(super) fn progress(operation: &Operation) -> Option<String> {
    let OperationProgress { rounds, pages_done, pages_owed, .. } = *operation.progress.as_ref()?;
    let all = u128::from(pages_done) + u128::from(pages_owed);
    let full = (u128::from(pages_done) * BAR as u128).checked_div(all).unwrap_or(0);
    let bar: String = (0..BAR as u128).map(|at| if at < full { '=' } else { ' ' }).collect();
    let mebibytes = |pages: u64| pages >> 8;
    let done = mebibytes(pages_done);
    let round = if rounds == 0 { String::new() } else { format!("round {rounds}, ") };
    Some(format!("[{bar}] {round}{done} MiB done, {} MiB left", mebibytes(pages_owed)))
}

/// The text on one line of so many columns, its end cut if need be; nothing in it moves a cursor.
pub(super) fn fit(text: &str, columns: usize) -> String {
    let plain: String =
        text.chars().take(LONGEST).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if Span::raw(plain.as_str()).width() <= columns {
        return plain;
    }
    // One column is for the sign that something is missing.
    let mut left = columns.saturating_sub(1);
    let fits = |c: &char| {
        let width = Span::raw(c.encode_utf8(&mut [0; 4]) as &str).width();
        let is_there = width <= left;
        left = left.saturating_sub(width);
        is_there
    };
    let mut cut: String = plain.chars().take_while(fits).collect();
    if columns > 0 {
        cut.push('…');
    }
    cut
}

/// The text on at most so many lines, each of so many columns, broken between words.
pub(super) fn wrap(text: &str, columns: usize, most: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        let longer = lines.last().map(|line| format!("{line} {word}"));
        match longer.filter(|longer| Span::raw(longer.as_str()).width() <= columns) {
            Some(longer) => *lines.last_mut().expect("it was the last one") = longer,
            // What has no more lines is cut at the end of the last one.
            None if lines.len() == most => {
                if let Some(last) = lines.last_mut() {
                    *last = format!("{last} {word}");
                }
                break;
            }
            None => lines.push(word.to_owned()),
        }
    }
    lines.iter().map(|line| fit(line, columns)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_said_in_the_unit_that_says_most() {
        for (count, words) in [
            (0.0, "0 B"),
            (1023.0, "1023 B"),
            (1024.0, "1.0 KiB"),
            (1_048_575.0, "1.0 MiB"),
            (34.4 * 1_048_576.0, "34 MiB"),
            (9.96 * 1_073_741_824.0, "10 GiB"),
            (4096.0 * 1_099_511_627_776.0, "4096 TiB"),
        ] {
            assert_eq!(bytes(count), words);
        }
        assert_eq!(percent(1.984), "198 %");
    }

    #[test]
    fn a_text_that_is_cut_says_so_and_has_nothing_in_it_that_moves_a_cursor() {
        for (text, columns, fits) in [
            ("as it is", 8, "as it is"),
            ("one too many", 11, "one too ma…"),
            ("\u{1b}[31mred\nline\t", 20, " [31mred line "),
            ("日本語", 6, "日本語"),
            ("日本語", 5, "日本…"),
            ("日本語", 4, "日…"),
            ("a", 0, ""),
            ("ab", 1, "…"),
        ] {
            assert_eq!(fit(text, columns), fits, "{text:?} in {columns}");
        }
        assert!(fit(&"x\u{301}".repeat(1_000_000), 5).chars().count() < 20);
    }

    #[test]
    fn a_long_text_is_broken_between_words_and_ends_where_there_is_no_more_room() {
        let text = "no daemon answers on /run/novacron/control.sock; start one";
        for (columns, most, lines) in [
            (80, 3, &[text][..]),
            (24, 9, &["no daemon answers on", "/run/novacron/control.s…", "start one"]),
            (20, 1, &["no daemon answers o…"]),
            (20, 0, &[]),
        ] {
            assert_eq!(wrap(text, columns, most), lines, "{columns} {most}");
        }
    }
}
