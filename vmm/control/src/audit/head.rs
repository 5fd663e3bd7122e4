//! The file that knows how far the log goes.

use serde::{Deserialize, Serialize};

use super::hash::RecordHash;

/// The last record that was acknowledged. Of a log without any: number 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Head {
    pub(super) seq: u64,
    pub(super) hash: RecordHash,
}

impl Head {
    pub(super) const EMPTY: Self = Self { seq: 0, hash: RecordHash::NONE };

    /// Longest file.
    pub(super) const MOST: u64 = 256;

    /// One line.
    pub(super) fn encode(self) -> serde_json::Result<Vec<u8>> {
        let mut bytes = serde_json::to_vec(&self)?;
        bytes.push(b'\n');
        Ok(bytes)
    }

    /// None for whatever is not the bytes of a head, to the last one.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let head: Self = serde_json::from_slice(bytes).ok()?;
        let is_sound = head.seq > 0 || head == Self::EMPTY;
        (is_sound && head.encode().ok()? == bytes).then_some(head)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_as_it_was_written_and_in_no_other_form() {
        for head in [Head::EMPTY, Head { seq: 17, hash: RecordHash::of(b"17") }] {
            let bytes = head.encode().unwrap();
            assert!(bytes.len() as u64 <= Head::MOST);
            assert_eq!(Head::decode(&bytes), Some(head));
            for end in 0..bytes.len() {
                assert_eq!(Head::decode(&bytes[..end]), None);
            }
            assert_eq!(Head::decode(&[&bytes[..], b"\n"].concat()), None);
        }
        let strange = Head { seq: 0, hash: RecordHash::of(b"17") };
        assert_eq!(Head::decode(&strange.encode().unwrap()), None);
    }
}
