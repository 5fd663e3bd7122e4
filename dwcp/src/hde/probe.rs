//! Two cheap looks at a page, before anything expensive is tried.

use crate::page::{PAGE_BYTES, Page};

/// Bytes that are sampled of a page, in groups spread over all of it.
const SAMPLE: usize = 256;
const GROUP: usize = 8;
const STRIDE: usize = PAGE_BYTES / (SAMPLE / GROUP);

/// The sum of the squared counts of byte values up to which a page counts as incompressible. Of 256
/// random bytes it is 511 on average, with a standard deviation of 23; of a text it is above 3,000.
const SQUARES_MAX: u32 = 600;

/// Whether the page looks like random bytes: encrypted or already compressed. Such a page goes raw
/// without being tried.
///
/// Wrong either way it costs a few bytes or some time. What it does not see is order: that a random
/// page occurs twice in a batch, or that a page holds each value equally often, but one after another.
pub(super) fn is_incompressible(page: &Page) -> bool {
    let mut counts = [0_u8; 256];
    let (strides, _) = page.as_chunks::<STRIDE>();
    for stride in strides {
        for byte in &stride[..GROUP] {
            // A count of 256 would wrap to 0: that page is of one byte, and not random.
            counts[usize::from(*byte)] = counts[usize::from(*byte)].saturating_add(1);
        }
    }
    let squares = counts.iter().map(|count| u32::from(*count) * u32::from(*count)).sum::<u32>();
    squares <= SQUARES_MAX
}

/// Bytes that are compared as one.
const WORD: usize = 8;

/// Words that may differ for a delta to be worth it: half of the page. What differs is about as
/// compressible as the page itself, and the rest is zeros.
const DIFFERENT_MAX: usize = PAGE_BYTES / WORD / 2;

/// Whether so few words of the page differ from its base that their difference is worth sending.
pub(super) fn is_close(page: &Page, base: &Page) -> bool {
    let (words, _) = page.as_chunks::<WORD>();
    let (base, _) = base.as_chunks::<WORD>();
    words.iter().zip(base).filter(|(word, base)| word != base).count() <= DIFFERENT_MAX
}

/// Turns a page into its difference from another, or back.
pub(super) fn xor(page: &mut Page, other: &Page) {
    for (byte, other) in page.iter_mut().zip(other) {
        *byte ^= other;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that look random, of a keystream.
    fn random(seed: u8) -> Page {
        let mut page = [0; PAGE_BYTES];
        blake3::Hasher::new_keyed(&[seed; 32]).finalize_xof().fill(&mut page);
        page
    }

    #[test]
    fn random_pages_are_seen_as_such() {
        let seen = (0..=255).filter(|seed| is_incompressible(&random(*seed))).count();
        assert!(seen >= 254, "{seen} of 256");
    }

    #[test]
    fn what_zstd_would_shrink_is_not_taken_for_random() {
        let text = include_bytes!("../../SPEC.md");
        assert!(text.as_chunks::<PAGE_BYTES>().0.iter().all(|page| !is_incompressible(page)));
        assert!(!is_incompressible(&[0; PAGE_BYTES]) && !is_incompressible(&[0xcc; PAGE_BYTES]));
        // Random, but of seven bits or half empty.
        let mut narrow = random(1);
        narrow.iter_mut().for_each(|byte| *byte &= 0x7f);
        let mut half = random(2);
        half[PAGE_BYTES / 2..].fill(0);
        assert!(!is_incompressible(&narrow) && !is_incompressible(&half));
    }

    #[test]
    fn a_page_is_close_to_its_base_while_half_of_its_words_are_the_same() {
        let base = random(3);
        let mut page = base;
        for word in 0..PAGE_BYTES / WORD {
            assert_eq!(is_close(&page, &base), word <= 256, "{word} words");
            page[word * WORD + word % WORD] ^= 1;
        }
    }

    #[test]
    fn a_difference_gives_the_page_back() {
        let (base, page) = (random(4), random(5));
        let mut difference = page;
        xor(&mut difference, &base);
        assert_ne!(difference, page);
        xor(&mut difference, &base);
        assert_eq!(difference, page);
    }
}
