//! From files to a machine that stands where the snapshot was taken.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use dwcp::archive::ImageReader;
use dwcp::digest::DigestKey;

use super::SnapshotError;
use super::chain::Chain;
use super::description::Description;
use super::lazy::Loader;
use crate::clock::{boot_id, realtime_ns};
use crate::dirty::DirtyLogKind;
use crate::fault::{Step, reached};
use crate::jail::{self, ThreadKind};
use crate::kvm::{Host, HostError};
use crate::memory::{GuestRam, UserfaultFd};
use crate::state::MachineState;
use crate::vcpu::TimeBase;
use crate::vm::{Paused, VmError};

/// Threads that decode: more would wait for memory.
const MOST_THREADS: usize = 8;

/// A machine that stands where its snapshot was taken.
#[derive(Debug)]
pub(crate) struct Restored {
    pub(crate) paused: Paused,
    pub(crate) digest_key: DigestKey,
    /// What fetches its pages, if that is done lazily. It must live as long as the machine.
    pub(crate) loader: Option<Loader>,
}

/// Builds the machine of a snapshot, and tells its guest that it is a copy. With a userfaultfd its pages come lazily.
///
/// | step | why there |
/// |---|---|
/// | sections, CPUID | refused before a byte of memory is read |
/// | memory file; lazily: pages are missing from here on | before KVM, which writes to memory with the state |
/// | the machine | |
/// | memory, eagerly | before the state: a part of it that KVM writes would be overwritten |
/// | state | |
/// | generation id | after the state, which has the old one |
///
/// # Errors
/// Says what of the snapshot is damaged, or what this host lacks.
pub(crate) fn restore(
    chain: Chain,
    host: Result<Host, HostError>,
    lazily: Option<UserfaultFd>,
    dirty_log: DirtyLogKind,
) -> Result<Restored, SnapshotError> {
    reached(Step::RestoreStart);
    let Description { config, cpuid, sections, digest_key, .. } = chain.description().clone();
    MachineState::check_sections(&sections).map_err(VmError::from)?;
    let host = host.map_err(VmError::from)?;
    let cpuid = cpuid.accept(&host, config.cpu, config.cpus.get()).map_err(VmError::from)?;
    let moment = chain.moment()?;
    let state = MachineState::decode(&moment.state, config.cpus.get()).map_err(VmError::from)?;
    let ram = Arc::new(GuestRam::new(config.memory)?);
    let digest_key = DigestKey::new(digest_key);
    let loader = match lazily {
        Some(descriptor) => Some(Loader::start(descriptor, &ram, chain, digest_key.clone())?),
        None => {
            load(&ram, &chain, &digest_key)?;
            None
        }
    };
    reached(Step::RestoreMemory);
    let mut paused = Paused::around(&host, config, cpuid, ram, dirty_log)?;
    let time = TimeBase::Later {
        elapsed: Duration::from_nanos(realtime_ns().saturating_sub(moment.realtime_ns)),
        is_same_boot: is_same_boot(moment.boot_id),
    };
    paused.restore(&state, time)?;
    paused.renew_generation()?;
    reached(Step::RestoreState);
    Ok(Restored { paused, digest_key, loader })
}

/// Whether the host has not been booted since.
pub(crate) fn is_same_boot(saved: [u8; 16]) -> bool {
    #[cfg(feature = "fault-injection")]
    if crate::fault::forgets_boot() {
        return false;
    }
    saved == boot_id()
}

/// Reads all of memory, on every processor.
fn load(ram: &GuestRam, chain: &Chain, key: &DigestKey) -> Result<(), SnapshotError> {
    let blocks: Vec<usize> = chain.blocks_in_use().collect();
    let next = AtomicUsize::new(0);
    let work = || {
        let mut reader = ImageReader::default();
        while let Some(block) = blocks.get(next.fetch_add(1, Ordering::Relaxed)) {
            let outcome = chain.read_block(&mut reader, key, *block, |run, content| {
                ram.write_run(run, content).map_err(SnapshotError::from)
            });
            if outcome.is_err() {
                // The others find nothing more to do.
                next.store(blocks.len(), Ordering::Relaxed);
                return outcome;
            }
        }
        Ok(())
    };
    // Not `available_parallelism`, which reads files of control groups: here nothing is opened.
    let cpus = rustix::thread::sched_getaffinity(None).map_or(1, |set| set.count());
    let threads = usize::try_from(cpus).unwrap_or(1).clamp(1, MOST_THREADS);
    std::thread::scope(|scope| {
        let narrowed = || {
            jail::narrow(ThreadKind::Loader);
            work()
        };
        let workers: Vec<_> = (1..threads).map(|_| scope.spawn(narrowed)).collect();
        let own = work();
        let theirs = workers.into_iter().map(|worker| worker.join().expect("a panic aborts"));
        theirs.fold(own, Result::and)
    })
}
