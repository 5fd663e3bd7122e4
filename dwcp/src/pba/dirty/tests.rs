use std::collections::VecDeque;
use std::num::NonZeroU64;
use std::time::Duration;

use super::regions::{REGION_PAGES, Regions};
use super::*;
use crate::page::PageRun;
use crate::pba::trace::{Interval, Trace};

const SECOND: Duration = Duration::from_secs(1);

/// Recorded by `cargo run --release -p benches --bin dirty-trace`: the oracle guest in its patterns, 5,000 pages
/// a second of 4 MiB, 100 harvests of 20 ms.
const TRACES: [(&str, &[u8]); 5] = [
    ("sequential", include_bytes!("../../../traces/sequential.zst")),
    ("random", include_bytes!("../../../traces/random.zst")),
    ("hotspot", include_bytes!("../../../traces/hotspot.zst")),
    ("byte", include_bytes!("../../../traces/byte.zst")),
    ("page", include_bytes!("../../../traces/page.zst")),
];

fn set(limit: u64, pages: impl IntoIterator<Item = u64>) -> PageSet {
    let mut set = PageSet::new(Gfn(limit));
    for page in pages {
        set.insert(PageRun::new(Gfn(page), 1).unwrap()).unwrap();
    }
    set
}

#[test]
fn a_guest_that_is_not_known_writes_nothing() {
    let estimator = DirtyEstimator::new(Gfn(1000));
    assert!(!estimator.is_known());
    assert_eq!(estimator.pages_after(SECOND), 0.0);
}

#[test]
fn the_same_few_pages_stay_few() {
    let mut estimator = DirtyEstimator::new(Gfn(10_000));
    for _ in 0..10 {
        estimator.observe(SECOND, set(10_000, 0..64).words());
    }
    assert!((estimator.working_set() - 64.0).abs() < 1.0, "{}", estimator.working_set());
    assert_eq!(estimator.pages_after(SECOND / 2), 32.0);
    assert!(estimator.pages_after(100 * SECOND) < 65.0);
}

#[test]
fn ever_new_pages_become_as_many_as_there_are() {
    let mut estimator = DirtyEstimator::new(Gfn(100_000));
    for n in 0..10 {
        estimator.observe(SECOND, set(100_000, n * 100..(n + 1) * 100).words());
    }
    let after = estimator.pages_after(10 * SECOND);
    assert!((900.0..=1000.0).contains(&after), "{after}");
    assert!(estimator.pages_after(1_000_000 * SECOND) <= 100_000.0);
}

#[test]
fn it_grows_with_time_and_never_beyond_the_guest() {
    for ((name, _), trace) in TRACES.iter().zip(all()) {
        let mut estimator = DirtyEstimator::new(trace.limit);
        for interval in &trace.intervals {
            estimator.observe(interval.span, interval.dirty.words());
            let forecasts = [0, 1, 5, 20, 21, 50, 1000, 1_000_000]
                .map(|ms| estimator.pages_after(Duration::from_millis(ms)));
            assert!(forecasts.is_sorted(), "{name}: {forecasts:?}");
            assert!(forecasts[7] <= trace.limit.0 as f64, "{name}: {forecasts:?}");
        }
    }
}

#[test]
fn words_beyond_the_guest_or_missing_are_no_matter() {
    let mut estimator = DirtyEstimator::new(Gfn(64));
    estimator.observe(SECOND, &[1, u64::MAX, u64::MAX]);
    estimator.observe(SECOND, &[]);
    estimator.observe(Duration::ZERO, &[u64::MAX]);
    assert_eq!(estimator.pages_after(SECOND), 0.5);
}

/// The mean error over these traces, as a part of what came true, of four ways to forecast: the last harvest's
/// rate, the moving average of as many as the estimator keeps, the estimator, and one of them for each region.
pub(super) fn errors(traces: &[Trace], horizons: impl Fn(usize) -> Vec<usize>) -> [f64; 4] {
    let (mut sums, mut count) = ([0.0; 4], 0);
    for trace in traces {
        for together in [1, 2, 4, 8] {
            let mut estimator = DirtyEstimator::new(trace.limit);
            let mut regions = Regions::new(trace.limit);
            let mut rates: VecDeque<(f64, f64)> = VecDeque::new();
            for (index, part) in trace.intervals.chunks_exact(together).enumerate() {
                let seen = join(part, trace.limit);
                estimator.observe(seen.span, seen.dirty.words());
                regions.observe(seen.span, seen.dirty.words());
                rates.push_back((seen.dirty.count() as f64, seen.span.as_secs_f64()));
                if rates.len() > KEPT {
                    rates.pop_front();
                }
                for horizon in horizons(together) {
                    let from = (index + 1) * together;
                    let Some(future) = trace.intervals.get(from..from + horizon) else { continue };
                    let truth = join(future, trace.limit);
                    let (pages, span) = (truth.dirty.count() as f64, truth.span.as_secs_f64());
                    if index == 0 || pages == 0.0 {
                        continue;
                    }
                    let (last_pages, last_span) = rates[rates.len() - 1];
                    let sum = |of: fn(&(f64, f64)) -> f64| rates.iter().map(of).sum::<f64>();
                    let mean = sum(|(pages, _)| *pages) / sum(|(_, span)| *span);
                    let forecasts = [
                        last_pages / last_span * span,
                        mean * span,
                        estimator.pages_after(truth.span),
                        regions.pages_after(truth.span),
                    ];
                    for (error, forecast) in sums.iter_mut().zip(forecasts) {
                        *error += (forecast - pages).abs() / pages;
                    }
                    count += 1;
                }
            }
        }
    }
    sums.map(|sum| sum / f64::from(count))
}

/// Over a part of a harvest's time, over as long, and over longer.
pub(super) fn by_horizon(traces: &[Trace]) -> [[f64; 4]; 3] {
    println!(
        "mean error of the last value, the moving average, the estimator, one for each region"
    );
    let shorter = errors(traces, |together| vec![together.div_ceil(4), together.div_ceil(2)]);
    let same = errors(traces, |together| vec![together]);
    let longer = errors(traces, |together| vec![2 * together, 4 * together]);
    for (name, errors) in [("shorter", shorter), ("same", same), ("longer", longer)] {
        println!("{name:8} {}", errors.map(|error| format!("{:5.1} %", 100.0 * error)).join(" "));
    }
    [shorter, same, longer]
}

#[test]
fn the_forecast_beats_the_simpler_ones() {
    let [shorter, same, longer] = by_horizon(&all());
    for [last, mean, ours, regions] in [shorter, same] {
        assert!(ours < last && ours <= mean * 1.01 && ours <= regions * 1.01);
    }
    let [last, mean, ours, regions] = longer;
    assert!(ours < 0.6 * mean && ours < 0.6 * last && ours < regions, "{longer:?}");
}

pub(super) fn all() -> Vec<Trace> {
    TRACES.iter().map(|(_, bytes)| load(bytes)).collect()
}

/// A recording as one of a guest that ends soon behind what it wrote.
fn load(bytes: &[u8]) -> Trace {
    let mut trace = Trace::from_bytes(&zstd::decode_all(bytes).unwrap()).unwrap();
    let written = trace.intervals.iter().flat_map(|interval| interval.dirty.runs(NonZeroU64::MAX));
    let end = written.map(|run| run.end().0).max().unwrap();
    trace.limit = Gfn(end.next_multiple_of(REGION_PAGES));
    for interval in &mut trace.intervals {
        let mut dirty = PageSet::new(trace.limit);
        interval.dirty.runs(NonZeroU64::MAX).for_each(|run| _ = dirty.insert(run).unwrap());
        interval.dirty = dirty;
    }
    trace
}

pub(super) fn join(intervals: &[Interval], limit: Gfn) -> Interval {
    let mut joined = Interval { span: Duration::ZERO, dirty: PageSet::new(limit) };
    for interval in intervals {
        joined.span += interval.span;
        joined.dirty.union(&interval.dirty).unwrap();
    }
    joined
}
