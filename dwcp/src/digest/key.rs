//! [`DigestKey`] and the digests that it makes.

use std::fmt;

use blake3::hazmat::HasherExt as _;

use super::{DigestSum, is_zero};
use crate::page::{PAGE_BYTES, Page, PageRun};

/// Separates the hash of the machine's state from the hashes of pages under the same key.
const STATE_CONTEXT: &str = "NovaCron DWCP v3 root of the machine state";

/// The digest of one page: its chaining value in the keyed BLAKE3 of guest-physical memory, or 0 for an all-zero
/// page. See `SPEC.md`, 5.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct PageDigest(pub [u8; 32]);

impl PageDigest {
    /// The digest of a page of zeros, at any address and under any key.
    pub const ZERO: Self = Self([0; 32]);

    /// Its beginning.
    #[must_use]
    pub fn short(&self) -> ShortDigest {
        let (short, _) = self.0.split_first_chunk().expect("8 of 32 bytes");
        ShortDigest(*short)
    }
}

/// The first 8 bytes of a page's digest: enough to guess by that a content is the same, which the arrival check then
/// decides. Two contents of one page share them once in 2^64 by chance, and not by intent: the key is secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ShortDigest(pub [u8; 8]);

impl fmt::Debug for PageDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PageDigest({})", blake3::Hash::from_bytes(self.0).to_hex())
    }
}

/// The secret of a virtual machine under which its pages are hashed. It is drawn once, and travels
/// in the machine's state: whoever lacks it learns nothing about pages from their digests.
#[derive(Clone, PartialEq, Eq)]
pub struct DigestKey([u8; 32]);

impl DigestKey {
    /// A key of 32 random bytes, which the caller has drawn or received with the machine's state.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The secret itself, for the machine's state.
    #[must_use]
    pub fn secret_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Computes the digest of each page of a run into `digests` (cleared first; keep the vector, and
    /// nothing is allocated from run to run) and returns their sum: the run's arrival check.
    ///
    /// # Panics
    /// When `content` is not exactly as long as the run.
    #[must_use]
    pub fn digest_run(
        &self,
        run: PageRun,
        content: &[u8],
        digests: &mut Vec<PageDigest>,
    ) -> DigestSum {
        let (pages, rest) = content.as_chunks::<PAGE_BYTES>();
        assert!(
            pages.len() as u64 == run.pages() && rest.is_empty(),
            "{} bytes of content for a run of {} pages",
            content.len(),
            run.pages()
        );
        digests.clear();
        let addresses = (run.address()..).step_by(PAGE_BYTES);
        digests
            .extend(pages.iter().zip(addresses).map(|(page, address)| self.digest(address, page)));
        digests.iter().sum()
    }

    /// The digest of the page at this guest-physical address.
    pub(crate) fn digest(&self, address: u64, page: &Page) -> PageDigest {
        if is_zero(page) {
            return PageDigest::ZERO;
        }
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        // Hashing content and address, as two parts of one input, was measured to take a twelfth longer: the
        // address would be a fifth chunk, and the root a fifth node.
        hasher.set_input_offset(address).update(page);
        PageDigest(hasher.finalize_non_root())
    }

    /// The hash of the machine's state bytes, under a key of its own that is derived from this one.
    pub(super) fn hash_state(&self, state: &[u8]) -> [u8; 32] {
        let key = blake3::derive_key(STATE_CONTEXT, &self.0);
        *blake3::keyed_hash(&key, state).as_bytes()
    }
}

impl fmt::Debug for DigestKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DigestKey(secret)")
    }
}

#[cfg(test)]
mod tests {
    use blake3::hazmat::{Mode, merge_subtrees_non_root};

    use super::*;
    use crate::page::{Gfn, PAGE_SIZE};

    fn digest(key: u8, gfn: u64, page: &[u8]) -> PageDigest {
        let mut digests = Vec::new();
        let run = PageRun::new(Gfn(gfn), 1).unwrap();
        let sum = DigestKey::new([key; 32]).digest_run(run, page, &mut digests);
        assert_eq!(sum.to_bytes(), digests[0].0);
        digests[0]
    }

    #[test]
    fn a_digest_depends_on_key_address_and_every_byte() {
        let mut page = [0xa5; PAGE_BYTES];
        let original = digest(1, 5, &page);
        assert_ne!(original, digest(2, 5, &page));
        assert_ne!(original, digest(1, 6, &page));
        for at in (0..PAGE_BYTES).step_by(61).chain([PAGE_BYTES - 1]) {
            page[at] ^= 1;
            assert_ne!(original, digest(1, 5, &page), "byte {at}");
            page[at] ^= 1;
        }
    }

    #[test]
    fn a_digest_is_the_chaining_value_of_its_four_chunks() {
        // A second implementation of these lines must agree with the first for ever.
        let key = [3; 32];
        let page: Vec<u8> = (0..PAGE_SIZE).map(|byte| (byte % 251) as u8).collect();
        let chunks = page.chunks(1024).zip((0x10_0000 * PAGE_SIZE..).step_by(1024));
        let [a, b, c, d] = chunks
            .map(|(chunk, offset)| {
                let mut hasher = blake3::Hasher::new_keyed(&key);
                hasher.set_input_offset(offset).update(chunk).finalize_non_root()
            })
            .collect::<Vec<_>>()[..]
        else {
            panic!("a page has four chunks");
        };
        let parent = |left, right| merge_subtrees_non_root(left, right, Mode::KeyedHash(&key));
        let expected = parent(&parent(&a, &b), &parent(&c, &d));
        assert_eq!(digest(3, 0x10_0000, &page).0, expected);
        let golden = "2ba404645f7a885f452c7850ec36af353442e1860678529c248e971406232288";
        assert_eq!(blake3::Hash::from_bytes(expected).to_hex().as_str(), golden);
    }

    #[test]
    fn zero_pages_count_as_zero_at_any_address() {
        for gfn in [0, 1, 0x10_0000] {
            assert_eq!(digest(9, gfn, &[0; PAGE_BYTES]), PageDigest::ZERO);
        }
    }

    #[test]
    fn the_sum_of_a_run_is_the_sum_of_its_pages_alone() {
        let content: Vec<u8> = (0..5 * PAGE_BYTES).map(|byte| (byte / 1000) as u8).collect();
        let run = PageRun::new(Gfn(40), 5).unwrap();
        let mut digests = vec![PageDigest([1; 32]); 9];
        let sum = DigestKey::new([4; 32]).digest_run(run, &content, &mut digests);
        let alone: Vec<_> = run
            .frames()
            .zip(content.chunks(PAGE_BYTES))
            .map(|(gfn, page)| digest(4, gfn.0, page))
            .collect();
        assert_eq!(digests, alone);
        assert_eq!(sum, alone.iter().sum());
    }

    #[test]
    fn swapped_pages_change_the_sum() {
        let mut content = vec![1; 2 * PAGE_BYTES];
        content[PAGE_BYTES..].fill(2);
        let run = PageRun::new(Gfn(0), 2).unwrap();
        let (key, mut digests) = (DigestKey::new([4; 32]), Vec::new());
        let sum = key.digest_run(run, &content, &mut digests);
        content.rotate_left(PAGE_BYTES);
        assert_ne!(sum, key.digest_run(run, &content, &mut digests));
    }

    #[test]
    fn a_key_does_not_show_itself() {
        assert_eq!(format!("{:?}", DigestKey::new([0x41; 32])), "DigestKey(secret)");
    }
}
