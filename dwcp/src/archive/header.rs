//! The header of a file, and the ids and keys in it.

use std::fmt;
use std::ops::Range;

use super::ArchiveError;
use super::seal::Seal;

/// Bytes of a header.
pub(super) const HEADER_BYTES: usize = 80;

const MAGIC: [u8; 8] = *b"NovaArch";
const VERSION: u16 = 1;
const FLAG_SEALED: u16 = 1;

const MAGIC_AT: Range<usize> = 0..8;
const VERSION_AT: Range<usize> = 8..10;
const FLAGS: Range<usize> = 10..12;
const RESERVED: Range<usize> = 12..16;
const ID: Range<usize> = 16..32;
const PARENT: Range<usize> = 32..48;
/// What the file key is derived from.
const BOUND: Range<usize> = 0..48;
const KEY_CHECK: Range<usize> = 48..64;
/// What the header's own check is over.
const CHECKED: Range<usize> = 0..64;
const CHECK: Range<usize> = 64..80;

const _: () = assert!(CHECK.end == HEADER_BYTES);

/// The name of one archive: 16 random bytes, drawn for this file and no other.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ArchiveId([u8; 16]);

impl ArchiveId {
    /// An id; zeros name nothing.
    #[must_use]
    pub fn new(bytes: [u8; 16]) -> Option<Self> {
        (bytes != [0; 16]).then_some(Self(bytes))
    }

    /// Its bytes.
    #[must_use]
    pub fn bytes(self) -> [u8; 16] {
        self.0
    }
}

impl fmt::Display for ArchiveId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ArchiveId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ArchiveId({self})")
    }
}

/// The user's secret, under which archives are encrypted.
#[derive(Clone, PartialEq, Eq)]
pub struct ArchiveKey([u8; 32]);

impl ArchiveKey {
    /// A key of 32 random bytes.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The secret itself, to be passed to another process.
    #[must_use]
    pub fn secret_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for ArchiveKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ArchiveKey(secret)")
    }
}

/// What a file says of itself before any key is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArchiveHeader {
    /// The archive's id.
    pub id: ArchiveId,
    /// The archive on which it builds.
    pub parent: Option<ArchiveId>,
}

impl ArchiveHeader {
    /// Appends the header's bytes; returns what protects the blocks.
    pub(super) fn put(&self, key: Option<&ArchiveKey>, out: &mut Vec<u8>) -> Seal {
        let mut bytes = [0; HEADER_BYTES];
        bytes[MAGIC_AT].copy_from_slice(&MAGIC);
        bytes[VERSION_AT].copy_from_slice(&VERSION.to_le_bytes());
        let flags = if key.is_some() { FLAG_SEALED } else { 0 };
        bytes[FLAGS].copy_from_slice(&flags.to_le_bytes());
        bytes[ID].copy_from_slice(&self.id.0);
        bytes[PARENT].copy_from_slice(&self.parent.map_or([0; 16], ArchiveId::bytes));
        let seal = Seal::new(key, &bytes[BOUND]);
        bytes[KEY_CHECK].copy_from_slice(&seal.key_check());
        let check = check(&bytes);
        bytes[CHECK].copy_from_slice(&check);
        out.extend_from_slice(&bytes);
        seal
    }

    /// Reads a header, and sees whether the key fits.
    pub(super) fn parse<E>(
        bytes: &[u8; HEADER_BYTES],
        key: Option<&ArchiveKey>,
    ) -> Result<(Self, Seal), ArchiveError<E>> {
        if bytes[MAGIC_AT] != MAGIC {
            return Err(ArchiveError::NotAnArchive);
        }
        if bytes[CHECK] != check(bytes) {
            return Err(ArchiveError::Damaged { what: "header" });
        }
        let version = u16::from_le_bytes(array(bytes, VERSION_AT));
        if version != VERSION {
            return Err(ArchiveError::Version { found: version, known: VERSION });
        }
        let flags = u16::from_le_bytes(array(bytes, FLAGS));
        let id = ArchiveId::new(array(bytes, ID));
        let (Some(id), true, true) =
            (id, flags & !FLAG_SEALED == 0, bytes[RESERVED].iter().all(|byte| *byte == 0))
        else {
            return Err(ArchiveError::Damaged { what: "header" });
        };
        match (flags == FLAG_SEALED, key) {
            (true, None) => return Err(ArchiveError::KeyNeeded),
            (false, Some(_)) => return Err(ArchiveError::NotEncrypted),
            _ => {}
        }
        let seal = Seal::new(key, &bytes[BOUND]);
        if bytes[KEY_CHECK] != seal.key_check() {
            return Err(ArchiveError::WrongKey);
        }
        Ok((Self { id, parent: ArchiveId::new(array(bytes, PARENT)) }, seal))
    }
}

fn array<const N: usize>(bytes: &[u8; HEADER_BYTES], range: Range<usize>) -> [u8; N] {
    bytes[range].try_into().expect("a range of the layout")
}

fn check(bytes: &[u8; HEADER_BYTES]) -> [u8; 16] {
    let hash = blake3::hash(&bytes[CHECKED]);
    *hash.as_bytes().first_chunk().expect("16 of 32 bytes")
}
