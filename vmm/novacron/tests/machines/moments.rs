//! What becomes of a machine that moves, and waits for moments of a move.

use std::time::{Duration, Instant};

use control::api::{
    Machine, MachineState, Migrate, MigrationPhase, MigrationProgress, Operation, OperationState,
};

use crate::hosts::Hosts;

/// Two megabytes that are written again and again, at a rate that any link takes.
pub(crate) const BUSY: &str = "fill=8M working_set=2M rate=2000 report=500";

/// Where a machine is when everything has come to rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rest {
    /// It runs on the host that it was on.
    Stayed,
    /// It runs on the other host.
    Moved,
    /// Its process died with it on the host that it was on.
    DiedHere,
    /// Its process died with it on the other host.
    DiedThere,
}

/// Waits until both hosts have come to rest, and says how.
pub(crate) fn settled(hosts: &Hosts) -> Rest {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        let state = |host: usize| -> Option<MachineState> {
            let path = "/v1/machines/web";
            let shown = hosts.daemons[host].client().get::<Machine>(path);
            shown.ok().map(|machine| machine.state)
        };
        use MachineState::{Moved, Running, Stopped};
        hosts.check_permits("web");
        match (state(0), state(1)) {
            (Some(Running), None) => return Rest::Stayed,
            (Some(Moved), Some(Running)) => return Rest::Moved,
            (Some(Stopped), None) => return Rest::DiedHere,
            (Some(Moved), Some(Stopped)) => return Rest::DiedThere,
            other => assert!(Instant::now() < end, "{other:?}\n{}", hosts.logs()),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Slow enough that there is time to do something meanwhile.
pub(crate) fn slowly(request: &mut Migrate) {
    request.bandwidth = Some(3 << 20);
    // What is forecast is a burst at that rate, and the working set is all of it.
    request.max_downtime_ms = 3_000;
    request.timeout_ms = 60_000;
}

/// Waits until a move has sent so many bytes.
pub(crate) fn wait_until_sent(hosts: &Hosts, host: usize, operation: &Operation, bytes: u64) {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        let path = format!("/v1/operations/{}", operation.id);
        let now: Operation = hosts.daemons[host].client().get(&path).unwrap();
        let sent = now.progress.as_ref().and_then(|progress| progress.migration.as_ref());
        let is_under_way = |migration: &MigrationProgress| {
            !matches!(migration.phase, MigrationPhase::Negotiate | MigrationPhase::Prepare)
                && migration.bytes_sent >= bytes
        };
        if sent.is_some_and(is_under_way) || now.state != OperationState::Running {
            return;
        }
        assert!(Instant::now() < end, "{now:?}\n{}", hosts.logs());
        std::thread::sleep(Duration::from_millis(5));
    }
}
