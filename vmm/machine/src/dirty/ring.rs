//! KVM's dirty rings, one for each vCPU, merged with the marks of our own writes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dwcp::ledger::Ledger;
use dwcp::page::{Gfn, PageRun};
use dwcp::page_set::PageSet;
use kvm_ioctls::{VcpuFd, VmFd};

use super::{DirtyLog, DirtyLogError};
use crate::kvm::{DirtyPage, DirtyRing, RingEntries, reset_dirty_rings};
use crate::memory::{GuestRam, MemoryLayout, Region};

/// Calls of `KVM_RESET_DIRTY_RINGS` in a row that may free nothing: each was cut short by a signal. A signal is taken
/// on the way back from the call that it interrupts, so that more than one in a row is rare.
const VAIN_RESETS: u32 = 16;

/// The rings of a VM's vCPUs, and what had to be taken out of them early.
///
/// ```text
///   vCPU writes ─► its ring ──────────── harvest ───────────► Ledger
///                     │ full: the vCPU does it itself            ▲
///                     └─────────► spilled ────── harvest ────────┘
/// ```
///
/// A vCPU whose ring is full cannot run until its entries are taken out and reset. It does not wait for a harvest: one
/// comes once in a round, and a round may take minutes on a slow link, for which the guest would stand still. So the
/// vCPU moves its own entries to `spilled`, which is a part of the log as the rings are: only a harvest takes pages out
/// of it, into the ledger. Where nobody harvests (a log that was given up, and could not be stopped) the guest runs on
/// all the same, and `spilled` is never more than a bit a page.
#[derive(Debug)]
pub(crate) struct DirtyRings {
    vm: Arc<VmFd>,
    entries: RingEntries,
    /// By the slot's number.
    slots: Vec<Region>,
    taken: Mutex<Taken>,
    /// How often a ring was full.
    spills: AtomicU64,
}

/// What whoever takes entries out of rings must have for itself: KVM resets all rings at once.
#[derive(Debug)]
struct Taken {
    /// By the vCPU's number.
    rings: Vec<DirtyRing>,
    spilled: PageSet,
    /// Entries of all rings that KVM has been given back, and has not reset.
    unreset: u64,
}

impl DirtyRings {
    /// For a VM that was told to have rings of this size, before its first vCPU.
    pub(crate) fn new(vm: Arc<VmFd>, entries: RingEntries, layout: MemoryLayout) -> Self {
        let slots: Vec<Region> = layout.regions().collect();
        debug_assert!(slots.iter().zip(0..).all(|(region, number)| region.slot == number));
        let spilled = PageSet::new(Gfn(layout.frame_limit()));
        let taken = Mutex::new(Taken { rings: Vec::new(), spilled, unreset: 0 });
        Self { vm, entries, slots, taken, spills: AtomicU64::new(0) }
    }

    /// Adds the ring of the next vCPU: they come in the order of their numbers.
    pub(crate) fn add(&self, vcpu: &VcpuFd) -> Result<(), DirtyLogError> {
        let ring = DirtyRing::map(vcpu, self.entries).map_err(DirtyLogError::Map)?;
        self.taken().rings.push(ring);
        Ok(())
    }

    /// Makes room in the ring of a vCPU that cannot run because it is full. The vCPU's own thread calls this.
    ///
    /// # Errors
    /// When KVM refuses, or has named a page that there is not.
    pub(crate) fn make_room(&self, vcpu: u8) -> Result<(), DirtyLogError> {
        self.spills.fetch_add(1, Ordering::Relaxed);
        tracing::trace!(vcpu, "its dirty ring is full");
        let mut taken = self.taken();
        let Taken { rings, spilled, unreset } = &mut *taken;
        let ring = &mut rings[usize::from(vcpu)];
        // Into the log's other half, then reset: a page that is protected again is never only here.
        ring.drain(unreset, |page| self.insert(spilled, page))?;
        taken.reset(&self.vm)
    }

    /// Empties the log. What is in it is of no use to the next one, whose ledger owes every page.
    ///
    /// The slots must not log any more: a page that is reset would be logged again.
    ///
    /// # Errors
    /// As with `make_room`; a vCPU whose ring is full makes room for itself all the same.
    pub(crate) fn empty(&self) -> Result<(), DirtyLogError> {
        let mut taken = self.taken();
        let Taken { rings, spilled, unreset } = &mut *taken;
        for ring in rings {
            ring.drain(unreset, |_| Ok::<_, DirtyLogError>(()))?;
        }
        if !spilled.is_empty() {
            spilled.clear();
        }
        let full = self.spills.load(Ordering::Relaxed);
        tracing::debug!(full, "the dirty rings are emptied; so often one was full");
        taken.reset(&self.vm)
    }

    /// How often a ring was full, since the VM was made.
    #[cfg(test)]
    pub(crate) fn spills(&self) -> u64 {
        self.spills.load(Ordering::Relaxed)
    }

    /// Keeps everybody else from taking entries out, as a long harvest does.
    #[cfg(test)]
    pub(crate) fn hold(&self) -> impl Sized {
        self.taken()
    }

    /// Moves what KVM has logged into the ledger, and lets it protect those pages again.
    fn harvest(&self, ledger: &mut Ledger) -> Result<u64, DirtyLogError> {
        let mut taken = self.taken();
        let Taken { rings, spilled, unreset } = &mut *taken;
        let mut found = spilled.count();
        // To look through it costs time with the size of memory, which only a guest that fills its rings pays.
        if found > 0 {
            ledger.owe_set(spilled)?;
            spilled.clear();
        }
        #[cfg(feature = "fault-injection")]
        let mut last = crate::fault::LastPage::of_harvest();
        for ring in rings {
            ring.drain(unreset, |page| -> Result<(), DirtyLogError> {
                found += 1;
                #[cfg(feature = "fault-injection")]
                let Some(page) = last.keep_back(page) else { return Ok(()) };
                let run = self.run(page)?;
                // Into the ledger, then reset, then copy: an entry that is handed back is never only here.
                ledger.owe(run)?;
                Ok(())
            })?;
        }
        taken.reset(&self.vm)?;
        Ok(found)
    }

    fn insert(&self, pages: &mut PageSet, page: DirtyPage) -> Result<(), DirtyLogError> {
        let run = self.run(page)?;
        pages.insert(run).map_err(dwcp::ledger::LedgerError::from)?;
        Ok(())
    }

    /// The page, if guest memory has it.
    fn run(&self, page: DirtyPage) -> Result<PageRun, DirtyLogError> {
        let DirtyPage { slot, offset } = page;
        let region = usize::try_from(slot).ok().and_then(|slot| self.slots.get(slot));
        let frame = region
            .filter(|region| offset < region.pages())
            .map(|region| Gfn(region.first_frame() + offset));
        frame
            .and_then(|frame| PageRun::new(frame, 1).ok())
            .ok_or(DirtyLogError::NoSuchPage { slot, offset })
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        // A panic aborts the process, so that no lock is ever poisoned.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    /// Lets KVM protect the pages of all entries that were handed back. Before this has succeeded, a page that was taken
    /// out of a ring may be written without any log hearing of it.
    fn reset(&mut self, vm: &VmFd) -> Result<(), DirtyLogError> {
        let mut vain = 0;
        while self.unreset > 0 {
            // Since Linux 6.16 a signal cuts the call short, and it says how far it came.
            let reset = match reset_dirty_rings(vm) {
                Err(error) if error.errno() == libc::EINTR => 0,
                outcome => outcome.map_err(DirtyLogError::Reset)?,
            };
            self.unreset = self.unreset.saturating_sub(reset.into());
            vain = if reset == 0 { vain + 1 } else { 0 };
            if vain == VAIN_RESETS {
                return Err(DirtyLogError::NotReset(self.unreset));
            }
        }
        Ok(())
    }
}

/// The dirty rings of a VM whose slots log (`KVM_MEM_LOG_DIRTY_PAGES`).
///
/// While the guest runs, KVM may hold pages back that the processor has noted and not delivered (Intel's page-modification
/// logging: 512 a vCPU); they come with a later harvest. Those of a vCPU that stands still are all there. A page that
/// was written several times may be counted as often.
#[derive(Debug)]
pub struct KvmRingLog {
    rings: Arc<DirtyRings>,
    ram: Arc<GuestRam>,
}

impl KvmRingLog {
    /// A log over the slots of the rings' VM, which must have been told to log.
    pub(crate) fn new(rings: Arc<DirtyRings>, ram: Arc<GuestRam>) -> Self {
        Self { rings, ram }
    }
}

impl DirtyLog for KvmRingLog {
    fn harvest(&mut self, ledger: &mut Ledger) -> Result<u64, DirtyLogError> {
        let found = self.rings.harvest(ledger)?;
        Ok(found + super::owe_our_writes(&self.ram, ledger)?)
    }
}
