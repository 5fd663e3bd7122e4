//! Which page is written when, and how often it has been written by then.
//!
//! Both are functions of the round and the position in it. The guest keeps no table of sequence
//! numbers: a table lies in memory too, and could go stale together with the pages it speaks of.

use super::mix;
use super::permutation::Permutation;

/// In which order the pages of a working set are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// By address.
    Sequential,
    /// Each page once a round, in an order that differs from round to round.
    Random,
    /// One page in [`COLD_PER_HOT`] is written [`HEAT`] times a round, the others once.
    Hotspot,
}

/// How many times a round a hot page is written.
pub const HEAT: u64 = 8;

/// A hot spot is this part of the working set, or one page.
pub const COLD_PER_HOT: u64 = 16;

/// How far a vCPU has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Rounds completed.
    pub round: u64,
    /// Writes done in the round under way.
    pub position: u64,
}

/// One write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Index of the page in the working set.
    pub page: u64,
    /// Sequence number that the page must hold before the write.
    pub sequence: u64,
}

/// The order of writes over a working set.
#[derive(Clone, Copy, Debug)]
pub struct Walk {
    order: Order,
    pages: u64,
    hot: u64,
    seed: u64,
}

impl Walk {
    /// An order over `pages` pages: at least one, fewer than 2^32.
    #[must_use]
    pub const fn new(order: Order, pages: u64, seed: u64) -> Self {
        assert!(pages > 0 && pages < 1 << 32);
        let hot = match order {
            Order::Hotspot if pages > COLD_PER_HOT => pages / COLD_PER_HOT,
            Order::Hotspot => 1,
            Order::Sequential | Order::Random => 0,
        };
        Self { order, pages, hot, seed }
    }

    /// Writes in a round.
    #[must_use]
    pub const fn steps_a_round(&self) -> u64 {
        match self.order {
            Order::Sequential | Order::Random => self.pages,
            Order::Hotspot => self.pass_start(HEAT),
        }
    }

    /// The write that follows `progress`.
    #[must_use]
    pub fn step(&self, progress: Progress) -> Step {
        let Progress { round, position } = progress;
        match self.order {
            Order::Sequential => Step { page: position, sequence: round },
            Order::Random => Step { page: self.shuffle(round).element(position), sequence: round },
            Order::Hotspot => {
                let pass = (1..HEAT).take_while(|pass| self.pass_start(*pass) <= position).count();
                let pass = pass as u64;
                let within = position - self.pass_start(pass);
                if within < self.hot {
                    Step { page: within, sequence: round * HEAT + pass }
                } else {
                    let cold = self.cold_before(pass) + within - self.hot;
                    Step { page: self.hot + cold, sequence: round }
                }
            }
        }
    }

    /// The sequence number that page `page` holds at `progress`.
    #[must_use]
    pub fn sequence(&self, page: u64, progress: Progress) -> u64 {
        let Progress { round, position } = progress;
        let done = |at: u64| u64::from(at < position);
        match self.order {
            Order::Sequential => round + done(page),
            Order::Random => round + done(self.shuffle(round).position(page)),
            Order::Hotspot if page < self.hot => {
                let visits = (0..HEAT).map(|pass| done(self.pass_start(pass) + page)).sum::<u64>();
                round * HEAT + visits
            }
            Order::Hotspot => {
                let cold = page - self.hot;
                let pass = (1..HEAT).take_while(|pass| self.cold_before(*pass) <= cold).count();
                let pass = pass as u64;
                let within = self.hot + cold - self.cold_before(pass);
                round + done(self.pass_start(pass) + within)
            }
        }
    }

    /// `progress` after one more write.
    #[must_use]
    pub const fn advance(&self, progress: Progress) -> Progress {
        if progress.position + 1 < self.steps_a_round() {
            Progress { position: progress.position + 1, ..progress }
        } else {
            Progress { round: progress.round + 1, position: 0 }
        }
    }

    fn shuffle(&self, round: u64) -> Permutation {
        Permutation::new(self.pages, mix(self.seed ^ mix(round)))
    }

    /// Cold pages written in the passes before `pass`. A round is [`HEAT`] passes over the hot part,
    /// each followed by its share of the cold one.
    const fn cold_before(&self, pass: u64) -> u64 {
        (self.pages - self.hot) * pass / HEAT
    }

    const fn pass_start(&self, pass: u64) -> u64 {
        pass * self.hot + self.cold_before(pass)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn orders() -> impl Strategy<Value = Order> {
        prop_oneof![Just(Order::Sequential), Just(Order::Random), Just(Order::Hotspot)]
    }

    proptest! {
        // The reference is the table that the guest does without.
        #[test]
        fn expected_sequences_agree_with_a_table_of_all_writes(
            order in orders(), pages in 1u64..200, seed: u64, steps in 0u64..1500,
        ) {
            let walk = Walk::new(order, pages, seed);
            let mut table = vec![0; super::super::index(pages)];
            let mut progress = Progress::default();
            for _ in 0..steps {
                let step = walk.step(progress);
                let written = &mut table[super::super::index(step.page)];
                prop_assert_eq!(step.sequence, *written);
                *written += 1;
                progress = walk.advance(progress);
            }
            for (page, written) in table.iter().enumerate() {
                prop_assert_eq!(walk.sequence(page as u64, progress), *written);
            }
        }

        #[test]
        fn a_round_writes_every_page(order in orders(), pages in 1u64..300, seed: u64) {
            let walk = Walk::new(order, pages, seed);
            let mut progress = Progress { round: 7, position: 0 };
            let mut seen = vec![0; super::super::index(pages)];
            for _ in 0..walk.steps_a_round() {
                seen[super::super::index(walk.step(progress).page)] += 1;
                progress = walk.advance(progress);
            }
            prop_assert_eq!(progress, Progress { round: 8, position: 0 });
            prop_assert!(seen.iter().all(|count| *count == 1 || *count == HEAT), "{:?}", seen);
            let hot = seen.iter().filter(|count| **count == HEAT).count();
            prop_assert_eq!(hot > 0, order == Order::Hotspot);
        }
    }

    #[test]
    fn random_rounds_differ_from_each_other() {
        let walk = Walk::new(Order::Random, 100, 3);
        let order = |round| {
            (0..100)
                .map(|position| walk.step(Progress { round, position }).page)
                .collect::<Vec<_>>()
        };
        assert_ne!(order(0), order(1));
    }
}
