//! Fetching pages as the guest touches them, and all others behind its back.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use dwcp::archive::ImageReader;
use dwcp::digest::DigestKey;
use dwcp::page::{Gfn, PageRun};
use vmm_sys_util::eventfd::EventFd;

use super::SnapshotError;
use super::chain::Chain;
use crate::jail::{self, ThreadKind};
use crate::memory::{GuestRam, Userfault, UserfaultFd};

/// A thread that puts the pages of a snapshot into guest RAM: those that somebody waits for first.
///
/// The machine must be gone before it: whoever touches a page waits for this thread.
#[derive(Debug)]
pub(crate) struct Loader {
    thread: Option<JoinHandle<()>>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    progress: Mutex<Progress>,
    /// `progress` has come to its end.
    ended: Condvar,
    /// Readable when loading has failed: whoever waits for a page waits for ever.
    failed: EventFd,
    /// Readable when the thread shall end.
    stop: EventFd,
}

#[derive(Debug, PartialEq, Eq)]
enum Progress {
    Loading,
    Complete,
    Failed(String),
}

impl Loader {
    /// Makes all pages of `ram` missing, and begins to fetch them.
    ///
    /// # Errors
    /// When the kernel refuses, or this process has no thread left.
    pub(crate) fn start(
        descriptor: UserfaultFd,
        ram: &Arc<GuestRam>,
        chain: Chain,
        key: DigestKey,
    ) -> Result<Self, SnapshotError> {
        let fault = Userfault::new(descriptor, Arc::clone(ram));
        let fault = fault.map_err(SnapshotError::Userfault)?;
        let event = || EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC);
        let shared = Arc::new(Shared {
            progress: Mutex::new(Progress::Loading),
            ended: Condvar::new(),
            failed: event().map_err(SnapshotError::Userfault)?,
            stop: event().map_err(SnapshotError::Userfault)?,
        });
        let blocks: Vec<usize> = chain.blocks_in_use().collect();
        let is_missing = {
            let mut is_missing = vec![false; chain.image().blocks().len()];
            blocks.iter().for_each(|block| is_missing[*block] = true);
            is_missing
        };
        let work = Work { fault, chain, key, reader: ImageReader::default(), is_missing };
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("loader".into())
            .spawn(move || {
                jail::narrow(ThreadKind::Loader);
                theirs.end(work.run(&blocks, &theirs.stop));
            })
            .map_err(SnapshotError::Userfault)?;
        Ok(Self { thread: Some(thread), shared })
    }

    /// Readable when loading has failed.
    pub(crate) fn failed(&self) -> &EventFd {
        &self.shared.failed
    }

    /// Why it has failed, if it has.
    pub(crate) fn why(&self) -> Option<String> {
        match &*self.shared.progress() {
            Progress::Failed(why) => Some(why.clone()),
            Progress::Loading | Progress::Complete => None,
        }
    }

    /// Something with which another thread can wait for all pages.
    pub(crate) fn completion(&self) -> Completion {
        Completion(Arc::clone(&self.shared))
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        let _ = self.shared.stop.write(1);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Waits until guest RAM is whole: until then its memory file says nothing of what is in it.
#[derive(Clone, Debug)]
pub(crate) struct Completion(Arc<Shared>);

impl Completion {
    /// Whether there is nothing to wait for.
    pub(crate) fn is_there(&self) -> bool {
        matches!(*self.0.progress(), Progress::Complete)
    }

    /// # Errors
    /// Says why it will never be.
    pub(crate) fn wait(&self) -> Result<(), String> {
        let mut progress = self.0.progress();
        loop {
            match &*progress {
                Progress::Complete => return Ok(()),
                Progress::Failed(why) => return Err(why.clone()),
                Progress::Loading => {
                    progress = self.0.ended.wait(progress).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }
}

impl Shared {
    fn progress(&self) -> MutexGuard<'_, Progress> {
        // A panic aborts the process, so that no lock is ever poisoned.
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, outcome: Result<(), LoadError>) {
        let has_failed = outcome.is_err();
        *self.progress() = match outcome {
            Ok(()) => Progress::Complete,
            Err(error) => Progress::Failed(error.to_string()),
        };
        self.ended.notify_all();
        // Behind the reason: whoever sees the event asks for it at once.
        if has_failed {
            let _ = self.failed.write(1);
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum LoadError {
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    #[error("a page cannot be put into guest memory: {0}")]
    Userfault(#[from] io::Error),
    #[error("the machine is gone")]
    Stopped,
}

/// What the thread has.
struct Work {
    fault: Userfault,
    chain: Chain,
    key: DigestKey,
    reader: ImageReader,
    /// Of each block of the image, whether its pages are still to be put there.
    is_missing: Vec<bool>,
}

impl Work {
    fn run(mut self, blocks: &[usize], stop: &EventFd) -> Result<(), LoadError> {
        let mut faults = 0_u64;
        for block in blocks {
            // Nobody waits for a page that nobody touches: those who wait come first.
            while let Some(gfn) = self.fault.next_fault()? {
                faults += 1;
                self.serve(gfn)?;
            }
            if stop.read().is_ok() {
                return Err(LoadError::Stopped);
            }
            self.load(*block)?;
        }
        // What is missing now is zero, and whoever waits for such a page goes on.
        self.fault.finish()?;
        tracing::info!(faults, blocks = blocks.len(), "all pages of the snapshot are loaded");
        Ok(())
    }

    /// Puts a page there that somebody waits for.
    fn serve(&mut self, gfn: Gfn) -> Result<(), LoadError> {
        match self.chain.image().block_of(gfn) {
            Some(block) if self.is_missing[block] => self.load(block),
            // The fault was older than the page.
            Some(_) => Ok(self.fault.wake(one(gfn))?),
            None => Ok(self.fault.put_zeros(one(gfn))?),
        }
    }

    /// Puts all pages of a block there: what lies beside a page is often wanted next.
    fn load(&mut self, block: usize) -> Result<(), LoadError> {
        if !std::mem::replace(&mut self.is_missing[block], false) {
            return Ok(());
        }
        let Self { fault, chain, key, reader, .. } = self;
        chain.read_block(reader, key, block, |run, content| Ok(fault.put(run, content)?))
    }
}

fn one(gfn: Gfn) -> PageRun {
    PageRun::new(gfn, 1).expect("a page of guest RAM")
}
