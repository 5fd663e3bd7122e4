//! The pages that are encoded.

use std::collections::BTreeSet;
use std::path::Path;

use benches::Stop;
use dwcp::digest::is_zero;
use dwcp::page::{PAGE_BYTES, Page};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

/// A word is written into a page that was rewritten with another's content, so that it is nowhere else.
const MARK: usize = 64;

/// The whole pages of a file, at most so many MiB of it.
pub(crate) fn read(path: &Path, mib: usize) -> Result<Vec<Page>, Stop> {
    let context = path.display().to_string();
    let mut bytes = std::fs::read(path).map_err(Stop::failed(&context))?;
    bytes.truncate(mib << 20);
    match bytes.as_chunks::<PAGE_BYTES>().0 {
        [] => Err(Stop::Failed(format!("{context} holds no whole page"))),
        pages => Ok(pages.to_vec()),
    }
}

/// splitmix64 (Steele, Lea, Flood 2014): which numbers does not matter, that they are the same ones in
/// each run does.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let bits = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        let bound = bound as u64;
        usize::try_from(self.next() % bound).unwrap_or(0)
    }
}

/// Pages that no codec shrinks.
pub(crate) fn noise(pages: usize) -> Vec<Page> {
    let mut random = Random(0);
    let mut content = vec![[0; PAGE_BYTES]; pages];
    for word in content.as_flattened_mut().as_chunks_mut::<8>().0 {
        *word = random.next().to_le_bytes();
    }
    content
}

/// The same memory in a guest whose memory is encrypted: a page that is not zero is noise, one that is
/// zero still is.
pub(crate) fn encrypted(content: &[Page]) -> Result<Vec<Page>, Stop> {
    let key = aes_key()?;
    let mut encrypted = content.to_vec();
    for (number, page) in (0_u64..).zip(&mut encrypted).filter(|(_, page)| !is_zero(&page[..])) {
        seal(&key, number, page)?;
    }
    Ok(encrypted)
}

/// The key of whatever is encrypted here.
pub(crate) fn aes_key() -> Result<LessSafeKey, Stop> {
    let key = UnboundKey::new(&AES_256_GCM, &[7; 32]);
    key.map(LessSafeKey::new).map_err(Stop::failed("AES"))
}

/// Encrypts in place.
pub(crate) fn seal(key: &LessSafeKey, number: u64, bytes: &mut [u8]) -> Result<(), Stop> {
    let mut nonce = [0; 12];
    nonce[..8].copy_from_slice(&number.to_le_bytes());
    let nonce = Nonce::assume_unique_for_key(nonce);
    key.seal_in_place_separate_tag(nonce, Aad::empty(), bytes)
        .map(drop)
        .map_err(Stop::failed("AES"))
}

/// Memory after a part of its pages that are not zero, in per cent, was rewritten: each with what
/// another one held, and a mark of its own in it.
pub(crate) fn rewritten(content: &[Page], per_cent: usize, seed: u64) -> Vec<Page> {
    let mut random = Random(seed);
    let used: Vec<_> = (0..content.len()).filter(|index| !is_zero(&content[*index][..])).collect();
    let mut chosen = BTreeSet::new();
    while chosen.len() < used.len() * per_cent / 100 {
        chosen.insert(used[random.below(used.len())]);
    }
    let mut after = content.to_vec();
    for index in chosen {
        let page = &mut after[index];
        *page = content[used[random.below(used.len())]];
        for word in page[..MARK].as_chunks_mut::<8>().0 {
            *word = random.next().to_le_bytes();
        }
    }
    after
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory() -> Vec<Page> {
        let page = |byte| [byte; PAGE_BYTES];
        (0..200).map(|index| page(if index % 2 == 0 { 0 } else { index })).collect()
    }

    #[test]
    fn so_many_pages_are_rewritten_and_no_zero_page_is() {
        let before = memory();
        let after = rewritten(&before, 25, 1);
        let differ = (0..200).filter(|index| before[*index] != after[*index]);
        let differ: Vec<_> = differ.collect();
        assert_eq!(differ.len(), 25);
        assert!(differ.iter().all(|index| index % 2 == 1));
        assert_eq!(rewritten(&before, 25, 1), after);
        assert_ne!(rewritten(&before, 25, 2), after);
    }

    #[test]
    fn encryption_leaves_zero_pages() {
        let before = memory();
        let after = encrypted(&before).unwrap();
        for (before, after) in before.iter().zip(&after) {
            assert_eq!(is_zero(before), is_zero(after));
            assert!(is_zero(before) || before != after);
        }
    }
}
