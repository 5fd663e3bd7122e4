//! How far an operation is: a bar on a terminal, nothing elsewhere but the outcome. A move between hosts is worth a line
//! of its own, and elsewhere one at each of its phases.

use std::io::IsTerminal;

use control::api::{MachineName, MigrationPhase, Operation, OperationProgress, OperationState};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::machines::{age, milliseconds};
use crate::top::whole_bytes;

/// What is shown of one operation. It goes when the operation has ended.
pub(crate) struct Progress(ProgressBar);

impl Progress {
    /// `doing` says what is under way. On standard error, so that it is in nobody's output.
    pub(crate) fn new(doing: &'static str) -> Self {
        let bar = bar("{spinner} {prefix} [{bar:30}] {msg}");
        bar.set_prefix(doing);
        Self(bar)
    }

    pub(crate) fn show(&mut self, operation: &Operation) {
        if operation.state != OperationState::Running {
            self.0.finish_and_clear();
            return;
        }
        let Some(&OperationProgress { rounds, pages_done, pages_owed, .. }) =
            operation.progress.as_ref()
        else {
            self.0.tick();
            return;
        };
        self.0.set_length(pages_done + pages_owed);
        self.0.set_position(pages_done);
        let mebibytes = pages_done >> 8;
        self.0.set_message(match rounds {
            0 => format!("{mebibytes} MiB"),
            _ => format!("{mebibytes} MiB, round {rounds}"),
        });
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

fn bar(template: &str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(1), ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar
}

/// What is shown of a move to another host, on standard error: on a terminal a line that is rewritten and goes in the
/// end, elsewhere a line each time that its phase is another one.
pub(crate) struct MoveProgress {
    bar: ProgressBar,
    to: MachineName,
    phase: Option<MigrationPhase>,
    is_rewritten: bool,
}

impl MoveProgress {
    pub(crate) fn new(to: &MachineName) -> Self {
        let is_rewritten = std::io::stderr().is_terminal();
        Self { bar: bar("{spinner} {wide_msg}"), to: to.clone(), phase: None, is_rewritten }
    }

    /// A line each phase, even on a terminal.
    pub(crate) fn in_lines(to: &MachineName) -> Self {
        let mut shown = Self::new(to);
        shown.is_rewritten = false;
        shown.bar.set_draw_target(ProgressDrawTarget::hidden());
        shown
    }

    /// By which others say something meanwhile.
    pub(crate) fn notices(&self) -> Notices {
        Notices(self.bar.clone())
    }

    pub(crate) fn show(&mut self, operation: &Operation) {
        let Some(progress) = &operation.progress else {
            self.bar.tick();
            return;
        };
        if self.is_rewritten {
            self.bar.set_message(line(progress, &self.to));
            self.bar.tick();
        } else if let Some(phase) = self.enter(progress) {
            self.notices().say(&phase);
        }
    }

    /// The phase in words, if it is another one than the last time.
    fn enter(&mut self, progress: &OperationProgress) -> Option<String> {
        let phase = progress.migration.as_ref()?.phase;
        if self.phase.replace(phase) == Some(phase) {
            return None;
        }
        let to = &self.to;
        let words = match phase {
            MigrationPhase::Negotiate => format!("this host and {to} agree on the move"),
            MigrationPhase::Prepare => format!("{to} builds the machine"),
            MigrationPhase::Live => "memory is sent while the guest runs".to_owned(),
            MigrationPhase::Switch => "the guest stands still, and the rest is sent".to_owned(),
            MigrationPhase::InDoubt => {
                format!("{to} has everything, and has not been heard of since")
            }
            MigrationPhase::Settle => format!("it runs on {to}; both hosts sign that"),
        };
        Some(format!("{}: {words}", phase.name()))
    }
}

impl Drop for MoveProgress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// Lines on standard error that do not run into the one that is rewritten.
pub(crate) struct Notices(ProgressBar);

impl Notices {
    pub(crate) fn say(&self, text: &str) {
        self.0.suspend(|| eprintln!("novacron: {text}"));
    }
}

/// How far a move is, on one line: what matters most first, since a narrow terminal shows its beginning only.
fn line(progress: &OperationProgress, to: &MachineName) -> String {
    let Some(migration) = &progress.migration else { return format!("moving to {to}") };
    let mut head = migration.phase.name().to_owned();
    if progress.rounds > 0 {
        head += &format!(", round {}", progress.rounds);
    }
    let waiting =
        migration.waiting_ms.map(|ms| format!("waiting for {to} since {}", age(ms / 1000)));
    let slowed = migration
        .throttle_percent
        .map(|share| format!("guest slowed to {} %", 100_u32.saturating_sub(share)));
    let sent = Some(format!("{} sent", whole_bytes(migration.bytes_sent)));
    let rate = migration.bytes_per_second.map(|rate| format!("{}/s", whole_bytes(rate)));
    let left = Some(format!("{} pages left", progress.pages_owed));
    let trip = migration.round_trip_ns.map(|ns| format!("round trip {}", milliseconds(ns)));
    let forecast = migration.forecast_ns.map(|ns| format!("forecast {}", milliseconds(ns)));
    let figures: Vec<_> =
        [waiting, slowed, sent, rate, left, trip, forecast].into_iter().flatten().collect();
    format!("{head}: {}", figures.join(", "))
}

#[cfg(test)]
pub(crate) mod tests {
    use control::api::{MigrationProgress, Timestamp};

    use super::*;

    pub(crate) fn operation(
        state: OperationState,
        progress: Option<OperationProgress>,
    ) -> Operation {
        Operation {
            id: "17".to_owned(),
            method: "machines.migrate".to_owned(),
            machine: Some("web".parse().unwrap()),
            state,
            began_at: Timestamp::now(),
            ended_at: None,
            progress,
            can_be_cancelled: true,
            error: None,
            snapshot: None,
            restore: None,
            hand_over: None,
            migration: None,
        }
    }

    fn progress(migration: MigrationProgress) -> OperationProgress {
        let migration = Some(migration);
        OperationProgress { rounds: 3, pages_done: 9_000, pages_owed: 1_234, migration }
    }

    #[test]
    fn a_moves_line_has_what_is_known() {
        let to = "east".parse().unwrap();
        let known = MigrationProgress {
            phase: MigrationPhase::Live,
            bytes_sent: 500 << 20,
            bytes_per_second: Some(110 << 20),
            round_trip_ns: Some(12_345_678),
            forecast_ns: Some(210_000_000),
            streams: 4,
            waiting_ms: None,
            throttle_percent: None,
            limits: None,
        };
        assert_eq!(
            line(&progress(known.clone()), &to),
            "live, round 3: 500 MiB sent, 110 MiB/s, 1234 pages left, round trip 12.34 ms, \
             forecast 210.00 ms"
        );
        let slowed = MigrationProgress { throttle_percent: Some(40), ..known.clone() };
        let text = line(&progress(slowed), &to);
        assert!(text.starts_with("live, round 3: guest slowed to 60 %, 500 MiB sent"), "{text}");
        let waiting = MigrationProgress { waiting_ms: Some(4_900), ..known };
        let text = line(&progress(waiting), &to);
        assert!(text.starts_with("live, round 3: waiting for east since 4 s, 500 MiB"), "{text}");
        let first = OperationProgress { rounds: 0, ..progress(MigrationProgress::default()) };
        assert_eq!(line(&first, &to), "negotiate: 0 B sent, 1234 pages left");
        assert_eq!(line(&OperationProgress::default(), &to), "moving to east");
    }

    #[test]
    fn a_phase_is_said_once() {
        let mut shown = MoveProgress::new(&"east".parse().unwrap());
        assert_eq!(shown.enter(&OperationProgress::default()), None);
        let phases = [
            (MigrationPhase::Negotiate, Some("negotiate: this host and east agree on the move")),
            (MigrationPhase::Negotiate, None),
            (MigrationPhase::Prepare, Some("prepare: east builds the machine")),
            (MigrationPhase::Live, Some("live: memory is sent while the guest runs")),
            (MigrationPhase::Live, None),
            (MigrationPhase::Switch, Some("switch: the guest stands still, and the rest is sent")),
            (
                MigrationPhase::InDoubt,
                Some("in_doubt: east has everything, and has not been heard of since"),
            ),
            (MigrationPhase::Settle, Some("settle: it runs on east; both hosts sign that")),
        ];
        for (phase, words) in phases {
            let progress = progress(MigrationProgress { phase, ..MigrationProgress::default() });
            assert_eq!(shown.enter(&progress).as_deref(), words, "{phase:?}");
        }
    }
}
