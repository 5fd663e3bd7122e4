//! Daemons and machines that tests look at.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use control::api::{
    Check, Ended, Event, EventKind, Health, HealthState, Info, Machine, MachineSpec, MachineState,
    Operation, OperationProgress, OperationState, RestartPolicy, Timestamp,
};
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::reading::{Counters, Reading};
use super::state::State;

pub(super) const MIB: f64 = 1_048_576.0;

/// So many seconds after noon.
pub(super) fn at(seconds: u64) -> Timestamp {
    let (hours, minutes, seconds) = (12 + seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("2026-11-29T{hours:02}:{minutes:02}:{seconds:02}.5Z").try_into().unwrap()
}

pub(super) fn state() -> State {
    State::new(Path::new("/run/novacron/control.sock"), Duration::from_secs(2))
}

pub(super) fn machine(name: &str, state: MachineState) -> Machine {
    use MachineState::{Moved, Stopped, Waiting};
    let is_up = !matches!(state, Stopped | Waiting | Moved);
    Machine {
        name: name.parse().unwrap(),
        id: format!("id of {name}"),
        state,
        spec: MachineSpec { memory_bytes: 512 << 20, cpus: 2, ..MachineSpec::default() },
        created_at: at(0),
        started_at: is_up.then(|| at(60)),
        process_id: is_up.then_some(4000),
        ended: None,
        restarts: 0,
        operation: None,
        peer: None,
        kept: None,
    }
}

pub(super) fn ended(how: &str, failed: bool) -> Option<Ended> {
    Some(Ended { at: at(90), how: how.to_owned(), failed })
}

pub(super) fn check(name: &str, state: HealthState, message: &str) -> Check {
    Check { name: name.to_owned(), state, message: message.to_owned() }
}

pub(super) fn operation(id: &str, method: &str, machine: &str) -> Operation {
    Operation {
        id: id.to_owned(),
        method: method.to_owned(),
        machine: Some(machine.parse().unwrap()),
        state: OperationState::Running,
        began_at: at(118),
        ended_at: None,
        progress: None,
        can_be_cancelled: true,
        error: None,
        snapshot: None,
        restore: None,
        hand_over: None,
        migration: None,
    }
}

pub(super) fn event(number: u64, kind: EventKind) -> Event {
    Event { id: format!("64a-{number}"), at: at(number), kind }
}

/// A look at a daemon that is well, so many seconds after the first.
pub(super) fn reading(taken: u64, machines: Vec<Machine>) -> Reading {
    let counters = |seconds: f64| Counters {
        cpu_seconds: Some(10.0 + 1.5 * seconds),
        resident_bytes: Some(34.0 * MIB),
        console_bytes: Some(2048.0 * seconds),
    };
    let has_process = |machine: &&Machine| machine.process_id.is_some();
    let seconds = f64::from(u32::try_from(taken).unwrap());
    let counters: BTreeMap<_, _> = machines
        .iter()
        .filter(has_process)
        .map(|machine| (machine.name.to_string(), counters(seconds)))
        .collect();
    Reading {
        taken: Duration::from_secs(taken),
        at: at(120 + taken),
        info: Info {
            version: "0.1.0".to_owned(),
            process_id: 77,
            started_at: at(0),
            kernel: "6.12.9".to_owned(),
            processor: "AMD EPYC 7763 64-Core Processor".to_owned(),
            processors: 16,
            memory_bytes: 64 << 30,
            memory_available_bytes: 51 << 30,
            cpu_models: vec!["host".to_owned()],
            host_key: String::new(),
            peers_listen: Vec::new(),
            kept_bytes: 0,
            kept_bytes_max: 0,
            folders: Vec::new(),
            role: "admin".to_owned(),
            machines: BTreeMap::new(),
        },
        health: Health {
            state: HealthState::Ready,
            checks: vec![check("kvm", HealthState::Ready, "/dev/kvm has what machines need")],
        },
        machines,
        operations: Vec::new(),
        counters,
    }
}

/// One machine in every state, two operations, and a daemon whom something is in the way.
pub(super) fn busy(taken: u64) -> Reading {
    let name = |state: MachineState| format!("{}-1", state.name());
    let mut machines: Vec<_> =
        MachineState::ALL.iter().map(|state| machine(&name(*state), *state)).collect();
    machines[0].ended = ended("the guest failed: vCPU 1 stopped at 0xfff0", true);
    machines[3].operation = Some("op-1".to_owned());
    machines[3].restarts = 2;
    machines[3].ended = ended("the guest reset itself", false);
    machines[3].spec.restart = RestartPolicy::OnFailure;
    machines[4].operation = Some("op-2".to_owned());
    let mut reading = reading(taken, machines);
    for idle in ["adopting-1", "arriving-1", "departed-1", "in_doubt-1", "paused-1"] {
        let counters = reading.counters.get_mut(idle).unwrap();
        (counters.cpu_seconds, counters.console_bytes) = (Some(10.0), Some(0.0));
    }
    let mut snapshot = operation("op-1", "machines.snapshot", "running-1");
    let progress =
        OperationProgress { rounds: 2, pages_done: 98_304, pages_owed: 32_768, migration: None };
    snapshot.progress = Some(progress);
    reading.operations = vec![snapshot, operation("op-2", "machines.stop", "paused-1")];
    reading.health = Health {
        state: HealthState::Degraded,
        checks: vec![
            check("kvm", HealthState::Ready, "/dev/kvm has what machines need"),
            check("storage", HealthState::Degraded, "120 MiB are free for records"),
        ],
    };
    reading
}

/// Events that such a daemon had.
pub(super) fn events() -> Vec<Event> {
    let machine = || "running-1".parse().unwrap();
    let mut failed = operation("op-0", "machines.handover", "running-1");
    let text = "the new process says \u{1b}[31mno\u{1b}[0m\nand no more; see the log";
    failed.error = Some(control::api::ApiError::internal(text));
    let kinds = [
        EventKind::DaemonStarted { adopted: 3 },
        EventKind::MachineCreated { machine: machine() },
        EventKind::MachineState { machine: machine(), state: MachineState::Running, ended: None },
        EventKind::OperationEnded { operation: Box::new(failed) },
    ];
    (100..).zip(kinds).map(|(number, kind)| event(number, kind)).collect()
}

pub(super) fn press(state: &mut State, keys: &str) {
    for key in keys.chars() {
        assert!(state.press(KeyEvent::new(KeyCode::Char(key), KeyModifiers::NONE)).is_continue());
    }
}
