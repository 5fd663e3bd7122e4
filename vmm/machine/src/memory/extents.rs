//! What the memory file has nothing for.

use std::collections::VecDeque;

use dwcp::page::PageRun;

use super::{GuestRam, RamError};

/// Extents that are remembered. A guest that has used all of its memory has one a slot; where there are many, they are
/// short, and soon found again.
const KEPT: usize = 16;

/// Pages that are alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) run: PageRun,
    /// Whether the memory file has nothing for them.
    pub(super) is_hole: bool,
}

/// Where a memory file has data, as far as that was asked: what is data stays data.
#[derive(Debug, Default)]
pub(crate) struct Extents {
    /// The newest last.
    data: VecDeque<PageRun>,
}

impl Extents {
    /// The first pages of a run that are a hole of the memory file, or that are not: which they are, and the rest.
    ///
    /// # Errors
    /// When the kernel cannot tell, or the run is not RAM.
    pub(crate) fn first_part(
        &mut self,
        ram: &GuestRam,
        run: PageRun,
    ) -> Result<(PageRun, bool, Option<PageRun>), RamError> {
        let Extent { run: alike, is_hole } = self.extent(ram, run)?;
        let pages = alike.end().0 - run.first().0;
        let (part, rest) =
            run.split_at(pages).map_or((run, None), |(part, rest)| (part, Some(rest)));
        Ok((part, is_hole, rest))
    }

    /// What the memory file has for the first page of a run and those after it.
    fn extent(&mut self, ram: &GuestRam, run: PageRun) -> Result<Extent, RamError> {
        let gfn = run.first();
        if let Some(run) = self.data.iter().rev().find(|data| data.contains(gfn)) {
            return Ok(Extent { run: *run, is_hole: false });
        }
        let extent = ram.extent(gfn)?;
        if !extent.is_hole {
            if self.data.len() == KEPT {
                self.data.pop_front();
            }
            self.data.push_back(extent.run);
        }
        Ok(extent)
    }
}
