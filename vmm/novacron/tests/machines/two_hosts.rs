//! A machine moves between two daemons.

use std::process::Stdio;
use std::time::{Duration, Instant};

use control::api::{
    Boot, CreateMachine, Info, Machine, MachineSpec, MachineState, MigrationCheck, MigrationPhase,
    MigrationPlan, Operation, OperationState, Receipt, ReceiptAudit, RestartPolicy,
};

use crate::harness::{has_kvm, is_long_run, shared};
use crate::hosts::{Hosts, NAMES};
use crate::moments::{Rest, settled, slowly, wait_until_sent};

#[test]
fn a_machine_moves_to_another_host_and_back_and_there_again() {
    if !has_kvm("a_machine_moves_to_another_host_and_back_and_there_again") {
        return;
    }
    let _shared = shared();
    let hosts = Hosts::start();
    hosts.busy(0, RestartPolicy::Never);
    let id = hosts.daemons[0].show("web").id;
    for (trip, from) in [0, 1, 0].into_iter().enumerate() {
        let to = 1 - from;
        let outcome = hosts.moves(from, "web").unwrap_or_else(|error| {
            panic!("trip {trip}: {error}\n{}", hosts.logs());
        });
        assert_eq!(outcome.connections, 1);
        // Of its 8,192 pages the guest has used 8 MiB, of which it writes 2 MiB again and again.
        assert!((2048..6000).contains(&outcome.pages_sent), "{outcome:?}");
        assert_eq!(outcome.generation, format!("0.{}", trip + 1));
        assert!(outcome.causes.iter().any(|(cause, _)| cause == "restore"), "{outcome:?}");
        assert!(outcome.audited_pages > 100 && outcome.audited_different == 0, "{outcome:?}");
        assert!(outcome.has_receipt, "{outcome:?}\n{}", hosts.logs());
        let receipts = [0, 1].map(|host: usize| -> Receipt {
            let path = format!("/v1/receipts/{}", outcome.session);
            hosts.daemons[host].client().get(&path).unwrap()
        });
        assert_eq!(receipts[0], receipts[1]);
        receipts[0].verify().unwrap();
        let gone = hosts.daemons[from].wait_for_state("web", MachineState::Moved);
        assert_eq!(gone.peer.as_deref(), Some(NAMES[to]));
        assert_eq!(gone.process_id, None);
        let came = hosts.daemons[to].wait_for_state("web", MachineState::Running);
        assert_eq!((came.id.as_str(), came.peer), (id.as_str(), None));
        hosts.check(to, "web");
    }
    let refused = hosts.daemons[0].operate("web", "start").unwrap_err().to_string();
    assert!(refused.contains("web is moved"), "{refused}");
    hosts.daemons[0].says(&["delete", "web"]);
    hosts.daemons[1].operate("web", "stop").unwrap();
}

#[test]
fn a_daemon_that_dies_while_a_machine_moves_is_replaced_and_the_move_goes_on() {
    if !has_kvm("a_daemon_that_dies_while_a_machine_moves_is_replaced_and_the_move_goes_on") {
        return;
    }
    let _shared = shared();
    // A return that sends next to nothing would be over before the next daemon is there.
    let mut hosts = Hosts::start_set(&["kept.percent=0"]);
    hosts.busy(0, RestartPolicy::Never);
    for (from, killed) in [(0, 0), (1, 0), (0, 1)] {
        let operation = hosts.begin_move(from, "web", slowly).unwrap();
        wait_until_sent(&hosts, from, &operation, 1 << 20);
        hosts.restart(killed);
        // The streams are the processes' own; new ones need the new daemon.
        hosts.wires[1 - from].reset();
        let ended = hosts.end_of(from, &operation);
        assert_eq!(ended.state, OperationState::Done, "{ended:?}\n{}", hosts.logs());
        let outcome = ended.migration.unwrap();
        assert!(outcome.connections > 1, "{outcome:?}");
        assert_eq!(hosts.wait_until_it_runs("web"), 1 - from);
        hosts.check(1 - from, "web");
    }
}

#[test]
fn a_move_whose_link_is_cut_goes_on_and_sends_no_more_than_it_must() {
    if !has_kvm("a_move_whose_link_is_cut_goes_on_and_sends_no_more_than_it_must") {
        return;
    }
    let _shared = shared();
    cut_for(Duration::from_secs(3));
}

#[test]
fn long_a_move_whose_link_is_cut_for_a_minute_goes_on() {
    let name = "long_a_move_whose_link_is_cut_for_a_minute_goes_on";
    if !is_long_run(name) || !has_kvm(name) {
        return;
    }
    let _shared = shared();
    cut_for(Duration::from_secs(60));
}

fn cut_for(cut: Duration) {
    let hosts = Hosts::start();
    hosts.busy(0, RestartPolicy::Never);
    let operation = hosts.begin_move(0, "web", |request| {
        slowly(request);
        request.timeout_ms = 120_000;
    });
    let operation = operation.unwrap();
    wait_until_sent(&hosts, 0, &operation, 2 << 20);
    hosts.wires[1].cut();
    std::thread::sleep(cut);
    assert_eq!(hosts.daemons[0].show("web").state, MachineState::Running, "it is not stopped");
    hosts.wires[1].heal();
    let ended = hosts.end_of(0, &operation);
    let outcome = ended.migration.unwrap_or_else(|| panic!("{:?}\n{}", ended.error, hosts.logs()));
    assert!(outcome.connections > 1, "{outcome:?}");
    // What was on its way when it was cut: buffers of five streams.
    assert!(outcome.pages_again < 4096, "{outcome:?}");
    hosts.check(1, "web");
}

#[test]
fn a_move_that_is_cancelled_leaves_the_machine_here_and_nothing_there() {
    if !has_kvm("a_move_that_is_cancelled_leaves_the_machine_here_and_nothing_there") {
        return;
    }
    let _shared = shared();
    let hosts = Hosts::start();
    hosts.busy(0, RestartPolicy::Never);
    let operation = hosts.begin_move(0, "web", slowly).unwrap();
    wait_until_sent(&hosts, 0, &operation, 1 << 20);
    hosts.daemons[0].says(&["operation", &operation.id, "--cancel"]);
    let ended = hosts.end_of(0, &operation);
    assert_eq!(ended.state, OperationState::Cancelled, "{ended:?}");
    assert_eq!(settled(&hosts), Rest::Stayed);
    hosts.check(0, "web");
    // And it can move then.
    hosts.moves(0, "web").unwrap();
    hosts.check(1, "web");
}

#[test]
fn a_person_ends_a_doubt_that_nobody_else_can_end() {
    if !has_kvm("a_person_ends_a_doubt_that_nobody_else_can_end") {
        return;
    }
    let _shared = shared();
    let faulty: &[(&str, &str)] = &[("NOVACRON_FAULT", "kill:ArrivalReady")];
    let mut hosts = Hosts::start_with([&[], faulty]);
    hosts.busy(0, RestartPolicy::Never);
    let operation = hosts.begin_move(0, "web", slowly).unwrap();
    wait_until_sent(&hosts, 0, &operation, 1 << 20);
    let too_early = hosts.daemons[0].novacron(&["migrate", "resolve", "web", "--run-here"]);
    assert!(!too_early.status.success(), "{too_early:?}");
    // The other host goes down with everything, as soon as it has it all.
    hosts.daemons[1].kill();
    hosts.daemons[0].wait_for_state("web", MachineState::InDoubt);
    let warned = hosts.daemons[0].novacron(&["migrate", "resolve", "web"]);
    assert_eq!(warned.status.code(), Some(2), "{warned:?}");
    hosts.daemons[0].says(&["migrate", "resolve", "web", "--run-here", "--yes"]);
    let ended = hosts.end_of(0, &operation);
    assert!(ended.error.is_some_and(|error| error.message.contains("by a person")));
    hosts.daemons[0].wait_for_state("web", MachineState::Running);
    hosts.check(0, "web");
    hosts.daemons[1].start_again();
    let port = Hosts::port(&hosts.daemons[1]);
    hosts.wires[1].leads_to(port);
    assert_eq!(settled(&hosts), Rest::Stayed);
}

#[test]
fn what_is_in_the_way_of_a_move_is_said_before_anything_moves() {
    if !has_kvm("what_is_in_the_way_of_a_move_is_said_before_anything_moves") {
        return;
    }
    let _shared = shared();
    let hosts = Hosts::start();
    hosts.busy(0, RestartPolicy::Never);
    let free = hosts.daemons[0].says(&["migrate", "web", "--to", "west", "--dry-run"]);
    assert!(free.contains("nothing is in the way"), "{free}");
    let dry = ["migrate", "web", "--to", "west", "--dry-run", "--output", "json"];
    let check: MigrationCheck = serde_json::from_str(&hosts.daemons[0].says(&dry)).unwrap();
    let forecast = check.forecast.expect("the guest was looked at");
    // 8 MiB that are filled, and what it is made of; 512 pages that are written 2,000 times a second.
    assert!((2_048..6_000).contains(&forecast.pages), "{forecast:?}");
    assert!((200..=2_600).contains(&forecast.dirty_pages_per_second), "{forecast:?}");
    assert!(forecast.blackout_ns < 300_000_000, "{forecast:?}");
    assert!(forecast.duration_ns >= forecast.blackout_ns, "{forecast:?}");
    assert_eq!(forecast.too_fast, None);
    // Less than any takes; which is in no way of somebody who has decided what then.
    let too_short = [&dry[..5], &["--max-downtime", "1ms"]].concat();
    let refused = hosts.daemons[0].novacron(&too_short);
    let said = String::from_utf8_lossy(&refused.stdout);
    assert!(said.contains("it would not end: the guest writes"), "{refused:?}");
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    let said = hosts.daemons[0].says(&[&too_short[..], &["--stop-after-rounds", "3"]].concat());
    assert!(said.contains("it would take"), "{said}");
    hosts.busy(1, RestartPolicy::Never);
    let check = |why: &str| {
        let dry = hosts.daemons[0].novacron(&["migrate", "web", "--to", "west", "--dry-run"]);
        let said = String::from_utf8_lossy(&dry.stdout).into_owned();
        assert!(dry.status.code() == Some(1) && said.contains(why), "{why}: {dry:?}");
        let moved = hosts.moves(0, "web").unwrap_err().to_string();
        assert!(moved.contains(why), "{why}: {moved}");
        assert_eq!(hosts.daemons[0].show("web").state, MachineState::Running);
    };
    check("another machine is called web");
    hosts.daemons[1].operate("web", "stop").unwrap();
    hosts.daemons[1].says(&["delete", "web"]);
    hosts.daemons[1].says(&["peers", "remove", "east"]);
    check("novacron peers add");
    hosts.wires[1].cut();
    check("west");
    let unknown = hosts.daemons[0].novacron(&["migrate", "web", "--to", "north"]);
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("no host north"), "{unknown:?}");
    hosts.check(0, "web");
}

#[test]
fn a_daemon_that_dies_while_it_looks_at_a_guest_finds_it_as_it_was() {
    if !has_kvm("a_daemon_that_dies_while_it_looks_at_a_guest_finds_it_as_it_was") {
        return;
    }
    let _shared = shared();
    let mut hosts = Hosts::start();
    hosts.busy(0, RestartPolicy::Never);
    let process = hosts.daemons[0].show("web").process_id.unwrap();
    let mut looks = hosts.daemons[0].command(&["migrate", "web", "--to", "west", "--dry-run"]);
    looks.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut looks = looks.spawn().unwrap();
    let end = Instant::now() + Duration::from_secs(60);
    while !has_thread(process, "survey") {
        assert!(Instant::now() < end && looks.try_wait().unwrap().is_none(), "{}", hosts.logs());
        std::thread::sleep(Duration::from_millis(5));
    }
    hosts.restart(0);
    assert!(!looks.wait().unwrap().success());
    let found = hosts.daemons[0].wait_for_state("web", MachineState::Running);
    assert_eq!(found.process_id, Some(process));
    let outcome = hosts.moves(0, "web").unwrap();
    assert_eq!(outcome.audited_different, 0, "{outcome:?}");
    hosts.check(1, "web");
}

/// Whether a thread of a process is called so.
fn has_thread(process: u32, name: &str) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{process}/task")).unwrap();
    threads.flatten().any(|thread| {
        std::fs::read_to_string(thread.path().join("comm")).is_ok_and(|comm| comm.trim() == name)
    })
}

#[test]
fn a_move_that_is_cut_while_the_guest_stands_still_lets_it_run_and_goes_on_later() {
    let name = "a_move_that_is_cut_while_the_guest_stands_still_lets_it_run_and_goes_on_later";
    if !has_kvm(name) {
        return;
    }
    let _shared = shared();
    // It stands still for a second and a half, each time.
    let slow: &[(&str, &str)] = &[("NOVACRON_FAULT", "slow-switch")];
    let hosts = Hosts::start_with([slow, &[]]);
    hosts.busy(0, RestartPolicy::Never);
    let operation = hosts.begin_move(0, "web", |_| {}).unwrap();
    let phase = |operation: &Operation| {
        let progress = operation.progress.as_ref()?;
        Some(progress.migration.as_ref()?.phase)
    };
    let path = format!("/v1/operations/{}", operation.id);
    let now = || hosts.daemons[0].client().get::<Operation>(&path).unwrap();
    let end = Instant::now() + Duration::from_secs(60);
    while phase(&now()) != Some(MigrationPhase::Switch) {
        assert!(Instant::now() < end, "{:?}\n{}", now(), hosts.logs());
        std::thread::sleep(Duration::from_millis(5));
    }
    hosts.wires[1].cut();
    while phase(&now()) != Some(MigrationPhase::Live) {
        assert!(Instant::now() < end, "{:?}\n{}", now(), hosts.logs());
        std::thread::sleep(Duration::from_millis(5));
    }
    // It runs, though nothing can be sent.
    hosts.check(0, "web");
    hosts.wires[1].heal();
    let ended = hosts.end_of(0, &operation);
    let outcome = ended.migration.unwrap_or_else(|| panic!("{:?}\n{}", ended.error, hosts.logs()));
    assert!(outcome.connections > 1, "{outcome:?}");
    hosts.check(1, "web");
}

#[test]
fn what_a_source_loses_is_found_by_the_audit_and_what_a_destination_forgets_is_refused() {
    let name =
        "what_a_source_loses_is_found_by_the_audit_and_what_a_destination_forgets_is_refused";
    if !has_kvm(name) {
        return;
    }
    let _shared = shared();
    let forgetful: &[(&str, &str)] = &[("NOVACRON_FAULT", "drop-dirty-bits")];
    let hosts = Hosts::start_with([forgetful, &[]]);
    hosts.daemons[0].oracle("web", "fill=16M working_set=8M rate=20000", RestartPolicy::Never);
    let operation = hosts.begin_move(0, "web", |request| request.audit = ReceiptAudit::Whole);
    let ended = hosts.end_of(0, &operation.unwrap());
    let outcome = ended.migration.unwrap_or_else(|| panic!("{:?}\n{}", ended.error, hosts.logs()));
    assert!(outcome.audited_different > 0, "{outcome:?}");
    let receipt: Receipt =
        hosts.daemons[0].client().get(&format!("/v1/receipts/{}", outcome.session)).unwrap();
    assert_eq!(receipt.statement.audit, ReceiptAudit::None, "nobody signs that it was clean");
    assert!(!hosts.verdict(1, "web").contains("verdict ok"), "the guest sees it, too");

    let forgetful: &[(&str, &str)] = &[("NOVACRON_FAULT", "drop-field,reference")];
    let hosts = Hosts::start_with([&[], forgetful]);
    hosts.busy(0, RestartPolicy::Never);
    let refused = hosts.moves(0, "web").unwrap_err().to_string();
    assert!(refused.contains("the state, as KVM gives it back"), "{refused}");
    assert_eq!(settled(&hosts), Rest::Stayed);
    hosts.check(0, "web");
}

#[test]
fn no_machine_process_has_its_hosts_key() {
    if !has_kvm("no_machine_process_has_its_hosts_key") {
        return;
    }
    let _shared = shared();
    let hosts = Hosts::start();
    hosts.busy(0, RestartPolicy::Never);
    let operation = hosts.begin_move(0, "web", slowly).unwrap();
    wait_until_sent(&hosts, 0, &operation, 1 << 20);
    let daemons = [0, 1].map(|host: usize| {
        let info: Info = hosts.daemons[host].client().get("/v1/info").unwrap();
        info.process_id
    });
    for host in [0, 1] {
        let key = std::fs::read(hosts.daemons[host].state().join("host.key")).unwrap();
        // The seed of an Ed25519 key in PKCS #8 (RFC 8410).
        let seed = &key[16..48];
        let process = hosts.daemons[host].show("web").process_id.unwrap();
        match (memory_has(daemons[host], seed), memory_has(process, seed)) {
            (Some(daemon_has), Some(machine_has)) => {
                assert!(daemon_has, "else it would be looked for in the wrong way");
                assert!(!machine_has, "host {host}");
            }
            _ => {
                return eprintln!("SKIPPED no_machine_process_has_its_hosts_key: no right to look");
            }
        }
    }
}

/// Whether these bytes are anywhere in a process's memory that can be read; none if that may not be looked at.
fn memory_has(process: u32, bytes: &[u8]) -> Option<bool> {
    use std::os::unix::fs::FileExt;
    let memory = std::fs::File::open(format!("/proc/{process}/mem")).ok()?;
    let maps = std::fs::read_to_string(format!("/proc/{process}/maps")).ok()?;
    for line in maps.lines().filter(|line| line.contains(" r")) {
        let (range, rest) = line.split_once(' ')?;
        // Neither the guest's own memory nor what the kernel maps for everybody.
        if rest.contains("memfd") || rest.contains("[v") {
            continue;
        }
        let (start, end) = range.split_once('-')?;
        let start = u64::from_str_radix(start, 16).ok()?;
        let end = u64::from_str_radix(end, 16).ok()?;
        let mut content = vec![0; usize::try_from(end - start).ok()?];
        let Ok(count) = memory.read_at(&mut content, start) else { continue };
        if content[..count].windows(bytes.len()).any(|window| window == bytes) {
            return Some(true);
        }
    }
    Some(false)
}

#[test]
fn what_is_known_of_a_link_follows_it_in_seconds() {
    if !has_kvm("what_is_known_of_a_link_follows_it_in_seconds") {
        return;
    }
    let _shared = shared();
    let hosts = Hosts::start();
    let spec = MachineSpec {
        memory_bytes: 512 << 20,
        boot: Boot::Oracle { options: "fill=480M working_set=2M rate=500".to_owned() },
        ..MachineSpec::default()
    };
    let create = CreateMachine { name: "web".parse().unwrap(), spec };
    hosts.daemons[0].client().post::<Machine>("/v1/machines", &create).unwrap();
    hosts.daemons[0].operate("web", "start").unwrap();
    hosts.daemons[0].wait_for_log("web", "ready");
    let (fast, slow) = (16 << 20, 2 << 20);
    hosts.wires[1].limit(fast);
    let began = Instant::now();
    let operation = hosts.begin_move(0, "web", |request| request.max_downtime_ms = 2_000).unwrap();
    let path = format!("/v1/operations/{}", operation.id);
    // The rate that is seen, once it lies between these.
    let sees = |least: u64, most: u64, within: Duration| {
        let began = Instant::now();
        loop {
            let now: Operation = hosts.daemons[0].client().get(&path).unwrap();
            let moving = now.progress.as_ref().and_then(|progress| progress.migration.clone());
            let rate = moving.as_ref().and_then(|moving| moving.bytes_per_second);
            if rate.is_some_and(|rate| (least..most).contains(&rate)) {
                return began.elapsed();
            }
            assert!(began.elapsed() < within, "{least}..{most}: {now:?}\n{}", hosts.logs());
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    // What is in the sockets' buffers goes faster, at first.
    sees(fast / 2, fast * 3 / 2, Duration::from_secs(10));
    let mut changes = Vec::new();
    for (rate, after) in [(slow, fast), (fast, slow)] {
        hosts.wires[1].limit(rate);
        changes.push((began.elapsed(), rate));
        let took = sees(rate / 2, rate * 3 / 2, Duration::from_secs(3));
        println!("from {after} to {rate} bytes/s: seen after {took:?}");
        // Long enough to be in the report.
        std::thread::sleep(Duration::from_millis(600));
    }
    hosts.wires[1].limit(0);
    let ended = hosts.end_of(0, &operation);
    assert_eq!(ended.state, OperationState::Done, "{ended:?}\n{}", hosts.logs());
    hosts.check(1, "web");
    // The report shows the same, but for what has changed by less than a quarter: each change, and what was done about it.
    let plan = ended.migration.unwrap().plan;
    for (changed, rate) in changes {
        let follows = plan.iter().find(|entry| {
            let at = Duration::from_nanos(entry.at_ns);
            (rate / 2..rate * 2).contains(&entry.bytes_per_second)
                && (changed.saturating_sub(Duration::from_secs(1))
                    ..changed + Duration::from_secs(3))
                    .contains(&at)
        });
        assert!(follows.is_some(), "{rate} after {changed:?}: {plan:#?}");
    }
    let batch = |rate: u64| {
        let seen = |entry: &&MigrationPlan| (rate / 2..rate * 2).contains(&entry.bytes_per_second);
        plan.iter().filter(seen).map(|entry| entry.batch_pages).max()
    };
    assert!(batch(slow) < batch(fast), "{plan:#?}");
}

#[test]
fn over_a_slow_link_most_of_the_state_goes_before_the_blackout() {
    if !has_kvm("over_a_slow_link_most_of_the_state_goes_before_the_blackout") {
        return;
    }
    let _shared = shared();
    let hosts = Hosts::start();
    // Four vCPUs, and a console that has always printed more.
    let options = "fill=256k working_set=128k rate=100 report=5".to_owned();
    let (cpus, boot) = (4.try_into().unwrap(), Boot::Oracle { options });
    let spec = MachineSpec { cpus, boot, memory_bytes: 64 << 20, ..MachineSpec::default() };
    let create = CreateMachine { name: "web".parse().unwrap(), spec };
    hosts.daemons[0].client().post::<Machine>("/v1/machines", &create).unwrap();
    hosts.daemons[0].operate("web", "start").unwrap();
    hosts.daemons[0].wait_for_log("web", "ready");
    hosts.wires[1].limit(128 << 10);
    let operation = hosts.begin_move(0, "web", |request| request.max_downtime_ms = 2_000).unwrap();
    let there = hosts.end_of(0, &operation).migration.unwrap_or_else(|| panic!("{}", hosts.logs()));
    hosts.check(1, "web");
    println!(
        "{} bytes of state, {} of them in the blackout; it stood still for {} us before",
        there.state_bytes,
        there.state_bytes_paused,
        there.looked_ns / 1000
    );
    assert!((1..200_000_000).contains(&there.looked_ns), "{there:?}");
    let ahead = there.state_bytes - there.state_bytes_paused;
    assert!(there.state_bytes_paused > 0 && there.state_bytes_paused * 2 < ahead, "{there:?}");

    // Where the link takes it at once, the guest does not stand still twice.
    let back = hosts.moves(1, "web").unwrap_or_else(|error| panic!("{error}\n{}", hosts.logs()));
    hosts.check(0, "web");
    assert_eq!((back.looked_ns, back.state_bytes), (0, back.state_bytes_paused), "{back:?}");
}

#[test]
fn whoever_is_no_host_is_turned_away_and_holds_up_nobody_for_long() {
    if !has_kvm("whoever_is_no_host_is_turned_away_and_holds_up_nobody_for_long") {
        return;
    }
    let _shared = shared();
    let hosts = Hosts::start();
    hosts.busy(0, RestartPolicy::Never);
    let port = Hosts::port(&hosts.daemons[1]);
    let info: Info = hosts.daemons[1].client().get("/v1/info").unwrap();
    let descriptors =
        || std::fs::read_dir(format!("/proc/{}/fd", info.process_id)).map_or(0, Iterator::count);
    let before = descriptors();
    // The first bytes of a ClientHello that never comes to its end, words, and silence.
    let beginnings: [&[u8]; 4] =
        [b"\x16\x03\x01\x02\x00\x01\x00", b"GET / HTTP/1.1\r\n\r\n", b"\0", b""];
    let strangers: Vec<_> = (0..200)
        .filter_map(|nth| {
            let mut socket = std::net::TcpStream::connect(port).ok()?;
            std::io::Write::write_all(&mut socket, beginnings[nth % 4]).ok()?;
            Some(socket)
        })
        .collect();
    assert!(descriptors() < before + 100, "no more than the limit and a few are held");
    let end = Instant::now() + Duration::from_secs(20);
    while !hosts.daemons[0]
        .novacron(&["migrate", "web", "--to", "west", "--dry-run"])
        .status
        .success()
    {
        assert!(Instant::now() < end, "{}", hosts.logs());
    }
    drop(strangers);
    while descriptors() > before + 4 {
        assert!(Instant::now() < end, "{} of {before}", descriptors());
        std::thread::sleep(Duration::from_millis(20));
    }
    hosts.moves(0, "web").unwrap();
    hosts.check(1, "web");
}

#[test]
fn a_machine_that_is_on_both_hosts_after_a_statement_is_not_taken_from_either() {
    let name = "a_machine_that_is_on_both_hosts_after_a_statement_is_not_taken_from_either";
    if !has_kvm(name) {
        return;
    }
    let _shared = shared();
    let hosts = Hosts::start();
    hosts.busy(0, RestartPolicy::Always);
    hosts.moves(0, "web").unwrap();
    hosts.daemons[1].operate("web", "stop").unwrap();
    // True, as far as copies go that are alive.
    hosts.daemons[0].says(&["migrate", "resolve", "web", "--run-here", "--yes"]);
    hosts.daemons[0].wait_for_state("web", MachineState::Stopped);
    hosts.daemons[0].operate("web", "start").unwrap();
    let refused = hosts.moves(0, "web").unwrap_err().to_string();
    assert!(refused.contains("the machine is on this host"), "{refused}");
    let dry = hosts.daemons[0].novacron(&["migrate", "web", "--to", "west", "--dry-run"]);
    assert_eq!(dry.status.code(), Some(1), "{dry:?}");
    // Nothing has become of the one there.
    let there = hosts.daemons[1].show("web");
    assert_eq!((there.state, there.process_id), (MachineState::Stopped, None));
    hosts.check(0, "web");
}

#[test]
fn a_machine_that_is_restarted_after_its_process_died_in_a_move_can_be_used() {
    let name = "a_machine_that_is_restarted_after_its_process_died_in_a_move_can_be_used";
    if !has_kvm(name) {
        return;
    }
    let _shared = shared();
    let faulty: &[(&str, &str)] = &[("NOVACRON_FAULT", "kill:MoveCopied")];
    let hosts = Hosts::start_with([faulty, &[]]);
    hosts.busy(0, RestartPolicy::Always);
    let operation = hosts.begin_move(0, "web", |request| request.timeout_ms = 1000).unwrap();
    let ended = hosts.end_of(0, &operation);
    assert_eq!(ended.state, OperationState::Failed, "{ended:?}");
    let again = hosts.daemons[0]
        .wait_for("web", |machine| machine.restarts == 1 && machine.state == MachineState::Running);
    assert_eq!(again.operation, None);
    hosts.daemons[0].operate("web", "stop").unwrap();
}

#[test]
fn a_machine_that_is_paused_does_not_move() {
    if !has_kvm("a_machine_that_is_paused_does_not_move") {
        return;
    }
    let _shared = shared();
    let hosts = Hosts::start();
    hosts.busy(0, RestartPolicy::Never);
    hosts.daemons[0].says(&["pause", "web"]);
    let refused = hosts.moves(0, "web").unwrap_err().to_string();
    assert!(refused.contains("web is paused"), "{refused}");
    assert_eq!(hosts.daemons[0].show("web").state, MachineState::Paused);
    assert_eq!(hosts.daemons[1].names().len(), 0);
}
