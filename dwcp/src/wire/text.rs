//! [`Text`]: words for a person, in a frame.

use std::fmt;

/// Bytes that a text may have.
pub const TEXT_MAX: usize = 1024;

/// What a person on the other side may read: at most 1024 bytes, without control characters, so that
/// a peer can neither fill a log nor steer a terminal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Text(Box<str>);

impl Text {
    /// A text of our own: what does not fit is cut off, and a control character becomes a space.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let printable = text.chars().map(|char| if char.is_control() { ' ' } else { char });
        let mut bytes = 0;
        let fits = |char: &char| {
            bytes += char.len_utf8();
            bytes <= TEXT_MAX
        };
        Self(printable.take_while(fits).collect())
    }

    /// A peer's text, if it is one.
    pub(super) fn checked(text: &str) -> Option<Self> {
        let is_text = text.len() <= TEXT_MAX && !text.chars().any(char::is_control);
        is_text.then(|| Self(text.into()))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_text_always_passes_the_check_of_a_peers() {
        for text in ["", "the disk is full", "two\nlines \u{1b}[2J", &"é".repeat(600)] {
            let ours = Text::new(text);
            assert_eq!(Text::checked(ours.as_str()), Some(ours.clone()));
            assert!(ours.as_str().len() <= TEXT_MAX);
        }
        assert_eq!(Text::new("two\nlines").as_str(), "two lines");
        assert_eq!(Text::checked("two\nlines"), None);
        assert_eq!(Text::checked(&"x".repeat(TEXT_MAX + 1)), None);
    }
}
