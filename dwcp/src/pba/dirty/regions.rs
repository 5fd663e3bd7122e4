//! What does not ship, since it is no better than what does: forecasting region by region, and sending what was
//! written lately last. Both are judged by the recordings.

use std::num::NonZeroU64;
use std::time::Duration;

use super::tests::{all, by_horizon};
use super::*;
use crate::page::PageRun;
use crate::pba::trace::{Interval, Trace};

/// Pages of a region: 2 MiB, a large page of the processor's.
pub(super) const REGION_PAGES: u64 = 512;
/// Where the guests of a combined recording begin, each behind the one before.
const APART: u64 = 8192;

/// An estimator for each region; what they expect is summed.
pub(super) struct Regions(Vec<DirtyEstimator>);

impl Regions {
    pub(super) fn new(limit: Gfn) -> Self {
        let count = limit.0.div_ceil(REGION_PAGES);
        Self((0..count).map(|_| DirtyEstimator::new(Gfn(REGION_PAGES))).collect())
    }

    pub(super) fn observe(&mut self, span: Duration, words: &[u64]) {
        let mut parts = words.chunks(REGION_PAGES as usize / 64);
        for region in &mut self.0 {
            region.observe(span, parts.next().unwrap_or_default());
        }
    }

    pub(super) fn pages_after(&self, after: Duration) -> f64 {
        self.0.iter().map(|region| region.pages_after(after)).sum()
    }
}

/// Recordings side by side in a larger guest, as if it did all of that at the same time: composed, not recorded.
fn together(traces: &[Trace]) -> Trace {
    let limit = Gfn(APART * traces.len() as u64);
    let count = traces.iter().map(|trace| trace.intervals.len()).min().unwrap();
    let interval = |index: usize| {
        let mut dirty = PageSet::new(limit);
        let mut span = Duration::ZERO;
        for (offset, trace) in (0..).step_by(APART as usize).zip(traces) {
            let interval = &trace.intervals[index];
            span += interval.span;
            for run in interval.dirty.runs(NonZeroU64::MAX) {
                let moved = PageRun::new(Gfn(run.first().0 + offset), run.pages()).unwrap();
                dirty.insert(moved).unwrap();
            }
        }
        Interval { span: span / u32::try_from(traces.len()).unwrap(), dirty }
    };
    Trace { limit, intervals: (0..count).map(interval).collect() }
}

/// A part that is busy in few places beside one that is written all over.
fn combined() -> Trace {
    let [_, random, hotspot, ..] = &all()[..] else { panic!("five recordings") };
    together(&[hotspot.clone(), random.clone()])
}

#[test]
fn forecasting_by_regions_is_no_better_than_of_the_whole_guest() {
    println!("of two patterns at the same time");
    let [shorter, same, longer] = by_horizon(&[combined()]);
    for [_, _, whole, regions] in [shorter, same] {
        assert!((whole - regions).abs() < 0.01 * whole, "{whole} {regions}");
    }
    let [_, _, whole, regions] = longer;
    assert!(whole < regions, "{longer:?}");
}

/// Which of the pages that are owed go out first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    /// Upwards from where the last ones were, as the ledger has it.
    Upwards,
    /// Those of the region first that was not written for the longest time.
    QuietRegionsFirst,
}

/// When what was written comes to be owed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Harvest {
    /// Once nothing is owed: a round is over.
    EachRound,
    /// After each interval of the recording.
    EachInterval,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cost {
    sent_again: u64,
    left: u64,
}

/// A move of a guest that does what was recorded, over a link that takes so many pages a second.
fn replay(trace: &Trace, pages_per_second: f64, order: Order, harvest: Harvest) -> Cost {
    let end = trace.limit.0;
    let (mut owed, mut log) = (PageSet::new(Gfn(end)), PageSet::new(Gfn(end)));
    owed.insert(PageRun::new(Gfn(0), end).unwrap()).unwrap();
    let mut written_at = vec![0; usize::try_from(end.div_ceil(REGION_PAGES)).unwrap()];
    let mut was_sent = PageSet::new(Gfn(end));
    let (mut cost, mut room, mut from) = (Cost { sent_again: 0, left: 0 }, 0.0, 0);
    for (now, interval) in (1..).zip(&trace.intervals) {
        room += interval.span.as_secs_f64() * pages_per_second;
        let mut quiet_first: Vec<u64> = (0..end.div_ceil(REGION_PAGES)).collect();
        quiet_first.sort_by_key(|region| written_at[usize::try_from(*region).unwrap()]);
        while room >= 1.0 {
            if owed.is_empty() && harvest == Harvest::EachRound {
                owed.union(&log).unwrap();
                log.clear();
            }
            #[allow(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a positive number, and small"
            )]
            let most = NonZeroU64::new(room as u64).unwrap();
            let run = match order {
                Order::Upwards => owed.next_run(Gfn(from), most),
                Order::QuietRegionsFirst => quiet_first.iter().find_map(|region| {
                    let run = owed.next_run(Gfn(region * REGION_PAGES), most)?;
                    let within = ((region + 1) * REGION_PAGES).checked_sub(run.first().0)?;
                    PageRun::new(run.first(), run.pages().min(within)).ok()
                }),
            };
            let run = run.or_else(|| owed.next_run(Gfn(0), most));
            let Some(run) = run else { break };
            owed.remove(run).unwrap();
            cost.sent_again += run.pages() - was_sent.insert(run).unwrap();
            (from, room) = (run.end().0, room - run.pages() as f64);
        }
        // Time in which there was nothing to send is over.
        room = room.min(1.0);
        for run in interval.dirty.runs(NonZeroU64::MAX) {
            let into = if harvest == Harvest::EachRound { &mut log } else { &mut owed };
            into.insert(run).unwrap();
            for page in run.frames() {
                written_at[usize::try_from(page.0 / REGION_PAGES).unwrap()] = now;
            }
        }
    }
    owed.union(&log).unwrap();
    cost.left = owed.count();
    cost
}

#[test]
fn sending_quiet_regions_first_is_no_gain() {
    let trace = combined();
    let seconds: f64 = trace.intervals.iter().map(|it| it.span.as_secs_f64()).sum();
    let written: u64 = trace.intervals.iter().map(|it| it.dirty.count()).sum();
    println!("link by writes, harvest: upwards, quiet regions first");
    for part in [1.0, 1.25, 2.0, 4.0] {
        let rate = part * written as f64 / seconds;
        let [[round, round_quiet], [often, often_quiet]] =
            [Harvest::EachRound, Harvest::EachInterval].map(|harvest| {
                let orders = [Order::Upwards, Order::QuietRegionsFirst];
                let costs = orders.map(|order| replay(&trace, rate, order, harvest));
                println!("{part}, {harvest:?}: {costs:?}");
                costs
            });
        // Whatever was written since the last harvest goes out in the next round, in whichever order this one goes.
        assert_eq!(round.sent_again, round_quiet.sent_again);
        // Looking often saves a little, and the order a little more, or nothing at all.
        assert!(often_quiet.sent_again as f64 > 0.95 * often.sent_again as f64);
        assert!(
            often_quiet.left >= often.left
                && often.sent_again as f64 > 0.9 * round.sent_again as f64
        );
    }
}
