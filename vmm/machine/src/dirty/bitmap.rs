//! KVM's dirty bitmap with manual protect, merged with the marks of our own writes.

use std::sync::Arc;

use dwcp::ledger::Ledger;
use dwcp::page::Gfn;
use kvm_ioctls::VmFd;

use super::{DirtyLog, DirtyLogError};
use crate::kvm::{bitmap_words, clear_dirty_log, get_dirty_log};
use crate::memory::{GuestRam, Region};

/// Pages that one `KVM_CLEAR_DIRTY_LOG` clears: 64 MiB. KVM holds its MMU lock meanwhile, and the
/// guest's faults wait for it.
const CLEAR_PAGES: u64 = 16_384;

/// The dirty bitmap of a VM whose slots log (`KVM_MEM_LOG_DIRTY_PAGES`).
#[derive(Debug)]
pub struct KvmBitmapLog {
    vm: Arc<VmFd>,
    ram: Arc<GuestRam>,
    /// One slot's bitmap, kept between harvests.
    words: Vec<u64>,
}

impl KvmBitmapLog {
    /// A log over the slots of `vm`, which must have been told to log.
    pub(crate) fn new(vm: Arc<VmFd>, ram: Arc<GuestRam>) -> Self {
        Self { vm, ram, words: Vec::new() }
    }

    fn harvest_region(
        &mut self,
        region: &Region,
        ledger: &mut Ledger,
    ) -> Result<u64, DirtyLogError> {
        let slot = region.slot;
        let ioctl = |call| move |source| DirtyLogError::Ioctl { call, slot, source };
        self.words.clear();
        self.words.resize(bitmap_words(region.pages()), 0);
        get_dirty_log(&self.vm, slot, region.pages(), &mut self.words)
            .map_err(ioctl("KVM_GET_DIRTY_LOG"))?;
        #[cfg(feature = "fault-injection")]
        crate::fault::drop_dirty_bits(&mut self.words);

        let mut found = 0;
        let chunk_words = bitmap_words(CLEAR_PAGES);
        for (index, words) in self.words.chunks(chunk_words).enumerate() {
            if words.iter().all(|word| *word == 0) {
                continue;
            }
            found += words.iter().map(|word| u64::from(word.count_ones())).sum::<u64>();
            let first_page = index as u64 * CLEAR_PAGES;
            // Into the ledger, then clear, then copy: a bit that is cleared is never only here.
            ledger.owe_words(Gfn(region.first_frame() + first_page), words)?;
            let pages = CLEAR_PAGES.min(region.pages() - first_page);
            let pages = u32::try_from(pages).expect("at most CLEAR_PAGES");
            clear_dirty_log(&self.vm, slot, first_page, pages, words)
                .map_err(ioctl("KVM_CLEAR_DIRTY_LOG"))?;
        }
        Ok(found)
    }
}

impl DirtyLog for KvmBitmapLog {
    fn harvest(&mut self, ledger: &mut Ledger) -> Result<u64, DirtyLogError> {
        let regions: Vec<_> = self.ram.layout().regions().collect();
        let found: Result<u64, _> =
            regions.iter().map(|region| self.harvest_region(region, ledger)).sum();
        Ok(found? + super::owe_our_writes(&self.ram, ledger)?)
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use dwcp::page::PageRun;

    use super::*;
    use crate::cpu::CpuModel;
    use crate::kvm::Host;
    use crate::memory::{HOLE_END, MemoryLayout};
    use crate::vm::{CpuCount, MachineConfig, Paused};

    const ALL: NonZeroU64 = NonZeroU64::MAX;

    /// Two slots, the second of a single page.
    fn machine(test: &str) -> Option<Paused> {
        let host = Host::of_test(test)?;
        let memory = MemoryLayout::new((32 << 20) + 4096, 32 << 20).unwrap();
        Some(
            Paused::new(
                &host,
                MachineConfig {
                    cpus: CpuCount::try_from(1_u32).unwrap(),
                    cpu: CpuModel::Host,
                    memory,
                },
            )
            .unwrap(),
        )
    }

    /// Takes everything owed as delivered, and returns it.
    fn deliver(ledger: &mut Ledger) -> Vec<PageRun> {
        let mut runs = Vec::new();
        while let Some(send) = ledger.next_run(ALL) {
            runs.push(send.run);
            ledger.settle(send.numbers()).unwrap();
        }
        assert!(ledger.is_settled());
        runs
    }

    #[test]
    fn a_new_log_owes_every_page_of_both_slots() {
        let Some(paused) = machine("a_new_log_owes_every_page_of_both_slots") else { return };
        let mut log = paused.start_dirty_log().unwrap();
        let mut ledger = Ledger::new(Gfn(paused.config().memory.frame_limit()));
        log.harvest(&mut ledger).unwrap();
        let expected = [
            PageRun::new(Gfn(0), (32 << 20) / 4096).unwrap(),
            PageRun::new(Gfn(HOLE_END / 4096), 1).unwrap(),
        ];
        assert_eq!(deliver(&mut ledger), expected);
        assert_eq!(log.harvest(&mut ledger).unwrap(), 0);
    }

    #[test]
    fn our_own_writes_are_owed_like_the_guests() {
        let Some(paused) = machine("our_own_writes_are_owed_like_the_guests") else { return };
        let mut log = paused.start_dirty_log().unwrap();
        let mut ledger = Ledger::new(Gfn(paused.config().memory.frame_limit()));
        log.harvest(&mut ledger).unwrap();
        deliver(&mut ledger);
        // Across a page boundary, and in the last page of all.
        paused.ram().write(0x5fff, &[1, 2]).unwrap();
        paused.ram().write(HOLE_END + 4095, &[3]).unwrap();
        // And through the file, in both slots.
        for (gfn, pages) in [(9, 2), (HOLE_END / 4096, 1)] {
            let run = PageRun::new(Gfn(gfn), pages).unwrap();
            let content = vec![4; usize::try_from(run.bytes()).unwrap()];
            paused.ram().write_run(run, &content).unwrap();
            let mut there = vec![0; content.len()];
            paused.ram().read_run(run, &mut there).unwrap();
            assert!(there == content);
        }
        assert_eq!(log.harvest(&mut ledger).unwrap(), 5);
        let expected = [(5, 2), (9, 2), (HOLE_END / 4096, 1)];
        let expected = expected.map(|(gfn, pages)| PageRun::new(Gfn(gfn), pages).unwrap());
        assert_eq!(deliver(&mut ledger), expected);
        assert_eq!(log.harvest(&mut ledger).unwrap(), 0);
    }
}
