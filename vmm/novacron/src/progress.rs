//! How far an operation is: a bar on a terminal, nothing elsewhere but the outcome.

use control::api::{Operation, OperationProgress, OperationState};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// What is shown of one operation. It goes when the operation has ended.
pub(crate) struct Progress(ProgressBar);

impl Progress {
    /// `doing` says what is under way. On standard error, so that it is in nobody's output.
    pub(crate) fn new(doing: &'static str) -> Self {
        let bar = ProgressBar::with_draw_target(Some(1), ProgressDrawTarget::stderr());
        let style = ProgressStyle::with_template("{spinner} {prefix} [{bar:30}] {msg}");
        if let Ok(style) = style {
            bar.set_style(style.progress_chars("=> "));
        }
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
