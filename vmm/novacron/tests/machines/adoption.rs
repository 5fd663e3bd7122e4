//! The daemon dies; its machines do not.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use control::api::{
    HandOver, HandOverForm, Machine, MachineState, Operation, RestartPolicy, TakeSnapshot,
};
use rustix::process::{Pid, Signal, kill_process};

use crate::daemon::Daemon;
use crate::harness::{has_kvm, is_long_run, shared};

/// Slow, so that many fit.
const SLOW: &str = "fill=4M working_set=1M rate=200 report=200";

#[test]
fn a_daemon_that_is_killed_and_started_again_finds_its_machines() {
    if !has_kvm("a_daemon_that_is_killed_and_started_again_finds_its_machines") {
        return;
    }
    let _shared = shared();
    let mut daemon = Daemon::start();
    for name in ["one", "two", "paused", "stopped"] {
        daemon.oracle(name, SLOW, RestartPolicy::Never);
    }
    daemon.says(&["pause", "paused"]);
    daemon.operate("stopped", "stop").unwrap();
    let before: Vec<_> = ["one", "two", "paused"].map(|name| daemon.show(name).process_id).into();
    daemon.kill();
    daemon.start_again();
    daemon.wait_for_state("one", MachineState::Running);
    daemon.wait_for_state("two", MachineState::Running);
    daemon.wait_for_state("paused", MachineState::Paused);
    daemon.wait_for_state("stopped", MachineState::Stopped);
    let after: Vec<_> = ["one", "two", "paused"].map(|name| daemon.show(name).process_id).into();
    assert_eq!(before, after, "the same processes");
    // Its console has the past, and goes on.
    let log = daemon.says(&["logs", "one"]);
    assert!(log.starts_with("oracle: hello"), "{log}");
    daemon.says(&["resume", "paused"]);
    daemon.operate("one", "handover").unwrap();
    daemon.operate("one", "stop").unwrap();
}

#[test]
fn a_machine_that_is_killed_is_reported_with_its_reason_at_once() {
    if !has_kvm("a_machine_that_is_killed_is_reported_with_its_reason_at_once") {
        return;
    }
    let _shared = shared();
    let mut daemon = Daemon::start();
    daemon.oracle("one", SLOW, RestartPolicy::Never);
    kill(&daemon.show("one"), Signal::KILL);
    let started = Instant::now();
    let machine = daemon.wait_for_state("one", MachineState::Stopped);
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    let ended = machine.ended.unwrap();
    assert!(ended.failed && ended.how.contains("killed by SIGKILL"), "{ended:?}");

    // A daemon that did not start it is not told the signal, and notices as fast.
    daemon.oracle("two", SLOW, RestartPolicy::Never);
    daemon.kill();
    daemon.start_again();
    let adopted = daemon.wait_for_state("two", MachineState::Running);
    kill(&adopted, Signal::KILL);
    let started = Instant::now();
    let machine = daemon.wait_for_state("two", MachineState::Stopped);
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    let ended = machine.ended.unwrap();
    assert!(ended.failed && ended.how.contains("without a word"), "{ended:?}");
}

#[test]
fn how_a_guest_ended_while_no_daemon_was_there_is_known_to_the_next() {
    if !has_kvm("how_a_guest_ended_while_no_daemon_was_there_is_known_to_the_next") {
        return;
    }
    let _shared = shared();
    let mut daemon = Daemon::start();
    let kernel = daemon.folder().join("state/images/resets");
    // Waits a while, and resets itself.
    let code = [
        0xb9, 0x00, 0x00, 0x40, 0x00, // mov ecx, 0x400000
        0x49, 0x75, 0xfd, // again: dec ecx; jnz again
        0xb0, 0xfe, 0xe6, 0x64, 0xf4, // mov al, 0xfe; out 0x64, al; hlt
    ];
    std::fs::write(&kernel, crate::errors::tiny_guest(&code)).unwrap();
    let kernel = kernel.to_str().unwrap();
    daemon.says(&["run", "one", "--kernel", kernel, "--memory", "32M", "--detach"]);
    daemon.kill();
    let before = daemon.folder().join("state/machines/one/ends");
    let end = Instant::now() + Duration::from_secs(60);
    while std::fs::metadata(&before).unwrap().len() == 0 && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(10));
    }
    daemon.start_again();
    let machine = daemon.wait_for_state("one", MachineState::Stopped);
    assert_eq!(machine.ended.unwrap().how, "the guest reset itself");
}

#[test]
fn a_restart_policy_starts_a_machine_again_also_when_the_daemon_was_not_there() {
    if !has_kvm("a_restart_policy_starts_a_machine_again_also_when_the_daemon_was_not_there") {
        return;
    }
    let _shared = shared();
    let mut daemon = Daemon::start();
    daemon.oracle("one", SLOW, RestartPolicy::OnFailure);
    let first = daemon.show("one");
    kill(&first, Signal::KILL);
    let again = |machine: &Machine| machine.state == MachineState::Running && machine.restarts > 0;
    let second = daemon.wait_for("one", again);
    assert_ne!(second.process_id, first.process_id);

    daemon.kill();
    kill(&second, Signal::KILL);
    daemon.start_again();
    let third = daemon.wait_for("one", again);
    assert_ne!(third.process_id, second.process_id);
    // Somebody stops it: it stays so.
    daemon.operate("one", "stop").unwrap();
    daemon.kill();
    daemon.start_again();
    assert_eq!(daemon.show("one").state, MachineState::Stopped);
}

/// Kills the daemon at random moments while machines are made, saved, handed over and deleted.
fn killed_under_load(times: u64) {
    let mut daemon = Daemon::start();
    for name in ["a", "b", "c"] {
        daemon.oracle(name, SLOW, RestartPolicy::Never);
    }
    let processes = |daemon: &Daemon| -> BTreeMap<String, Option<u32>> {
        let shown = ["a", "b", "c"].map(|name| daemon.wait_for_state(name, MachineState::Running));
        shown.into_iter().map(|machine| (machine.name.to_string(), machine.process_id)).collect()
    };
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    for round in 0..times {
        let before = processes(&daemon);
        load(&daemon, round);
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        std::thread::sleep(Duration::from_micros((seed >> 33) % 30_000));
        daemon.kill();
        daemon.start_again();
        let after = processes(&daemon);
        // Only that which may have been handed over has another process.
        for name in ["a", "b"] {
            assert_eq!(before[name], after[name], "{name} in round {round}");
        }
        let health = daemon.says(&["health"]);
        assert!(health.contains("every record was read"), "round {round}: {health}");
    }
    for name in ["a", "b", "c"] {
        let log = daemon.says(&["logs", name]);
        // The guest checks each page before it writes it again, and says what it found.
        let whole = log.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let rounds: Vec<_> = whole.lines().filter(|line| line.contains("rounds=")).collect();
        let is_well = |line: &&str| line.trim_end().ends_with("errors=0");
        assert!(rounds.len() > 1 && rounds.iter().all(is_well), "{log}");
        daemon.operate(name, "stop").unwrap();
    }
    daemon.says(&["audit", "verify", "--set", &state(&daemon)]);
    let left = std::fs::read_dir(daemon.folder().join("state/machines")).unwrap().flatten();
    let left: Vec<_> = left.map(|entry| entry.file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().starts_with('.')), "{left:?}");
}

/// What is under way when the daemon is killed. Nobody waits for any of it.
fn load(daemon: &Daemon, round: u64) {
    let client = daemon.client();
    let snapshot = TakeSnapshot { file: format!("s-{round}"), base: None, key_file: None };
    let _ = client.post::<Operation>("/v1/machines/b/snapshot", &snapshot);
    let form = if round.is_multiple_of(2) { HandOverForm::Shared } else { HandOverForm::Copying };
    let _ = client.post::<Operation>("/v1/machines/c/handover", &HandOver { form });
    let name = format!("new-{round}");
    let create = control::api::CreateMachine {
        name: name.parse().unwrap(),
        spec: control::api::MachineSpec::default(),
    };
    let _ = client.post::<Machine>("/v1/machines", &create);
    let _ = client.delete(&format!("/v1/machines/new-{}", round.saturating_sub(1)));
}

fn state(daemon: &Daemon) -> String {
    format!("storage.state={}", daemon.folder().join("state").display())
}

fn kill(machine: &Machine, signal: Signal) {
    let process = Pid::from_raw(machine.process_id.unwrap().try_into().unwrap());
    kill_process(process.unwrap(), signal).unwrap();
}

#[test]
fn a_daemon_killed_20_times_under_load_loses_nothing() {
    if has_kvm("a_daemon_killed_20_times_under_load_loses_nothing") {
        let _shared = shared();
        killed_under_load(20);
    }
}

#[test]
fn long_a_daemon_killed_200_times_under_load_loses_nothing() {
    let name = "long_a_daemon_killed_200_times_under_load_loses_nothing";
    if is_long_run(name) && has_kvm(name) {
        let _shared = shared();
        killed_under_load(200);
    }
}
