//! What has happened lately, for those who follow it.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::api::{Event, EventKind, Timestamp};

/// The last events. Whoever reads them has a place of its own, so that nobody waits for anybody.
#[derive(Debug)]
pub(crate) struct Events {
    /// Of the daemon's life: a number of another life says nothing about this one.
    life: String,
    kept: usize,
    ring: Mutex<Ring>,
    /// How many there have been.
    count: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Ring {
    events: VecDeque<Event>,
    /// How many there were before the first in the ring.
    forgotten: u64,
}

/// Where somebody reads on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place(u64);

/// The events from a place on are not kept any more.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooLate;

impl Events {
    /// At most `kept` are remembered.
    pub(crate) fn new(kept: usize) -> Self {
        let life = format!("{:x}", Timestamp::now().unix_microseconds());
        Self { life, kept: kept.max(1), ring: Mutex::default(), count: watch::Sender::new(0) }
    }

    pub(crate) fn publish(&self, kind: EventKind) {
        let mut ring = self.lock();
        let number = ring.forgotten + ring.events.len() as u64;
        let id = format!("{}-{number}", self.life);
        tracing::info!(event = kind.name(), id, "event");
        ring.events.push_back(Event { id, at: Timestamp::now(), kind });
        if ring.events.len() > self.kept {
            ring.events.pop_front();
            ring.forgotten += 1;
        }
        // With the lock held, so that the count never goes back.
        self.count.send_replace(number + 1);
    }

    /// Whatever comes from now on.
    pub(crate) fn now(&self) -> Place {
        Place(*self.count.borrow())
    }

    /// With the last `most` of those that were, as far as they are kept.
    pub(crate) fn last(&self, most: u64) -> Place {
        let ring = self.lock();
        let end = ring.forgotten + ring.events.len() as u64;
        Place(end.saturating_sub(most).max(ring.forgotten))
    }

    /// Behind the event with this id. `TooLate` if what followed it is not known any more, or it is none of ours.
    pub(crate) fn after(&self, id: &str) -> Result<Place, TooLate> {
        let number = id.split_once('-').filter(|(life, _)| *life == self.life);
        let number = number.and_then(|(_, number)| number.parse::<u64>().ok()).ok_or(TooLate)?;
        let ring = self.lock();
        let next = number.checked_add(1).ok_or(TooLate)?;
        let end = ring.forgotten + ring.events.len() as u64;
        if (ring.forgotten..=end).contains(&next) { Ok(Place(next)) } else { Err(TooLate) }
    }

    /// A `gap`, for one who was away too long. It is no event of its own, and has the id of the last one.
    pub(crate) fn gap(&self) -> Event {
        let last = self.count.borrow().saturating_sub(1);
        Event { id: format!("{}-{last}", self.life), at: Timestamp::now(), kind: EventKind::Gap {} }
    }

    /// The next events from a place on, some at least; waits for them. Moves the place.
    pub(crate) async fn next(&self, place: &mut Place) -> Result<Vec<Event>, TooLate> {
        // Bounded, so that who follows much at once is not given the whole ring in one piece.
        const AT_ONCE: usize = 64;
        let mut count = self.count.subscribe();
        let from = place.0;
        // The sender lives as long as this.
        let _ = count.wait_for(|count| *count > from).await;
        let ring = self.lock();
        let skip = from.checked_sub(ring.forgotten).ok_or(TooLate)?;
        let skip = usize::try_from(skip).map_err(|_| TooLate)?;
        let events: Vec<_> = ring.events.iter().skip(skip).take(AT_ONCE).cloned().collect();
        place.0 += events.len() as u64;
        Ok(events)
    }

    fn lock(&self) -> MutexGuard<'_, Ring> {
        // A panic aborts the process, so that no lock is ever poisoned.
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(adopted: u64) -> EventKind {
        EventKind::DaemonStarted { adopted }
    }

    async fn next(events: &Events, place: &mut Place) -> Result<Vec<EventKind>, TooLate> {
        Ok(events.next(place).await?.into_iter().map(|event| event.kind).collect())
    }

    #[tokio::test(flavor = "current_thread")]
    async fn who_comes_back_reads_on_behind_what_it_has_seen() {
        let events = Events::new(10);
        let mut place = events.now();
        events.publish(some(0));
        events.publish(some(1));
        let seen = events.next(&mut place).await.unwrap();
        assert_eq!(seen.len(), 2);
        events.publish(some(2));
        let mut again = events.after(&seen[0].id).unwrap();
        assert_eq!(next(&events, &mut again).await, Ok(vec![some(1), some(2)]));
        // Behind the newest there is nothing yet, which is no gap.
        let newest = events.lock().events.back().unwrap().id.clone();
        assert_eq!(events.after(&newest), Ok(events.now()));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn who_comes_late_can_have_the_last_ones_that_are_kept() {
        let events = Events::new(3);
        assert_eq!(events.last(9), events.now());
        for number in 0..5 {
            events.publish(some(number));
        }
        for (most, seen) in [(1, &[4][..]), (2, &[3, 4]), (3, &[2, 3, 4]), (u64::MAX, &[2, 3, 4])] {
            let mut place = events.last(most);
            let seen: Vec<_> = seen.iter().copied().map(some).collect();
            assert_eq!(next(&events, &mut place).await, Ok(seen), "{most}");
        }
        assert_eq!(events.last(0), events.now());
    }

    #[tokio::test(flavor = "current_thread")]
    async fn who_was_away_too_long_is_told_and_nothing_is_skipped() {
        let events = Events::new(2);
        let mut place = events.now();
        for number in 0..3 {
            events.publish(some(number));
        }
        assert_eq!(next(&events, &mut place).await, Err(TooLate));
        let life = events.life.clone();
        for id in [
            "",
            "x",
            "0-0",
            &format!("{life}-"),
            &format!("{life}-99"),
            &format!("{life}-18446744073709551615"),
        ] {
            assert_eq!(events.after(id), Err(TooLate), "{id:?}");
        }
        assert!(events.after(&format!("{life}-0")).is_ok(), "1 and 2 are kept");
        assert!(matches!(events.gap().kind, EventKind::Gap {}));
        assert_eq!(events.after(&events.gap().id), Ok(events.now()));
    }
}
