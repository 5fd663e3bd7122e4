//! [`KeptOut`]: telling the source what is kept here of an earlier stay of the machine. See `SPEC.md`, 8.6.

use std::sync::Arc;

use crate::digest::PageDigest;
use crate::page::{Gfn, PageRun};
use crate::session::Fault;
use crate::wire::{KeptPart, KeptRun, Kind, kept_room};

/// An image that this host has kept of the machine.
pub trait KeptImage: Send + Sync + std::fmt::Debug {
    /// What a page of it digests to under the machine's key; [`PageDigest::ZERO`] where nothing of it is kept.
    fn digest(&self, gfn: Gfn) -> PageDigest;
}

#[derive(Debug)]
pub(super) struct KeptOut {
    image: Option<Arc<dyn KeptImage>>,
    memory: Vec<PageRun>,
    /// Once a connection it may be asked for.
    was_asked: bool,
    /// The first page that is still to be told of on this connection.
    next: Option<Gfn>,
}

impl KeptOut {
    pub(super) fn new(memory: &[PageRun]) -> Self {
        Self { image: None, memory: memory.to_vec(), was_asked: false, next: None }
    }

    pub(super) fn keep(&mut self, image: Arc<dyn KeptImage>) {
        self.image = Some(image);
    }

    /// The source asks, from a page on.
    pub(super) fn asked(&mut self, from: Gfn) -> Result<(), Fault> {
        if std::mem::replace(&mut self.was_asked, true) {
            return Err(Fault::Unexpected(Kind::Recall));
        }
        self.next = Some(from);
        Ok(())
    }

    /// The connection is over.
    pub(super) fn connection_lost(&mut self) {
        (self.was_asked, self.next) = (false, None);
    }

    /// The next part, if it is asked for.
    pub(super) fn next_part(&mut self) -> Option<KeptPart> {
        let from = self.next?;
        let mut part = KeptPart { is_last: true, runs: Vec::new() };
        self.next = None;
        let Some(image) = &self.image else { return Some(part) };
        let mut told = 0;
        let runs = self.memory.iter().filter(|run| run.end() > from);
        let frames = runs.flat_map(|run| (run.first().max(from).0..run.end().0).map(Gfn));
        for gfn in frames {
            let digest = image.digest(gfn);
            if digest == PageDigest::ZERO {
                continue;
            }
            let follows = part.runs.last().is_some_and(|run| end(run) == gfn);
            let runs = part.runs.len() + usize::from(!follows);
            if told >= kept_room(runs) {
                (part.is_last, self.next) = (false, Some(gfn));
                return Some(part);
            }
            told += 1;
            match part.runs.last_mut().filter(|_| follows) {
                Some(run) => run.digests.push(digest.short()),
                None => part.runs.push(KeptRun { first: gfn, digests: vec![digest.short()] }),
            }
        }
        Some(part)
    }
}

fn end(run: &KeptRun) -> Gfn {
    Gfn(run.first.0 + run.digests.len() as u64)
}
