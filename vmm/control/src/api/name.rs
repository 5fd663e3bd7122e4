//! The name of a machine, or of another host.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Most characters of a name: as many as of a host's.
const LONGEST: usize = 63;

/// A machine's name: a lower-case letter or digit, then those and `-`, `_`, `.`; at most 63 characters. It is a folder's name,
/// a word in a shell and a part of a URL, without being quoted in any of them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, pattern = "^[a-z0-9][a-z0-9._-]{0,62}$", examples("web-1"))]
pub struct MachineName(String);

/// Why a text is no name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no name: take lower-case letters, digits, `-`, `_` and `.`, a letter or digit first, at most {LONGEST}"
)]
pub struct NameError(String);

impl MachineName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for MachineName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let is_plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
        let is_first = text.bytes().next().is_some_and(is_plain);
        let are_others = text.bytes().all(|c| is_plain(c) || matches!(c, b'-' | b'_' | b'.'));
        if is_first && are_others && text.len() <= LONGEST {
            return Ok(Self(text.to_owned()));
        }
        // What somebody sent is not echoed without end.
        Err(NameError(text.chars().take(LONGEST + 1).collect()))
    }
}

impl TryFrom<String> for MachineName {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<MachineName> for String {
    fn from(name: MachineName) -> Self {
        name.0
    }
}

impl fmt::Display for MachineName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_word_and_no_path() {
        let longest = "a".repeat(LONGEST);
        for name in ["a", "0", "web-1", "db.example_2", &longest] {
            assert_eq!(name.parse::<MachineName>().unwrap().as_str(), name);
        }
        let too_long = "a".repeat(LONGEST + 1);
        for name in
            ["", ".", "..", ".a", "-a", "_a", "A", "a/b", "a b", "a\0", "ä", "a\n", &too_long]
        {
            let error = name.parse::<MachineName>().unwrap_err().to_string();
            assert!(error.contains("is no name") && error.len() < 300, "{error}");
        }
    }
}
