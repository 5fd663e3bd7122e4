//! The estimator beside simpler ones, on recordings.

use super::*;
use crate::pba::trace::BatchTrace;

/// Recorded by `cargo run --release -p benches --bin encode-trace`: batches of the first 512 MiB of the Debian's memory that
/// `cargo xtask bench memory-image` makes, and the time that a processor took for each. `first` is how they go out at step 2;
/// `steps` the same with another step every 8 MiB; `later` what has changed after the Debian has worked, as deltas.
const TRACES: [(&str, &[u8]); 3] = [
    ("first", include_bytes!("../../../traces/encode-first.zst")),
    ("steps", include_bytes!("../../../traces/encode-steps.zst")),
    ("later", include_bytes!("../../../traces/encode-later.zst")),
];

/// Pages that a forecast is of: a single batch; some; and rounds.
const BATCH: f64 = 64.0;
const MANY: [f64; 3] = [256.0, 1024.0, 4096.0];
/// Batches of one size that weigh as much in a moving average as the estimator weighs the last ones: (2 - w) / w.
const MOVING: usize = 4;
/// No forecast counts before.
const SEEN_LEAST: usize = 8;

/// Whose forecasts are compared: bytes and seconds a page as in the last batch, and as in the last few, at whichever step
/// they were; and the estimator's.
const WAYS: usize = 3;
type Errors = [f64; WAYS];

#[derive(Clone, Copy, Default)]
struct Score {
    bytes: Errors,
    takes: Errors,
    /// Sums of what came true.
    truth: (f64, f64),
}

impl Score {
    /// Errors as a part of what came true: of bytes, and of time.
    fn parts(&self) -> [Errors; 2] {
        [self.bytes.map(|error| error / self.truth.0), self.takes.map(|error| error / self.truth.1)]
    }
}

fn load(bytes: &[u8]) -> Vec<EncodedBatch> {
    BatchTrace::from_bytes(&zstd::decode_all(bytes).unwrap()).unwrap().batches
}

/// Bytes and seconds a page of these.
fn mean(batches: &[EncodedBatch]) -> (f64, f64) {
    let sum = |of: fn(&EncodedBatch) -> f64| batches.iter().map(of).sum::<f64>();
    let pages = sum(pages);
    (sum(|batch| batch.bytes as f64) / pages, sum(|batch| batch.took.as_secs_f64()) / pages)
}

fn pages(batch: &EncodedBatch) -> f64 {
    batch.tiers.total().pages as f64
}

/// The batches of one step that come first, and have so many pages.
fn first(batches: &[EncodedBatch], least: f64) -> Option<&[EncodedBatch]> {
    let same = batches.iter().take_while(|batch| batch.step == batches[0].step);
    let mut sum = 0.0;
    let (last, _) = same.enumerate().find(|(_, batch)| {
        sum += pages(batch);
        sum >= least
    })?;
    Some(&batches[..=last])
}

/// How forecasts of the next so many pages were, while the step stayed, and where it has just changed.
fn judge(batches: &[EncodedBatch], horizon: f64) -> [Score; 2] {
    let (mut estimator, mut scores) = (EncoderEstimator::new(), [Score::default(); 2]);
    for index in 0..batches.len() {
        let (before, after) = batches.split_at(index);
        if let Some(truth) = first(after, horizon).filter(|_| index > SEEN_LEAST) {
            let (step, last) = (after[0].step, before[index - 1]);
            let ours = estimator.recent_at(step).unwrap();
            let forecasts = [mean(&[last]), mean(&before[index - MOVING..]), ours];
            let (bytes, takes) = mean(truth);
            let score = &mut scores[usize::from(step != last.step)];
            for (way, forecast) in forecasts.iter().enumerate() {
                score.bytes[way] += (forecast.0 - bytes).abs();
                score.takes[way] += (forecast.1 - takes).abs();
            }
            score.truth = (score.truth.0 + bytes, score.truth.1 + takes);
        }
        estimator.observe(&batches[index]);
    }
    scores
}

/// The mean of parts over recordings and horizons.
fn mean_parts(scores: &[Score]) -> [Errors; 2] {
    let sum = |kind: usize, way: usize| scores.iter().map(|it| it.parts()[kind][way]).sum::<f64>();
    [0, 1].map(|kind| [0, 1, 2].map(|way| sum(kind, way) / scores.len() as f64))
}

fn show(name: &str, [bytes, takes]: [Errors; 2]) {
    let [bytes, takes] =
        [bytes, takes].map(|it| it.map(|part| format!("{:5.1} %", 100.0 * part)).join(" "));
    println!("{name:28} bytes {bytes}   time {takes}");
}

#[test]
fn the_forecasts_beat_the_simpler_ones() {
    println!("error of the last value, the moving average, the estimator");
    let (mut one, mut many, mut changed) = (Vec::new(), Vec::new(), Vec::new());
    for (name, bytes) in TRACES {
        let batches = load(bytes);
        for horizon in [BATCH].into_iter().chain(MANY) {
            let [same, other] = judge(&batches, horizon);
            if same.truth.0 > 0.0 {
                show(&format!("{name}, {horizon} pages"), same.parts());
                if horizon == BATCH { &mut one } else { &mut many }.push(same);
            }
            if other.truth.0 > 0.0 {
                show(&format!("{name}, {horizon} at a new step"), other.parts());
                changed.push(other);
            }
        }
    }
    let [one, many, changed] = [one, many, changed].map(|scores| mean_parts(&scores));
    show("a batch", one);
    show("many pages", many);
    show("at a new step", changed);
    let [[_, one_moving, one_ours], _] = one;
    let [many_bytes, many_takes] = many;
    // The last batch's bytes are the best forecast of the next one's, and nobody asks for those.
    assert!(one_ours < one_moving, "{one:?}");
    for [last, moving, ours] in [many_bytes, many_takes] {
        assert!(ours < last && ours < 0.95 * moving, "{many:?}");
    }
    assert!(many_takes[2] < 0.9 * many_takes[0], "{many:?}");
    for [last, moving, ours] in changed {
        assert!(ours < 0.6 * last && ours < 0.6 * moving, "{changed:?}");
    }
}
