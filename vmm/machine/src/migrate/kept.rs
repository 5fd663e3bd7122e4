//! What is kept of a machine's memory on a host that it has left, for the day on which it comes back.
//!
//! ```text
//!  it has left: frozen memory ─ digest, compress, encrypt ─► KeptWriter ─► a file without a name; the keeper names it
//!  it comes back:  the file ─ with the key that came with it ─► KeptMemory ─► its manifest, to the source
//!                                                                    └──────► pages that are the same, to memory
//! ```
//!
//! The key is derived from the secret of the machine's page digests, which travels with it: the host that keeps the file has
//! not the key. A file that does not open, for whatever reason, is as good as none.

use std::collections::BTreeSet;
use std::fs::File;
use std::sync::Arc;

use dwcp::acp::VmId;
use dwcp::archive::{
    Archive, ArchiveError, ArchiveHeader, ArchiveId, ArchiveKey, ArchiveWriter, Image, ImageReader,
};
use dwcp::digest::{DigestKey, PageDigest};
use dwcp::hde::Batch;
use dwcp::ledger::Ledger;
use dwcp::page::{Gfn, PAGE_BYTES, Page, PageRun};
use dwcp::session::KeptImage;
use dwcp::transport::KeptReader;
use serde::{Deserialize, Serialize};

use crate::clock::monotonic_ns;
use crate::fault::{Step, reached};
use crate::memory::GuestRam;
use crate::snapshot::{ArchiveFile, BLOCK_PAGES, PageWriter, SnapshotError};

/// What the key of a file is derived for.
const KEY_CONTEXT: &str = "NovaCron kept image v1 key from the secret of a machine's page digests";
/// In front of the machine's id in a file's description: it is no snapshot, and nothing can be restored from it.
const MARK: &[u8] = b"NovaCron kept image v1";

/// Keep the frozen memory of a machine that has left. Descriptor: the file, empty.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct KeepOrder {
    /// The machine.
    pub vm: [u8; 16],
    /// The file's id, drawn for it.
    pub id: [u8; 16],
    /// Bytes that it may have.
    pub most: u64,
}

/// What was kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptReport {
    /// Bytes of the file.
    pub bytes: u64,
    /// Pages in it: those that are not zero.
    pub pages: u64,
    /// Nanoseconds until everything was on storage.
    pub total_ns: u64,
}

/// Why nothing was kept.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeepError {
    /// An id of zeros
    #[error("the order has no usable id")]
    Order,
    /// Whoever wanted it has gone
    #[error("nobody is there to give it a name")]
    Unwanted,
    /// There is no room for it
    #[error("it would take more than {} MiB, which is all that it may have", most >> 20)]
    TooLarge {
        /// Bytes allowed.
        most: u64,
    },
    /// Memory or the file
    #[error(transparent)]
    File(#[from] SnapshotError),
}

/// Writes the memory of a machine that has left into a file, as long as it is wanted. When this returns, all of it is on storage.
///
/// # Errors
/// When it is not; the file is of no use then.
pub(crate) fn keep(
    order: KeepOrder,
    file: File,
    ram: Arc<GuestRam>,
    digest_key: &DigestKey,
    is_wanted: &dyn Fn() -> bool,
) -> Result<KeptReport, KeepError> {
    let started_ns = monotonic_ns();
    let (Some(id), Some(vm)) = (ArchiveId::new(order.id), VmId::new(order.vm)) else {
        return Err(KeepError::Order);
    };
    let (key, description) = (key(digest_key), description(vm));
    let limit = Gfn(ram.layout().frame_limit());
    let mut ledger = Ledger::new(limit);
    for region in ram.layout().regions() {
        ledger.owe(region.run()).map_err(SnapshotError::from)?;
    }
    let header = ArchiveHeader { id, parent: None };
    let begin =
        |out: &mut Vec<u8>| ArchiveWriter::new(header, Some(&key), limit, &description, out);
    let mut writer = PageWriter::begin(ram, file, digest_key.clone(), begin)?;
    let mut pages = 0;
    while let Some(batch) = Batch::take_owed(&mut ledger, BLOCK_PAGES) {
        pages += writer.put(&batch)?;
        ledger.settle(batch.numbers()).map_err(SnapshotError::from)?;
        if writer.bytes() > order.most {
            return Err(KeepError::TooLarge { most: order.most });
        }
        if writer.write_some()? && !is_wanted() {
            return Err(KeepError::Unwanted);
        }
    }
    reached(Step::KeepWriting);
    let (file, bytes) = writer.finish(&description)?;
    if bytes > order.most {
        return Err(KeepError::TooLarge { most: order.most });
    }
    file.sync_all().map_err(SnapshotError::Write)?;
    reached(Step::KeepSynced);
    Ok(KeptReport { bytes, pages, total_ns: monotonic_ns() - started_ns })
}

fn key(digest_key: &DigestKey) -> ArchiveKey {
    ArchiveKey::new(blake3::derive_key(KEY_CONTEXT, digest_key.secret_bytes()))
}

/// Is the state, too: so the root binds it.
fn description(vm: VmId) -> Vec<u8> {
    [MARK, &vm.bytes()].concat()
}

/// The memory that was kept of a machine which comes back.
#[derive(Debug)]
pub(super) struct KeptMemory {
    archive: [Archive<ArchiveFile>; 1],
    image: Image,
    key: DigestKey,
}

impl KeptMemory {
    /// Opens a file, if it is of this machine, and whole as far as that is seen without its pages.
    pub(super) fn open(
        file: File,
        vm: VmId,
        digest_key: &DigestKey,
        limit: Gfn,
    ) -> Result<Self, ArchiveError<std::io::Error>> {
        let archive = Archive::open(ArchiveFile(file), Some(&key(digest_key)))?;
        if archive.description()? != description(vm) {
            return Err(ArchiveError::Damaged { what: "description" });
        }
        let mut image = Image::new(limit);
        image.lay_over(&archive)?;
        image.check(digest_key, &archive)?;
        Ok(Self { archive: [archive], image, key: digest_key.clone() })
    }
}

impl KeptImage for KeptMemory {
    fn digest(&self, gfn: Gfn) -> PageDigest {
        self.image.manifest().get(gfn).unwrap_or_default()
    }
}

/// Reads pages of it. The source asks for them in the order in which they lie in the file: so a block is decoded once or
/// twice, and the one that was decoded last is enough.
pub(super) struct PageReader {
    memory: Arc<KeptMemory>,
    reader: ImageReader,
    /// The block that was decoded last.
    block: Option<usize>,
    /// Those that cannot be: tried once, and told of once, however often their pages are asked for.
    damaged: BTreeSet<usize>,
    /// Its pages, and where the content of each run begins.
    runs: Vec<(PageRun, usize)>,
    content: Vec<u8>,
}

impl PageReader {
    pub(super) fn new(memory: Arc<KeptMemory>) -> Self {
        let (reader, block) = (ImageReader::default(), None);
        Self {
            memory,
            reader,
            block,
            damaged: BTreeSet::new(),
            runs: Vec::new(),
            content: Vec::new(),
        }
    }

    fn decode(&mut self, block: usize) -> bool {
        let Self { memory, reader, runs, content, .. } = self;
        runs.clear();
        content.clear();
        self.block = None;
        let outcome = reader.read(&memory.image, &memory.archive, &memory.key, block, |run, of| {
            runs.push((run, content.len()));
            content.extend_from_slice(of);
            Ok::<_, std::convert::Infallible>(())
        });
        match outcome {
            Ok(Ok(())) => self.block = Some(block),
            Err(error) => {
                tracing::warn!(%error, "a part of what was kept is of no use");
                self.damaged.insert(block);
            }
        }
        self.block.is_some()
    }
}

impl KeptReader for PageReader {
    fn copy(&mut self, gfn: Gfn, into: &mut Page) -> bool {
        let Some(block) = self.memory.image.block_of(gfn) else { return false };
        if self.damaged.contains(&block) || (self.block != Some(block) && !self.decode(block)) {
            return false;
        }
        let Some((run, at)) = self.runs.iter().find(|(run, _)| run.contains(gfn)) else {
            return false;
        };
        let index = usize::try_from(gfn.0 - run.first().0).expect("a page of a block");
        into.copy_from_slice(&self.content[at + index * PAGE_BYTES..][..PAGE_BYTES]);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemoryLayout;

    const VM: [u8; 16] = [6; 16];

    /// Noise: it goes into a file as it is, but for its encryption.
    fn noise(seed: u64) -> Page {
        let mut word = seed + 1;
        std::array::from_fn(|_| {
            word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (word >> 56) as u8
        })
    }

    fn pages() -> impl Iterator<Item = (Gfn, Page)> {
        // In both slots, next to each other and apart, in several blocks.
        let frames = (3..90).chain(500..504).chain((0..40).map(|n| 700 + 3 * n));
        let second = crate::memory::HOLE_END / 4096;
        frames.chain([second, second + 9]).map(|frame| (Gfn(frame), noise(frame)))
    }

    fn memory() -> Arc<GuestRam> {
        let ram = GuestRam::new(MemoryLayout::new(32 << 20, 16 << 20).unwrap()).unwrap();
        for (gfn, page) in pages() {
            ram.write_run(PageRun::new(gfn, 1).unwrap(), &page).unwrap();
        }
        Arc::new(ram)
    }

    fn secret() -> DigestKey {
        DigestKey::new([4; 32])
    }

    fn order(most: u64) -> KeepOrder {
        KeepOrder { vm: VM, id: [9; 16], most }
    }

    fn kept() -> (File, KeptReport) {
        let file = tempfile::tempfile().unwrap();
        let report =
            keep(order(1 << 30), file.try_clone().unwrap(), memory(), &secret(), &|| true).unwrap();
        (file, report)
    }

    fn open(file: &File) -> Result<KeptMemory, ArchiveError<std::io::Error>> {
        let limit = Gfn(memory().layout().frame_limit());
        KeptMemory::open(file.try_clone().unwrap(), VmId::new(VM).unwrap(), &secret(), limit)
    }

    fn bytes(file: &File) -> Vec<u8> {
        use std::os::unix::fs::FileExt;
        let mut bytes = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
        file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    #[test]
    fn what_is_kept_is_read_again_in_any_order() {
        let (file, report) = kept();
        assert_eq!(report.pages, pages().count() as u64);
        assert_eq!(report.bytes, file.metadata().unwrap().len());
        let memory = Arc::new(open(&file).unwrap());
        let mut reader = PageReader::new(Arc::clone(&memory));
        let forwards: Vec<_> = pages().collect();
        for (gfn, page) in forwards.iter().chain(forwards.iter().rev().step_by(7)) {
            let mut found = [0; PAGE_BYTES];
            assert!(reader.copy(*gfn, &mut found), "{gfn}");
            assert!(found == *page, "{gfn}");
            let run = PageRun::new(*gfn, 1).unwrap();
            let mut digests = Vec::new();
            let _ = secret().digest_run(run, page, &mut digests);
            assert_eq!(memory.digest(*gfn), digests[0]);
        }
        for gfn in [Gfn(0), Gfn(90), Gfn(1 << 40)] {
            assert_eq!(memory.digest(gfn), PageDigest::ZERO);
            assert!(!reader.copy(gfn, &mut [0; PAGE_BYTES]), "nothing is kept of {gfn}");
        }
    }

    #[test]
    fn no_page_of_the_guest_is_in_the_file() {
        let file = bytes(&kept().0);
        for (gfn, page) in pages() {
            assert!(!file.windows(32).any(|window| *window == page[64..96]), "{gfn}");
        }
    }

    #[test]
    fn without_the_machines_own_key_and_id_it_is_as_good_as_none() {
        let (file, _) = kept();
        let limit = Gfn(memory().layout().frame_limit());
        let with = |vm: [u8; 16], key: [u8; 32]| {
            let file = file.try_clone().unwrap();
            KeptMemory::open(file, VmId::new(vm).unwrap(), &DigestKey::new(key), limit)
        };
        assert!(with(VM, [4; 32]).is_ok());
        assert!(with(VM, [5; 32]).is_err());
        assert!(with([7; 16], [4; 32]).is_err());
        let unsealed = Archive::open(ArchiveFile(file.try_clone().unwrap()), None);
        assert!(unsealed.is_err(), "it cannot be read without a key");
    }

    #[test]
    fn a_file_that_is_cut_off_or_changed_gives_nothing_false() {
        use std::os::unix::fs::FileExt;
        let whole = bytes(&kept().0);
        let (mut unopened, mut unread) = (0, 0);
        for at in (0..whole.len()).step_by(997) {
            let file = tempfile::tempfile().unwrap();
            file.write_all_at(&whole, 0).unwrap();
            file.write_all_at(&[whole[at] ^ 0x10], at as u64).unwrap();
            let Ok(memory) = open(&file) else {
                unopened += 1;
                continue;
            };
            let mut reader = PageReader::new(Arc::new(memory));
            for (gfn, page) in pages() {
                let mut found = [0; PAGE_BYTES];
                match reader.copy(gfn, &mut found) {
                    true => assert!(found == page, "{gfn}, byte {at}"),
                    false => unread += 1,
                }
            }
        }
        assert!(unopened > 0 && unread > 0, "{unopened} {unread}");
        for length in [0, 1, 100, whole.len() / 2, whole.len() - 1] {
            let file = tempfile::tempfile().unwrap();
            file.write_all_at(&whole[..length], 0).unwrap();
            assert!(open(&file).is_err(), "{length}");
        }
    }

    #[test]
    fn what_takes_more_than_it_may_is_not_kept() {
        let (_, report) = kept();
        let keep_in =
            |most| keep(order(most), tempfile::tempfile().unwrap(), memory(), &secret(), &|| true);
        assert!(matches!(keep_in(report.bytes - 1), Err(KeepError::TooLarge { .. })));
        assert!(keep_in(report.bytes).is_ok());
    }
}
