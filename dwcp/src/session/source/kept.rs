//! [`Recall`]: what the destination has kept of an earlier stay of the machine. See `SPEC.md`, 8.6.

use std::time::Duration;

use crate::digest::ShortDigest;
use crate::page::{Gfn, PageRun};
use crate::session::timers::{RECALL_MOST, RECALL_WITHIN};
use crate::session::{Fault, contains};
use crate::wire::{KeptPart, Kind};

/// What a source asks of what the destination has kept, and what it was told.
///
/// It is asked on each connection from where the last one broke off, until all of it is here. Pages wait for it, since
/// each that goes out before is one that need not have: but only while the destination has something to say, and not for
/// long.
#[derive(Debug)]
pub(super) struct Recall {
    memory: Vec<PageRun>,
    is_wanted: bool,
    /// The first page of which nothing was told yet.
    from: Gfn,
    /// The connection on which it is asked, and until when pages wait for the next word.
    asked: Option<(u16, Duration)>,
    /// When they wait no longer, once it was asked for the first time.
    end: Option<Duration>,
    /// The digest of each page, as far as it was told; all zeros for none. Plain words, since the allocator gives zeros
    /// of these without touching them; none before the first is told.
    digests: Vec<u64>,
}

impl Recall {
    pub(super) fn new(memory: &[PageRun]) -> Self {
        Self {
            memory: memory.to_vec(),
            is_wanted: false,
            from: Gfn(0),
            asked: None,
            end: None,
            digests: Vec::new(),
        }
    }

    pub(super) fn want(&mut self) {
        self.is_wanted = true;
    }

    /// A connection is there: from where to ask, if that is wanted still.
    pub(super) fn ask(&mut self, now: Duration, connection: u16) -> Option<Gfn> {
        if self.is_wanted {
            let end = *self.end.get_or_insert(now + RECALL_MOST);
            self.asked = Some((connection, end.min(now + RECALL_WITHIN)));
        }
        self.asked.map(|_| self.from)
    }

    /// The connection is over.
    pub(super) fn connection_lost(&mut self) {
        self.asked = None;
    }

    /// Until when pages wait for the next word, if they do.
    pub(super) fn waits_until(&self) -> Option<Duration> {
        self.asked.filter(|_| self.is_wanted).map(|(_, until)| until)
    }

    /// It was waited for long enough: what still comes is used, and nothing more is asked.
    pub(super) fn handle_timeout(&mut self, now: Duration) {
        if self.waits_until().is_some_and(|until| now >= until) {
            self.is_wanted = false;
        }
    }

    /// A part has arrived.
    pub(super) fn part(&mut self, now: Duration, part: &KeptPart) -> Result<(), Fault> {
        let (_, until) = self.asked.as_mut().ok_or(Fault::Unexpected(Kind::Kept))?;
        let next = now + RECALL_WITHIN;
        *until = self.end.map_or(next, |end| end.min(next));
        for run in &part.runs {
            let pages = PageRun::new(run.first, run.digests.len() as u64);
            let pages = pages.expect("checked where it was read");
            if !contains(&self.memory, pages) {
                return Err(Fault::NoMemory(pages));
            }
            // Ascending: so there is no more of it than memory has pages.
            if pages.first() < self.from {
                return Err(Fault::Kept(pages));
            }
            self.from = pages.end();
            if self.digests.is_empty() {
                let limit = self.memory.last().map_or(0, |run| run.end().0);
                self.digests = vec![0; usize::try_from(limit).expect("a limit checked before")];
            }
            for (gfn, digest) in pages.frames().zip(&run.digests) {
                self.digests[index(gfn)] = u64::from_le_bytes(digest.0);
            }
        }
        if part.is_last {
            (self.asked, self.is_wanted) = (None, false);
        }
        Ok(())
    }

    /// Whether anything is known to be kept.
    pub(super) fn knows_any(&self) -> bool {
        !self.digests.is_empty()
    }

    /// What a page of the kept image digests to, as far as it was told.
    pub(super) fn digest(&self, gfn: Gfn) -> Option<ShortDigest> {
        let word = self.digests.get(index(gfn)).copied().filter(|word| *word != 0);
        word.map(|word| ShortDigest(word.to_le_bytes()))
    }
}

fn index(gfn: Gfn) -> usize {
    usize::try_from(gfn.0).expect("a page of the guest")
}
