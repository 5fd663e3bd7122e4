//! Whether a page is all zeros, at the speed of memory.

/// Bytes that are looked at before the loop may stop: wide enough for the loads of a block to be
/// in flight together, small enough that a page which is not zero costs one block.
const BLOCK: usize = 256;

/// Whether every byte is 0. It stops within 256 bytes of the first that is not.
///
/// The blocks are plain loops over words: the compiler makes wide loads of them on every target,
/// and there is no `unsafe` to justify.
#[must_use]
pub fn is_zero(bytes: &[u8]) -> bool {
    let (blocks, rest) = bytes.as_chunks::<BLOCK>();
    blocks.iter().all(is_zero_block) && rest.iter().all(|byte| *byte == 0)
}

fn is_zero_block(block: &[u8; BLOCK]) -> bool {
    let (words, _) = block.as_chunks::<8>();
    words.iter().fold(0, |bits, word| bits | u64::from_ne_bytes(*word)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_bit_anywhere_makes_a_page_not_zero() {
        let mut page = vec![0; 4096 + 13];
        for length in [0, 1, 7, 8, 255, 256, 257, 4096, 4096 + 13] {
            assert!(is_zero(&page[..length]), "{length}");
        }
        for at in 0..page.len() {
            page[at] = 1 << (at % 8);
            assert!(!is_zero(&page), "byte {at}");
            assert!(is_zero(&page[..at]) && is_zero(&page[at + 1..]), "byte {at}");
            page[at] = 0;
        }
    }
}
