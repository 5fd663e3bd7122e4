//! [`Brake`]: the guest of a move is slowed down, and let go again.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::vcpu::Throttle;
use crate::vm::Running;

/// How far a guest was slowed down, and for how long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThrottleReport {
    /// Hundredths of its time for which it was held, at most; 0 if it was not.
    pub highest: u8,
    /// For how long it ran more slowly than it could.
    pub time: Duration,
}

/// Slows the guest of a move down, and remembers how far. Dropped, it lets it go.
#[derive(Debug, Default)]
pub(super) struct Brake {
    /// From the first time that it is needed.
    throttle: Option<Throttle>,
    share: u8,
    /// Since when the share is not 0.
    since: Option<Instant>,
    report: ThrottleReport,
}

impl Brake {
    /// Holds the guest for so many hundredths of its time from now on. False if it cannot be held.
    pub(super) fn set(&mut self, running: &Running, share: u8) -> bool {
        if share == self.share {
            return true;
        }
        if self.throttle.is_none() {
            match running.throttle() {
                Ok(throttle) => self.throttle = Some(throttle),
                Err(error) => {
                    tracing::warn!(%error, "the guest is not slowed down");
                    return false;
                }
            }
        }
        tracing::debug!(share, "the guest is throttled");
        self.apply(share);
        true
    }

    /// Lets the guest go.
    pub(super) fn release(&mut self) {
        if self.share > 0 {
            self.apply(0);
        }
    }

    /// Hundredths of its time for which it is held.
    pub(super) fn share(&self) -> u8 {
        self.share
    }

    /// For how long it was held so far.
    pub(super) fn held(&self) -> Duration {
        self.throttle.as_ref().map_or(Duration::ZERO, Throttle::held)
    }

    pub(super) fn report(&self) -> ThrottleReport {
        let now = self.since.map_or(Duration::ZERO, |since| since.elapsed());
        ThrottleReport { time: self.report.time + now, ..self.report }
    }

    fn apply(&mut self, share: u8) {
        if let Some(throttle) = &self.throttle {
            throttle.set(share);
        }
        self.share = share;
        self.report.highest = self.report.highest.max(share);
        match (share, self.since) {
            (0, Some(since)) => {
                self.report.time += since.elapsed();
                self.since = None;
            }
            (1.., None) => self.since = Some(Instant::now()),
            _ => {}
        }
    }
}
