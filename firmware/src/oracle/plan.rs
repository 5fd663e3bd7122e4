//! How the guest's pages are divided: among vCPUs, and each share into what is written again and
//! again, what only lies there stamped, and what is left alone.
//!
//! ```text
//! owned pages, by address    0 ................................................. pages
//! shares                     |   vCPU 0        |   vCPU 1        |   vCPU 2        |
//! a share                    | working | static | untouched |
//! ```
//! Every share has pages of its own in every class, so both memory slots around a hole see writes
//! when there are two vCPUs or more.

use super::PAGE_BYTES;
use super::extents::Extents;
use super::mix;
use super::options::Options;
use super::page::{Stamp, Write};
use super::walk::Walk;

/// Who does what, for the whole run.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    options: Options,
    extents: Extents,
    working: u64,
    stamped: u64,
    run: u64,
}

/// Memory that the options do not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsuitable {
    /// A vCPU would have no page to write.
    TooSmall,
    /// More pages than page numbers: 16 TiB.
    TooLarge,
}

impl Plan {
    /// Divides `extents`. A working set larger than memory is cut down to it.
    ///
    /// # Errors
    /// [`Unsuitable`]
    pub fn new(options: Options, extents: Extents) -> Result<Self, Unsuitable> {
        let pages = extents.pages();
        if pages >= 1 << 32 {
            return Err(Unsuitable::TooLarge);
        }
        let working = pages.min(options.working_set / PAGE_BYTES);
        if working < u64::from(options.cpus) {
            return Err(Unsuitable::TooSmall);
        }
        let stamped = options.fill.map_or(pages, |bytes| pages.min(bytes / PAGE_BYTES));
        let stamped = stamped.max(working);
        // Not the seed alone: pages left by a run with other vCPUs must not pass for this run's.
        let run = mix(options.seed ^ mix(pages << 8 | u64::from(options.cpus)));
        Ok(Self { options, extents, working, stamped, run })
    }

    /// What was asked for.
    #[must_use]
    pub const fn options(&self) -> &Options {
        &self.options
    }

    /// Pages the guest owns.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.extents.pages()
    }

    /// Pages that are written again and again.
    #[must_use]
    pub const fn working(&self) -> u64 {
        self.working
    }

    /// Pages that are stamped once.
    #[must_use]
    pub const fn fixed(&self) -> u64 {
        self.stamped - self.working
    }

    /// The part of one vCPU.
    #[must_use]
    pub fn share(&self, cpu: u32) -> Share<'_> {
        let cpus = u64::from(self.options.cpus);
        let cpu_number = u64::from(cpu);
        // Shares differ by one page at most, and grow with the total: so a vCPU's stamped part is
        // never smaller than its working part.
        let part = |total: u64| total / cpus + u64::from(cpu_number < total % cpus);
        let pages = self.pages();
        let first = cpu_number * (pages / cpus) + cpu_number.min(pages % cpus);
        Share {
            plan: self,
            cpu,
            first,
            pages: part(pages),
            working: part(self.working),
            stamped: part(self.stamped),
        }
    }
}

/// The pages of one vCPU, numbered from 0: first the working set, then the static pages, then those
/// that are left alone.
#[derive(Clone, Copy, Debug)]
pub struct Share<'a> {
    plan: &'a Plan,
    cpu: u32,
    first: u64,
    pages: u64,
    working: u64,
    stamped: u64,
}

impl Share<'_> {
    /// All pages of the share.
    #[must_use]
    pub const fn pages(&self) -> u64 {
        self.pages
    }

    /// Pages of the working set: numbers `0..working`.
    #[must_use]
    pub const fn working(&self) -> u64 {
        self.working
    }

    /// Pages that hold a stamp: numbers `0..stamped`.
    #[must_use]
    pub const fn stamped(&self) -> u64 {
        self.stamped
    }

    /// Physical address of a page of the share.
    #[must_use]
    pub fn address(&self, page: u64) -> Option<u64> {
        if page < self.pages { self.plan.extents.address(self.first + page) } else { None }
    }

    /// The order in which the working set is written.
    #[must_use]
    pub fn walk(&self) -> Walk {
        let seed = mix(self.plan.run ^ u64::from(self.cpu));
        Walk::new(self.plan.options.order(), self.working, seed)
    }

    /// What the page at `address` holds after `sequence` writes.
    #[must_use]
    pub fn stamp(&self, page: u64, address: u64, sequence: u64) -> Stamp {
        let write = if page < self.working { self.plan.options.write() } else { Write::Page };
        // There are 64 vCPUs at most.
        let writer = u16::try_from(self.cpu).unwrap_or(u16::MAX);
        Stamp { address, writer, sequence, run: self.plan.run, write }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::index;
    use proptest::prelude::*;

    fn extents(pages: u64) -> Extents {
        let mut extents = Extents::new();
        // Two slots around a hole, the first of them small.
        extents.add(0x10_0000, pages.min(100) * PAGE_BYTES).unwrap();
        extents.add(1 << 32, pages.saturating_sub(100) * PAGE_BYTES).unwrap();
        extents
    }

    proptest! {
        #[test]
        fn every_page_belongs_to_exactly_one_share_and_class(
            cpus in 1..=64u32, pages in 64u64..5000, working in 64u64..6000,
            fill in prop::option::of(0u64..6000),
        ) {
            let options = Options {
                cpus,
                working_set: working * PAGE_BYTES,
                fill: fill.map(|pages| pages * PAGE_BYTES),
                ..Options::default()
            };
            let plan = Plan::new(options, extents(pages)).unwrap();
            let extents = extents(pages);
            let numbers: std::collections::HashMap<_, _> =
                (0..pages).map(|number| (extents.address(number).unwrap(), number)).collect();
            let mut owners = vec![0; index(pages)];
            let (mut working_pages, mut stamped) = (0, 0);
            for cpu in 0..cpus {
                let share = plan.share(cpu);
                prop_assert!(share.working() > 0);
                prop_assert!(share.working() <= share.stamped());
                prop_assert!(share.stamped() <= share.pages());
                working_pages += share.working();
                stamped += share.stamped();
                for page in 0..share.pages() {
                    let address = share.address(page).unwrap();
                    owners[index(numbers[&address])] += 1;
                }
                prop_assert_eq!(share.address(share.pages()), None);
            }
            prop_assert_eq!(working_pages, plan.working());
            prop_assert_eq!(stamped, plan.working() + plan.fixed());
            prop_assert!(owners.iter().all(|count| *count == 1));
        }
    }

    #[test]
    fn a_working_set_larger_than_memory_is_cut_down_to_it() {
        let options = Options { working_set: 1 << 40, ..Options::default() };
        let plan = Plan::new(options, extents(300)).unwrap();
        assert_eq!((plan.working(), plan.fixed(), plan.pages()), (300, 0, 300));
    }

    #[test]
    fn memory_without_a_page_for_every_vcpu_is_refused() {
        let options = Options { cpus: 4, ..Options::default() };
        assert_eq!(Plan::new(options, extents(3)).err(), Some(Unsuitable::TooSmall));
    }

    #[test]
    fn another_seed_or_number_of_vcpus_is_another_run() {
        let run = |options| Plan::new(options, extents(300)).unwrap().share(0).stamp(0, 0, 0).run;
        let first = run(Options::default());
        assert_ne!(first, run(Options { seed: 2, ..Options::default() }));
        assert_ne!(first, run(Options { cpus: 2, ..Options::default() }));
    }
}
