//! How things look where they are printed.

use std::io::{self, IsTerminal};
use std::time::Duration;

/// Colours of a terminal; nothing elsewhere.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Colours {
    on: bool,
}

impl Colours {
    /// Colours if standard output is a terminal and its user has not asked for none
    /// (<https://no-color.org>).
    pub(crate) fn of_stdout() -> Self {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { on: io::stdout().is_terminal() && !refused }
    }

    /// No colours.
    #[cfg(test)]
    pub(crate) fn none() -> Self {
        Self { on: false }
    }

    /// For what came out as it should.
    pub(crate) fn green(self, text: &str) -> String {
        self.paint("32", text)
    }

    /// For what did not.
    pub(crate) fn red(self, text: &str) -> String {
        self.paint("1;31", text)
    }

    /// For what is worth knowing.
    pub(crate) fn yellow(self, text: &str) -> String {
        self.paint("33", text)
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.on { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// A duration for people: `0.4 s`, `12.3 s`, `3 min 05 s`.
pub(crate) fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    if seconds < 60 {
        format!("{:.1} s", time.as_secs_f64())
    } else {
        format!("{} min {:02} s", seconds / 60, seconds % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_well_on_both_sides_of_a_minute() {
        for (milliseconds, text) in
            [(0, "0.0 s"), (12_340, "12.3 s"), (60_000, "1 min 00 s"), (185_900, "3 min 05 s")]
        {
            assert_eq!(duration(Duration::from_millis(milliseconds)), text);
        }
    }

    #[test]
    fn without_a_terminal_text_stays_as_it_is() {
        assert_eq!(Colours { on: false }.red("x"), "x");
        assert_eq!(Colours { on: true }.red("x"), "\x1b[1;31mx\x1b[0m");
    }
}
