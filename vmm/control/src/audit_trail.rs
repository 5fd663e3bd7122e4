//! The two ends of every call that changes something, in the audit log.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::access::{Caller, Role};
use crate::api::{ApiError, ErrorCode, Operation, OperationState};
use crate::audit::{AuditError, AuditLog, Call, Outcome, Phase};
use crate::metrics::Metrics;
use crate::random::{hex, random};

/// Who sent a request: the same for all of a connection.
#[derive(Clone, Debug)]
pub(crate) struct Sender {
    pub(crate) caller: Caller,
    /// None for one who may do nothing.
    pub(crate) role: Option<Role>,
    /// The key of another host, if that is who it is: the caller is the daemon itself then.
    pub(crate) host: Option<String>,
}

impl Sender {
    /// Another host.
    pub(crate) fn of_host(key: &str) -> Self {
        let caller = Caller {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            groups: Vec::new(),
            pid: None,
        };
        Self { caller, role: None, host: Some(key.to_owned()) }
    }
}

/// A changing call: its id is that of the operation that it begins, if it does.
#[derive(Clone, Debug)]
pub(crate) struct CallId(pub(crate) String);

/// What a call is, for the log.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) sender: Sender,
    pub(crate) id: CallId,
    pub(crate) method: &'static str,
    pub(crate) target: String,
}

/// The audit log, as the server uses it.
#[derive(Debug)]
pub(crate) struct AuditTrail {
    log: AuditLog,
    metrics: Arc<Metrics>,
    /// Calls whose operations are under way.
    pending: Mutex<HashMap<String, Asked>>,
    /// Why the last record was not written.
    problem: Mutex<Option<String>>,
}

impl CallId {
    pub(crate) fn new() -> Result<Self, ApiError> {
        Ok(Self(hex(&random::<8>().map_err(ApiError::internal)?)))
    }
}

impl AuditTrail {
    pub(crate) fn new(log: AuditLog, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self { log, metrics, pending: Mutex::default(), problem: Mutex::default() })
    }

    /// Why nothing can be written, if that is so.
    pub(crate) fn problem(&self) -> Option<String> {
        self.problem.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes that a change was asked for.
    ///
    /// # Errors
    /// When that cannot be written: then nothing may be changed.
    pub(crate) async fn asked(self: &Arc<Self>, asked: Asked) -> Result<(), ApiError> {
        self.append(asked, Phase::Asked).await.map_err(|why| {
            ApiError::new(ErrorCode::AuditUnavailable, why)
                .with_hint("nothing was changed; `novacron health` says more")
        })
    }

    /// Notes that the caller's role does not allow it.
    pub(crate) async fn refused(self: &Arc<Self>, asked: Asked) {
        // A refusal changes nothing, whether it is written or not.
        let _ = self.append(asked, Phase::Done(Outcome::Denied)).await;
    }

    /// Notes how a call ended that began no operation.
    pub(crate) async fn answered(self: &Arc<Self>, asked: Asked, failed: Option<ErrorCode>) {
        // It has happened: that the log misses it is said by its health.
        let _ = self.append(asked, Phase::Done(outcome(failed))).await;
    }

    /// A call whose operation may begin now: its end is noted when that ends.
    pub(crate) fn expects(&self, asked: Asked) {
        self.lock().insert(asked.id.0.clone(), asked);
    }

    /// It began none after all.
    pub(crate) fn expects_no_more(&self, id: &CallId) {
        self.lock().remove(&id.0);
    }

    /// Notes how an operation ended. Waits for storage.
    pub(crate) fn ended(&self, operation: &Operation) {
        let Some(mut asked) = self.lock().remove(&operation.id) else { return };
        // A restore makes the machine that it is about.
        if let (true, Some(machine)) = (asked.target.is_empty(), &operation.machine) {
            asked.target = machine.to_string();
        }
        let failed = match operation.state {
            OperationState::Done | OperationState::Running => None,
            OperationState::Cancelled => Some(ErrorCode::Cancelled),
            OperationState::Failed => {
                Some(operation.error.as_ref().map_or(ErrorCode::Internal, |error| error.code))
            }
        };
        let _ = self.append_now(&asked, Phase::Done(outcome(failed)));
    }

    async fn append(self: &Arc<Self>, asked: Asked, phase: Phase) -> Result<(), String> {
        let trail = Arc::clone(self);
        let written = tokio::task::spawn_blocking(move || trail.append_now(&asked, phase)).await;
        // A daemon that ends may not get to it: then it is not written, and nothing may be changed.
        written.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
    }

    fn append_now(&self, asked: &Asked, phase: Phase) -> Result<(), AuditError> {
        let Asked { sender: Sender { caller, role, host }, id, method, target } = asked;
        let call = Call::new(caller, *role, method, target, Some(&id.0), phase);
        let call = call.of_host(host.as_deref());
        let written = self.log.append(call).map(drop);
        let problem = written.as_ref().err().map(ToString::to_string);
        match &problem {
            None => drop(self.metrics.audit_records.inc()),
            Some(problem) => tracing::error!(problem, "the audit log cannot be written"),
        }
        *self.problem.lock().unwrap_or_else(PoisonError::into_inner) = problem;
        written
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Asked>> {
        // A panic aborts the process, so that no lock is ever poisoned.
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn outcome(failed: Option<ErrorCode>) -> Outcome {
    failed.map_or(Outcome::Ok, |code| Outcome::Failed(code.name().to_owned()))
}
