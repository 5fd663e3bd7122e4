//! [`decide`]: whether the guest is to stop now.

use std::time::Duration;

use super::{Debt, Forecast, Outlook, Stop};

/// What to do at the start of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Send what is owed while the guest runs: that makes the stop shorter.
    Continue(Forecast),
    /// Stop the guest: no round is worth its time any more, and the stop is within the budget.
    Stop(Stop),
    /// No number of rounds makes the stop fit the budget: the guest writes faster than the link carries, or
    /// the budget is less than the link's own delay. What the best stop would be is said.
    Stuck(Forecast),
}

/// Whether to stop now the guest that owes `debt`, if it may stand still for `budget`.
#[must_use]
pub fn decide(outlook: &Outlook<'_>, debt: Debt, budget: Duration) -> Decision {
    let stop = outlook.stop(debt);
    if stop.blackout <= budget && !outlook.is_worth_a_round(debt) {
        return Decision::Stop(stop);
    }
    let forecast = outlook.forecast(debt, budget);
    if forecast.fits { Decision::Continue(forecast) } else { Decision::Stuck(forecast) }
}

#[cfg(test)]
mod tests;
