//! A move from its order to its end, on this terminal.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use control::api::{MachineName, Migrate, MigrationOutcome, Operation, OperationState};
use control::{CallError, Client};

use super::report_of;
use crate::Failure;
use crate::cli::OutputForm;
use crate::connect::connect;
use crate::globals::Globals;
use crate::output::{print, print_json};
use crate::progress::{MoveProgress, Notices};
use crate::signals::{Continue, on_request_to_end};

/// How long the daemon may wait for an operation's end before it says how far it is.
const EVERY_MS: u64 = 100;

/// Gives the order, shows how far it is, and says how it ended.
pub(super) fn follow(
    name: &MachineName,
    order: &Migrate,
    form: OutputForm,
    globals: &Globals,
) -> Result<(), Failure> {
    let client = connect(globals)?;
    let operation: Operation = client.post(&format!("/v1/machines/{name}/migrate"), order)?;
    let mut progress = MoveProgress::new(&order.to);
    let is_left = Arc::new(AtomicBool::new(false));
    // The move is under way: that nobody can end it from here is no reason to leave it unseen.
    if let Err(failure) = obey_signals(globals, &operation.id, progress.notices(), &is_left) {
        progress.notices().say(&failure.to_string());
    }
    let operation = wait(&client, operation, &mut progress, &is_left)?;
    drop(progress);
    let ended = conclude(name, &order.to, &operation);
    match form {
        OutputForm::Json => print_json(&operation)?,
        OutputForm::Text => {
            if let Some(outcome) = &operation.migration {
                print(&report_of(&client, outcome))?;
            }
        }
    }
    ended
}

/// The same for somebody who does nothing else meanwhile; returns what the move did.
pub(crate) fn carry_out(
    client: &Client,
    name: &MachineName,
    order: &Migrate,
    mut progress: MoveProgress,
) -> Result<MigrationOutcome, Failure> {
    let operation = client.post(&format!("/v1/machines/{name}/migrate"), order)?;
    let operation = wait(client, operation, &mut progress, &AtomicBool::new(false))?;
    drop(progress);
    conclude(name, &order.to, &operation)?;
    operation.migration.ok_or_else(|| Failure::Other("the move has no outcome".to_owned()))
}

/// Waits for the move's end, or until the user has left it.
fn wait(
    client: &Client,
    mut operation: Operation,
    progress: &mut MoveProgress,
    is_left: &AtomicBool,
) -> Result<Operation, CallError> {
    while operation.state == OperationState::Running && !is_left.load(Relaxed) {
        progress.show(&operation);
        operation = client.get(&format!("/v1/operations/{}?wait_ms={EVERY_MS}", operation.id))?;
    }
    Ok(operation)
}

/// Asked to end, this process cancels the move; asked again, it leaves it alone.
fn obey_signals(
    globals: &Globals,
    id: &str,
    notices: Notices,
    is_left: &Arc<AtomicBool>,
) -> Result<(), Failure> {
    let client = connect(globals)?;
    let (path, is_left) = (format!("/v1/operations/{id}/cancel"), Arc::clone(is_left));
    let act = move |asked| {
        if asked > 1 {
            is_left.store(true, Relaxed);
            return Continue::No;
        }
        match client.post::<Operation>(&path, &()) {
            Ok(_) => notices.say("the move is being cancelled; ask again to leave it alone"),
            Err(error) => notices.say(&format!("{error}; ask again to leave the move alone")),
        }
        Continue::Yes
    };
    on_request_to_end(act).map_err(Failure::other("waiting for signals"))
}

/// Makes the move's end this process's own.
fn conclude(name: &MachineName, to: &MachineName, operation: &Operation) -> Result<(), Failure> {
    match (operation.state, operation.error.clone()) {
        (OperationState::Done, _) => Ok(()),
        (OperationState::Running, _) => Err(Failure::Other(format!(
            "left alone; the move goes on: novacron operation {}",
            operation.id
        ))),
        (OperationState::Cancelled, _) => Err(Failure::Other(format!(
            "the move to {to} was cancelled; {name} runs here as before"
        ))),
        (OperationState::Failed, Some(error)) => Err(CallError::Refused(error).into()),
        (OperationState::Failed, None) => {
            Err(Failure::Other(format!("the move to {to} failed, and nobody said why")))
        }
    }
}

#[cfg(test)]
mod tests {
    use control::api::{ApiError, ErrorCode};

    use super::*;

    fn ended(state: OperationState, error: Option<ApiError>) -> Result<(), String> {
        let operation = crate::progress::tests::operation(state, None);
        let operation = Operation { error, ..operation };
        let (name, to) = ("web".parse().unwrap(), "east".parse().unwrap());
        conclude(&name, &to, &operation).map_err(|failure| failure.to_string())
    }

    #[test]
    fn how_a_move_ended_is_said_and_is_this_processs_end() {
        assert_eq!(ended(OperationState::Done, None), Ok(()));
        for (state, error, words) in [
            (OperationState::Running, None, "left alone; the move goes on: novacron operation 17"),
            (
                OperationState::Cancelled,
                Some(ApiError::new(ErrorCode::Cancelled, "it was cancelled")),
                "the move to east was cancelled; web runs here as before",
            ),
            (
                OperationState::Failed,
                Some(ApiError::new(ErrorCode::Conflict, "east is full").with_hint("wait")),
                "east is full; wait",
            ),
            (OperationState::Failed, None, "the move to east failed, and nobody said why"),
        ] {
            assert_eq!(ended(state, error), Err(words.to_owned()), "{state:?}");
        }
    }
}
