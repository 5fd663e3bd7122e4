//! [`KeptStore`]: what the destination's host has kept of an earlier stay of the guest.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::guest::Memory;
use super::rng::Rng;
use crate::digest::{DigestKey, Manifest, PageDigest};
use crate::page::{Gfn, PAGE_SIZE, Page, PageRun};
use crate::session::KeptImage;

/// What came of what was kept, over all attempts: a run in which nothing of it was used tests nothing of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeptCounts {
    /// Times that a destination was asked what it has kept.
    pub recalls: u64,
    /// Those of them that went on where an earlier connection broke off.
    pub resumed: u64,
    /// Pages that arrived as ones that were kept, and were what they should be.
    pub pages: u64,
    /// Pages that were looked for, and could not be read, or were not what was told of them.
    pub damaged: u64,
}

/// Storage of the host: it outlives the processes that read it.
pub(super) struct KeptStore {
    /// The guest's memory when it left. What is told of it is right as long as it opens: a file has its list apart
    /// from its pages.
    image: Memory,
    layout: Vec<PageRun>,
    damage: BTreeMap<Gfn, Damage>,
    /// Whether a process finds it to be an image at all.
    opens: bool,
    counts: Cell<KeptCounts>,
}

#[derive(Clone, Copy, Debug)]
enum Damage {
    /// The page cannot be read.
    Lost,
    /// It is another one, and nothing says so before the arrival check.
    Changed,
}

/// What a process tells of the image.
#[derive(Debug)]
struct List(Manifest);

impl KeptImage for List {
    fn digest(&self, gfn: Gfn) -> PageDigest {
        self.0.get(gfn).unwrap_or_default()
    }
}

impl KeptStore {
    pub(super) fn new(image: &Memory, layout: &[PageRun]) -> Self {
        Self {
            image: image.clone(),
            layout: layout.to_vec(),
            damage: BTreeMap::new(),
            opens: true,
            counts: Cell::default(),
        }
    }

    /// The list of the image, for a process that has the machine's key; none if it does not open.
    pub(super) fn open(&self, key: &DigestKey) -> Option<Arc<dyn KeptImage>> {
        if !self.opens {
            return None;
        }
        let mut list = Manifest::new(self.layout.last().expect("a guest has memory").end());
        for gfn in self.layout.iter().flat_map(|run| run.frames()) {
            let digest = key.digest(gfn.0 * PAGE_SIZE, self.page(gfn));
            list.replace(gfn, digest).expect("a page of the guest");
        }
        Some(Arc::new(List(list)))
    }

    /// Copies a page; false if it cannot be read.
    pub(super) fn copy(&self, gfn: Gfn, into: &mut Page) -> bool {
        let damage = if self.opens { self.damage.get(&gfn) } else { Some(&Damage::Lost) };
        self.count(|counts| counts.damaged += u64::from(damage.is_some()));
        if let Some(Damage::Lost) = damage {
            return false;
        }
        *into = *self.page(gfn);
        if let Some(Damage::Changed) = damage {
            into[17] ^= 1;
        }
        true
    }

    /// So many pages of a thousand are lost, or become others.
    pub(super) fn rot(&mut self, per_mille: u64, rng: &mut Rng) {
        for gfn in self.layout.iter().flat_map(|run| run.frames()) {
            if rng.chance(per_mille) {
                let damage = if rng.chance(500) { Damage::Lost } else { Damage::Changed };
                self.damage.insert(gfn, damage);
            }
        }
    }

    /// Nothing of it can be read any more.
    pub(super) fn lose(&mut self) {
        self.opens = false;
    }

    pub(super) fn counts(&self) -> KeptCounts {
        self.counts.get()
    }

    pub(super) fn count(&self, with: impl FnOnce(&mut KeptCounts)) {
        let mut counts = self.counts.get();
        with(&mut counts);
        self.counts.set(counts);
    }

    fn page(&self, gfn: Gfn) -> &Page {
        self.image.page(gfn).first_chunk().expect("a page")
    }
}
