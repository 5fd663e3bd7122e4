//! [`Image`]: a machine's memory, as a chain of archives gives it.

use super::index::{Index, Place, Places, digests};
use super::{Archive, ArchiveBytes, ArchiveError, ArchiveId};
use crate::digest::{DigestKey, Manifest, PageDigest, Root};
use crate::hde::Decoder;
use crate::page::{Gfn, PAGE_BYTES, PageRun};

/// A block of pages of one of the archives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageBlock {
    /// Which archive of the chain, the oldest being 0.
    archive: usize,
    /// Which of its Pages blocks.
    index: u64,
    offset: u64,
    length: u32,
    /// How many pages of the image are in it.
    pages: u64,
}

impl ImageBlock {
    /// Which archive of the chain it is in, the oldest being 0.
    #[must_use]
    pub fn archive(&self) -> usize {
        self.archive
    }

    /// How many pages of the image are in it; 0 if newer blocks have them all.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.pages
    }
}

/// Which block of which archive has each page of a machine, and each page's digest: 36 bytes a page.
#[derive(Debug)]
pub struct Image {
    blocks: Vec<ImageBlock>,
    places: Places,
    manifest: Manifest,
    /// The archive laid over last.
    top: Option<ArchiveId>,
    archives: usize,
}

impl Image {
    /// The memory, all zeros, of a machine with frames below `limit`.
    #[must_use]
    pub fn new(limit: Gfn) -> Self {
        let (blocks, places) = (Vec::new(), Places::new(limit));
        Self { blocks, places, manifest: Manifest::new(limit), top: None, archives: 0 }
    }

    /// Lays an archive over those before it, the oldest first. When it fails, the image is of no use.
    ///
    /// # Errors
    /// When it does not build on the one before it, or its index is damaged.
    pub fn lay_over<B: ArchiveBytes>(
        &mut self,
        archive: &Archive<B>,
    ) -> Result<(), ArchiveError<B::Error>> {
        let header = archive.header();
        match (header.parent, self.top) {
            (Some(expected), Some(found)) if expected != found => {
                return Err(ArchiveError::Parent { expected, found });
            }
            (Some(expected), None) => return Err(ArchiveError::ParentMissing(expected)),
            (None, Some(found)) => return Err(ArchiveError::ParentSuperfluous(found)),
            _ => {}
        }
        let (bytes, blocks) = archive.index()?;
        let index = Index::parse(&bytes, blocks)?;
        let first = self.blocks.len();
        let offsets = archive.pages_at(&index.lengths)?;
        for (number, (offset, length)) in (0..).zip(offsets.into_iter().zip(&index.lengths)) {
            let archive = self.archives;
            self.blocks.push(ImageBlock {
                archive,
                index: number,
                offset,
                length: *length,
                pages: 0,
            });
        }
        let limit = self.manifest.limit();
        let mut too_many = false;
        index.runs(limit, |run, place, of_run| {
            let place = match place.index() {
                Some(index) => Place::block(first + index),
                None => Some(place),
            };
            let Some(place) = place else {
                too_many = true;
                return;
            };
            for (gfn, digest) in digests(run, of_run) {
                self.set(gfn, place, digest);
            }
        })?;
        if too_many {
            return Err(ArchiveError::Damaged { what: "index" });
        }
        self.top = Some(header.id);
        self.archives += 1;
        Ok(())
    }

    /// Checks that the archives fit together, and with the state of the last one.
    ///
    /// # Errors
    /// When its root is not that of the image and the state, under the machine's key.
    pub fn check<B: ArchiveBytes>(
        &self,
        key: &DigestKey,
        archive: &Archive<B>,
    ) -> Result<(), ArchiveError<B::Error>> {
        if self.manifest.sum() != archive.root().memory() {
            return Err(ArchiveError::Sum);
        }
        if Root::new(key, self.manifest.sum(), &archive.state()?) != archive.root() {
            return Err(ArchiveError::Damaged { what: "state" });
        }
        Ok(())
    }

    /// The digest of every page.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The archive laid over last.
    #[must_use]
    pub fn top(&self) -> Option<ArchiveId> {
        self.top
    }

    /// All blocks of all archives, in the order of their files, the oldest archive first.
    #[must_use]
    pub fn blocks(&self) -> &[ImageBlock] {
        &self.blocks
    }

    /// The index of the block that has a page; none if it is zero.
    #[must_use]
    pub fn block_of(&self, gfn: Gfn) -> Option<usize> {
        self.places.get(gfn).index()
    }

    fn set(&mut self, gfn: Gfn, place: Place, digest: PageDigest) {
        if let Some(block) = self.places.replace(gfn, place).index() {
            self.blocks[block].pages -= 1;
        }
        if let Some(block) = place.index() {
            self.blocks[block].pages += 1;
        }
        self.manifest.replace(gfn, digest).expect("below the limit");
    }
}

/// Reads blocks of an image. A worker has one: it owns a decoder and its buffers.
#[derive(Debug, Default)]
pub struct ImageReader {
    decoder: Decoder,
    payload: Vec<u8>,
}

impl ImageReader {
    /// Reads the block of this index in [`Image::blocks`], and passes to `each`, in runs, those of its pages that are
    /// the image's. `archives` are all of the image, the oldest first. Nothing is passed on that was not checked.
    ///
    /// # Errors
    /// When it cannot be read or is damaged, or from `each`.
    ///
    /// # Panics
    /// When there is no such block, or the archives are not the image's.
    pub fn read<B: ArchiveBytes, F>(
        &mut self,
        image: &Image,
        archives: &[Archive<B>],
        key: &DigestKey,
        block: usize,
        mut each: impl FnMut(PageRun, &[u8]) -> Result<(), F>,
    ) -> Result<Result<(), F>, ArchiveError<B::Error>> {
        let ImageBlock { archive, index, offset, length, .. } = image.blocks[block];
        archives[archive].pages(index, offset, length, &mut self.payload)?;
        let number = index + 1;
        let decoded = self.decoder.decode(key, &self.payload, &());
        let decoded = decoded.map_err(|source| ArchiveError::Payload { number, source })?;
        let mut live = 0;
        let mut runs: Vec<(PageRun, usize)> = Vec::new();
        let sends = decoded.head.batch().sends().zip(decoded.digests).enumerate();
        for (at, ((gfn, _), digest)) in sends {
            if image.block_of(gfn) != Some(block) {
                continue;
            }
            if image.manifest.get(gfn) != Some(*digest) {
                return Err(ArchiveError::Pages { number });
            }
            live += 1;
            match runs.last_mut() {
                Some((run, from)) if run.end() == gfn && *from + run_pages(*run) == at => {
                    *run = PageRun::known_valid(run.first(), run.pages() + 1);
                }
                _ => runs.push((PageRun::known_valid(gfn, 1), at)),
            }
        }
        // A page of the index that its block does not have would never be read.
        if live != image.blocks[block].pages {
            return Err(ArchiveError::Pages { number });
        }
        for (run, from) in runs {
            let content = &decoded.content[from * PAGE_BYTES..][..run_pages(run) * PAGE_BYTES];
            if let Err(error) = each(run, content) {
                return Ok(Err(error));
            }
        }
        Ok(Ok(()))
    }
}

fn run_pages(run: PageRun) -> usize {
    usize::try_from(run.pages()).expect("a run of a batch")
}
