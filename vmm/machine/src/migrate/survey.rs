//! What a move would find: how fast the guest writes, what its pages become, and what follows from that over a link.
//! Nothing moves.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use dwcp::digest::DigestKey;
use dwcp::hde::{Batch, Encoder, Ladder, Sending, TierCounts};
use dwcp::ledger::{Ledger, SendNumber};
use dwcp::page::{Gfn, PageRun};
use dwcp::pba::{
    Debt, DirtyEstimator, EncodedBatch, EncoderEstimator, Forecast, LinkEstimate, Outlook,
};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use super::pace::{FIRST_STEP, OVERHEAD, fitting_speed, processors};
use super::shortfall::needed;
use super::{MigrateError, MoveLimits, Shortfall};
use crate::memory::{Extents, GuestRam};
use crate::meter::Meter;
use crate::vm::{Running, VmError};

/// For how long a guest is watched, and how often its log is read meanwhile: rounds of a move are of that order. What is believed
/// is what the last six times have shown.
const WATCHED: Duration = Duration::from_secs(1);
const EVERY: Duration = Duration::from_millis(100);
/// Batches that are encoded to see what pages become, from all over the memory.
const SAMPLES: u64 = 64;

/// Look at the guest, and say how a move would go over this link.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct SurveyOrder {
    /// Bytes a second that the link carries.
    pub bytes_per_second: f64,
    /// The way there and back.
    pub round_trip: Duration,
    /// What the user decides.
    pub limits: MoveLimits,
}

/// What was seen of a guest, and what would become of its move, if the other host has nothing of it yet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SurveyReport {
    /// Pages that have content.
    pub pages: u64,
    /// Pages that the guest writes in a second, each counted once in a tenth of it.
    pub dirty_pages_per_second: f64,
    /// Bytes that a page would take on the wire, where little is compressed.
    pub bytes_per_page: f64,
    /// From the first page until the guest runs at the destination.
    pub duration: Duration,
    /// How long it would stand still, when that is the shortest.
    pub blackout: Duration,
    /// By how much the guest is too fast, if it is, and what could be done; nothing if the user has decided what then.
    pub too_fast: Option<String>,
}

/// Looks at a running guest, which is slower meanwhile by what its log costs.
pub(crate) fn survey(
    running: &mut Running,
    order: &SurveyOrder,
    key: &DigestKey,
    meter: &Meter,
) -> Result<SurveyReport, MigrateError> {
    let ram = Arc::clone(running.ram());
    let dirty = watch(running, meter);
    if let Err(error) = running.stop_dirty_log() {
        tracing::warn!(%error, "the dirty log stays on; the guest runs slower");
    }
    let dirty = dirty?;
    let content = content(&ram)?;
    let encoders = sample(&ram, &content, key)?;
    let pages = content.iter().map(|run| run.pages()).sum();
    let SurveyOrder { bytes_per_second, round_trip, limits } = *order;
    let bytes_per_page = encoders.bytes_per_page(FIRST_STEP);
    let encoded = encoders.pages_per_second(FIRST_STEP);
    let allowed = limits.bandwidth.map_or(f64::INFINITY, |most| most.get() as f64);
    // Each stream encodes what it sends, the control stream too.
    let threads = processors().min(limits.streams as f64 + 1.0);
    let outlook = Outlook {
        link: LinkEstimate { bytes_per_second, round_trip },
        dirty: &dirty,
        guest_speed: 1.0,
        live_bytes_per_second: allowed.min(encoded * limits.processors(threads) * bytes_per_page),
        bytes_per_page,
        pages_per_second: encoded * threads,
        overhead: OVERHEAD,
    };
    let debt = Debt { owed_pages: pages, unacknowledged_bytes: 0 };
    let (forecast, shortfall) = foresee(&outlook, debt, limits);
    Ok(SurveyReport {
        pages,
        dirty_pages_per_second: dirty.pages_per_second().unwrap_or(0.0),
        bytes_per_page,
        duration: forecast.duration,
        blackout: forecast.blackout,
        too_fast: shortfall.map(|shortfall| shortfall.to_string()),
    })
}

/// What becomes of a move, and by how much its guest is too fast: none if it is not, or somebody has decided what then.
fn foresee(outlook: &Outlook<'_>, debt: Debt, limits: MoveLimits) -> (Forecast, Option<Shortfall>) {
    let allowed = limits.max_downtime;
    let look = |outlook: &Outlook<'_>| match limits.stop_after_rounds {
        Some(rounds) => outlook.forecast_of_forced_stop(debt, allowed, rounds),
        None => outlook.forecast(debt, allowed),
    };
    let free = look(outlook);
    if free.fits {
        return (free, None);
    }
    let fitting_speed = fitting_speed(outlook, debt, allowed);
    let held = fitting_speed.map_or(0, needed).min(limits.throttle);
    let forecast = match held {
        0 => free,
        held => look(&Outlook { guest_speed: f64::from(100 - held) / 100.0, ..*outlook }),
    };
    let shortfall = Shortfall {
        dirty_pages_per_second: outlook.dirty.pages_per_second(),
        live_pages_per_second: outlook.live_pages_per_second(),
        blackout: forecast.blackout,
        allowed,
        fitting_speed,
        throttled: held,
    };
    let is_decided = forecast.fits || limits.stop_after_rounds.is_some();
    (forecast, (!is_decided).then_some(shortfall))
}

/// How fast the guest writes.
fn watch(running: &mut Running, meter: &Meter) -> Result<DirtyEstimator, MigrateError> {
    let limit = Gfn(running.ram().layout().frame_limit());
    let mut dirty = DirtyEstimator::new(limit);
    let mut log = running.start_dirty_log()?;
    // A new bitmap names every page.
    log.harvest(&mut Ledger::new(limit))?;
    let (nobody, wakes) = (Mutex::new(()), Condvar::new());
    let mut looked_at = Instant::now();
    let end = looked_at + WATCHED;
    while looked_at < end {
        meter.advance(0, 0).map_err(|_| MigrateError::Cancelled)?;
        let lock = nobody.lock().unwrap_or_else(PoisonError::into_inner);
        drop(wakes.wait_timeout(lock, EVERY));
        let mut found = Ledger::new(limit);
        log.harvest(&mut found)?;
        let now = Instant::now();
        dirty.observe(now - looked_at, found.owed_pages().words());
        looked_at = now;
    }
    Ok(dirty)
}

/// Whatever is no hole of the memory file: what a move begins with.
pub(super) fn content(ram: &GuestRam) -> Result<Vec<PageRun>, MigrateError> {
    let (mut extents, mut content) = (Extents::default(), Vec::new());
    for region in ram.layout().regions() {
        let mut rest = Some(region.run());
        while let Some(run) = rest {
            let (part, is_hole, after) = extents.first_part(ram, run).map_err(VmError::from)?;
            rest = after;
            if !is_hole {
                content.push(part);
            }
        }
    }
    Ok(content)
}

/// What some of the pages become.
fn sample(
    ram: &GuestRam,
    content: &[PageRun],
    key: &DigestKey,
) -> Result<EncoderEstimator, MigrateError> {
    let step = Ladder::step(FIRST_STEP);
    let (mut encoders, mut encoder) = (EncoderEstimator::new(), Encoder::new());
    let (mut page_bytes, mut payload) = (Vec::new(), Vec::new());
    let (mut tiers, mut bytes, began) = (TierCounts::default(), 0, thread_time());
    for run in samples(content, step.batch_pages.get()) {
        page_bytes.resize(usize::try_from(run.bytes()).unwrap_or(0), 0);
        ram.read_run(run, &mut page_bytes).map_err(VmError::from)?;
        let first = SendNumber(1);
        let batch = Batch::new(first, vec![run]).map_err(std::io::Error::other)?;
        let sending = Sending { key, batch: &batch, content: &page_bytes, settled_below: first };
        payload.clear();
        tiers.add(&encoder.encode(&sending, &step, &(), &mut payload).tiers);
        bytes += payload.len() as u64;
    }
    // All of them at once: of one after the other, the last ones would count for most.
    let took = thread_time().saturating_sub(began);
    encoders.observe(&EncodedBatch { step: FIRST_STEP, tiers, bytes, took });
    Ok(encoders)
}

/// Runs of so many pages at most, as far apart from each other as the content allows.
fn samples(content: &[PageRun], most: u64) -> Vec<PageRun> {
    let total: u64 = content.iter().map(|run| run.pages()).sum();
    let (mut samples, mut before, mut next) = (Vec::new(), 0, 0);
    for run in content {
        let end = before + run.pages();
        while next < SAMPLES && next * total / SAMPLES < end {
            let skipped = (next * total / SAMPLES).saturating_sub(before);
            let pages = most.min(run.pages() - skipped);
            let first = Gfn(run.first().0 + skipped);
            samples.extend(PageRun::new(first, pages));
            next += 1;
        }
        before = end;
    }
    samples
}

/// What this thread has taken of a processor since its start.
fn thread_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(first: u64, pages: u64) -> PageRun {
        PageRun::new(Gfn(first), pages).unwrap()
    }

    /// A guest that writes 10,000 pages a second, over a link that carries 5,000 of them.
    fn with_outlook(test: impl FnOnce(Outlook<'_>, Debt)) {
        let mut dirty = DirtyEstimator::new(Gfn(100_000));
        let mut words = vec![0_u64; 100_000 / 64];
        for round in 0..20 {
            words.fill(0);
            let first = round * 1_000 % 90_000;
            (first..first + 1_000).for_each(|page| words[page / 64] |= 1 << (page % 64));
            dirty.observe(Duration::from_millis(100), &words);
        }
        let outlook = Outlook {
            link: LinkEstimate { bytes_per_second: 20e6, round_trip: Duration::from_millis(1) },
            dirty: &dirty,
            guest_speed: 1.0,
            live_bytes_per_second: f64::INFINITY,
            bytes_per_page: 4_000.0,
            pages_per_second: f64::INFINITY,
            overhead: OVERHEAD,
        };
        test(outlook, Debt { owed_pages: 50_000, unacknowledged_bytes: 0 });
    }

    #[test]
    fn a_guest_that_is_too_fast_is_foreseen_as_it_was_decided_about() {
        with_outlook(|outlook, debt| {
            let limits = MoveLimits::default();
            let (free, shortfall) = foresee(&outlook, debt, limits);
            let shortfall = shortfall.expect("it is too fast");
            assert!(!free.fits && shortfall.blackout == free.blackout, "{free:?}");
            let speed = shortfall.fitting_speed.unwrap();
            assert!((0.05..0.9).contains(&speed), "{speed}");

            let throttle = needed(speed);
            let (held, none) = foresee(&outlook, debt, MoveLimits { throttle, ..limits });
            assert!(held.fits && held.blackout <= limits.max_downtime, "{held:?}");
            assert_eq!(none, None);
            let (little, some) = foresee(&outlook, debt, MoveLimits { throttle: 1, ..limits });
            assert!(!little.fits && some.is_some_and(|some| some.throttled == 1), "{little:?}");

            let of = |rounds| MoveLimits { stop_after_rounds: Some(rounds), ..limits };
            let (early, none) = foresee(&outlook, debt, of(1));
            assert_eq!((early.rounds, none), (1, None));
            let (late, none) = foresee(&outlook, debt, of(100));
            assert_eq!((late.rounds, none), (100, None));
            assert!(late.duration > free.duration, "{late:?} {free:?}");
        });
    }

    #[test]
    fn samples_come_from_all_of_the_content_and_from_nowhere_else() {
        let content = [run(0, 10), run(100, 5000), run(9000, 1), run(20_000, 5000)];
        let samples = samples(&content, 16);
        assert_eq!(samples.len() as u64, SAMPLES);
        for sample in &samples {
            let is_within =
                |run: &PageRun| run.first() <= sample.first() && sample.end() <= run.end();
            assert!(content.iter().any(is_within), "{sample:?}");
        }
        assert!(samples.is_sorted_by_key(|sample| sample.first()));
        let late = samples.iter().filter(|sample| sample.first().0 >= 20_000).count() as u64;
        assert!((SAMPLES / 2 - 2..=SAMPLES / 2).contains(&late), "{late}");
    }

    #[test]
    fn a_memory_of_a_page_is_one_sample_again_and_again_and_an_empty_one_is_none() {
        assert!(samples(&[], 16).is_empty());
        let samples = samples(&[run(7, 1)], 16);
        assert!(samples.iter().all(|sample| *sample == run(7, 1)), "{samples:?}");
    }
}
