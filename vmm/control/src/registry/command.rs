//! What an attendant is told.

use std::sync::Arc;
use std::time::Duration;

use machine::Form;
use tokio::sync::oneshot;

use super::shared::Shared;
use crate::api::{ApiError, TakeSnapshot};
use crate::operations::Pending;

/// Where the answer to a quick command goes. Whoever asked may have gone meanwhile.
pub(crate) type Reply = oneshot::Sender<Result<(), ApiError>>;

/// One thing to do with a machine.
#[derive(Debug)]
pub(crate) enum Command {
    /// Stop its vCPUs.
    Pause(Reply),
    /// Let them run again.
    Resume(Reply),
    /// Press its power button.
    PressPowerButton(Reply),
    /// Ask the guest to switch itself off, and end it if it does not in that time.
    Stop { operation: Arc<Pending>, timeout: Duration },
    /// Save it.
    Snapshot { operation: Arc<Pending>, request: TakeSnapshot },
    /// Give it to a new process.
    HandOver { operation: Arc<Pending>, form: Form },
    /// Let go of it: the daemon ends, the machine goes on.
    Leave,
}

impl Command {
    /// Answers it with an error: nobody is there who could do it.
    pub(super) fn refuse(self, error: ApiError, shared: &Shared) {
        match self {
            Self::Pause(reply) | Self::Resume(reply) | Self::PressPowerButton(reply) => {
                let _ = reply.send(Err(error));
            }
            Self::Stop { operation, .. }
            | Self::Snapshot { operation, .. }
            | Self::HandOver { operation, .. } => shared.end(&operation, Err(error)),
            Self::Leave => {}
        }
    }
}
