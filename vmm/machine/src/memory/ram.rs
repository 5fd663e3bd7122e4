//! Guest RAM: one memory file, mapped shared, and the one door for our writes into it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt as _;

use dwcp::page::{Gfn, PAGE_SIZE, PageRun};
use rustix::fs::{MemfdFlags, SealFlags, SeekFrom};
use vm_memory::bitmap::Bitmap as _;
use vm_memory::{
    Bytes, FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion,
    GuestRegionMmap,
};

use super::available::check_available;
use super::extents::Extent;
use super::layout::{MemoryLayout, Region};
use super::written::WrittenPages;

/// What can go wrong with guest RAM.
#[derive(Debug, thiserror::Error)]
pub enum RamError {
    /// The memory file cannot be made
    #[error("cannot create a memory file of {size} bytes: {source}")]
    Create {
        /// Its size in bytes.
        size: u64,
        /// What the kernel said.
        source: io::Error,
    },
    /// More memory was asked for than this host can give
    #[error(
        "the guest needs {needed} MiB, this host has {available} MiB available; give it less with --memory"
    )]
    TooLarge {
        /// MiB asked for.
        needed: u64,
        /// MiB that /proc/meminfo calls available.
        available: u64,
    },
    /// A memory file from another process does not have the layout's size or seals
    #[error(
        "the memory file received has {found} bytes (sealed: {sealed}); {expected} are needed, sealed"
    )]
    Foreign {
        /// Size found, in bytes.
        found: u64,
        /// Size needed, in bytes.
        expected: u64,
        /// Whether its size is sealed, so that nobody can shrink it under us.
        sealed: bool,
    },
    /// The memory file cannot be mapped
    #[error("cannot map guest memory: {0}")]
    Map(String),
    /// An access outside of guest RAM
    #[error("guest address {address:#x} + {length:#x} is not RAM")]
    OutOfRange {
        /// First guest physical address.
        address: u64,
        /// Length in bytes.
        length: u64,
    },
    /// Populating or asking for holes failed
    #[error("memory file: {0}")]
    File(#[from] io::Error),
}

type Mapping = GuestMemoryMmap<WrittenPages>;

/// The RAM of one guest.
///
/// Every write of ours is one of these, or goes through vm-memory's traits for its mapping: each marks the page in the
/// mapping's bitmap. Nobody in this crate holds a pointer or a slice into guest RAM; reads copy out.
#[derive(Debug)]
pub struct GuestRam {
    mapping: Mapping,
    layout: MemoryLayout,
    file: File,
}

impl GuestRam {
    /// New, all-zero RAM in a memory file of its own.
    ///
    /// # Errors
    /// When the host has too little memory, or refuses the file or its mapping.
    pub fn new(layout: MemoryLayout) -> Result<Self, RamError> {
        check_available(layout.size())?;
        let create = |size: u64| -> rustix::io::Result<OwnedFd> {
            let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
            let file = rustix::fs::memfd_create("novacron-guest-ram", flags)?;
            rustix::fs::ftruncate(&file, size)?;
            // Whoever receives this file maps it too: its size must never change under them.
            rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW)?;
            Ok(file)
        };
        let size = layout.size();
        let file = create(size).map_err(|e| RamError::Create { size, source: e.into() })?;
        Self::map(layout, file.into())
    }

    /// The RAM of a guest that another process runs, to be shared with it (a hand-over).
    ///
    /// # Errors
    /// When the file's size is not the layout's, or could still change.
    pub fn from_file(layout: MemoryLayout, file: OwnedFd) -> Result<Self, RamError> {
        let found = File::from(file);
        let size = found.metadata()?.len();
        let sealed = rustix::fs::fcntl_get_seals(&found)
            .is_ok_and(|seals| seals.contains(SealFlags::SHRINK | SealFlags::GROW));
        if size != layout.size() || !sealed {
            return Err(RamError::Foreign { found: size, expected: layout.size(), sealed });
        }
        Self::map(layout, found)
    }

    fn map(layout: MemoryLayout, file: File) -> Result<Self, RamError> {
        let mut ranges = Vec::new();
        for region in layout.regions() {
            let offset = FileOffset::new(file.try_clone()?, region.file_offset);
            let size = usize::try_from(region.size).map_err(|e| RamError::Map(e.to_string()))?;
            ranges.push((GuestAddress(region.start), size, Some(offset)));
        }
        let mapping = Mapping::from_ranges_with_files(ranges)
            .map_err(|error| RamError::Map(error.to_string()))?;
        Ok(Self { mapping, layout, file })
    }

    /// Where the RAM lies.
    #[must_use]
    pub fn layout(&self) -> MemoryLayout {
        self.layout
    }

    /// The memory file, to be passed to another process.
    #[must_use]
    pub fn file(&self) -> impl AsFd + '_ {
        &self.file
    }

    /// The mapping, for code that writes through vm-memory's traits (loaders, virtio queues): those
    /// writes are marked as all others.
    pub(crate) fn mapping(&self) -> &Mapping {
        &self.mapping
    }

    /// Each region with the address at which this process maps it, for `KVM_SET_USER_MEMORY_REGION`.
    pub(crate) fn host_regions(&self) -> impl Iterator<Item = (Region, u64)> + '_ {
        self.layout.regions().zip(self.mapping.iter()).map(|(region, mapped)| {
            debug_assert_eq!(mapped.start_addr().0, region.start);
            (region, mapped.get_mmap().as_ptr() as u64)
        })
    }

    /// The region that a run of pages lies in, if they are RAM.
    fn region_of(&self, run: PageRun) -> Option<(Region, &GuestRegionMmap<WrittenPages>)> {
        let mut regions = self.layout.regions().zip(self.mapping.iter());
        regions.find(|(region, _)| {
            region.start <= run.address() && run.end().0 * PAGE_SIZE <= region.end()
        })
    }

    /// The address at which this process maps a run of pages, if they are RAM.
    pub(super) fn host_address(&self, run: PageRun) -> Option<u64> {
        let (region, mapped) = self.region_of(run)?;
        Some(mapped.get_mmap().as_ptr() as u64 + (run.address() - region.start))
    }

    /// The page that this process maps at an address, if it is RAM.
    pub(super) fn page_at(&self, host_address: u64) -> Option<Gfn> {
        self.host_regions().find_map(|(region, start)| {
            let offset = host_address.checked_sub(start).filter(|offset| *offset < region.size)?;
            Some(Gfn((region.start + offset) / PAGE_SIZE))
        })
    }

    /// Copies a run of pages out of guest RAM. The guest may be writing them meanwhile: a torn copy
    /// is harmless, since the page is dirty again.
    ///
    /// # Errors
    /// When the run is not RAM.
    ///
    /// # Panics
    /// When `into` is not exactly as long as the run.
    pub fn read_run(&self, run: PageRun, into: &mut [u8]) -> Result<(), RamError> {
        let (address, length) = byte_range(run);
        assert_eq!(into.len() as u64, length, "one buffer byte for each byte of the run");
        self.mapping
            .read_slice(into, GuestAddress(address))
            .map_err(|_| RamError::OutOfRange { address, length })
    }

    /// Writes a run of pages into guest RAM, and marks them.
    ///
    /// Through the file and not through the mapping: what arrives here arrives in memory that nobody has touched, and a
    /// page costs less than half of what it costs with a fault of this process's (1.4 to 1.6 against 3.5 µs). The guest's
    /// first touch, which is a fault in any case, maps it.
    ///
    /// # Errors
    /// When the run is not RAM, or the host has no memory left for it.
    ///
    /// # Panics
    /// When `from` is not exactly as long as the run.
    pub fn write_run(&self, run: PageRun, from: &[u8]) -> Result<(), RamError> {
        let (address, length) = byte_range(run);
        assert_eq!(from.len() as u64, length, "one buffer byte for each byte of the run");
        let out_of_range = || RamError::OutOfRange { address, length };
        let (region, mapped) = self.region_of(run).ok_or_else(out_of_range)?;
        let offset = address - region.start;
        self.file.write_all_at(from, region.file_offset + offset)?;
        // Afterwards: whoever takes the mark is to find what was written.
        let offset = usize::try_from(offset).map_err(|_| out_of_range())?;
        mapped.get_mmap().bitmap().mark_dirty(offset, from.len());
        Ok(())
    }

    /// Writes bytes at a guest physical address, and marks the pages.
    ///
    /// # Errors
    /// When the range is not RAM.
    pub fn write(&self, address: u64, from: &[u8]) -> Result<(), RamError> {
        self.mapping
            .write_slice(from, GuestAddress(address))
            .map_err(|_| RamError::OutOfRange { address, length: from.len() as u64 })
    }

    /// Takes the marks of our own writes in one region: gives `keep` words of 64 pages that have some,
    /// with the first page's frame, and clears them. Only `DirtyLog::harvest` calls this.
    ///
    /// # Errors
    /// What `keep` says; what it did not take is marked still.
    pub(crate) fn take_written<E>(
        &self,
        region: &Region,
        mut keep: impl FnMut(Gfn, u64) -> Result<(), E>,
    ) -> Result<(), E> {
        let Some(mapped) = self.mapping.find_region(GuestAddress(region.start)) else {
            return Ok(());
        };
        let first = region.first_frame();
        mapped.get_mmap().bitmap().take(|page, marks| keep(Gfn(first + page), marks))
    }

    /// From this page on to the end of its region: the pages that are alike, a hole of the memory file
    /// or not. What is a hole reads as zeros, and need not be read: reading fills it.
    ///
    /// The kernel looks at all of them, one by one: keep the answer, as long as it may be kept. What is
    /// data stays data; a hole may be filled by the guest at any time.
    ///
    /// # Errors
    /// When the kernel cannot tell, or the page is not RAM.
    pub(super) fn extent(&self, gfn: Gfn) -> Result<Extent, RamError> {
        let (address, length) = (gfn.0 * PAGE_SIZE, PAGE_SIZE);
        let region = self.layout.regions().find(|r| r.start <= address && address < r.end());
        let region = region.ok_or(RamError::OutOfRange { address, length })?;
        let offset = region.file_offset + (address - region.start);
        let region_end = offset + (region.end() - address);
        let seek = |from| match rustix::fs::seek(&self.file, from) {
            Ok(found) => Ok(found.min(region_end)),
            // There is no data any more.
            Err(rustix::io::Errno::NXIO) => Ok(region_end),
            Err(error) => Err(io::Error::from(error)),
        };
        let data = seek(SeekFrom::Data(offset))?;
        let is_hole = data > offset;
        let end = if is_hole { data } else { seek(SeekFrom::Hole(offset))? };
        // Another page may have become data since: at least this one is what it was.
        let pages = ((end - offset) / PAGE_SIZE).max(1);
        let run = PageRun::new(gfn, pages).map_err(|_| RamError::OutOfRange { address, length })?;
        Ok(Extent { run, is_hole })
    }
}

fn byte_range(run: PageRun) -> (u64, u64) {
    (run.address(), run.bytes())
}
