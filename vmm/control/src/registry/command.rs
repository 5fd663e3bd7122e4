//! What an attendant is told.

use std::sync::Arc;
use std::time::Duration;

use machine::{Description, Form, SurveyOrder, SurveyReport};
use tokio::sync::oneshot;

use super::shared::Shared;
use crate::api::{ApiError, Migrate, TakeSnapshot};
use crate::operations::Pending;

/// Where the answer to a quick command goes. Whoever asked may have gone meanwhile.
pub(crate) type Reply = oneshot::Sender<Result<(), ApiError>>;

/// One thing to do with a machine.
#[derive(Debug)]
pub(crate) enum Command {
    /// Say what another host must know of it.
    Describe(oneshot::Sender<Result<Box<Description>, ApiError>>),
    /// Look how a move would go.
    Survey(Box<SurveyOrder>, oneshot::Sender<Result<Box<SurveyReport>, ApiError>>),
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
    /// Move it to another host.
    Migrate { operation: Arc<Pending>, request: Migrate },
    /// Go on with a move that was found under way.
    GoOnMigrating { operation: Arc<Pending> },
    /// Let go of it: the daemon ends, the machine goes on.
    Leave,
}

impl Command {
    /// Answers it with an error: nobody is there who could do it.
    pub(super) fn refuse(self, error: ApiError, shared: &Shared) {
        match self {
            Self::Describe(reply) => {
                let _ = reply.send(Err(error));
            }
            Self::Survey(_, reply) => {
                let _ = reply.send(Err(error));
            }
            Self::Pause(reply) | Self::Resume(reply) | Self::PressPowerButton(reply) => {
                let _ = reply.send(Err(error));
            }
            Self::Stop { operation, .. }
            | Self::Snapshot { operation, .. }
            | Self::HandOver { operation, .. }
            | Self::Migrate { operation, .. }
            | Self::GoOnMigrating { operation } => shared.end(&operation, Err(error)),
            Self::Leave => {}
        }
    }
}
