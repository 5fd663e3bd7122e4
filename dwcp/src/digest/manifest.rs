//! [`Manifest`]: the digest of every page, and their sum.

use super::{DigestSum, PageDigest};
use crate::page::{Gfn, PageRun};

/// A manifest refused digests. It is unchanged then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// A page lies at or above the manifest's limit
    #[error("{gfn} is not below the limit {limit}")]
    BeyondLimit {
        /// A page that the manifest has no place for.
        gfn: Gfn,
        /// The first frame that it has no place for.
        limit: Gfn,
    },
    /// The number of digests is not the number of pages
    #[error("{digests} digests for {pages} pages")]
    Length {
        /// Digests given.
        digests: usize,
        /// Pages of the run.
        pages: u64,
    },
}

/// The digest of every page of a guest, and their sum: at most 8 MiB a GiB.
///
/// A new one stands for memory that is all zeros. The sum follows each replacement by subtracting
/// the old digest and adding the new one, so that a root costs no pass over memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Plain words, since the allocator gives zeros of these without touching them: what no page has
    /// used costs no memory, and neither does the hole below 4 GiB. (Of arrays of more than 16 elements
    /// the standard library does not look whether they are zero.)
    digests: Vec<Words>,
    sum: DigestSum,
}

/// A digest as words.
type Words = [u64; 4];

fn words(digest: PageDigest) -> Words {
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(digest.0.as_chunks().0) {
        *word = u64::from_le_bytes(*bytes);
    }
    words
}

fn digest_of(words: Words) -> PageDigest {
    let mut digest = PageDigest::ZERO;
    for (bytes, word) in digest.0.as_chunks_mut().0.iter_mut().zip(words) {
        *bytes = word.to_le_bytes();
    }
    digest
}

impl Manifest {
    /// The manifest of a memory of zeros with frames below `limit`.
    ///
    /// # Panics
    /// When it does not fit the address space.
    #[must_use]
    pub fn new(limit: Gfn) -> Self {
        let pages = usize::try_from(limit.0).expect("a limit checked before");
        Self { digests: vec![[0; 4]; pages], sum: DigestSum::ZERO }
    }

    /// The first frame that it has no place for.
    #[must_use]
    pub fn limit(&self) -> Gfn {
        Gfn(self.digests.len() as u64)
    }

    /// The sum over all pages.
    #[must_use]
    pub fn sum(&self) -> DigestSum {
        self.sum
    }

    /// The digest of a page; `None` beyond the limit.
    #[must_use]
    pub fn get(&self, gfn: Gfn) -> Option<PageDigest> {
        self.digests.get(usize::try_from(gfn.0).ok()?).copied().map(digest_of)
    }

    /// Puts a page's new digest in place of its old one, which is returned.
    ///
    /// # Errors
    /// When the page is beyond the limit.
    pub fn replace(&mut self, gfn: Gfn, new: PageDigest) -> Result<PageDigest, ManifestError> {
        let limit = self.limit();
        let place = usize::try_from(gfn.0).ok().and_then(|index| self.digests.get_mut(index));
        let Some(place) = place else {
            return Err(ManifestError::BeyondLimit { gfn, limit });
        };
        let old = digest_of(std::mem::replace(place, words(new)));
        self.sum -= old;
        self.sum += new;
        Ok(old)
    }

    /// Puts the new digests of a run in place of the old ones: what [`super::DigestKey::digest_run`]
    /// computed over a copy that was sent, or over one that was written into the guest.
    ///
    /// # Errors
    /// When the run reaches beyond the limit, or is not as long as `new`.
    pub fn replace_run(&mut self, run: PageRun, new: &[PageDigest]) -> Result<(), ManifestError> {
        if new.len() as u64 != run.pages() {
            return Err(ManifestError::Length { digests: new.len(), pages: run.pages() });
        }
        let limit = self.limit();
        let first = usize::try_from(run.first().0).unwrap_or(usize::MAX);
        let places = self.digests.get_mut(first..).and_then(|rest| rest.get_mut(..new.len()));
        let Some(places) = places else {
            let gfn = run.first().max(limit);
            return Err(ManifestError::BeyondLimit { gfn, limit });
        };
        for (place, new) in places.iter_mut().zip(new) {
            self.sum -= digest_of(*place);
            *place = words(*new);
        }
        self.sum += new.iter().sum::<DigestSum>();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMIT: u64 = 40;

    fn digest(seed: u8) -> PageDigest {
        // Seed 0 is the zero page, the others differ in all words.
        PageDigest([seed.wrapping_mul(0x9d); 32])
    }

    proptest! {
        #[test]
        fn the_kept_sum_is_the_sum_of_the_kept_digests(
            changes in prop::collection::vec((0..LIMIT, prop::collection::vec(any::<u8>(), 1..6)), 0..40),
        ) {
            let mut manifest = Manifest::new(Gfn(LIMIT));
            let mut naive = vec![PageDigest::ZERO; LIMIT as usize];
            for (first, seeds) in changes {
                let new: Vec<_> = seeds.into_iter().map(digest).collect();
                let run = PageRun::new(Gfn(first), new.len() as u64).unwrap();
                if run.end().0 > LIMIT {
                    let before = manifest.clone();
                    let error = ManifestError::BeyondLimit { gfn: Gfn(LIMIT), limit: Gfn(LIMIT) };
                    prop_assert_eq!(manifest.replace_run(run, &new), Err(error));
                    prop_assert_eq!(&manifest, &before);
                    continue;
                }
                let place = first as usize;
                if let [new] = new[..] {
                    prop_assert_eq!(manifest.replace(Gfn(first), new), Ok(naive[place]));
                } else {
                    prop_assert_eq!(manifest.replace_run(run, &new), Ok(()));
                }
                naive[place..place + new.len()].copy_from_slice(&new);
            }
            prop_assert_eq!(manifest.sum(), naive.iter().sum::<DigestSum>());
            for (gfn, digest) in (0..).zip(&naive) {
                prop_assert_eq!(manifest.get(Gfn(gfn)), Some(*digest));
            }
        }
    }

    #[test]
    fn a_manifest_has_no_page_beyond_its_limit() {
        let mut manifest = Manifest::new(Gfn(LIMIT));
        assert_eq!(manifest.get(Gfn(LIMIT)), None);
        assert_eq!(manifest.get(Gfn(u64::MAX)), None);
        assert!(manifest.replace(Gfn(LIMIT), digest(1)).is_err());
        assert!(manifest.replace(Gfn(u64::MAX), digest(1)).is_err());
        assert_eq!(manifest.sum(), DigestSum::ZERO);
    }

    #[test]
    fn a_run_needs_one_digest_a_page() {
        let mut manifest = Manifest::new(Gfn(LIMIT));
        let run = PageRun::new(Gfn(0), 2).unwrap();
        let refused = ManifestError::Length { digests: 1, pages: 2 };
        assert_eq!(manifest.replace_run(run, &[digest(1)]), Err(refused));
    }
}
