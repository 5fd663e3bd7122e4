//! [`Pace`]: when the guest stops, how fast it may run until then, how hard its pages are worked on, over how many
//! streams.

use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use dwcp::amst::StreamCount;
use dwcp::hde::Ladder;
use dwcp::page::Gfn;
use dwcp::pba::{
    Bottleneck, Debt, Decision, DirtyEstimator, LinkEstimate, Outlook, Stop, best_step, decide,
};
use dwcp::transport::SourceLink;

use super::plan::{PlanEntry, PlanLog};
use super::shortfall::needed;
use super::{MigrateError, MoveLimits, Shortfall};

/// Rounds for which it is hoped that a guest that will not fit its downtime comes to do so, or that one which does stands
/// still for less.
const STUCK_ROUNDS: u32 = 12;
/// For which it is tried at least: rounds of a small guest are over before anybody could allow more.
const STUCK_LEAST: Duration = Duration::from_secs(5);
/// How long into its round a guest that will not fit is looked at: a round in which it has written all that it ever writes
/// does not say how fast it did.
const PROBE_AFTER: Duration = Duration::from_millis(100);
/// Such looks before it is held, and again before it is held for longer: two say what they have in common.
const PROBES: u32 = 2;
/// The part of the downtime that a throttled guest is to fit: what is believed is no more exact than that.
const AIM: f64 = 0.8;
/// Hundredths by which a guest must be held for more than it has to be, before it is held for less; and by which it is held
/// for longer at least: what is gained by less is not seen.
const SLACK: u8 = 5;
/// Rounds altogether, however good the hope, unless somebody changes the limits meanwhile.
const ROUNDS_MAX: u32 = 60;
/// What of a blackout does not depend on pages.
pub(super) const OVERHEAD: Duration = Duration::from_millis(10);
/// How long a batch may hold a stream: then an acknowledgement comes.
const BATCH_HOLDS: Duration = Duration::from_millis(50);
/// Pages that a batch has however slow the link is: fewer would compress badly.
const BATCH_LEAST: u64 = 8;
/// Pages of the first batches: nobody knows what the link does before one of them is acknowledged.
const FIRST_BATCH: NonZeroU64 = NonZeroU64::new(16).expect("not zero");
/// The strongest step while the link still gives more with every round trip: a stronger one would soon be what limits.
const GROWING_MOST: usize = 2;
/// The step of the ladder that a move begins with: it costs little, and the link is not known yet.
pub(super) const FIRST_STEP: usize = 1;
/// How long the link has to take for a state, so that the guest is stopped for a moment to send it ahead: reading it
/// takes less than half of this, for which the guest stands still, too.
const LOOK_PAYS_FROM: Duration = Duration::from_millis(5);
/// How often the step of the ladder and the streams are looked at. On a fast link a guest has moved within a second.
const RETHINK_EVERY: Duration = Duration::from_millis(50);

/// What was learned of the guest and the link, and what follows from it.
#[derive(Debug)]
pub(super) struct Pace {
    limits: MoveLimits,
    /// Of the guest's frames.
    limit: Gfn,
    dirty: DirtyEstimator,
    harvested_at: Instant,
    streams: StreamCount,
    step: usize,
    /// Those that there are.
    processors: f64,
    bottleneck: Bottleneck,
    thought_at: Instant,
    plan: PlanLog,
    forecast: Option<Duration>,
    /// For how long the guest was held when its log was harvested last at the end of a round, and when it was at all.
    held: Duration,
    held_at_look: Duration,
    looked_at: Instant,
    /// Whether the last decision was that it would never fit.
    is_stuck: bool,
    /// What a guest that is stuck writes within short times, at the speed that it has now.
    probes: DirtyEstimator,
    probed: u32,
    /// What was found in this round already.
    found: Option<Vec<u64>>,
    /// Hundredths of its time for which it is to be held.
    throttle: u8,
    /// The round in which the limits were changed, and the one in which it was last believed that something would help; and
    /// when that was.
    changed_in: u32,
    changed_at: Instant,
    hoped_in: u32,
    hoped_at: Instant,
}

impl Pace {
    pub(super) fn new(limits: MoveLimits, limit: Gfn, processors: f64) -> Self {
        let now = Instant::now();
        Self {
            limits,
            limit,
            dirty: DirtyEstimator::new(limit),
            harvested_at: now,
            streams: StreamCount::new(limits.streams),
            step: FIRST_STEP,
            processors,
            bottleneck: Bottleneck::new(),
            thought_at: now,
            plan: PlanLog::new(),
            forecast: None,
            held: Duration::ZERO,
            held_at_look: Duration::ZERO,
            looked_at: now,
            is_stuck: false,
            probes: DirtyEstimator::new(limit),
            probed: 0,
            found: None,
            throttle: 0,
            changed_in: 0,
            changed_at: now,
            hoped_in: 0,
            hoped_at: now,
        }
    }

    pub(super) fn limits(&self) -> MoveLimits {
        self.limits
    }

    /// From now on, `rounds` having begun, others count.
    pub(super) fn set_limits(&mut self, limits: MoveLimits, rounds: u32) {
        self.limits = limits;
        self.throttle = self.throttle.min(limits.throttle);
        (self.changed_in, self.changed_at) = (rounds, Instant::now());
        self.hope(rounds);
    }

    /// There is nothing to hold the guest with: no more is to be expected of it.
    pub(super) fn cannot_hold(&mut self) {
        (self.throttle, self.limits.throttle) = (0, 0);
    }

    /// Something has changed: it is tried for as long again.
    fn hope(&mut self, rounds: u32) {
        (self.hoped_in, self.hoped_at) = (rounds, Instant::now());
    }

    /// Hundredths of its time for which the guest is to be held.
    pub(super) fn throttle(&self) -> u8 {
        self.throttle
    }

    /// Begins with what costs little: the link is not known yet.
    pub(super) fn begin(&self, link: &SourceLink) {
        link.set_step(self.step);
        let streams = self.streams();
        link.with(|source, _| {
            source.set_batch_pages(FIRST_BATCH);
            source.set_data_streams(streams);
        });
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
        let (streams, bottleneck) = (&mut self.streams, &mut self.bottleneck);
        let (work, rate) = (link.work(), estimate.bytes_per_second);
        link.with(|source, now| {
            let seen = source.link();
            bottleneck.observe(now, work, seen.delivered(), &estimate);
            streams.observe(now, seen.delivered(), estimate.round_trip, seen.is_limited());
            source.set_data_streams(streams.count());
        });
        let processors = self.limits.processors(self.bottleneck.processors(self.processors));
        let rate = self.bottleneck.may_carry(rate).min(self.allowed());
        let current = self.step;
        let step = link.with_encoders(|encoders| best_step(encoders, rate, processors, current));
        let step = if self.bottleneck.is_growing() { step.min(GROWING_MOST) } else { step };
        if step != self.step {
            self.step = step;
            link.set_step(step);
        }
        let batch = self.batch(link, &estimate);
        link.with(|source, _| source.set_batch_pages(batch));
        let streams = self.streams.count();
        self.plan.decided(estimate.bytes_per_second, self.step, batch.get(), streams);
        self.forecast = Some(self.outlook(link, estimate).stop(debt(link)).blackout);
    }

    /// Pages of a batch: of a slow link so few that acknowledgements, which tell what the link does, still come often.
    fn batch(&self, link: &SourceLink, estimate: &LinkEstimate) -> NonZeroU64 {
        let most = Ladder::step(self.step).batch_pages;
        let (bytes_per_page, encoded) = self.encoding(link);
        let streams = self.streams.count() as f64;
        // Each stream may have a batch before any of them is paid for: a large one would be far beyond what is allowed.
        let rate = estimate.bytes_per_second.min(self.allowed());
        let bytes = rate * BATCH_HOLDS.as_secs_f64() / streams;
        // The same of processor time.
        let encoded = self.limits.cpu_permille.map_or(f64::INFINITY, |_| {
            encoded * self.limits.processors(self.processors) * BATCH_HOLDS.as_secs_f64()
        });
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a positive number, and cut to the ladder's"
        )]
        let pages = (bytes / bytes_per_page.max(1.0)).min(encoded) as u64;
        NonZeroU64::new(pages.max(BATCH_LEAST)).unwrap_or(most).min(most)
    }

    /// Whether a state of so many bytes is to be sent ahead before the guest is stopped for good.
    pub(super) fn is_worth_a_look(&self, link: &SourceLink, state_bytes: usize) -> bool {
        let estimate = link.with(|source, _| source.link().estimate());
        estimate.is_some_and(|estimate| {
            state_bytes as f64 / estimate.bytes_per_second > LOOK_PAYS_FROM.as_secs_f64()
        })
    }

    /// What was decided so far, and when.
    pub(super) fn plan(&self) -> Vec<PlanEntry> {
        self.plan.entries()
    }

    /// How long the guest would stand still if it were stopped now, as it looked a moment ago.
    pub(super) fn forecast(&self) -> Option<Duration> {
        self.forecast
    }

    /// When the guest is to be looked at in the round that has begun, if it is.
    pub(super) fn probe_after(&self) -> Option<Duration> {
        self.is_stuck.then_some(PROBE_AFTER)
    }

    /// What a harvest within the round has found, when the guest had been held for so long.
    pub(super) fn probed(&mut self, words: &[u64], held: Duration) {
        let ran = ran(self.looked_at, held.saturating_sub(self.held_at_look));
        self.probes.observe(ran, words);
        self.probed += 1;
        self.found = Some(words.to_vec());
    }

    /// What the harvest at the end of a round has found, when the guest had been held for so long.
    pub(super) fn harvested(&mut self, words: &[u64], held: Duration) {
        if self.is_stuck && self.found.is_none() {
            // The round was so short that nobody has looked.
            self.probed(words, held);
        }
        let mut all = self.found.take().unwrap_or_default();
        all.resize(words.len().max(all.len()), 0);
        all.iter_mut().zip(words).for_each(|(word, new)| *word |= new);
        let ran = ran(self.harvested_at, held.saturating_sub(self.held));
        self.dirty.observe(ran, &all);
        (self.harvested_at, self.held) = (Instant::now(), held);
        (self.looked_at, self.held_at_look) = (self.harvested_at, held);
    }

    /// Whether the guest is to stop now, and how: none if another round is better. How fast it may run in that is decided,
    /// too.
    ///
    /// # Errors
    /// When it will never fit its downtime, and nobody has said that it may stand still for longer, or be slowed down
    /// further.
    pub(super) fn stop(
        &mut self,
        link: &SourceLink,
        rounds: u32,
    ) -> Result<Option<Stop>, MigrateError> {
        let estimate = link.with(|source, _| source.link().estimate());
        let Some(estimate) = estimate else { return Ok(None) };
        let debt = debt(link);
        let outlook = self.outlook(link, estimate);
        let allowed = self.limits.max_downtime;
        let forced = self.limits.stop_after_rounds.is_some_and(|most| rounds >= most);
        let now = outlook.stop(debt);
        // Another round was hoped to be better for long enough; and no guest is held for longer than it has to be.
        let will_do = now.blackout <= allowed && (rounds >= STUCK_ROUNDS || self.throttle > 0);
        let decision = decide(&outlook, debt, allowed);
        if let Decision::Stop(stop) = decision {
            return Ok(Some(stop));
        }
        if forced || will_do {
            return Ok(Some(now));
        }
        let dirty = if self.probes.is_known() { &self.probes } else { &self.dirty };
        let unthrottled = Outlook { guest_speed: 1.0, dirty, ..outlook };
        // By whole rounds it is stuck, whatever short looks hope.
        let by_rounds = Outlook { dirty: &self.dirty, ..unthrottled };
        let [short, long] = [unthrottled, by_rounds].map(|it| fitting_speed(&it, debt, allowed));
        let fitting_speed = short.map(|short| long.map_or(short, |long| long.min(short)));
        let shortfall = Shortfall {
            dirty_pages_per_second: dirty.pages_per_second(),
            live_pages_per_second: outlook.live_pages_per_second(),
            blackout: now.blackout,
            allowed,
            fitting_speed,
            throttled: self.throttle,
        };
        self.is_stuck = matches!(decision, Decision::Stuck(_));
        if self.probed >= PROBES {
            let share = next_share(self.throttle, self.limits.throttle, fitting_speed);
            self.hold(if self.is_stuck { share } else { share.min(self.throttle) }, rounds);
        }
        let is_hopeful = match decision {
            Decision::Continue(_) => true,
            _ => rounds - self.hoped_in < STUCK_ROUNDS || self.hoped_at.elapsed() < STUCK_LEAST,
        };
        let is_early =
            rounds - self.changed_in < ROUNDS_MAX || self.changed_at.elapsed() < STUCK_LEAST;
        // Somebody has said after how many rounds it stops.
        let is_decided = self.limits.stop_after_rounds.is_some();
        if is_decided || (is_hopeful && is_early) {
            Ok(None)
        } else {
            Err(MigrateError::TooFast(shortfall))
        }
    }

    /// Holds the guest for so many hundredths of its time from now on. How fast it writes is seen anew.
    fn hold(&mut self, share: u8, rounds: u32) {
        if share == self.throttle {
            return;
        }
        if share > self.throttle {
            self.hope(rounds);
        }
        self.throttle = share;
        (self.probes, self.probed) = (DirtyEstimator::new(self.limit), 0);
    }

    fn outlook(&self, link: &SourceLink, estimate: LinkEstimate) -> Outlook<'_> {
        let (bytes_per_page, encoded) = self.encoding(link);
        let encoders = encoded * self.limits.processors(self.processors) * bytes_per_page;
        Outlook {
            link: estimate,
            dirty: &self.dirty,
            guest_speed: f64::from(100 - self.throttle) / 100.0,
            live_bytes_per_second: self.allowed().min(encoders),
            bytes_per_page,
            // The last burst has all of them.
            pages_per_second: encoded * self.processors,
            overhead: OVERHEAD,
        }
    }

    /// Bytes a second that the streams may carry.
    fn allowed(&self) -> f64 {
        self.limits.bandwidth.map_or(f64::INFINITY, |most| most.get() as f64)
    }

    /// What encoders do at this step: bytes of a page, and pages a second of a processor.
    fn encoding(&self, link: &SourceLink) -> (f64, f64) {
        let step = self.step;
        link.with_encoders(|encoders| {
            (encoders.bytes_per_page(step), encoders.pages_per_second(step))
        })
    }
}

/// The share of its time in which a guest may run, so that its stop fits: with some room, if that can be had.
pub(super) fn fitting_speed(outlook: &Outlook<'_>, debt: Debt, allowed: Duration) -> Option<f64> {
    let roomy = outlook.fitting_speed(debt, allowed.mul_f64(AIM));
    roomy.or_else(|| outlook.fitting_speed(debt, allowed))
}

/// Processors that this process may run on.
pub(super) fn processors() -> f64 {
    rustix::thread::sched_getaffinity(None).map_or(1.0, |set| f64::from(set.count()))
}

/// For how many hundredths of its time a guest is to be held next that is held for `share` now: no more than is needed, nor
/// than is allowed, nor so that it loses more than half of its speed before it is looked at again. Where no hold would
/// help, it is let go.
fn next_share(share: u8, most: u8, fitting_speed: Option<f64>) -> u8 {
    let wanted = fitting_speed.map_or(0, needed).min(most);
    if wanted > share {
        wanted.max(share + SLACK).min(most).min(100 - (100 - share) / 2)
    } else if wanted + SLACK < share {
        wanted
    } else {
        share.min(most)
    }
}

/// What a guest has had of the time since then, in which it was held for so long: what it does not do while it is held, it
/// does afterwards.
fn ran(since: Instant, held: Duration) -> Duration {
    let span = since.elapsed();
    span.saturating_sub(held).max(span / 100)
}

fn debt(link: &SourceLink) -> Debt {
    link.with(|source, _| Debt {
        owed_pages: source.ledger().owed(),
        unacknowledged_bytes: source.link().unacknowledged(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_is_held_for_what_is_needed_by_steps_and_never_for_more_than_allowed() {
        for (share, most, speed, next) in [
            (0, 80, Some(0.9), 10),
            (0, 80, Some(0.3), 50),
            (50, 80, Some(0.3), 70),
            (50, 80, Some(0.01), 75),
            (50, 80, Some(0.49), 55),
            (78, 80, Some(0.21), 80),
            (75, 80, Some(0.01), 80),
            (80, 80, Some(0.01), 80),
            (0, 0, Some(0.3), 0),
            (0, 30, Some(0.3), 30),
            // What is hardly too much stays, what is far too much does not.
            (50, 80, Some(0.53), 50),
            (50, 80, Some(0.6), 40),
            (50, 80, Some(1.0), 0),
            // Nobody may hold it for as long any more.
            (50, 20, Some(0.3), 20),
            (50, 48, Some(0.3), 48),
            // No hold would help.
            (50, 80, None, 0),
            (0, 99, Some(0.0), 50),
        ] {
            assert_eq!(next_share(share, most, speed), next, "{share} {most} {speed:?}");
        }
    }

    #[test]
    fn what_a_guest_does_while_it_is_held_is_nothing() {
        let mut pace = Pace::new(MoveLimits::default(), Gfn(64), 1.0);
        pace.harvested_at = Instant::now().checked_sub(Duration::from_secs(10)).unwrap();
        pace.harvested(&[0xff], Duration::from_secs(9));
        // Eight pages in the second that it ran.
        let rate = pace.dirty.pages_per_second().unwrap();
        assert!((7.0..=8.0).contains(&rate), "{rate}");
        pace.harvested_at = Instant::now().checked_sub(Duration::from_secs(1)).unwrap();
        pace.harvested(&[0xff], Duration::from_secs(9));
        let rate = pace.dirty.pages_per_second().unwrap();
        assert!((7.0..=8.0).contains(&rate), "{rate}");
    }

    #[test]
    fn a_guest_that_is_stuck_is_looked_at_within_its_rounds_and_nothing_is_counted_twice() {
        let mut pace = Pace::new(MoveLimits::default(), Gfn(64), 1.0);
        assert_eq!(pace.probe_after(), None);
        pace.is_stuck = true;
        assert!(pace.probe_after().is_some());
        let before = Instant::now().checked_sub(Duration::from_secs(1)).unwrap();
        (pace.harvested_at, pace.looked_at) = (before, before);
        pace.probed(&[0x0f], Duration::ZERO);
        pace.harvested(&[0xfc], Duration::ZERO);
        let [short, round] = [&pace.probes, &pace.dirty].map(|it| it.pages_per_second().unwrap());
        assert!((3.9..=4.0).contains(&short) && (7.8..=8.0).contains(&round), "{short} {round}");
        // A round that is over before anybody looks is a look itself.
        pace.harvested(&[0x03], Duration::ZERO);
        assert_eq!(pace.probed, 2);
        pace.hold(50, 7);
        assert_eq!((pace.throttle, pace.probed, pace.hoped_in), (50, 0, 7));
        assert!(!pace.probes.is_known());
    }

    #[test]
    fn other_limits_let_a_guest_go_and_give_it_time_again() {
        let limits = MoveLimits { throttle: 80, ..MoveLimits::default() };
        let mut pace = Pace::new(limits, Gfn(64), 1.0);
        pace.throttle = 70;
        pace.set_limits(MoveLimits { throttle: 75, ..limits }, 5);
        assert_eq!((pace.throttle(), pace.hoped_in, pace.changed_in), (70, 5, 5));
        pace.set_limits(MoveLimits { throttle: 0, ..limits }, 9);
        assert_eq!((pace.throttle(), pace.hoped_in, pace.changed_in), (0, 9, 9));
    }
}
