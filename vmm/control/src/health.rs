//! Whether the daemon can do its work.

use crate::api::{Check, Health, HealthState};
use crate::server::State;

/// Below this a record, an audit segment or a permit may soon not be written.
const LOW_BYTES: u64 = 256 << 20;

/// Looks at everything that the daemon's work depends on.
pub(crate) fn check(state: &State) -> Health {
    let checks = vec![kvm(), storage(state), audit(state), records(state)];
    let state = checks.iter().map(|check| check.state).max().unwrap_or(HealthState::Ready);
    Health { state, checks }
}

fn named(name: &str, state: HealthState, message: String) -> Check {
    Check { name: name.to_owned(), state, message }
}

fn kvm() -> Check {
    match machine::Host::open() {
        Ok(_) => named("kvm", HealthState::Ready, "/dev/kvm has what machines need".to_owned()),
        Err(error) => named("kvm", HealthState::Live, error.to_string()),
    }
}

fn storage(state: &State) -> Check {
    let name = "storage";
    match state.registry().store().free_bytes() {
        Ok(free) if free < LOW_BYTES => {
            let message = format!("{} MiB are free for records", free >> 20);
            named(name, HealthState::Degraded, message)
        }
        Ok(free) => named(name, HealthState::Ready, format!("{} MiB are free", free >> 20)),
        Err(error) => named(name, HealthState::Live, error.to_string()),
    }
}

fn audit(state: &State) -> Check {
    match state.audit().problem() {
        None => named("audit", HealthState::Ready, "the audit log is written".to_owned()),
        Some(problem) => named(
            "audit",
            HealthState::Live,
            format!("the audit log cannot be written, so nothing is changed: {problem}"),
        ),
    }
}

fn records(state: &State) -> Check {
    let unreadable = state.registry().unreadable();
    if unreadable.is_empty() {
        return named("records", HealthState::Ready, "every record was read".to_owned());
    }
    let all: Vec<_> = unreadable.iter().map(|(name, why)| format!("{name}: {why}")).collect();
    let message = format!("records that cannot be used are left alone: {}", all.join("; "));
    named("records", HealthState::Degraded, message)
}
