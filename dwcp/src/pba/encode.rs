//! [`EncoderEstimator`]: what the steps of the ladder make of this guest's pages, and which one pays.

use std::time::Duration;

use crate::hde::{Ladder, Tier, TierCounts};
use crate::page::PAGE_SIZE;

const STEPS: usize = Ladder::STEPS.len();

/// What a page takes of a processor at any step, in seconds: it is read and digested. From the table in
/// `benches/profiles/hde.md`, as are those below: only their proportions matter once any batch was seen.
const PAGE_TAKES: f64 = 2.5e-6;
/// What a byte of payload takes besides: it is encrypted, and copied into a socket. A guess, which the first batches correct.
const BYTE_TAKES: f64 = 0.5e-9;

/// What zstd is believed to make of a page at each step before that was seen: bytes, and seconds of a processor. The first
/// step does not ask it.
const BELIEVED: [Zstd; STEPS] = [
    Zstd { bytes: 4096.0, takes: 0.0 },
    Zstd { bytes: 1840.0, takes: 7.4e-6 },
    Zstd { bytes: 1520.0, takes: 9.2e-6 },
    Zstd { bytes: 1440.0, takes: 15.2e-6 },
    Zstd { bytes: 1370.0, takes: 40e-6 },
    Zstd { bytes: 1350.0, takes: 62e-6 },
];

/// So many pages back is half forgotten, about: memory is of one kind here and of another there, and a step that was chosen
/// for a small part of it is the wrong one for the rest.
const KEPT_PAGES: f64 = 4096.0;
/// What is believed counts as much as having seen so many pages.
const BELIEF_PAGES: f64 = 256.0;
/// At least so many pages are believed to shrink, though none did lately: others will come.
const SHARE_LEAST: f64 = 0.05;
/// How much of what is said of the next pages is of the last ones, where they are so many. More follows a single batch
/// better, whose bytes nothing foretells as well as those of the one before; less, a round of thousands of pages.
const WEIGHT: f64 = 0.4;
const WEIGHT_PAGES: f64 = 64.0;

/// Another step must be better by this part, so that the choice does not swing.
const BETTER: f64 = 1.1;

#[derive(Clone, Copy, Debug)]
struct Zstd {
    bytes: f64,
    takes: f64,
}

/// A batch that was encoded.
#[derive(Clone, Copy, Debug)]
pub struct EncodedBatch {
    /// The step of the ladder.
    pub step: usize,
    /// How its pages travel. Those that the destination has kept say nothing of the others, and are left out here.
    pub tiers: TierCounts,
    /// Bytes of payload.
    pub bytes: u64,
    /// Processor time.
    pub took: Duration,
}

/// Keeps what batches took. There are two answers: what the next pages will take, which are like the last ones; and what
/// the steps would make of all pages, as far as they were seen, from which [`best_step`] chooses.
///
/// On recordings of a Debian's memory, the next pages' time is foretold better than by the last batch or a moving average
/// at any step, and after a change of the step both bytes and time are, of which those two know nothing. The bytes of the
/// next megabytes at the same step are foretold better than by a moving average, and hardly better than by the last batch;
/// those of the next batch alone, by the last one best (`the_forecasts_beat_the_simpler_ones`). Nobody asks for those
/// alone: what is planned is the pages that are owed.
#[derive(Clone, Debug)]
pub struct EncoderEstimator {
    /// The part of all pages that zstd is worth being tried on.
    share: Mean,
    /// Bytes of a page that is none of them.
    rest: Mean,
    /// Bytes of one that is, by what is believed.
    shrinking: [Option<Mean>; STEPS],
    /// Time by what is believed.
    slowness: [Option<Mean>; STEPS],
    /// Seconds of a processor that a byte takes after it was encoded.
    byte_takes: Mean,
    recent: Option<Recent>,
}

/// What a page took lately, and at which step.
#[derive(Clone, Copy, Debug)]
struct Recent {
    step: usize,
    bytes: f64,
    takes: f64,
}

/// A mean of the last [`KEPT_PAGES`] or so.
#[derive(Clone, Copy, Debug)]
struct Mean {
    value: f64,
    weight: f64,
}

impl Mean {
    fn believed(value: f64) -> Self {
        Self { value, weight: BELIEF_PAGES }
    }

    fn add(&mut self, value: f64, pages: f64) {
        self.weight = (self.weight + pages).min(KEPT_PAGES.max(pages));
        self.value += (value - self.value) * pages / self.weight;
    }
}

impl Default for EncoderEstimator {
    fn default() -> Self {
        Self {
            share: Mean::believed(1.0),
            rest: Mean::believed(PAGE_SIZE as f64),
            shrinking: [None; STEPS],
            slowness: [None; STEPS],
            byte_takes: Mean::believed(BYTE_TAKES),
            recent: None,
        }
    }
}

impl EncoderEstimator {
    /// No batch was seen.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A batch was encoded.
    pub fn observe(&mut self, batch: &EncodedBatch) {
        let EncodedBatch { step, ref tiers, bytes, took } = *batch;
        let step = step.min(STEPS - 1);
        let all = tiers.total().pages as f64;
        let pages = all - tiers.of(Tier::Kept).pages as f64;
        if pages == 0.0 {
            return;
        }
        let (bytes, took) = (bytes as f64, took.as_secs_f64() * pages / all);
        let mut share = self.share.value;
        if Ladder::step(step).tiers.zstd {
            let zstd = tiers.of(Tier::Zstd);
            let (tried, compressed) = (zstd.pages as f64, zstd.bytes as f64);
            share = tried / pages;
            self.share.add(share, pages);
            if tried < pages {
                self.rest.add((bytes - compressed).max(0.0) / (pages - tried), pages - tried);
            }
            if tried > 0.0 {
                let belief = Mean::believed(self.shrinking(step));
                let mean = self.shrinking[step].get_or_insert(belief);
                mean.add(compressed / tried / BELIEVED[step].bytes, tried);
            }
        }
        let belief = Mean::believed(self.slowness(step));
        let expected = pages * (PAGE_TAKES + share * BELIEVED[step].takes);
        self.slowness[step].get_or_insert(belief).add(took / expected, pages);

        let (bytes, takes) = (bytes / pages, took / pages);
        let recent = self.recent_at(step).map_or((bytes, takes), |(old_bytes, old_takes)| {
            let weight = 1.0 - (1.0 - WEIGHT).powf(pages / WEIGHT_PAGES);
            let mix = |old: f64, new: f64| old + weight * (new - old);
            (mix(old_bytes, bytes), mix(old_takes, takes))
        });
        self.recent = Some(Recent { step, bytes: recent.0, takes: recent.1 });
    }

    /// So many bytes of payload took so much processor time after they were encoded.
    pub fn observe_carried(&mut self, bytes: u64, took: Duration) {
        if bytes > 0 {
            let pages = bytes as f64 / PAGE_SIZE as f64;
            self.byte_takes.add(took.as_secs_f64() / bytes as f64, pages);
        }
    }

    /// Bytes of payload that a page takes at a step, as the last ones did.
    #[must_use]
    pub fn bytes_per_page(&self, step: usize) -> f64 {
        let step = step.min(STEPS - 1);
        self.recent_at(step).map_or_else(|| self.any_bytes(step), |(bytes, _)| bytes)
    }

    /// Pages that one processor reads, encodes and puts into sockets in a second at a step, as it did the last ones.
    #[must_use]
    pub fn pages_per_second(&self, step: usize) -> f64 {
        let step = step.min(STEPS - 1);
        let (bytes, takes) =
            self.recent_at(step).unwrap_or((self.any_bytes(step), self.any_takes(step)));
        1.0 / (takes + bytes * self.byte_takes.value)
    }

    /// The last pages, had they been encoded at this step: bytes and seconds of each.
    fn recent_at(&self, step: usize) -> Option<(f64, f64)> {
        let recent = self.recent?;
        let (bytes, takes) = match step == recent.step {
            true => (1.0, 1.0),
            false => (
                self.any_bytes(step) / self.any_bytes(recent.step),
                self.any_takes(step) / self.any_takes(recent.step),
            ),
        };
        Some(((recent.bytes * bytes).min(PAGE_SIZE as f64 * 1.01), recent.takes * takes))
    }

    /// Bytes of any page at a step.
    fn any_bytes(&self, step: usize) -> f64 {
        let share = self.share();
        let zstd = (BELIEVED[step].bytes * self.shrinking(step)).min(PAGE_SIZE as f64);
        share * zstd + (1.0 - share) * self.rest.value
    }

    /// Seconds of a processor for encoding any page at a step.
    fn any_takes(&self, step: usize) -> f64 {
        let takes = PAGE_TAKES + self.share() * BELIEVED[step].takes;
        // Time that was too short to be measured must not make a step free.
        takes * self.slowness(step).max(1e-3)
    }

    /// The part of any pages that shrinks.
    fn share(&self) -> f64 {
        self.share.value.max(SHARE_LEAST)
    }

    /// Pages that one processor sends in a second at a step, of any.
    fn any_per_second(&self, step: usize) -> f64 {
        1.0 / (self.any_takes(step) + self.any_bytes(step) * self.byte_takes.value)
    }

    /// By what factor pages are larger than believed at a step; one that was not seen is like those that were.
    fn shrinking(&self, step: usize) -> f64 {
        // Where nothing is compressed, a page is as large as it is.
        if step == 0 { 1.0 } else { known_near(&self.shrinking, step) }
    }

    /// By what factor encoding takes longer than believed.
    fn slowness(&self, step: usize) -> f64 {
        known_near(&self.slowness, step)
    }
}

/// What is known of a step, or of the one nearest to it of which something is.
fn known_near(means: &[Option<Mean>; STEPS], step: usize) -> f64 {
    let known = means.iter().enumerate().filter_map(|(other, mean)| Some((other, (*mean)?)));
    known.min_by_key(|(other, _)| other.abs_diff(step)).map_or(1.0, |(_, mean)| mean.value)
}

/// The step at which most pages a second arrive, over a link that carries so many bytes a second and with so many
/// processors: the slower of the two decides. `current` stays unless another is clearly better; of equals, the faster step
/// wins.
#[must_use]
pub fn best_step(
    encoders: &EncoderEstimator,
    bytes_per_second: f64,
    processors: f64,
    current: usize,
) -> usize {
    let arriving = |step: usize| {
        let carried = bytes_per_second / encoders.any_bytes(step).max(1.0);
        carried.min(processors * encoders.any_per_second(step))
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
mod traces;

#[cfg(test)]
mod tests {
    use super::*;

    /// A batch of pages that are as believed, of which zstd is tried on so many, on a processor that is slower by so much.
    fn batch(step: usize, pages: u64, tried: u64, slowness: f64) -> EncodedBatch {
        let mut tiers = TierCounts::default();
        let is_compressing = Ladder::step(step).tiers.zstd;
        let zstd = if is_compressing { tried } else { 0 };
        let bytes = zstd as f64 * BELIEVED[step].bytes;
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small")]
        let bytes = bytes as u64;
        tiers.add_pages(Tier::Zstd, usize::try_from(zstd).unwrap());
        tiers.add_bytes(Tier::Zstd, usize::try_from(bytes).unwrap());
        tiers.add_pages(Tier::Raw, usize::try_from(pages - zstd).unwrap());
        let took = pages as f64 * PAGE_TAKES + zstd as f64 * BELIEVED[step].takes;
        let bytes = bytes + (pages - zstd) * PAGE_SIZE;
        EncodedBatch { step, tiers, bytes, took: Duration::from_secs_f64(took * slowness) }
    }

    fn is_near(one: f64, other: f64) -> bool {
        (0.98..1.02).contains(&(one / other))
    }

    #[test]
    fn a_slower_link_asks_for_a_stronger_step() {
        let encoders = EncoderEstimator::new();
        let steps = [2e9, 1e8, 3e7, 1e7, 1e6].map(|rate| best_step(&encoders, rate, 1.0, 2));
        assert!(steps.is_sorted(), "{steps:?}");
        assert!(steps[0] == 0 && steps[1] == 2 && steps[4] >= 4, "{steps:?}");
    }

    #[test]
    fn more_processors_ask_for_a_stronger_step() {
        let encoders = EncoderEstimator::new();
        let [one, eight] = [1.0, 8.0].map(|count| best_step(&encoders, 1.25e8, count, 0));
        assert!(one < eight, "{one} {eight}");
    }

    #[test]
    fn pages_that_do_not_shrink_go_by_the_fastest_step() {
        let mut encoders = EncoderEstimator::new();
        for _ in 0..200 {
            encoders.observe(&batch(5, 1024, 0, 1.0));
        }
        assert_eq!(best_step(&encoders, 1e9, 1.0, 5), 0);
        // As far as is known, no step makes them smaller.
        assert_eq!(best_step(&encoders, 1e6, 1.0, 0), 0);
    }

    #[test]
    fn a_step_that_is_hardly_better_is_not_taken() {
        let encoders = EncoderEstimator::new();
        assert!(encoders.bytes_per_page(5) < encoders.bytes_per_page(4));
        assert_eq!(best_step(&encoders, 1e6, 1.0, 4), 4);
        assert_eq!(best_step(&encoders, 1e6, 1.0, 0), 5);
    }

    #[test]
    fn what_pages_that_do_not_shrink_take_says_nothing_of_the_stronger_steps() {
        let mut encoders = EncoderEstimator::new();
        // Of the first pages hardly any shrinks, and they are done at once; the processor is as fast as believed.
        for _ in 0..100 {
            encoders.observe(&batch(1, 64, 8, 1.0));
        }
        // The others do. A stronger step takes of them what it takes.
        for _ in 0..400 {
            encoders.observe(&batch(1, 64, 64, 1.0));
        }
        let takes = 1.0 / (PAGE_TAKES + BELIEVED[4].takes + BELIEVED[4].bytes * BYTE_TAKES);
        assert!(is_near(encoders.any_per_second(4), takes), "{}", encoders.any_per_second(4));
        assert_eq!(best_step(&encoders, 1.25e8, 2.0, 1), 3);
    }

    #[test]
    fn a_slow_processor_is_slow_at_every_step() {
        let mut encoders = EncoderEstimator::new();
        for _ in 0..400 {
            encoders.observe(&batch(2, 64, 64, 3.0));
            encoders.observe_carried(
                64 * 1520,
                Duration::from_secs_f64(64.0 * 1520.0 * 3.0 * BYTE_TAKES),
            );
        }
        let fresh = EncoderEstimator::new();
        for step in 0..STEPS {
            let ratio = fresh.pages_per_second(step) / encoders.pages_per_second(step);
            assert!(is_near(ratio, 3.0), "{step}: {ratio}");
        }
    }

    #[test]
    fn the_next_pages_are_like_the_last_ones_and_all_pages_are_not() {
        let mut encoders = EncoderEstimator::new();
        for _ in 0..400 {
            encoders.observe(&batch(2, 64, 64, 1.0));
        }
        let before = encoders.any_bytes(2);
        assert!(is_near(before, 1520.0) && is_near(encoders.bytes_per_page(2), 1520.0));
        // Twenty batches of zeros.
        let mut zeros = TierCounts::default();
        zeros.add_pages(Tier::Zero, 64);
        let took = Duration::from_secs_f64(64.0 * PAGE_TAKES);
        for _ in 0..20 {
            encoders.observe(&EncodedBatch { step: 2, tiers: zeros, bytes: 10, took });
        }
        assert!(encoders.bytes_per_page(2) < 20.0, "{}", encoders.bytes_per_page(2));
        assert!(encoders.any_bytes(2) > before * 0.6, "{}", encoders.any_bytes(2));
        // At another step the last ones would be to these as all are.
        let ratio = encoders.bytes_per_page(4) / encoders.bytes_per_page(2);
        assert!(is_near(ratio, encoders.any_bytes(4) / encoders.any_bytes(2)));
        assert_eq!(encoders.bytes_per_page(99), encoders.bytes_per_page(5));
    }

    #[test]
    fn what_the_destination_has_kept_says_nothing() {
        let mut encoders = EncoderEstimator::new();
        let mut kept = TierCounts::default();
        kept.add_pages(Tier::Kept, 64);
        let before = format!("{encoders:?}");
        encoders.observe(&EncodedBatch { step: 2, tiers: kept, bytes: 30, took: Duration::ZERO });
        assert_eq!(format!("{encoders:?}"), before);
        // Nor what they took in a batch that has others, too.
        let mut mixed = batch(2, 64, 64, 1.0);
        mixed.tiers.add_pages(Tier::Kept, 64);
        mixed.took *= 2;
        encoders.observe(&mixed);
        let mut without = EncoderEstimator::new();
        without.observe(&batch(2, 64, 64, 1.0));
        assert!(is_near(encoders.pages_per_second(2), without.pages_per_second(2)));
    }
}
