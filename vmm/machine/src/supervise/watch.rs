//! What takes time, watched while it does, and cancelled.

use std::fmt;
use std::ops::ControlFlow;
use std::time::Duration;

use super::{PATIENCE, SuperviseError, Supervised};
use crate::meter::Progress;
use crate::role::{Order, Report};

/// How often a job is asked how far it is.
const ASK_EVERY: Duration = Duration::from_millis(100);

/// Is told how far a job is, a few times a second; `Break` cancels the job, which then fails, unless it is too late.
#[derive(Clone, Copy)]
pub struct Watch<'a>(pub &'a dyn Fn(Progress) -> ControlFlow<()>);

impl fmt::Debug for Watch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watch")
    }
}

impl Supervised {
    /// Waits for a job's report, however long that takes: a process that dies is noticed at once.
    pub(super) fn job_report(&self, watch: Option<Watch<'_>>) -> Result<Report, SuperviseError> {
        self.process.control.set_time_limit(None)?;
        let report = self.hear_job(watch);
        self.process.control.set_time_limit(Some(PATIENCE))?;
        report
    }

    fn hear_job(&self, watch: Option<Watch<'_>>) -> Result<Report, SuperviseError> {
        let mut is_cancelled = false;
        loop {
            if watch.is_some() && !self.says_something_within(ASK_EVERY) {
                self.ask(&Order::Progress);
            }
            let progress = match self.process.report()? {
                Report::Progress(progress) => progress,
                report => return Ok(report),
            };
            let Some(Watch(watch)) = watch else { continue };
            if watch(progress).is_break() && !is_cancelled {
                is_cancelled = true;
                self.ask(&Order::Cancel);
            }
        }
    }

    fn says_something_within(&self, limit: Duration) -> bool {
        // A socket that fails says so when it is read.
        self.process.control.is_readable_within(limit).unwrap_or(true)
    }

    /// A job that has ended meanwhile does not answer: its report is on its way. So is that of a process that has gone.
    fn ask(&self, order: &Order) {
        let _ = self.process.control.send(order, &[]);
    }
}
