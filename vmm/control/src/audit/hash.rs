//! What links a record to the one before it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The BLAKE3 hash of a record's bytes, 64 hexadecimal digits in lower case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RecordHash([u8; 32]);

impl RecordHash {
    /// What the first record of all has for the one before it.
    pub(super) const NONE: Self = Self([0; 32]);

    /// Digits.
    pub(super) const DIGITS: usize = 64;

    pub(super) fn of(bytes: &[u8]) -> Self {
        Self(blake3::hash(bytes).into())
    }
}

impl fmt::Display for RecordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl From<RecordHash> for String {
    fn from(hash: RecordHash) -> Self {
        hash.to_string()
    }
}

impl TryFrom<String> for RecordHash {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl std::str::FromStr for RecordHash {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.as_bytes();
        let is_digit = |byte: &u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(byte);
        if digits.len() != Self::DIGITS || !digits.iter().all(is_digit) {
            return Err(format!("no hash: {} hexadecimal digits in lower case", Self::DIGITS));
        }
        let hash = blake3::Hash::from_hex(digits).map_err(|error| error.to_string())?;
        Ok(Self(hash.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_read_as_it_is_shown_and_in_no_other_form() {
        let hash = RecordHash::of(b"abc");
        // The first of BLAKE3's own published value.
        assert!(hash.to_string().starts_with("6437b3ac38465133ffb63b75273a8db5"));
        assert_eq!(hash.to_string().parse(), Ok(hash));
        assert_eq!("0".repeat(64).parse(), Ok(RecordHash::NONE));
        for wrong in ["", "00", &"0".repeat(65), &"A".repeat(64), &"g".repeat(64), &"é".repeat(32)]
        {
            assert!(wrong.parse::<RecordHash>().is_err(), "{wrong}");
        }
    }
}
