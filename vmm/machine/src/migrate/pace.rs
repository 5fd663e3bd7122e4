//! [`Pace`]: when the guest stops, how hard its pages are worked on, over how many streams.

use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use dwcp::amst::StreamCount;
use dwcp::hde::Ladder;
use dwcp::page::Gfn;
use dwcp::pba::{Debt, Decision, DirtyEstimator, LinkEstimate, Outlook, Stop, best_step, decide};
use dwcp::transport::SourceLink;

use super::{MigrateError, MoveLimits};

/// Rounds for which it is hoped that a guest that will not fit its downtime comes to do so, or that one which does stands
/// still for less.
const STUCK_ROUNDS: u32 = 12;
/// Rounds altogether, however good the hope.
const ROUNDS_MAX: u32 = 60;
/// What of a blackout does not depend on pages.
const OVERHEAD: Duration = Duration::from_millis(10);
/// How long a batch may hold a stream: then an acknowledgement comes.
const BATCH_HOLDS: Duration = Duration::from_millis(50);
/// Pages that a batch has however slow the link is: fewer would compress badly.
const BATCH_LEAST: u64 = 8;
/// How often the step of the ladder and the streams are looked at.
const RETHINK_EVERY: Duration = Duration::from_millis(200);

/// What was learned of the guest and the link, and what follows from it.
#[derive(Debug)]
pub(super) struct Pace {
    limits: MoveLimits,
    dirty: DirtyEstimator,
    harvested_at: Instant,
    streams: StreamCount,
    step: usize,
    processors: f64,
    thought_at: Instant,
    forecast: Option<Duration>,
}

impl Pace {
    pub(super) fn new(limits: MoveLimits, limit: Gfn, processors: f64) -> Self {
        let now = Instant::now();
        Self {
            limits,
            dirty: DirtyEstimator::new(limit),
            harvested_at: now,
            streams: StreamCount::new(limits.streams),
            step: 1,
            processors,
            thought_at: now,
            forecast: None,
        }
    }

    /// The step to begin with: a link that is not known yet gets what costs little.
    pub(super) fn first_step(&self) -> usize {
        self.step
    }

    /// How many streams are wanted.
    pub(super) fn streams(&self) -> usize {
        self.streams.count()
    }

    /// Looks at what the link does, now and then.
    pub(super) fn rethink(&mut self, link: &SourceLink) {
        if self.thought_at.elapsed() < RETHINK_EVERY {
            return;
        }
        self.thought_at = Instant::now();
        let Some(estimate) = link.with(|source, _| source.link().estimate()) else { return };
        let streams = &mut self.streams;
        link.with(|source, now| {
            let seen = source.link();
            streams.observe(now, seen.delivered(), estimate.round_trip, seen.is_limited());
            source.set_data_streams(streams.count());
        });
        let (processors, current) = (self.processors, self.step);
        let step =
            link.with_encoders(|encoders| best_step(encoders, &estimate, processors, current));
        if step != self.step {
            self.step = step;
            link.set_step(step);
        }
        let batch = self.batch(link, &estimate);
        link.with(|source, _| source.set_batch_pages(batch));
        self.forecast = Some(self.outlook(link, estimate).stop(debt(link)).blackout);
    }

    /// Pages of a batch: of a slow link so few that acknowledgements, which tell what the link does, still come often.
    fn batch(&self, link: &SourceLink, estimate: &LinkEstimate) -> NonZeroU64 {
        let most = Ladder::step(self.step).batch_pages;
        let bytes_per_page = link.with_encoders(|encoders| encoders.bytes_per_page(self.step));
        let streams = self.streams.count() as f64;
        let bytes = estimate.bytes_per_second * BATCH_HOLDS.as_secs_f64() / streams;
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a positive number, and cut to the ladder's"
        )]
        let pages = (bytes / bytes_per_page.max(1.0)) as u64;
        NonZeroU64::new(pages.max(BATCH_LEAST)).unwrap_or(most).min(most)
    }

    /// How long the guest would stand still if it were stopped now, as it looked a moment ago.
    pub(super) fn forecast(&self) -> Option<Duration> {
        self.forecast
    }

    /// What a harvest has found.
    pub(super) fn harvested(&mut self, words: &[u64]) {
        self.dirty.observe(self.harvested_at.elapsed(), words);
        self.harvested_at = Instant::now();
    }

    /// Whether the guest is to stop now, and how: none if another round is better.
    ///
    /// # Errors
    /// When it will never fit its downtime, and nobody has said that it may stand still for longer.
    pub(super) fn stop(
        &self,
        link: &SourceLink,
        rounds: u32,
    ) -> Result<Option<Stop>, MigrateError> {
        let estimate = link.with(|source, _| source.link().estimate());
        let Some(estimate) = estimate else { return Ok(None) };
        let debt = debt(link);
        let outlook = self.outlook(link, estimate);
        let forced = self.limits.stop_after_rounds.is_some_and(|most| rounds >= most);
        let now = outlook.stop(debt);
        // Another round was hoped to be better for long enough: a link that pages may not use whole (`bandwidth`) looks
        // faster than they get through it.
        let will_do = rounds >= STUCK_ROUNDS && now.blackout <= self.limits.max_downtime;
        match decide(&outlook, debt, self.limits.max_downtime) {
            Decision::Stop(stop) => Ok(Some(stop)),
            _ if forced || will_do => Ok(Some(now)),
            Decision::Continue(_) if rounds < ROUNDS_MAX => Ok(None),
            Decision::Stuck(_) if rounds < STUCK_ROUNDS => Ok(None),
            Decision::Continue(_) | Decision::Stuck(_) => Err(MigrateError::TooLong {
                blackout: now.blackout,
                allowed: self.limits.max_downtime,
            }),
        }
    }

    fn outlook(&self, link: &SourceLink, estimate: LinkEstimate) -> Outlook<'_> {
        let step = self.step;
        let (bytes_per_page, pages_per_second) = link.with_encoders(|encoders| {
            (encoders.bytes_per_page(step), encoders.pages_per_second(step) * self.processors)
        });
        Outlook {
            link: estimate,
            dirty: &self.dirty,
            bytes_per_page,
            pages_per_second,
            overhead: OVERHEAD,
        }
    }
}

fn debt(link: &SourceLink) -> Debt {
    link.with(|source, _| Debt {
        owed_pages: source.ledger().owed(),
        unacknowledged_bytes: source.link().unacknowledged(),
    })
}
