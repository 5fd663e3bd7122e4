//! Guests that write too fast for their move, and limits that are changed while it is under way.
//!
//! Each test runs alone: how fast a guest writes depends on who else has the processors.

use std::time::{Duration, Instant};

use control::api::{
    ChangeMove, ErrorCode, MachineState, MigrationProgress, Operation, OperationState,
    RestartPolicy,
};
use control::{CallError, Client};

use crate::harness::{alone, has_kvm};
use crate::hosts::Hosts;
use crate::moments::{Rest, settled, wait_until_sent};

/// Writes whole pages as fast as it can: each takes it so long that it is slowed down by having less time.
const EAGER: &str = "fill=28M working_set=24M pattern=random write=page report=100";
/// Bytes a second of a link over which it does not converge.
const LINK: u64 = 24 << 20;
/// What it may stand still for: a part of its working set goes over the link in that, not all of it.
const DOWNTIME_MS: u64 = 400;
const PATIENCE: Duration = Duration::from_secs(120);

/// A sixth of it all: where a page that is written first costs a guest so much that it hardly writes faster than [`LINK`],
/// it is still too fast for this one, and also with less than half of its time.
const LESS_EAGER: &str = "fill=6M working_set=4M pattern=random write=page report=100";
const SLOW_LINK: u64 = 4 << 20;

fn eager() -> Hosts {
    guest(EAGER, LINK)
}

/// A guest that is far too fast on any host.
fn far_too_eager() -> Hosts {
    guest(LESS_EAGER, SLOW_LINK)
}

fn guest(options: &str, link: u64) -> Hosts {
    let hosts = Hosts::start();
    hosts.daemons[0].oracle("web", options, RestartPolicy::Never);
    hosts.wires[1].limit(link);
    hosts
}

/// Writes a second that the guest has seen itself make, over so many of its next reports.
fn speed(hosts: &Hosts, host: usize, reports: usize) -> f64 {
    let rates = || -> Vec<f64> {
        let log = hosts.daemons[host].client().get_bytes("/v1/machines/web/log").unwrap();
        let text = String::from_utf8_lossy(&log).into_owned();
        let words = text.split_whitespace().filter_map(|word| word.strip_prefix("rate="));
        words.filter_map(|rate| rate.parse().ok()).collect()
    };
    let before = rates().len();
    let end = Instant::now() + PATIENCE;
    loop {
        // The first may be of a time before.
        let new: Vec<_> = rates().into_iter().skip(before + 1).collect();
        if new.len() >= reports {
            let mut rates = new;
            rates.sort_by(f64::total_cmp);
            return rates[rates.len() / 2];
        }
        assert!(Instant::now() < end, "it reports no more\n{}", hosts.logs());
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Waits until the guest is as fast as it was, or half as fast: others may have the processors for a while. One that is still held
/// for more than half of its time never is.
fn has_its_speed_again(hosts: &Hosts, host: usize, full: f64) {
    let end = Instant::now() + Duration::from_secs(40);
    loop {
        let now = speed(hosts, host, 5);
        if now > full / 2.0 {
            return;
        }
        assert!(Instant::now() < end, "{now} of {full}");
    }
}

fn now(client: &Client, operation: &Operation) -> Operation {
    client.get(&format!("/v1/operations/{}", operation.id)).unwrap()
}

/// Waits until a move shows what is looked for.
fn wait_until(
    hosts: &Hosts,
    operation: &Operation,
    is_it: impl Fn(&MigrationProgress) -> bool,
) -> MigrationProgress {
    let end = Instant::now() + PATIENCE;
    loop {
        let now = now(hosts.daemons[0].client(), operation);
        let progress = now.progress.as_ref().and_then(|progress| progress.migration.clone());
        if let Some(progress) = progress.filter(|progress| is_it(progress)) {
            return progress;
        }
        let is_under_way = now.state == OperationState::Running && Instant::now() < end;
        assert!(is_under_way, "{now:?}\n{}", hosts.logs());
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn set(hosts: &Hosts, operation: &Operation, change: ChangeMove) -> Result<Operation, CallError> {
    let path = format!("/v1/operations/{}", operation.id);
    hosts.daemons[0].client().patch(&path, &change)
}

#[test]
fn a_guest_that_writes_too_fast_stays_and_it_is_said_by_how_much() {
    if !has_kvm("a_guest_that_writes_too_fast_stays_and_it_is_said_by_how_much") {
        return;
    }
    let _alone = alone();
    let hosts = far_too_eager();
    let order = ["migrate", "web", "--to", "west", "--max-downtime", "400ms"];
    let refused = hosts.daemons[0].novacron(&order);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    for words in [
        "the guest writes ",
        "pages go out at ",
        " pages/s (",
        "it would stand still for ",
        "may for 400 ms",
        "it would fit at ",
        "--max-downtime",
        "--throttle ",
        "the guest goes on here",
    ] {
        assert!(said.contains(words), "{words:?} is not in: {said}");
    }
    assert_eq!(settled(&hosts), Rest::Stayed);
    hosts.check(0, "web");
    // Somebody for whom it may stand still after more rounds than it was given up after is heard.
    let operation = hosts.begin_move(0, "web", |request| {
        request.max_downtime_ms = DOWNTIME_MS;
        request.stop_after_rounds = Some(14);
    });
    let ended = hosts.end_of(0, &operation.unwrap());
    let outcome = ended.migration.unwrap_or_else(|| panic!("{:?}\n{}", ended.error, hosts.logs()));
    assert!(outcome.rounds >= 14, "{outcome:?}");
    hosts.check(1, "web");
}

#[test]
fn a_guest_that_writes_too_fast_is_slowed_down_moves_and_has_its_speed_again() {
    if !has_kvm("a_guest_that_writes_too_fast_is_slowed_down_moves_and_has_its_speed_again") {
        return;
    }
    let _alone = alone();
    let hosts = eager();
    let full = speed(&hosts, 0, 9);
    let operation = hosts.begin_move(0, "web", |request| {
        request.max_downtime_ms = DOWNTIME_MS;
        request.throttle_percent = Some(97);
    });
    let operation = operation.unwrap();
    let shown = wait_until(&hosts, &operation, |progress| progress.throttle_percent.is_some());
    assert!(shown.throttle_percent <= Some(97), "{shown:?}");
    let ended = hosts.end_of(0, &operation);
    let outcome = ended.migration.unwrap_or_else(|| panic!("{:?}\n{}", ended.error, hosts.logs()));
    assert!((1..=97).contains(&outcome.throttle_percent), "{outcome:?}");
    assert!(outcome.throttled_ns > 0 && outcome.throttled_ns < outcome.total_ns, "{outcome:?}");
    assert_eq!(outcome.audited_different, 0, "{outcome:?}");
    hosts.check(1, "web");
    has_its_speed_again(&hosts, 1, full);
    let report = hosts.daemons[0].says(&["operation", &operation.id]);
    assert!(report.contains("slowed to "), "{report}");
}

#[test]
fn a_slowed_guest_has_its_speed_again_while_its_link_is_cut_and_when_its_move_is_cancelled() {
    let name =
        "a_slowed_guest_has_its_speed_again_while_its_link_is_cut_and_when_its_move_is_cancelled";
    if !has_kvm(name) {
        return;
    }
    let _alone = alone();
    let hosts = far_too_eager();
    let full = speed(&hosts, 0, 9);
    // A guest that is held for so little does not fit: it goes on until it is cancelled.
    let operation = hosts.begin_move(0, "web", |request| {
        request.max_downtime_ms = 500;
        request.throttle_percent = Some(60);
    });
    let operation = operation.unwrap();
    let is_slowed = |progress: &MigrationProgress| progress.throttle_percent == Some(60);
    wait_until(&hosts, &operation, is_slowed);
    let slowed = speed(&hosts, 0, 5);
    assert!(slowed < full / 2.0, "{slowed} of {full}");
    hosts.wires[1].cut();
    wait_until(&hosts, &operation, |progress| {
        progress.waiting_ms.is_some() && progress.throttle_percent.is_none()
    });
    has_its_speed_again(&hosts, 0, full);
    hosts.wires[1].heal();
    wait_until(&hosts, &operation, is_slowed);
    hosts.daemons[0].says(&["operation", &operation.id, "--cancel"]);
    let ended = hosts.end_of(0, &operation);
    assert_eq!(ended.state, OperationState::Cancelled, "{ended:?}");
    has_its_speed_again(&hosts, 0, full);
    assert_eq!(settled(&hosts), Rest::Stayed);
    hosts.check(0, "web");
}

#[test]
fn a_stuck_move_ends_once_its_guest_may_stand_still_for_longer_whatever_becomes_of_its_daemon() {
    let name = "a_stuck_move_ends_once_its_guest_may_stand_still_for_longer_whatever_becomes_of_its_daemon";
    if !has_kvm(name) {
        return;
    }
    let _alone = alone();
    let mut hosts = eager();
    hosts.wires[1].limit(8 << 20);
    let operation = hosts.begin_move(0, "web", |request| request.max_downtime_ms = 50).unwrap();
    wait_until_sent(&hosts, 0, &operation, 4 << 20);
    // What the machine process has been told, the next daemon need not know.
    let wider = ChangeMove { bandwidth: Some(64 << 20), ..ChangeMove::default() };
    let shown = set(&hosts, &operation, wider).unwrap();
    let limits = shown.progress.unwrap().migration.unwrap().limits.unwrap();
    assert_eq!((limits.bandwidth, limits.max_downtime_ms), (Some(64 << 20), 50));
    hosts.restart(0);
    let shown = wait_until(&hosts, &operation, |progress| progress.limits.is_some());
    let limits = shown.limits.unwrap();
    assert_eq!((limits.bandwidth, limits.max_downtime_ms), (Some(64 << 20), 50));
    hosts.daemons[0].says(&["operation", &operation.id, "--set", "max-downtime=2m"]);
    let ended = hosts.end_of(0, &operation);
    let outcome = ended.migration.unwrap_or_else(|| panic!("{:?}\n{}", ended.error, hosts.logs()));
    assert!(outcome.blackout_ns > 50_000_000, "{outcome:?}");
    let state = hosts.daemons[0].state();
    let state = state.to_str().unwrap();
    let of_change = ["audit", "show", "--state", state, "--method", "operations.change"];
    let log = hosts.daemons[0].says(&of_change);
    let changes = log.lines().filter(|line| line.contains(&operation.id));
    // Both ends of two.
    assert_eq!(changes.count(), 4, "{log}");
    hosts.check(1, "web");
    let over = set(&hosts, &operation, wider).unwrap_err();
    assert!(matches!(&over, CallError::Refused(error) if error.code == ErrorCode::Conflict));
    assert!(over.to_string().contains("has ended"), "{over}");
}

#[test]
fn limits_are_changed_of_a_move_that_is_under_way_and_to_what_a_move_can_have() {
    let name = "limits_are_changed_of_a_move_that_is_under_way_and_to_what_a_move_can_have";
    if !has_kvm(name) {
        return;
    }
    let _alone = alone();
    let hosts = far_too_eager();
    let refuse = |operation: &Operation, change: ChangeMove, code, words: &str| match set(
        &hosts, operation, change,
    )
    .unwrap_err()
    {
        CallError::Refused(error) => {
            assert!(error.code == code && error.message.contains(words), "{error:?}");
        }
        other => panic!("{other}"),
    };
    let throttle = |percent| ChangeMove { throttle_percent: Some(percent), ..Default::default() };
    let operation = hosts.begin_move(0, "web", |request| request.max_downtime_ms = 500).unwrap();
    wait_until_sent(&hosts, 0, &operation, 1 << 20);
    refuse(&operation, ChangeMove::default(), ErrorCode::BadRequest, "no limit is named");
    refuse(&operation, throttle(100), ErrorCode::BadRequest, "not within 1 and 99");
    let client = hosts.daemons[0].client();
    let all: Vec<Operation> = client.get("/v1/operations").unwrap();
    let start = all.iter().find(|operation| operation.method == "machines.start").unwrap();
    refuse(start, throttle(50), ErrorCode::Conflict, "has ended");
    let there: Vec<Operation> = hosts.daemons[1].client().get("/v1/operations").unwrap();
    let arrival = there.iter().find(|operation| operation.method == "machines.arrive").unwrap();
    let path = format!("/v1/operations/{}", arrival.id);
    let refused = hosts.daemons[1].client().patch::<Operation>(&path, &throttle(50)).unwrap_err();
    assert!(refused.to_string().contains("on the host that the machine leaves"), "{refused}");
    // And a guest that nobody wanted to be slowed down is, from now on; and not any more.
    set(&hosts, &operation, throttle(60)).unwrap();
    wait_until(&hosts, &operation, |progress| progress.throttle_percent == Some(60));
    set(&hosts, &operation, throttle(0)).unwrap();
    wait_until(&hosts, &operation, |progress| progress.throttle_percent.is_none());
    hosts.daemons[0].says(&["operation", &operation.id, "--cancel"]);
    hosts.end_of(0, &operation);
    assert_eq!(hosts.daemons[0].show("web").state, MachineState::Running);
    hosts.check(0, "web");
}

/// What the threads of a process that carry streams have taken of processors so far.
fn streams_time(process: u32) -> Duration {
    let mut time = Duration::ZERO;
    for thread in std::fs::read_dir(format!("/proc/{process}/task")).unwrap().flatten() {
        let read = |name: &str| std::fs::read_to_string(thread.path().join(name));
        // One may end meanwhile.
        let (Ok(name), Ok(statistics)) = (read("comm"), read("schedstat")) else { continue };
        // `dwcp-1.0`; that of the timers encodes nothing.
        if name.trim_start_matches("dwcp-").starts_with(|c: char| c.is_ascii_digit()) {
            let ran = statistics.split(' ').next().and_then(|word| word.parse().ok());
            time += Duration::from_nanos(ran.unwrap());
        }
    }
    time
}

#[test]
fn sending_takes_no_more_of_the_processors_than_it_may_and_more_when_it_may() {
    let name = "sending_takes_no_more_of_the_processors_than_it_may_and_more_when_it_may";
    if !has_kvm(name) {
        return;
    }
    let _alone = alone();
    let hosts = eager();
    hosts.wires[1].limit(0);
    let operation = hosts.begin_move(0, "web", |request| {
        // So short that it never ends by itself, on a host however fast.
        request.max_downtime_ms = 1;
        request.cpu_permille = Some(100);
    });
    let operation = operation.unwrap();
    wait_until_sent(&hosts, 0, &operation, 1 << 20);
    let process = hosts.daemons[0].show("web").process_id.unwrap();
    let share = |span: Duration| {
        let (began, before) = (Instant::now(), streams_time(process));
        std::thread::sleep(span);
        let taken = streams_time(process).saturating_sub(before);
        taken.as_secs_f64() / began.elapsed().as_secs_f64()
    };
    // From here on it is tried for seconds more.
    let same = ChangeMove { cpu_permille: Some(100), ..ChangeMove::default() };
    set(&hosts, &operation, same).unwrap();
    let limited = share(Duration::from_secs(2));
    let more = ChangeMove { cpu_permille: Some(400), ..ChangeMove::default() };
    set(&hosts, &operation, more).unwrap();
    // A stream that has just had its share waits for that first, and a busy host makes that long.
    let mut wider = share(Duration::from_secs(1));
    for _ in 0..3 {
        if wider <= 1.5 * limited {
            wider = share(Duration::from_secs(1));
        }
    }
    hosts.daemons[0].says(&["operation", &operation.id, "--cancel"]);
    hosts.end_of(0, &operation);
    // One batch may be under way at either end of the time.
    assert!((0.05..0.13).contains(&limited), "{limited} of 0.1 processors, then {wider} of 0.4");
    assert!(wider > 1.5 * limited && wider < 0.5, "{wider} of 0.4 processors, {limited} of 0.1");
    hosts.check(0, "web");
}
