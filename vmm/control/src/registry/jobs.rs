//! What an attendant does that takes time, and the whole machine.

use machine::{
    Form, HandOverReport, Limits, SnapshotOptions, SnapshotReport, SuperviseError, Supervised,
    Watch,
};

use super::attendant::{Attendant, sort};
use super::departures::shown;
use super::images;
use crate::api::{
    ApiError, ErrorCode, HandOverOutcome, MachineState, SnapshotOutcome, TakeSnapshot,
};
use crate::operations::{Outcome, Pending};
use crate::spec;

impl Attendant {
    /// Saves the machine. Besides the answer, what made that its end.
    pub(super) fn snapshot(
        &self,
        machine: &Supervised,
        operation: &Pending,
        request: &TakeSnapshot,
    ) -> (Result<Outcome, ApiError>, Option<SuperviseError>) {
        let files = &self.shared.files;
        let prepare = || {
            let new = files.resolve_new(&request.file)?;
            let key = images::key(files, request.key_file.as_deref())?;
            let base = images::base(&new, files, request.base.as_deref())?;
            Ok((new, key, base))
        };
        let (new, key, base) = match prepare() {
            Ok(prepared) => prepared,
            Err(error) => return (Err(error), None),
        };
        let watch = |progress| operation.advance(shown(progress));
        let options = SnapshotOptions {
            key: key.as_ref(),
            parent: base.as_deref(),
            watch: Some(Watch(&watch)),
        };
        match machine.snapshot(&new.path_by_descriptor(), options) {
            Ok(SnapshotReport { bytes, pages, rounds, paused_ns, total_ns }) => {
                self.shared.metrics.snapshot_bytes.inc_by(bytes);
                if paused_ns > 0 {
                    self.shared.metrics.blackout_seconds.observe(seconds(paused_ns));
                }
                let file = new.path().display().to_string();
                let outcome = SnapshotOutcome { file, bytes, pages, rounds, paused_ns, total_ns };
                (Ok(Outcome::Snapshot(outcome)), None)
            }
            Err(error) => {
                let (answer, fatal) = sort(error);
                let answer = answer.map(|()| Outcome::Plain).map_err(|error| ApiError {
                    // The caller knows the folder by its name.
                    message: error.message.replace(
                        &new.path_by_descriptor().display().to_string(),
                        &new.path().display().to_string(),
                    ),
                    code: cancelled_or(operation, error.code),
                    ..error
                });
                (answer, fatal)
            }
        }
    }

    /// Gives the machine to a new process. Besides the answer, what made that its end.
    pub(super) fn hand_over(
        &self,
        machine: &mut Supervised,
        operation: &Pending,
        form: Form,
    ) -> (Result<Outcome, ApiError>, Option<SuperviseError>) {
        let watch = |progress| operation.advance(shown(progress));
        let dirty_log = match spec::check(&self.entry.record().spec) {
            Ok(shape) => shape.dirty_log,
            Err(error) => return (Err(error), None),
        };
        let outcome = self.shared.with_executable(dirty_log, |executable| {
            let watch = Some(Watch(&watch));
            machine.hand_over_watched(executable, form, Limits::default(), watch)
        });
        let process = machine.process();
        if let Ok(ender) = process.ender() {
            self.entry.has_process(Some((process.id(), ender)));
        }
        match outcome {
            Ok(report) => {
                let outcome = hand_over_outcome(&report);
                self.shared.metrics.blackout_seconds.observe(seconds(outcome.blackout_ns));
                (Ok(Outcome::HandOver(outcome)), None)
            }
            Err(SuperviseError::PredecessorDied(_)) => (Ok(Outcome::Plain), None),
            Err(error) => {
                if matches!(error, SuperviseError::Departed(_)) {
                    self.entry.set_state(MachineState::Departed, None);
                }
                let (answer, fatal) = sort(error);
                let answer = answer.map(|()| Outcome::Plain);
                let code = |error: ApiError| ApiError {
                    code: cancelled_or(operation, error.code),
                    ..error
                };
                (answer.map_err(code), fatal)
            }
        }
    }
}

pub(super) fn cancelled_or(operation: &Pending, code: ErrorCode) -> ErrorCode {
    if operation.is_cancelled() && code == ErrorCode::MachineFailed {
        ErrorCode::Cancelled
    } else {
        code
    }
}

fn hand_over_outcome(report: &HandOverReport) -> HandOverOutcome {
    let causes = report.blackout.parts();
    HandOverOutcome {
        blackout_ns: report.blackout.total_ns(),
        causes: causes.map(|(cause, ns)| (cause.name().to_owned(), ns)).collect(),
        total_ns: report.total_ns,
        rounds: report.rounds,
        pages_sent: report.pages_sent,
        pages_sent_paused: report.pages_sent_paused,
    }
}

#[allow(clippy::cast_precision_loss, reason = "a blackout of 2^53 ns would last 104 days")]
pub(super) fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e9
}
