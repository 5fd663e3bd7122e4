//! From bytes of a text to the lines and columns of people.

use std::ops::Range;
use std::path::PathBuf;

use super::problem::Place;

/// A text that was read from a file.
pub(super) struct Text<'a> {
    pub(super) path: &'a std::path::Path,
    pub(super) text: &'a str,
}

impl Text<'_> {
    /// Where a byte is. One in the middle of a character is where that is.
    pub(super) fn place(&self, byte: usize) -> Place {
        let byte = self.text.floor_char_boundary(byte);
        let before = &self.text[..byte];
        let start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Place::File {
            path: PathBuf::from(self.path),
            line: before.matches('\n').count() + 1,
            column: before[start..].chars().count() + 1,
        }
    }

    /// What stands there, in one line, and no more of it than people read.
    pub(super) fn excerpt(&self, span: Range<usize>) -> String {
        let start = self.text.floor_char_boundary(span.start);
        let end = self.text.floor_char_boundary(span.end).max(start);
        shorten(&self.text[start..end])
    }
}

/// A text in one line, and no more of it than people read.
pub(super) fn shorten(text: &str) -> String {
    const SHOWN: usize = 60;
    let line = one_line(text);
    match line.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

/// A text in one line.
pub(super) fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_the_line_and_column_that_an_editor_shows() {
        let text = Text { path: "f".as_ref(), text: "a\nbé = 1\n\nc" };
        for (byte, line, column) in [
            (0, 1, 1),
            (1, 1, 2),
            (2, 2, 1),
            (4, 2, 2),
            (5, 2, 3),
            (9, 2, 7),
            (10, 3, 1),
            (11, 4, 1),
            (99, 4, 2),
        ] {
            let place = Place::File { path: "f".into(), line, column };
            assert_eq!(text.place(byte), place, "{byte}");
        }
    }

    #[test]
    fn an_excerpt_is_one_short_line() {
        let long = format!("[\n{}", "x".repeat(100));
        let text = Text { path: "f".as_ref(), text: &long };
        assert_eq!(text.excerpt(0..102), format!("[ {}…", "x".repeat(58)));
        assert_eq!(text.excerpt(Range { start: 200, end: 1 }), "");
    }
}
