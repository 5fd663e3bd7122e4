//! The index: which block has which page, and the digest of each.

use super::ArchiveError;
use crate::digest::{Manifest, PageDigest};
use crate::hde::varint::{self, Reader};
use crate::page::{Gfn, PageRun};

/// Where a page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place(u32);

/// Where each page of a machine is: plain words, since the allocator gives zeros of these without touching them, and
/// zero is "absent".
#[derive(Debug)]
pub(super) struct Places(Vec<u32>);

impl Places {
    /// All absent.
    ///
    /// # Panics
    /// When there is no address space for so many pages.
    pub(super) fn new(limit: Gfn) -> Self {
        Self(vec![0; usize::try_from(limit.0).expect("a limit checked before")])
    }

    /// Absent, too, beyond the limit.
    pub(super) fn get(&self, gfn: Gfn) -> Place {
        let place = usize::try_from(gfn.0).ok().and_then(|index| self.0.get(index));
        place.map_or(Place::ABSENT, |place| Place(*place))
    }

    /// Returns where it was before.
    ///
    /// # Panics
    /// When the page is beyond the limit.
    pub(super) fn replace(&mut self, gfn: Gfn, place: Place) -> Place {
        let slot = &mut self.0[usize::try_from(gfn.0).expect("below the limit")];
        Place(std::mem::replace(slot, place.0))
    }
}

impl Place {
    /// Not in this archive: as in the parent.
    pub(super) const ABSENT: Self = Self(0);
    /// It is zero.
    pub(super) const ZERO: Self = Self(1);
    const BLOCKS_FROM: u32 = 2;

    /// In this Pages block, counted from 0. `None` beyond 2^32 of them, which are 2 PiB of memory.
    pub(super) fn block(index: usize) -> Option<Self> {
        u32::try_from(index).ok()?.checked_add(Self::BLOCKS_FROM).map(Self)
    }

    /// The Pages block, if it is in one.
    pub(super) fn index(self) -> Option<usize> {
        usize::try_from(self.0.checked_sub(Self::BLOCKS_FROM)?).ok()
    }

    /// As it stands in a file: 0 for zero pages, else the block counted from 1.
    fn number(self) -> u64 {
        u64::from(self.0 - Self::ZERO.0)
    }
}

/// The bytes of an index.
pub(super) fn encode(lengths: &[u32], places: &Places, manifest: &Manifest) -> Vec<u8> {
    let mut out = Vec::new();
    varint::put(lengths.len() as u64, &mut out);
    for length in lengths {
        varint::put(u64::from(*length), &mut out);
    }
    let (mut gfn, mut end) = (0, 0);
    for run in places.0.chunk_by(|a, b| a == b) {
        let (first, place) = (gfn, Place(run[0]));
        gfn += run.len() as u64;
        if place == Place::ABSENT {
            continue;
        }
        varint::put(first - end, &mut out);
        varint::put(run.len() as u64, &mut out);
        varint::put(place.number(), &mut out);
        end = gfn;
        if place != Place::ZERO {
            for gfn in first..end {
                let digest = manifest.get(Gfn(gfn)).expect("both have the same limit");
                out.extend_from_slice(&digest.0);
            }
        }
    }
    out
}

/// An index that was read. What it says of pages is checked against nothing yet.
#[derive(Debug)]
pub(super) struct Index<'a> {
    /// The length of each Pages block's payload.
    pub(super) lengths: Vec<u32>,
    runs: Reader<'a>,
}

impl<'a> Index<'a> {
    /// Reads the lengths. `blocks` is what the End block says: it bounds what is allocated, with the number of bytes.
    pub(super) fn parse<E>(bytes: &'a [u8], blocks: u64) -> Result<Self, ArchiveError<E>> {
        let mut runs = Reader::new(bytes);
        if runs.varint().ok() != Some(blocks) || blocks > bytes.len() as u64 {
            return Err(damaged());
        }
        let mut lengths = Vec::new();
        for _ in 0..blocks {
            let length = runs.varint().ok().and_then(|length| u32::try_from(length).ok());
            lengths.push(length.ok_or_else(damaged)?);
        }
        Ok(Self { lengths, runs })
    }

    /// Passes each run below `limit` to `each`, with its place and its digests; there are none for zero pages.
    pub(super) fn runs<E>(
        mut self,
        limit: Gfn,
        mut each: impl FnMut(PageRun, Place, &[[u8; 32]]),
    ) -> Result<(), ArchiveError<E>> {
        let mut end = 0_u64;
        while !self.runs.rest().is_empty() {
            let mut number = || self.runs.varint().map_err(|_| damaged());
            let (gap, pages, place) = (number()?, number()?, number()?);
            let first = end.checked_add(gap).ok_or_else(damaged)?;
            let run = PageRun::new(Gfn(first), pages).map_err(|_| damaged())?;
            if run.end() > limit {
                return Err(ArchiveError::BeyondLimit);
            }
            end = run.end().0;
            let place = match usize::try_from(place) {
                Ok(0) => Place::ZERO,
                Ok(place) if place <= self.lengths.len() => {
                    Place::block(place - 1).ok_or_else(damaged)?
                }
                _ => return Err(damaged()),
            };
            let digests = if place == Place::ZERO { 0 } else { pages };
            let bytes = usize::try_from(digests).ok().and_then(|count| count.checked_mul(32));
            let bytes = self.runs.bytes(bytes.ok_or_else(damaged)?).map_err(|_| damaged())?;
            each(run, place, bytes.as_chunks().0);
        }
        Ok(())
    }
}

/// The digest of each page of a run, as [`Index::runs`] passes them.
pub(super) fn digests(
    run: PageRun,
    digests: &[[u8; 32]],
) -> impl Iterator<Item = (Gfn, PageDigest)> {
    let digests = digests.iter().map(|digest| PageDigest(*digest));
    run.frames().zip(digests.chain(std::iter::repeat(PageDigest::ZERO)))
}

fn damaged<E>() -> ArchiveError<E> {
    ArchiveError::Damaged { what: "index" }
}
