//! What protects the blocks of a file: encryption, or a check.

use std::fmt;

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, Tag, UnboundKey};

use super::ArchiveKey;

/// Bytes of a tag.
pub(super) const TAG_BYTES: usize = 16;

const FILE_KEY_CONTEXT: &str = "NovaCron archive v1 file key";
const KEY_CHECK_INPUT: &[u8] = b"key check";

/// What stands in front of a payload, and is bound to it.
pub(super) type BlockHead = [u8; 16];

/// The key of one file.
pub(super) enum Seal {
    /// Tags find damage.
    Checked { file_key: [u8; 32] },
    /// Payloads are encrypted.
    Sealed { key: Box<LessSafeKey>, key_check: [u8; 16] },
}

impl Seal {
    /// The seal of the file whose header has these bytes.
    pub(super) fn new(key: Option<&ArchiveKey>, bound: &[u8]) -> Self {
        let mut input = key.map_or([0; 32], |key| *key.secret_bytes()).to_vec();
        input.extend_from_slice(bound);
        let file_key = blake3::derive_key(FILE_KEY_CONTEXT, &input);
        if key.is_none() {
            return Self::Checked { file_key };
        }
        let hash = blake3::keyed_hash(&file_key, KEY_CHECK_INPUT);
        let key_check = *hash.as_bytes().first_chunk().expect("16 of 32 bytes");
        let key = UnboundKey::new(&AES_256_GCM, &file_key).expect("a key of 32 bytes");
        Self::Sealed { key: Box::new(LessSafeKey::new(key)), key_check }
    }

    /// Tells a wrong key from damage; zeros where no key is needed.
    pub(super) fn key_check(&self) -> [u8; 16] {
        match self {
            Self::Checked { .. } => [0; 16],
            Self::Sealed { key_check, .. } => *key_check,
        }
    }

    /// Protects the payload in place; returns its tag.
    pub(super) fn protect(
        &self,
        number: u64,
        head: &BlockHead,
        payload: &mut [u8],
    ) -> [u8; TAG_BYTES] {
        match self {
            Self::Checked { file_key } => check(file_key, head, payload),
            Self::Sealed { key, .. } => key
                .seal_in_place_separate_tag(nonce(number), Aad::from(head), payload)
                .expect("a payload of less than 64 GiB")
                .as_ref()
                .try_into()
                .expect("tags of AES-GCM have 16 bytes"),
        }
    }

    /// Opens a payload in place. False if it is not what was protected; its bytes are of no use then.
    pub(super) fn open(
        &self,
        number: u64,
        head: &BlockHead,
        payload: &mut [u8],
        tag: [u8; TAG_BYTES],
    ) -> bool {
        match self {
            // In whatever time: there is no secret in this key.
            Self::Checked { file_key } => check(file_key, head, payload) == tag,
            Self::Sealed { key, .. } => {
                let (aad, tag) = (Aad::from(head), Tag::from(tag));
                key.open_in_place_separate_tag(nonce(number), aad, tag, payload, 0..).is_ok()
            }
        }
    }
}

/// A number is used once in a file, and a key in one file.
fn nonce(number: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}

fn check(file_key: &[u8; 32], head: &BlockHead, payload: &[u8]) -> [u8; TAG_BYTES] {
    let hash = blake3::Hasher::new_keyed(file_key).update(head).update(payload).finalize();
    *hash.as_bytes().first_chunk().expect("16 of 32 bytes")
}

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if matches!(self, Self::Sealed { .. }) { "Sealed" } else { "Checked" })
    }
}
