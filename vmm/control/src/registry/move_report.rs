//! What a move did, put together from what both hosts have seen, and signed by both.

use std::time::Duration;

use machine::{ArrivalReport, Cause, MoveReport, PlanEntry};

use super::departures::Departure;
use crate::api::{
    ApiError, MigrationOutcome, MigrationPlan, Receipt, ReceiptAudit, ReceiptStatement, Timestamp,
};
use crate::peers::message::{Answered, Countersigned, Offer, Question};
use crate::peers::{PeerClient, QUICK};
use crate::random::hex;

impl Departure<'_> {
    /// The report, with what the other host has to say.
    pub(super) fn outcome(&self, report: &MoveReport) -> MigrationOutcome {
        let there = self.peer();
        let arrival = there.as_ref().ok().and_then(|there| self.arrival(there));
        if arrival.is_none() {
            tracing::warn!(
                "the other host does not say what it did; the report has this one's half"
            );
        }
        let home = self.attendant.entry.home();
        let generation = home.permit_record().map(|record| record.generation().to_string());
        let (blackout_ns, causes) = blackout(report, arrival.as_ref());
        let outcome = MigrationOutcome {
            session: hex(&self.session),
            from: self.attendant.shared.identity.public().to_string(),
            to: self.key.clone(),
            generation: generation.unwrap_or_default(),
            root: hex(&report.root),
            blackout_ns,
            causes,
            forecast_ns: report.forecast.map(nanoseconds),
            total_ns: nanoseconds(report.total),
            rounds: report.rounds,
            pages_sent: report.pages_sent,
            pages_again: report.pages_again,
            pages_kept: report.pages_kept,
            kept_bytes: report.kept_bytes,
            state_bytes: report.state_bytes,
            state_bytes_paused: report.state_bytes_paused,
            looked_ns: nanoseconds(report.looked),
            payload_bytes: report.payload_bytes,
            payload_bytes_paused: report.payload_bytes_paused,
            connections: report.connections,
            throttle_percent: u32::from(report.throttle.highest),
            throttled_ns: nanoseconds(report.throttle.time),
            plan: report.plan.iter().map(plan).collect(),
            audit: self.audit,
            audited_pages: report.audit.pages,
            audited_different: report.audit.different,
            has_receipt: false,
        };
        if arrival.is_none() {
            return outcome;
        }
        let signed = there.and_then(|there| self.receipt(&there, &outcome));
        if let Err(error) = &signed {
            tracing::warn!(%error, "the move has no receipt");
        }
        MigrationOutcome { has_receipt: signed.is_ok(), ..outcome }
    }

    /// Has both hosts sign what was done, and keeps that.
    fn receipt(&self, there: &PeerClient, outcome: &MigrationOutcome) -> Result<(), ApiError> {
        let shared = &self.attendant.shared;
        let statement = ReceiptStatement {
            session: outcome.session.clone(),
            machine: hex(&self.attendant.entry.record().id),
            from: outcome.from.clone(),
            to: outcome.to.clone(),
            generation: outcome.generation.clone(),
            root: outcome.root.clone(),
            blackout_ns: outcome.blackout_ns,
            audit: audited(outcome),
            ended_at: Timestamp::now(),
        };
        let signature = statement.sign(shared.identity.keys());
        let offer = Offer { statement: statement.clone(), signature, outcome: outcome.clone() };
        let signed: Countersigned = there.post("/v1/receipts", &offer, QUICK)?;
        let receipt = Receipt::new(statement, offer.signature, signed.signature);
        shared.receipts.put(&receipt).map_err(ApiError::internal)
    }

    /// What the other host did: its daemon hears of it a moment after the source does, and waits for that.
    fn arrival(&self, there: &PeerClient) -> Option<ArrivalReport> {
        let question = Question {
            session: hex(&self.session),
            machine: hex(&self.attendant.entry.record().id),
            refuse: false,
            report: true,
        };
        let asked = there.post("/v1/answers", &question, QUICK);
        asked
            .inspect_err(|error| tracing::warn!(%error, "the other host is not heard"))
            .ok()
            .and_then(|Answered { arrival, .. }| arrival)
    }
}

/// A blackout by cause: what the source saw, and, where the destination has said it, what it did in the time that the
/// source waited for its answer. The answer's way, half of the smallest round trip, is no part of it: the guest ran.
fn blackout(report: &MoveReport, arrival: Option<&ArrivalReport>) -> (u64, Vec<(String, u64)>) {
    let mut causes = Vec::new();
    for (cause, ns) in report.blackout.parts() {
        let (Cause::Wire, Some(arrival)) = (cause, arrival) else {
            causes.push((cause.name().to_owned(), ns));
            continue;
        };
        let answer = report.round_trip.map_or(0, |round_trip| nanoseconds(round_trip) / 2);
        let there = [
            ("restore", nanoseconds(arrival.restore)),
            ("record", nanoseconds(arrival.record)),
            ("resume", nanoseconds(arrival.resume)),
        ];
        let known: u64 = there.iter().map(|(_, ns)| ns).sum();
        causes.push(("wire".to_owned(), ns.saturating_sub(known + answer)));
        causes.extend(there.map(|(name, ns)| (name.to_owned(), ns)));
    }
    (causes.iter().map(|(_, ns)| ns).sum(), causes)
}

/// How much of the memory was found to be as it was sent.
fn audited(outcome: &MigrationOutcome) -> ReceiptAudit {
    let is_clean = outcome.audited_different == 0;
    match outcome.audited_pages {
        pages if pages > 0 && is_clean => outcome.audit,
        _ => ReceiptAudit::None,
    }
}

fn plan(entry: &PlanEntry) -> MigrationPlan {
    let PlanEntry { at, bytes_per_second, level, batch_pages, streams } = *entry;
    MigrationPlan {
        at_ns: nanoseconds(at),
        bytes_per_second,
        zstd_level: level,
        batch_pages,
        streams,
    }
}

pub(super) fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate, for people")]
pub(super) fn whole(rate: f64) -> u64 {
    rate as u64
}
