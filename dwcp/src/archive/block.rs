//! Blocks: how they begin, and what they are.

use super::seal::{BlockHead, Seal, TAG_BYTES};
use crate::wire::limits::PAGES_MAX;

/// Bytes in front of a payload.
pub(super) const HEAD_BYTES: usize = size_of::<BlockHead>();
/// Bytes around a payload.
pub(super) const AROUND_BYTES: u64 = (HEAD_BYTES + TAG_BYTES) as u64;
/// Bytes of the payload of the last block.
pub(super) const END_BYTES: usize = 96;
/// Most bytes of the index in one block.
pub(super) const INDEX_BYTES_MAX: usize = 1 << 20;

/// What a block holds. The numbers are those of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    Description = 1,
    Pages = 2,
    State = 3,
    Index = 4,
    End = 5,
}

impl Kind {
    /// The longest payload.
    pub(super) fn limit(self) -> usize {
        match self {
            Self::Description => 1 << 20,
            Self::Pages => PAGES_MAX as usize,
            Self::State => 16 << 20,
            Self::Index => INDEX_BYTES_MAX,
            Self::End => END_BYTES,
        }
    }

    /// For messages.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Description => "description",
            Self::Pages => "pages",
            Self::State => "state",
            Self::Index => "index",
            Self::End => "end",
        }
    }
}

/// The head of a block; `None` if a payload of this kind cannot be so long.
pub(super) fn head(kind: Kind, length: usize, number: u64) -> Option<BlockHead> {
    let length = u32::try_from(length).ok().filter(|_| length <= kind.limit())?;
    let mut head = [0; HEAD_BYTES];
    head[..4].copy_from_slice(&length.to_le_bytes());
    head[4] = kind as u8;
    head[8..].copy_from_slice(&number.to_le_bytes());
    Some(head)
}

/// The length that a head gives, if it is one of this kind and number.
pub(super) fn length(found: &BlockHead, kind: Kind, number: u64) -> Option<usize> {
    let [a, b, c, d, ..] = *found;
    let length = usize::try_from(u32::from_le_bytes([a, b, c, d])).ok()?;
    (head(kind, length, number)? == *found).then_some(length)
}

/// Makes a block of what stands in `out` from `start` on: room for the head, and the payload.
/// `None` if it is too long.
pub(super) fn close(
    seal: &Seal,
    kind: Kind,
    number: u64,
    start: usize,
    out: &mut Vec<u8>,
) -> Option<()> {
    let (head_at, payload) = out[start..].split_at_mut(HEAD_BYTES);
    let head = head(kind, payload.len(), number)?;
    head_at.copy_from_slice(&head);
    let tag = seal.protect(number, &head, payload);
    out.extend_from_slice(&tag);
    Some(())
}
