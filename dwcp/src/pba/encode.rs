//! [`EncoderEstimator`]: what the steps of the ladder make of this guest's pages, and which one pays.

use std::time::Duration;

use super::LinkEstimate;
use crate::hde::Ladder;
use crate::page::PAGE_SIZE;

const STEPS: usize = Ladder::STEPS.len();

/// What a step is believed to do before it was seen: bytes a page on the wire, and pages a second of one
/// processor. Rounded from the table in `benches/profiles/hde.md`; only their proportions matter once any step
/// was seen.
const BELIEVED: [Step; STEPS] = [
    Step { bytes_per_page: 4096.0, pages_per_second: 320_000.0 },
    Step { bytes_per_page: 1790.0, pages_per_second: 60_000.0 },
    Step { bytes_per_page: 1410.0, pages_per_second: 56_000.0 },
    Step { bytes_per_page: 1310.0, pages_per_second: 34_000.0 },
    Step { bytes_per_page: 1240.0, pages_per_second: 9_300.0 },
    Step { bytes_per_page: 1220.0, pages_per_second: 5_600.0 },
];

/// How much a new batch changes what is believed.
const WEIGHT: f64 = 0.2;

/// Another step must be better by this part, so that the choice does not swing.
const BETTER: f64 = 1.1;

/// Keeps what batches took at each step.
#[derive(Clone, Debug, Default)]
pub struct EncoderEstimator {
    seen: [Option<Step>; STEPS],
    last: Option<usize>,
}

#[derive(Clone, Copy, Debug)]
struct Step {
    bytes_per_page: f64,
    pages_per_second: f64,
}

impl EncoderEstimator {
    /// No batch was seen.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A batch of so many pages became so many bytes of payload, in `took` of processor time.
    pub fn observe(&mut self, step: usize, pages: u64, payload_bytes: u64, took: Duration) {
        if pages == 0 || step >= STEPS {
            return;
        }
        let pages = pages as f64;
        let sample = Step {
            bytes_per_page: payload_bytes as f64 / pages,
            // A clock that is too coarse for a batch must not make it free.
            pages_per_second: pages / took.max(Duration::from_nanos(1)).as_secs_f64(),
        };
        let mix = |old: f64, new: f64| old + WEIGHT * (new - old);
        self.seen[step] = Some(self.seen[step].map_or(sample, |old| Step {
            bytes_per_page: mix(old.bytes_per_page, sample.bytes_per_page),
            pages_per_second: 1.0 / mix(1.0 / old.pages_per_second, 1.0 / sample.pages_per_second),
        }));
        self.last = Some(step);
    }

    /// Bytes of payload that a page takes at a step. One that was not seen stands to the last one as it is
    /// believed to.
    #[must_use]
    pub fn bytes_per_page(&self, step: usize) -> f64 {
        self.step(step).bytes_per_page
    }

    /// Pages that one processor encodes in a second at a step.
    #[must_use]
    pub fn pages_per_second(&self, step: usize) -> f64 {
        self.step(step).pages_per_second
    }

    fn step(&self, step: usize) -> Step {
        let step = step.min(STEPS - 1);
        if let Some(seen) = self.seen[step] {
            return seen;
        }
        let believed = BELIEVED[step];
        let Some((last, seen)) = self.last.and_then(|last| Some((last, self.seen[last]?))) else {
            return believed;
        };
        let bytes = seen.bytes_per_page / BELIEVED[last].bytes_per_page;
        let rate = seen.pages_per_second / BELIEVED[last].pages_per_second;
        Step {
            bytes_per_page: (believed.bytes_per_page * bytes).min(PAGE_SIZE as f64 * 1.01),
            pages_per_second: believed.pages_per_second * rate,
        }
    }
}

/// The step at which most pages a second arrive, over this link and with so many processors: the slower of
/// the two decides. `current` stays unless another is clearly better; of equals, the faster step wins.
#[must_use]
pub fn best_step(
    encoders: &EncoderEstimator,
    link: &LinkEstimate,
    processors: f64,
    current: usize,
) -> usize {
    let arriving = |step: usize| {
        let carried = link.bytes_per_second / encoders.bytes_per_page(step).max(1.0);
        carried.min(processors * encoders.pages_per_second(step))
    };
    let mut best = current.min(STEPS - 1);
    let mut most = arriving(best) * BETTER;
    for step in 0..STEPS {
        if arriving(step) > most {
            (best, most) = (step, arriving(step));
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(bytes_per_second: f64) -> LinkEstimate {
        LinkEstimate { bytes_per_second, round_trip: Duration::ZERO }
    }

    #[test]
    fn a_slower_link_asks_for_a_stronger_step() {
        let encoders = EncoderEstimator::new();
        let steps = [2e9, 2e8, 5e7, 1e7, 1e6].map(|rate| best_step(&encoders, &link(rate), 1.0, 2));
        assert!(steps.is_sorted(), "{steps:?}");
        assert!(steps[0] <= 1 && steps[4] >= 4, "{steps:?}");
    }

    #[test]
    fn more_processors_ask_for_a_stronger_step() {
        let encoders = EncoderEstimator::new();
        let [one, eight] = [1.0, 8.0].map(|count| best_step(&encoders, &link(1.25e8), count, 0));
        assert!(one < eight, "{one} {eight}");
    }

    #[test]
    fn pages_that_do_not_shrink_go_by_the_fastest_step() {
        let mut encoders = EncoderEstimator::new();
        for (step, believed) in BELIEVED.iter().enumerate() {
            let took = Duration::from_secs_f64(64.0 / believed.pages_per_second);
            encoders.observe(step, 64, 64 * 4096, took);
        }
        assert_eq!(best_step(&encoders, &link(1e9), 1.0, 5), 0);
    }

    #[test]
    fn a_step_that_is_hardly_better_is_not_taken() {
        let encoders = EncoderEstimator::new();
        let slow = link(1e6);
        assert!(encoders.bytes_per_page(5) < encoders.bytes_per_page(4));
        assert_eq!(best_step(&encoders, &slow, 1.0, 4), 4);
        assert_eq!(best_step(&encoders, &slow, 1.0, 0), 5);
    }

    #[test]
    fn what_was_seen_replaces_what_was_believed() {
        let mut encoders = EncoderEstimator::new();
        assert_eq!(encoders.bytes_per_page(2), 1410.0);
        encoders.observe(2, 0, 7, Duration::ZERO);
        encoders.observe(2, 10, 7_000, Duration::from_micros(100));
        assert_eq!(encoders.bytes_per_page(2), 700.0);
        assert!((encoders.bytes_per_page(3) - 650.35).abs() < 0.01);
        assert!((encoders.pages_per_second(2) - 100_000.0).abs() < 1.0);
        encoders.observe(2, 10, 12_000, Duration::from_micros(100));
        assert_eq!(encoders.bytes_per_page(2), 800.0);
        assert_eq!(encoders.bytes_per_page(99), encoders.bytes_per_page(5));
    }
}
