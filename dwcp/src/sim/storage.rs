//! A host's record, and how a change that may have failed is made certain.

use crate::acp::{
    Actor, Event, MemoryStorage, Nonce, PermitRecord, PermitState, Record, RecordError, SessionId,
    VmId,
};

pub(super) type Storage = MemoryStorage;

/// What the record says now; `None` if it cannot be read, or there is none.
pub(super) fn load(storage: &Storage, vm: VmId) -> Option<Record> {
    let mut record = PermitRecord::open(storage.clone(), vm).ok()?;
    Some(record.load().ok()??.record)
}

/// Makes a change, or finds it made. `Ok(false)`: it is not certain, ask again later.
///
/// # Errors
/// When the record refuses: what the change would allow must not be done.
pub(super) fn ensure(
    storage: &Storage,
    vm: VmId,
    actor: Actor,
    event: &Event,
    is_made: impl Fn(&PermitState) -> bool,
) -> Result<bool, String> {
    let Ok(mut record) = PermitRecord::open(storage.clone(), vm) else { return Ok(false) };
    if let Ok(Some(loaded)) = record.load()
        && is_made(loaded.record.state())
    {
        return Ok(true);
    }
    match record.apply(actor, event) {
        Ok(_) => Ok(true),
        Err(RecordError::Uncertain(_) | RecordError::Read(_)) => Ok(false),
        Err(error) => Err(error.to_string()),
    }
}

/// Whether the record says that this process has taken the permit in this session.
pub(super) fn is_taken(state: &PermitState, in_session: SessionId, by: Nonce) -> bool {
    matches!(state, PermitState::Taken { session, runner, .. } if *session == in_session && *runner == by)
}
