//! The part of the demonstration in which the machine moves to another host, and comes back.

use std::time::Duration;

use control::ConsoleStream;
use control::api::{Migrate, MigrationOutcome, Receipt, ReceiptAudit};
use firmware::oracle::report::Rounds;

use super::hosts::Hosts;
use super::private::{Live, PrivateDaemon};
use super::view::View;
use crate::Failure;

/// Milliseconds that the guest may stand still. The help of `--moves` has this number, and the next.
pub(super) const MAX_DOWNTIME_MS: u64 = 300;
/// Rounds after which it is stopped, however long it will stand still: a guest that writes faster than its downtime
/// allows would never arrive.
pub(super) const STOP_AFTER_ROUNDS: u32 = 12;

/// A move that was made.
pub(super) struct Leg {
    /// Where it went.
    pub(super) to: &'static str,
    pub(super) nth: u32,
    pub(super) outcome: MigrationOutcome,
}

impl Leg {
    /// Whether the guest was stopped only since it never would have been otherwise.
    pub(super) fn is_forced(&self) -> bool {
        let is_too_long = |ns| ns > MAX_DOWNTIME_MS * 1_000_000;
        self.outcome.rounds >= STOP_AFTER_ROUNDS && self.outcome.forecast_ns.is_none_or(is_too_long)
    }
}

/// Moves the machine to the other host and back, so often. `after` each move, it is given the guest's console there,
/// lets the guest run, and says what it reported last and as the longest gap, if it does.
pub(super) fn round_trips(
    hosts: &Hosts,
    view: &View,
    times: u32,
    machine: &Live,
    mut after: impl FnMut(ConsoleStream) -> Result<Option<Rounds>, Failure>,
) -> Result<(), Failure> {
    let Hosts { here, there } = hosts;
    let mut legs = Vec::new();
    for nth in 1..=times {
        for (word, from, to) in [("there", here, there), ("back", there, here)] {
            let past = to.past(machine)?;
            view.moves(from, to);
            let leg = Leg { to: word, nth, outcome: moves(from, to, machine, view)? };
            let seen = after(to.console_after(machine, past)?)?;
            let gap = seen.map(|rounds| Duration::from_micros(rounds.gap_us));
            view.moved(&leg, times, gap, to.process(machine)?);
            if legs.is_empty() {
                view.report(&leg.outcome, hosts);
            }
            view.receipt(&receipt(from, to, &leg.outcome)?);
            seen.iter().for_each(|rounds| view.rate(rounds));
            legs.push(leg);
        }
    }
    if !legs.is_empty() {
        view.legs(&legs, times);
    }
    Ok(())
}

/// One move, and what it did.
fn moves(
    from: &PrivateDaemon,
    to: &PrivateDaemon,
    machine: &Live,
    view: &View,
) -> Result<MigrationOutcome, Failure> {
    let order = Migrate {
        to: to.name().clone(),
        max_downtime_ms: MAX_DOWNTIME_MS,
        timeout_ms: 60_000,
        bandwidth: None,
        streams: 4,
        stop_after_rounds: Some(STOP_AFTER_ROUNDS),
        audit: ReceiptAudit::Sampled,
        throttle_percent: None,
        cpu_permille: None,
    };
    let what = format!("the move from {} to {}", from.name(), to.name());
    let outcome = from.migrate(machine, &order, view.progress(to.name()));
    let outcome = outcome
        .map_err(|failure| from.why(machine, Failure::Other(format!("{what}: {failure}"))))?;
    match outcome.audited_different {
        0 => Ok(outcome),
        different => Err(Failure::Other(format!(
            "{what}: {different} pages that were written last had not been sent as they were"
        ))),
    }
}

/// The move's receipt, if both hosts have the same one, and it is of this move and has both signatures.
fn receipt(
    from: &PrivateDaemon,
    to: &PrivateDaemon,
    outcome: &MigrationOutcome,
) -> Result<Receipt, Failure> {
    let session = &outcome.session;
    let wrong = |why: String| Failure::Other(format!("the receipt {session}: {why}"));
    let of = |daemon: &PrivateDaemon| {
        let receipt = daemon.client().get::<Receipt>(&format!("/v1/receipts/{session}"));
        receipt.map_err(|error| wrong(format!("on {}: {error}", daemon.name())))
    };
    let (receipt, other) = (of(from)?, of(to)?);
    if receipt != other {
        return Err(wrong(format!("{} and {} have different ones", from.name(), to.name())));
    }
    receipt.verify().map_err(|error| wrong(error.to_string()))?;
    let statement = &receipt.statement;
    if (statement.from.as_str(), statement.to.as_str()) != (from.key(), to.key()) {
        return Err(wrong("it is of other hosts".to_owned()));
    }
    if statement.root != outcome.root {
        return Err(wrong("its digest is not that of the move".to_owned()));
    }
    Ok(receipt)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A move of so many rounds, in which the guest stood still for so many milliseconds, as was forecast.
    pub(in crate::demo) fn leg(to: &'static str, rounds: u32, blackout_ms: u64) -> Leg {
        let blackout_ns = blackout_ms * 1_000_000;
        let outcome = MigrationOutcome {
            session: "5".repeat(32),
            from: "a".repeat(64),
            to: "b".repeat(64),
            generation: "0.1".to_owned(),
            root: "c".repeat(128),
            blackout_ns,
            causes: vec![("wire".to_owned(), blackout_ns)],
            forecast_ns: Some(blackout_ns),
            total_ns: 2_000_000_000,
            rounds,
            pages_sent: 140_123,
            pages_again: 0,
            pages_kept: 0,
            kept_bytes: 0,
            state_bytes: 0,
            state_bytes_paused: 0,
            looked_ns: 0,
            payload_bytes: 500 << 20,
            payload_bytes_paused: 1 << 20,
            connections: 1,
            throttle_percent: 0,
            throttled_ns: 0,
            plan: Vec::new(),
            audit: ReceiptAudit::Sampled,
            audited_pages: 2048,
            audited_different: 0,
            has_receipt: true,
        };
        Leg { to, nth: 1, outcome }
    }

    #[test]
    fn a_move_is_forced_if_its_last_round_was_not_within_the_downtime() {
        assert!(!leg("there", 4, 10).is_forced());
        assert!(!leg("there", STOP_AFTER_ROUNDS, MAX_DOWNTIME_MS).is_forced());
        assert!(leg("there", STOP_AFTER_ROUNDS, MAX_DOWNTIME_MS + 1).is_forced());
    }
}
