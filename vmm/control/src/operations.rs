//! Operations under way, and the last ones that ended.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use crate::api::{
    ApiError, ChangeMove, ErrorCode, EventKind, HandOverOutcome, MachineName, MigrationOutcome,
    Operation, OperationProgress, OperationState, RestoreOutcome, SnapshotOutcome, Timestamp,
};
use crate::events::Events;

/// What an operation came to, besides having been done.
#[derive(Debug, Default)]
pub(crate) enum Outcome {
    #[default]
    Plain,
    Snapshot(SnapshotOutcome),
    Restore(RestoreOutcome),
    HandOver(HandOverOutcome),
    Migration(Box<MigrationOutcome>),
}

/// All of them, the newest at the end.
#[derive(Debug)]
pub(crate) struct Operations {
    kept: usize,
    events: Arc<Events>,
    all: Mutex<VecDeque<Arc<Pending>>>,
}

/// One of them, in the hands of whoever does it.
#[derive(Debug)]
pub(crate) struct Pending {
    shown: watch::Sender<Operation>,
    is_cancelled: AtomicBool,
    /// Other limits of a move, which whoever does it has not taken yet.
    changes: Mutex<Vec<ChangeMove>>,
    events: Arc<Events>,
}

impl Operations {
    /// At most `kept` are remembered; of those under way none is forgotten.
    pub(crate) fn new(kept: usize, events: Arc<Events>) -> Self {
        Self { kept, events, all: Mutex::default() }
    }

    /// Begins one.
    pub(crate) fn begin(
        &self,
        id: String,
        method: &str,
        machine: Option<MachineName>,
        can_be_cancelled: bool,
    ) -> Arc<Pending> {
        let operation = Operation {
            id,
            method: method.to_owned(),
            machine,
            state: OperationState::Running,
            began_at: Timestamp::now(),
            ended_at: None,
            progress: None,
            can_be_cancelled,
            error: None,
            snapshot: None,
            restore: None,
            hand_over: None,
            migration: None,
        };
        self.events.publish(EventKind::OperationBegan { operation: Box::new(operation.clone()) });
        let pending = Arc::new(Pending {
            shown: watch::Sender::new(operation),
            is_cancelled: AtomicBool::new(false),
            changes: Mutex::default(),
            events: Arc::clone(&self.events),
        });
        let mut all = self.lock();
        all.push_back(Arc::clone(&pending));
        while all.len() > self.kept {
            let Some(oldest) = all.iter().position(|pending| !pending.is_running()) else { break };
            all.remove(oldest);
        }
        pending
    }

    /// All that are remembered, the oldest first.
    pub(crate) fn list(&self) -> Vec<Operation> {
        self.lock().iter().map(|pending| pending.shown.borrow().clone()).collect()
    }

    /// How many are under way.
    pub(crate) fn running(&self) -> usize {
        self.lock().iter().filter(|pending| pending.is_running()).count()
    }

    pub(crate) fn find(&self, id: &str) -> Result<Arc<Pending>, ApiError> {
        let found = self.lock().iter().find(|pending| pending.shown.borrow().id == id).cloned();
        found.ok_or_else(|| {
            ApiError::new(ErrorCode::NotFound, format!("there is no operation {id:?}")).with_hint(
                "operations are forgotten when the daemon ends, and the oldest when there are many; \
                 the audit log has them all",
            )
        })
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Arc<Pending>>> {
        // A panic aborts the process, so that no lock is ever poisoned.
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pending {
    pub(crate) fn show(&self) -> Operation {
        self.shown.borrow().clone()
    }

    pub(crate) fn id(&self) -> String {
        self.shown.borrow().id.clone()
    }

    fn is_running(&self) -> bool {
        self.shown.borrow().state == OperationState::Running
    }

    /// Notes how far it is; says whether it is still wanted.
    pub(crate) fn advance(&self, progress: OperationProgress) -> ControlFlow<()> {
        self.shown.send_modify(|operation| operation.progress = Some(progress));
        if self.is_cancelled.load(Relaxed) {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    }

    /// Whether somebody wants it to end.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.is_cancelled.load(Relaxed)
    }

    /// Asks it to end.
    ///
    /// # Errors
    /// When it has ended, or cannot be cancelled.
    pub(crate) fn cancel(&self) -> Result<(), ApiError> {
        let Operation { state, can_be_cancelled, method, .. } = self.show();
        let refused = |why: String| Err(ApiError::new(ErrorCode::Conflict, why));
        if state != OperationState::Running {
            return refused("the operation has ended".to_owned());
        }
        if !can_be_cancelled {
            return refused(format!("{method} cannot be cancelled"));
        }
        self.is_cancelled.store(true, Relaxed);
        Ok(())
    }

    /// Gives a move other limits.
    ///
    /// # Errors
    /// When it has ended, or is no move from here.
    pub(crate) fn change(&self, change: ChangeMove) -> Result<(), ApiError> {
        let Operation { state, method, .. } = self.show();
        if state != OperationState::Running {
            return Err(ApiError::new(ErrorCode::Conflict, "the operation has ended"));
        }
        if method != "machines.migrate" {
            let why = format!("{method} has no limits that can be changed");
            return Err(ApiError::new(ErrorCode::Conflict, why)
                .with_hint("a move to another host has, on the host that the machine leaves"));
        }
        self.changes().push(change);
        Ok(())
    }

    /// The limits that whoever does it has not taken yet, the first first.
    pub(crate) fn take_changes(&self) -> Vec<ChangeMove> {
        std::mem::take(&mut *self.changes())
    }

    fn changes(&self) -> MutexGuard<'_, Vec<ChangeMove>> {
        // A panic aborts the process, so that no lock is ever poisoned.
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the move says that it has these limits, or so long.
    ///
    /// # Errors
    /// When it has ended before, or does not have them yet.
    pub(crate) async fn wait_for_change(
        &self,
        change: ChangeMove,
        limit: Duration,
    ) -> Result<Operation, ApiError> {
        let has_it = |operation: &Operation| {
            let progress = operation.progress.as_ref().and_then(|all| all.migration.as_ref());
            progress.and_then(|progress| progress.limits).is_some_and(|limits| limits.has(&change))
        };
        let is_over = |operation: &Operation| operation.state != OperationState::Running;
        let mut shown = self.shown.subscribe();
        let changed = shown.wait_for(|operation| has_it(operation) || is_over(operation));
        let _ = tokio::time::timeout(limit, changed).await;
        let operation = self.show();
        if is_over(&operation) && !has_it(&operation) {
            return Err(ApiError::new(ErrorCode::Conflict, "the move has ended before that"));
        }
        if !has_it(&operation) {
            let why = "the move does not have these limits yet: it takes them once it sends pages and its guest runs";
            return Err(ApiError::new(ErrorCode::TimedOut, why));
        }
        Ok(operation)
    }

    /// Ends it.
    pub(crate) fn end(&self, outcome: Result<Outcome, ApiError>) {
        let operation = {
            let id = self.id();
            self.shown.send_modify(|operation| {
                operation.ended_at = Some(Timestamp::now());
                operation.can_be_cancelled = false;
                operation.state = match &outcome {
                    Ok(_) => OperationState::Done,
                    Err(error) if error.code == ErrorCode::Cancelled => OperationState::Cancelled,
                    Err(_) => OperationState::Failed,
                };
                match outcome {
                    Ok(Outcome::Plain) => {}
                    Ok(Outcome::Snapshot(snapshot)) => operation.snapshot = Some(snapshot),
                    Ok(Outcome::Restore(restore)) => operation.restore = Some(restore),
                    Ok(Outcome::HandOver(hand_over)) => operation.hand_over = Some(hand_over),
                    Ok(Outcome::Migration(migration)) => operation.migration = Some(*migration),
                    Err(error) => operation.error = Some(ApiError { operation: Some(id), ..error }),
                }
            });
            Box::new(self.show())
        };
        self.events.publish(EventKind::OperationEnded { operation });
    }

    /// Adds what the other host says of a move that has come here. It may have ended already.
    pub(crate) fn reports(&self, migration: MigrationOutcome) {
        self.shown.send_modify(|operation| operation.migration = Some(migration));
    }

    /// Waits until it has ended, or so long.
    pub(crate) async fn wait(&self, limit: Duration) -> Operation {
        let mut shown = self.shown.subscribe();
        let ended = shown.wait_for(|operation| operation.state != OperationState::Running);
        let _ = tokio::time::timeout(limit, ended).await;
        self.show()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{MigrationLimits, MigrationProgress};

    fn operations(kept: usize) -> Operations {
        Operations::new(kept, Arc::new(Events::new(100)))
    }

    #[test]
    fn the_oldest_that_ended_are_forgotten_and_none_that_is_under_way() {
        let operations = operations(2);
        let all: Vec<_> = (0..4)
            .map(|n| operations.begin(n.to_string(), "machines.start", None, false))
            .collect();
        assert_eq!(operations.list().len(), 4);
        all[1].end(Ok(Outcome::Plain));
        all[2].end(Err(ApiError::internal("no")));
        operations.begin("4".into(), "machines.start", None, false);
        let kept: Vec<_> = operations.list().iter().map(|kept| kept.id.clone()).collect();
        assert_eq!(kept[..2], [all[0].id(), all[3].id()]);
        let error = operations.find(&all[1].id()).unwrap_err();
        assert_eq!(error.code, ErrorCode::NotFound);
        assert_eq!(operations.running(), 3);
    }

    #[test]
    fn what_is_cancelled_is_told_at_its_next_step_and_ends_as_such() {
        let operations = operations(2);
        let one = operations.begin("1".into(), "machines.snapshot", None, true);
        assert!(one.advance(OperationProgress::default()).is_continue());
        one.cancel().unwrap();
        assert!(one.advance(OperationProgress::default()).is_break());
        one.end(Err(ApiError::new(ErrorCode::Cancelled, "it was cancelled")));
        let shown = one.show();
        assert_eq!(shown.state, OperationState::Cancelled);
        assert_eq!(shown.error.unwrap().operation, Some(shown.id));
        assert_eq!(one.cancel().unwrap_err().code, ErrorCode::Conflict);
    }

    #[test]
    fn limits_of_a_move_are_changed_while_it_is_under_way_and_of_nothing_else() {
        let change = ChangeMove { bandwidth: Some(0), ..ChangeMove::default() };
        let operations = operations(3);
        let stop = operations.begin("1".into(), "machines.stop", None, false);
        let refused = stop.change(change).unwrap_err();
        assert!(refused.code == ErrorCode::Conflict, "{refused:?}");
        assert!(refused.message.contains("machines.stop has no limits"), "{refused:?}");
        let move_away = operations.begin("2".into(), "machines.migrate", None, true);
        let other = ChangeMove { throttle_percent: Some(30), ..change };
        move_away.change(change).unwrap();
        move_away.change(other).unwrap();
        assert_eq!(move_away.take_changes(), [change, other]);
        assert_eq!(move_away.take_changes(), []);
        move_away.end(Ok(Outcome::Plain));
        assert!(move_away.change(change).unwrap_err().message.contains("has ended"));
    }

    #[tokio::test]
    async fn a_change_is_waited_for_until_the_move_says_that_it_has_it() {
        let change = ChangeMove { throttle_percent: Some(30), ..ChangeMove::default() };
        let moved = operations(1).begin("1".into(), "machines.migrate", None, true);
        let says = |throttle_percent| {
            let limits = MigrationLimits {
                max_downtime_ms: 300,
                timeout_ms: 60_000,
                bandwidth: None,
                throttle_percent,
                cpu_permille: None,
            };
            let migration = MigrationProgress { limits: Some(limits), ..Default::default() };
            let _ = moved.advance(OperationProgress {
                migration: Some(migration),
                ..OperationProgress::default()
            });
        };
        says(None);
        let short = Duration::from_millis(1);
        let waited = moved.wait_for_change(change, short).await.unwrap_err();
        assert_eq!(waited.code, ErrorCode::TimedOut, "{waited}");
        let (waited, ()) =
            tokio::join!(moved.wait_for_change(change, Duration::from_secs(60)), async {
                says(Some(30));
            });
        assert!(waited.is_ok());
        let other = ChangeMove { throttle_percent: Some(0), ..change };
        let (waited, ()) =
            tokio::join!(moved.wait_for_change(other, Duration::from_secs(60)), async {
                moved.end(Ok(Outcome::Plain));
            });
        assert!(waited.unwrap_err().message.contains("has ended before"));
    }

    #[test]
    fn what_cannot_be_cancelled_says_so() {
        let operations = operations(2);
        let one = operations.begin("1".into(), "machines.stop", None, false);
        assert!(one.cancel().unwrap_err().message.contains("cannot be cancelled"));
        assert!(!one.is_cancelled());
    }
}
