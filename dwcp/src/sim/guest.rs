//! [`Guest`]: memory that a program dirties, and a state that changes.

use super::rng::Rng;
use crate::page::{Gfn, PAGE_SIZE, PageRun};

#[allow(clippy::cast_possible_truncation, reason = "4096 fits every usize")]
pub(super) const PAGE_BYTES: usize = PAGE_SIZE as usize;

/// A guest's memory, flat over all frames; those in the hole stay zero and are never touched.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Memory(Vec<u8>);

impl Memory {
    pub(super) fn new(limit: Gfn) -> Self {
        Self(vec![0; place(limit)])
    }

    pub(super) fn page(&self, gfn: Gfn) -> &[u8] {
        &self.0[place(gfn)..][..PAGE_BYTES]
    }

    pub(super) fn run(&self, run: PageRun) -> &[u8] {
        &self.0[place(run.first())..place(run.end())]
    }

    pub(super) fn run_mut(&mut self, run: PageRun) -> &mut [u8] {
        &mut self.0[place(run.first())..place(run.end())]
    }

    /// The first page in which two memories differ.
    pub(super) fn first_difference(&self, other: &Self) -> Option<Gfn> {
        let differs = |(a, b): (&[u8], &[u8])| a != b;
        let pages = self.0.chunks(PAGE_BYTES).zip(other.0.chunks(PAGE_BYTES));
        pages.map(differs).position(|differs| differs).map(|index| Gfn(index as u64))
    }
}

fn place(gfn: Gfn) -> usize {
    usize::try_from(gfn.0 * PAGE_SIZE).expect("a small guest")
}

/// A guest that runs, and a dirty log.
pub(super) struct Guest {
    pub(super) memory: Memory,
    layout: Vec<PageRun>,
    /// One bit a frame, as KVM gives it.
    dirty: Vec<u64>,
    state: Vec<u8>,
    rng: Rng,
    writes: u64,
    pub(super) is_running: bool,
}

impl Guest {
    /// A guest that has filled about two thirds of its memory, with a state of so many bytes.
    pub(super) fn new(layout: &[PageRun], state_bytes: usize, seed: u64) -> Self {
        let limit = layout.last().expect("a guest has memory").end();
        let words = usize::try_from(limit.0.div_ceil(64)).expect("a small guest");
        let mut rng = Rng::new(seed);
        let mut state = vec![0; state_bytes];
        rng.fill(&mut state);
        let mut guest = Self {
            memory: Memory::new(limit),
            layout: layout.to_vec(),
            dirty: vec![0; words],
            state,
            rng,
            writes: 0,
            is_running: true,
        };
        for run in layout {
            for gfn in run.frames() {
                if guest.rng.chance(650) {
                    guest.write(gfn);
                }
            }
        }
        guest
    }

    /// Runs on for so many writes: most of them into a few hot pages.
    pub(super) fn run(&mut self, writes: u64) {
        for _ in 0..writes {
            let run = self.layout[self.rng.below(0..self.layout.len() as u64) as usize];
            let pages = if self.rng.chance(700) { run.pages().min(4) } else { run.pages() };
            let gfn = Gfn(run.first().0 + self.rng.below(0..pages));
            self.write(gfn);
        }
        if writes > 0 {
            let at = self.rng.below(0..self.state.len() as u64) as usize;
            self.state[at] = self.state[at].wrapping_add(1);
        }
    }

    /// Has been rewritten since it was last here: so many pages of a thousand. By a program of its own, so that the guest
    /// does afterwards what it would have done anyway.
    pub(super) fn rewrite(&mut self, per_mille: u64, seed: u64) {
        let own = std::mem::replace(&mut self.rng, Rng::new(seed));
        for run in self.layout.clone() {
            for gfn in run.frames() {
                if self.rng.chance(per_mille) {
                    self.write(gfn);
                }
            }
        }
        self.rng = own;
    }

    /// The state as it is now.
    pub(super) fn state(&self) -> Vec<u8> {
        self.state.clone()
    }

    /// Gives the dirty log, which is empty afterwards.
    pub(super) fn take_dirty(&mut self) -> Vec<u64> {
        let words = self.dirty.len();
        std::mem::replace(&mut self.dirty, vec![0; words])
    }

    /// A write of one of several natures: a whole page of noise, of repetition, of zeros, or a few
    /// bytes of a page that has content.
    fn write(&mut self, gfn: Gfn) {
        self.writes += 1;
        let nature = self.rng.below(0..10);
        let run = PageRun::known_valid(gfn, 1);
        let page = self.memory.run_mut(run);
        match nature {
            0 => page.fill(0),
            1 | 2 => self.rng.fill(page),
            3 | 4 => page.fill(self.writes as u8 | 1),
            _ => {
                let at = self.rng.below(0..(PAGE_SIZE - 16)) as usize;
                page[at..at + 8].copy_from_slice(&self.writes.to_le_bytes());
                page[at + 8..at + 16].copy_from_slice(&gfn.0.to_le_bytes());
            }
        }
        self.dirty[(gfn.0 / 64) as usize] |= 1 << (gfn.0 % 64);
    }
}
