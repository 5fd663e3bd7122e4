//! [`ArchiveWriter`]: from pages and state to the bytes of a file.

use std::convert::Infallible;

use super::block::{self, HEAD_BYTES, INDEX_BYTES_MAX, Kind};
use super::header::HEADER_BYTES;
use super::index::{self, Place, Places};
use super::seal::Seal;
use super::{ArchiveError, ArchiveHeader, ArchiveKey, Image};
use crate::digest::{DigestKey, DigestSum, Manifest, PageDigest, Root, is_zero};
use crate::hde::{Batch, Encoder, LadderStep, Sending, TierCounts, Tiers};
use crate::page::{Gfn, PAGE_BYTES, PAGE_SIZE, Page, PageRun};

/// Nothing of what fails here has to do with the file.
type WriteError = ArchiveError<Infallible>;

/// Writes one archive. Each method appends to `out` what comes next in the file; the caller writes it there, when it
/// likes. Until [`ArchiveWriter::finish`], what it has is no archive.
///
/// Pages may be put again: the last of each counts. It owns an [`Encoder`], and 36 bytes for each page of the machine.
#[derive(Debug)]
pub struct ArchiveWriter {
    seal: Seal,
    encoder: Encoder,
    /// Bytes of the file so far.
    offset: u64,
    /// The number of the next block.
    number: u64,
    /// The length of the payload of each Pages block.
    lengths: Vec<u32>,
    places: Places,
    /// Memory as a reader of this archive and its parents would see it.
    manifest: Manifest,
    /// The content of the pages of a batch that are to be written, where that is not all of it.
    staged: Vec<u8>,
}

impl ArchiveWriter {
    /// Begins an archive that builds on nothing, of a machine with frames below `limit`.
    ///
    /// The caller draws the id anew for each file: two files of one id and key would give their secrets away.
    ///
    /// # Errors
    /// When the description is too long.
    pub fn new(
        header: ArchiveHeader,
        key: Option<&ArchiveKey>,
        limit: Gfn,
        description: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Self, WriteError> {
        Self::begin(header, key, Manifest::new(limit), description, out)
    }

    /// Begins an archive that builds on the archives of which `image` is made: the last of them is the header's parent.
    ///
    /// # Errors
    /// When the description is too long.
    pub fn on(
        image: &Image,
        header: ArchiveHeader,
        key: Option<&ArchiveKey>,
        description: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Self, WriteError> {
        Self::begin(header, key, image.manifest().clone(), description, out)
    }

    fn begin(
        header: ArchiveHeader,
        key: Option<&ArchiveKey>,
        manifest: Manifest,
        description: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Self, WriteError> {
        let seal = header.put(key, out);
        let mut writer = Self {
            seal,
            encoder: Encoder::new(),
            offset: HEADER_BYTES as u64,
            number: 0,
            lengths: Vec::new(),
            places: Places::new(manifest.limit()),
            manifest,
            staged: Vec::new(),
        };
        writer.block(Kind::Description, description, out)?;
        Ok(writer)
    }

    /// The sum of the digests of all pages, as a reader would see them: the memory's half of the root.
    #[must_use]
    pub fn sum(&self) -> DigestSum {
        self.manifest.sum()
    }

    /// Bytes of the file so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.offset
    }

    /// Puts pages in, as they are now. Those that a reader would see so anyway are left out.
    ///
    /// # Errors
    /// When a page is beyond the machine's limit; `out` is of no use then.
    ///
    /// # Panics
    /// When the content is not as long as the batch.
    pub fn put_pages(
        &mut self,
        key: &DigestKey,
        batch: &Batch,
        content: &[u8],
        step: &LadderStep,
        out: &mut Vec<u8>,
    ) -> Result<TierCounts, WriteError> {
        assert_eq!(content.len(), batch.bytes(), "the content of a batch");
        if batch.runs().iter().any(|run| run.end() > self.manifest.limit()) {
            return Err(ArchiveError::BeyondLimit);
        }
        let runs = self.changed(key, batch, content);
        let Ok(changed) = Batch::new(batch.first_number(), runs) else {
            return Ok(TierCounts::default());
        };
        let is_all = changed.pages() == batch.pages();
        let staged = std::mem::take(&mut self.staged);
        let content = if is_all { content } else { &staged };
        let settled_below = changed.first_number();
        let sending = Sending { key, batch: &changed, content, settled_below };
        let outcome = self.put_changed(&sending, step, out);
        self.staged = staged;
        outcome
    }

    /// The pages that a reader would see otherwise, whose content is staged if they are not all.
    fn changed(&mut self, key: &DigestKey, batch: &Batch, content: &[u8]) -> Vec<PageRun> {
        let mut runs: Vec<PageRun> = Vec::new();
        let pages = content.as_chunks::<PAGE_BYTES>().0;
        self.staged.clear();
        let mut is_all = true;
        for (index, ((gfn, _), page)) in batch.sends().zip(pages).enumerate() {
            if self.is_known(key, gfn, page) {
                // Up to here it was all.
                if is_all {
                    self.staged.extend_from_slice(pages[..index].as_flattened());
                }
                is_all = false;
                continue;
            }
            if !is_all {
                self.staged.extend_from_slice(page);
            }
            match runs.last_mut() {
                Some(run) if run.end() == gfn => {
                    *run = PageRun::known_valid(run.first(), run.pages() + 1);
                }
                _ => runs.push(PageRun::known_valid(gfn, 1)),
            }
        }
        runs
    }

    /// Whether a reader would see the page like this anyway.
    fn is_known(&self, key: &DigestKey, gfn: Gfn, page: &Page) -> bool {
        let known = self.manifest.get(gfn).unwrap_or_default();
        // Most pages are new: their digest is not needed to see that.
        match (is_zero(page), known == PageDigest::ZERO) {
            (false, false) => key.digest(gfn.0 * PAGE_SIZE, page) == known,
            (is_zero, was_zero) => is_zero && was_zero,
        }
    }

    fn put_changed(
        &mut self,
        sending: &Sending<'_>,
        step: &LadderStep,
        out: &mut Vec<u8>,
    ) -> Result<TierCounts, WriteError> {
        let start = open_block(out);
        // What a reader would need from elsewhere would tie blocks to each other.
        let step =
            LadderStep { tiers: Tiers { known: false, delta: false, ..step.tiers }, ..*step };
        let encoded = self.encoder.encode(sending, &step, &(), out);
        let place = Place::block(self.lengths.len()).ok_or(too_long(Kind::Pages))?;
        for ((gfn, _), digest) in sending.batch.sends().zip(encoded.digests) {
            let place = if *digest == PageDigest::ZERO { Place::ZERO } else { place };
            set(&mut self.places, &mut self.manifest, gfn, place, *digest)?;
        }
        let tiers = encoded.tiers;
        let length = self.close_block(Kind::Pages, start, out)?;
        self.lengths.push(length);
        Ok(tiers)
    }

    /// Notes that the pages of a run are zero now.
    ///
    /// # Errors
    /// When a page is beyond the machine's limit.
    pub fn put_zeros(&mut self, run: PageRun) -> Result<(), WriteError> {
        for gfn in run.frames() {
            if self.manifest.get(gfn) != Some(PageDigest::ZERO) {
                set(&mut self.places, &mut self.manifest, gfn, Place::ZERO, PageDigest::ZERO)?;
            }
        }
        Ok(())
    }

    /// Appends the state, the index and the end; returns how many bytes the whole file has. `root` is of the machine's
    /// key, [`ArchiveWriter::sum`] and `state`.
    ///
    /// # Errors
    /// When the state is too long.
    pub fn finish(
        mut self,
        state: &[u8],
        root: Root,
        out: &mut Vec<u8>,
    ) -> Result<u64, WriteError> {
        let state_at = self.offset;
        self.block(Kind::State, state, out)?;
        let index_at = self.offset;
        let index = index::encode(&self.lengths, &self.places, &self.manifest);
        // It has at least the number of blocks, and so at least one part.
        let parts = index.chunks(INDEX_BYTES_MAX);
        let count = parts.len() as u64;
        for part in parts {
            self.block(Kind::Index, part, out)?;
        }
        let end = super::reader::End {
            state_at,
            index_at,
            pages: self.lengths.len() as u64,
            count,
            root,
        };
        self.block(Kind::End, &end.to_bytes(), out)?;
        Ok(self.offset)
    }

    fn block(&mut self, kind: Kind, payload: &[u8], out: &mut Vec<u8>) -> Result<(), WriteError> {
        let start = open_block(out);
        out.extend_from_slice(payload);
        self.close_block(kind, start, out).map(drop)
    }

    /// Returns the length of the payload.
    fn close_block(
        &mut self,
        kind: Kind,
        start: usize,
        out: &mut Vec<u8>,
    ) -> Result<u32, WriteError> {
        let length = u32::try_from(out.len() - start - HEAD_BYTES).map_err(|_| too_long(kind))?;
        block::close(&self.seal, kind, self.number, start, out).ok_or(too_long(kind))?;
        self.number += 1;
        self.offset += (out.len() - start) as u64;
        Ok(length)
    }
}

/// Leaves room for the head of a block; returns where it begins.
fn open_block(out: &mut Vec<u8>) -> usize {
    let start = out.len();
    out.resize(start + HEAD_BYTES, 0);
    start
}

fn set(
    places: &mut Places,
    manifest: &mut Manifest,
    gfn: Gfn,
    place: Place,
    digest: PageDigest,
) -> Result<(), WriteError> {
    manifest.replace(gfn, digest).map_err(|_| ArchiveError::BeyondLimit)?;
    places.replace(gfn, place);
    Ok(())
}

fn too_long(kind: Kind) -> WriteError {
    ArchiveError::TooLong { what: kind.name(), limit: kind.limit() }
}
