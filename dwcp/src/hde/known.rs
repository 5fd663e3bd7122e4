//! What the destination holds: the source's belief ([`Offer`]), and the destination itself ([`Held`]).

use std::fmt;

use crate::digest::ShortDigest;
use crate::ledger::SendNumber;
use crate::page::{Gfn, Page};

/// The key of a session under which public content (a boot image, a base disk) is named. It is
/// drawn for the session: who sees digests of two sessions cannot tell what both had in common.
#[derive(Clone, PartialEq, Eq)]
pub struct ContentKey([u8; 32]);

impl ContentKey {
    /// A key of 32 random bytes that both sides have.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The digest of a page's content, wherever it lies.
    #[must_use]
    pub fn digest(&self, page: &Page) -> ContentDigest {
        let hash = blake3::keyed_hash(&self.0, page);
        let (half, _) = hash.as_bytes().split_first_chunk().expect("16 of 32 bytes");
        ContentDigest(*half)
    }
}

impl fmt::Debug for ContentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ContentKey(secret)")
    }
}

/// The name of a page's content, without its address: the first half of a keyed BLAKE3. Whoever
/// lacks the key cannot make two contents of one name, and the arrival check finds a chance one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContentDigest(pub [u8; 16]);

/// A page as the destination holds it, by its proof of delivery.
#[derive(Clone, Copy, Debug)]
pub struct Base<'a> {
    /// The send that the destination has applied and acknowledged, the page's latest.
    pub number: SendNumber,
    /// What was sent under that number.
    pub content: &'a Page,
}

/// What the source believes that the destination holds. A wrong belief costs a round trip, never a
/// page: the destination asks for the batch in full.
///
/// Each method has an answer that offers nothing; `()` offers nothing at all.
pub trait Offer {
    /// The digest, under the machine's key, of the page in the destination's kept image of this
    /// machine, as far as it was told.
    fn kept(&self, _gfn: Gfn) -> Option<ShortDigest> {
        None
    }

    /// The key of public content, if the destination has any. Only then is a second digest computed.
    fn content_key(&self) -> Option<&ContentKey> {
        None
    }

    /// Whether the destination has this content.
    fn has_content(&self, _digest: &ContentDigest) -> bool {
        false
    }

    /// The page as it was when the destination last acknowledged it. It must be the page's latest
    /// send, and nothing of it in flight: see [`crate::hde::Shadow`].
    fn base(&self, _gfn: Gfn) -> Option<Base<'_>> {
        None
    }
}

impl Offer for () {}

/// What the destination holds. Each method copies a page into `into` and returns true, or returns
/// false, and the batch is asked for in full.
///
/// `()` holds nothing.
pub trait Held {
    /// The page in guest memory, if exactly this send of it was applied last.
    fn copy_base(&self, _gfn: Gfn, _number: SendNumber, _into: &mut Page) -> bool {
        false
    }

    /// The page in the kept image of this machine.
    fn copy_kept(&self, _gfn: Gfn, _into: &mut Page) -> bool {
        false
    }

    /// Public content of this name.
    fn copy_content(&self, _digest: &ContentDigest, _into: &mut Page) -> bool {
        false
    }
}

impl Held for () {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::PAGE_BYTES;

    #[test]
    fn a_name_is_half_a_keyed_hash_and_does_not_show_its_key() {
        let page = [5; PAGE_BYTES];
        let key = ContentKey::new([9; 32]);
        let whole = blake3::keyed_hash(&[9; 32], &page);
        assert_eq!(key.digest(&page).0, whole.as_bytes()[..16]);
        assert_ne!(key.digest(&page), ContentKey::new([8; 32]).digest(&page));
        assert_eq!(format!("{key:?}"), "ContentKey(secret)");
    }

    #[test]
    fn nothing_is_offered_and_nothing_is_held_by_default() {
        let mut page = [5; PAGE_BYTES];
        let digest = ContentDigest([1; 16]);
        assert!(().kept(Gfn(1)).is_none() && ().content_key().is_none());
        assert!(!().has_content(&digest) && ().base(Gfn(1)).is_none());
        assert!(!().copy_base(Gfn(1), SendNumber(1), &mut page));
        assert!(!().copy_kept(Gfn(1), &mut page) && !().copy_content(&digest, &mut page));
        assert_eq!(page, [5; PAGE_BYTES]);
    }
}
