//! [`Outlook`]: what is believed at one moment, and the forecasts that follow.

use std::time::Duration;

use super::{DirtyEstimator, LinkEstimate};

/// Rounds that a forecast looks ahead. What has not become small by then will not.
const ROUNDS_MAX: u32 = 30;

/// A later stop must be shorter by this part, or by [`GAIN_LEAST`], to be worth a round.
const GAIN: f64 = 0.1;
const GAIN_LEAST: Duration = Duration::from_millis(1);

/// What is believed at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Outlook<'a> {
    /// Of the link.
    pub link: LinkEstimate,
    /// Of the guest, in its own time: of a guest that was held, the time in which it was does not count.
    pub dirty: &'a DirtyEstimator,
    /// The share of the time in which the guest will run: 1 unless it is throttled.
    pub guest_speed: f64,
    /// Bytes a second that pages may take while the guest runs; infinite if all that the link carries.
    pub live_bytes_per_second: f64,
    /// Bytes that a dirty page takes on the wire.
    pub bytes_per_page: f64,
    /// Pages that the encoders get through in a second; infinite if that is no matter.
    pub pages_per_second: f64,
    /// What of the blackout does not depend on pages: pause, state, restore, record.
    pub overhead: Duration,
}

/// What still has to go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Debt {
    /// Pages that are owed.
    pub owed_pages: u64,
    /// Bytes that were sent and are not acknowledged.
    pub unacknowledged_bytes: u64,
}

/// A stop of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stop {
    /// How long it will stand still.
    pub blackout: Duration,
    /// The guest is to run on until everything that was sent is acknowledged. The last burst has the link to
    /// itself then; otherwise it waits behind what is on its way, in buffers and in congestion windows.
    pub settles_first: bool,
}

/// How the move will go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forecast {
    /// Rounds before the stop.
    pub rounds: u32,
    /// From now until the guest runs at the destination.
    pub duration: Duration,
    /// How long it stands still.
    pub blackout: Duration,
    /// Whether that is within the budget.
    pub fits: bool,
}

impl Outlook<'_> {
    /// The stop that is the shortest if it begins now.
    #[must_use]
    pub fn stop(&self, debt: Debt) -> Stop {
        self.stop_of(debt.owed_pages as f64, debt.unacknowledged_bytes as f64)
    }

    /// What comes if rounds go on while they are worth it, and until the blackout is within the budget.
    #[must_use]
    pub fn forecast(&self, debt: Debt, budget: Duration) -> Forecast {
        self.look_ahead(debt, budget, None)
    }

    /// The same, where the guest is stopped after so many rounds, however long it will stand still; and not before, unless
    /// that is within the budget.
    #[must_use]
    pub fn forecast_of_forced_stop(&self, debt: Debt, budget: Duration, after: u32) -> Forecast {
        self.look_ahead(debt, budget, Some(after))
    }

    fn look_ahead(&self, debt: Debt, budget: Duration, forced_after: Option<u32>) -> Forecast {
        let most = forced_after.unwrap_or(ROUNDS_MAX);
        let mut owed = debt.owed_pages as f64;
        let mut unacknowledged = debt.unacknowledged_bytes as f64;
        let mut elapsed = Duration::ZERO;
        let mut rounds = 0;
        loop {
            let stop = self.stop_of(owed, unacknowledged);
            let (next_owed, round) = self.round(owed);
            let on_its_way = self.on_its_way(owed);
            let next = self.stop_of(next_owed, on_its_way);
            let is_worth_it = is_shorter(next.blackout, stop.blackout);
            let fits = stop.blackout <= budget;
            let is_over = !is_worth_it && (fits || forced_after.is_none());
            if rounds >= most || is_over {
                let waits =
                    if stop.settles_first { self.settling(unacknowledged) } else { Duration::ZERO };
                let duration = elapsed.saturating_add(waits).saturating_add(stop.blackout);
                return Forecast { rounds, duration, blackout: stop.blackout, fits };
            }
            elapsed = elapsed.saturating_add(round);
            (owed, unacknowledged) = (next_owed, on_its_way);
            rounds += 1;
        }
    }

    /// Whether another round makes the stop shorter by enough to be worth it.
    pub(super) fn is_worth_a_round(&self, debt: Debt) -> bool {
        let owed = debt.owed_pages as f64;
        let next = self.stop_of(self.round(owed).0, self.on_its_way(owed));
        is_shorter(next.blackout, self.stop(debt).blackout)
    }

    fn stop_of(&self, owed: f64, unacknowledged: f64) -> Stop {
        let half = self.link.round_trip / 2;
        let behind = self.sending(owed, unacknowledged);
        let meanwhile = self.dirtied_in(self.settling(unacknowledged));
        let alone = self.sending(owed + meanwhile, 0.0);
        let settles_first = alone < behind;
        let sending = behind.min(alone);
        let blackout = sending.saturating_add(half).saturating_add(self.overhead);
        Stop { blackout, settles_first }
    }

    /// How many pages are owed after a round in which so many go out, and how long it takes.
    fn round(&self, owed: f64) -> (f64, Duration) {
        // A page that is written again while it is on its way waits for its acknowledgement.
        let limited = seconds(owed * self.bytes_per_page / self.live_bytes_per_second);
        let round = self.sending(owed, 0.0).max(limited).max(self.link.round_trip);
        (self.dirtied_in(round), round)
    }

    /// Pages that will be dirty after some time, if none is now.
    fn dirtied_in(&self, after: Duration) -> f64 {
        // A time without end, times a speed of zero, is no time.
        let own = Duration::try_from_secs_f64(after.as_secs_f64() * self.guest_speed);
        self.dirty.pages_after(own.unwrap_or(Duration::MAX))
    }

    /// Pages a second that go out while the guest runs: what the slowest lets through of encoders, link, and limit.
    #[must_use]
    pub fn live_pages_per_second(&self) -> f64 {
        let bytes = self.link.bytes_per_second.min(self.live_bytes_per_second);
        (bytes / self.bytes_per_page).min(self.pages_per_second)
    }

    /// Bytes of a round that are not acknowledged when the last of them has gone out.
    fn on_its_way(&self, owed: f64) -> f64 {
        let pipe = self.link.bytes_per_second * self.link.round_trip.as_secs_f64();
        (owed * self.bytes_per_page).min(pipe)
    }

    /// Until so many bytes that were sent are acknowledged.
    fn settling(&self, unacknowledged: f64) -> Duration {
        if unacknowledged == 0.0 {
            return Duration::ZERO;
        }
        seconds(unacknowledged / self.link.bytes_per_second).max(self.link.round_trip)
    }

    /// Until so many pages have gone out behind so many bytes.
    fn sending(&self, pages: f64, behind: f64) -> Duration {
        let bytes = behind + pages * self.bytes_per_page;
        seconds((bytes / self.link.bytes_per_second).max(pages / self.pages_per_second))
    }
}

fn is_shorter(next: Duration, now: Duration) -> bool {
    let gain = now.mul_f64(GAIN).max(GAIN_LEAST);
    next.saturating_add(gain) < now
}

/// A time of any size: what is not finite is as good as for ever.
fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
}
