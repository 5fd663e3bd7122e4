//! [`PageWriter`]: from guest memory to the Pages blocks of an archive's file.

use std::fs::File;
use std::io::Write;
use std::num::NonZeroU64;
use std::sync::Arc;

use dwcp::archive::{ArchiveError, ArchiveWriter};
use dwcp::digest::{DigestKey, Root};
use dwcp::hde::{Batch, Ladder, LadderStep};
use dwcp::page::{PAGE_BYTES, PAGE_SIZE, PageRun};

use super::SnapshotError;
use crate::memory::{Extents, GuestRam};

/// Pages of a block: 256 KiB. A page that a guest touches first after a lazy restore waits for its block to be read and
/// decoded: a larger one compresses a little better, and takes longer.
pub(crate) const BLOCK_PAGES: NonZeroU64 = NonZeroU64::new(64).unwrap();

/// What is encoded waits for so many bytes of it, and is then written at once.
const WRITE_BYTES: usize = 4 << 20;

/// Puts pages of a guest's memory into an archive, and that into its file.
pub(crate) struct PageWriter {
    ram: Arc<GuestRam>,
    file: File,
    writer: ArchiveWriter,
    /// Encoded, and not written to the file yet.
    out: Vec<u8>,
    digest_key: DigestKey,
    extents: Extents,
    /// The content of a batch.
    buffer: Vec<u8>,
}

impl PageWriter {
    /// Fast where it can be, since a fast disk takes more than one processor compresses.
    const STEP: LadderStep = Ladder::STEPS[2];

    /// Begins a file, which is empty. `begin` appends the beginning of the archive to what it is given.
    pub(crate) fn begin(
        ram: Arc<GuestRam>,
        file: File,
        digest_key: DigestKey,
        begin: impl FnOnce(
            &mut Vec<u8>,
        ) -> Result<ArchiveWriter, ArchiveError<std::convert::Infallible>>,
    ) -> Result<Self, SnapshotError> {
        let mut out = Vec::with_capacity(2 * WRITE_BYTES);
        let writer = begin(&mut out).map_err(SnapshotError::Parts)?;
        let (extents, buffer) = (Extents::default(), Vec::new());
        Ok(Self { ram, file, writer, out, digest_key, extents, buffer })
    }

    /// Bytes of the file so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.writer.bytes()
    }

    /// Encodes the pages of a batch as they are now; returns how many are written.
    pub(crate) fn put(&mut self, batch: &Batch) -> Result<u64, SnapshotError> {
        let mut full: Vec<PageRun> = Vec::new();
        self.buffer.clear();
        for run in batch.runs() {
            let mut rest = Some(*run);
            while let Some(run) = rest {
                let (part, is_hole, after) = self.extents.first_part(&self.ram, run)?;
                rest = after;
                if is_hole {
                    // Reading would fill it.
                    self.writer.put_zeros(part).map_err(SnapshotError::Parts)?;
                    continue;
                }
                let at = self.buffer.len();
                self.buffer.resize(at + byte_count(part), 0);
                self.ram.read_run(part, &mut self.buffer[at..])?;
                full.push(part);
            }
        }
        let Ok(full) = Batch::new(batch.first_number(), full) else { return Ok(0) };
        let (key, out) = (&self.digest_key, &mut self.out);
        let tiers = self.writer.put_pages(key, &full, &self.buffer, &Self::STEP, out);
        Ok(tiers.map_err(SnapshotError::Parts)?.total().pages)
    }

    /// Writes what is encoded, if that is enough to be written at once; whether it was.
    pub(crate) fn write_some(&mut self) -> Result<bool, SnapshotError> {
        let is_enough = self.out.len() >= WRITE_BYTES;
        if is_enough {
            self.write()?;
        }
        Ok(is_enough)
    }

    /// Writes what is encoded.
    pub(crate) fn write(&mut self) -> Result<(), SnapshotError> {
        self.file.write_all(&self.out).map_err(SnapshotError::Write)?;
        self.out.clear();
        // The kernel begins to write it while more is encoded, and not at the fsync. What it cannot drop, since it is not
        // written yet, stays cached.
        let _ = rustix::fs::fadvise(&self.file, 0, None, rustix::fs::Advice::DontNeed);
        Ok(())
    }

    /// Writes everything behind the pages, and the state; returns the file, which is not on storage yet, and its bytes.
    pub(crate) fn finish(mut self, state: &[u8]) -> Result<(File, u64), SnapshotError> {
        self.write()?;
        let root = Root::new(&self.digest_key, self.writer.sum(), state);
        let Self { mut file, writer, mut out, .. } = self;
        let bytes = writer.finish(state, root, &mut out).map_err(SnapshotError::Parts)?;
        file.write_all(&out).map_err(SnapshotError::Write)?;
        Ok((file, bytes))
    }
}

/// Bytes of a part of a batch.
fn byte_count(run: PageRun) -> usize {
    usize::try_from(run.bytes()).expect("a batch is at most 4 MiB")
}

const _: () = assert!(PAGE_BYTES as u64 == PAGE_SIZE);
