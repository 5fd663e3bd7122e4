//! The harness itself: what the other tests take for granted.

use std::time::{Duration, Instant};

use qemu_tests::script::{REPORT_PORT, VENDOR};
use qemu_tests::{
    ADDRESSES, Accelerator, Disk, Ending, Firmware, HostError, Link, MachineError, RunningHost,
    Variable, WiredHosts,
};

use crate::support::{case, host};

#[test]
fn a_host_runs_its_script_in_order_and_reports_each_ending() {
    let Some(case) = case("a_host_runs_its_script_in_order_and_reports_each_ending") else {
        return;
    };
    let running = host()
        .run(&["/init", "exit", "0"])
        .run(&["/init", "exit", "7"])
        .run(&["/bin/absent"])
        .boot(&case)
        .unwrap();
    let report = running.finish().unwrap();
    let endings: Vec<_> =
        report.runs.iter().map(|run| (run.command.as_str(), run.ending)).collect();
    assert_eq!(
        endings,
        [
            ("/init exit 0", Ending::Exit(0)),
            ("/init exit 7", Ending::Exit(7)),
            ("/bin/absent", Ending::Exit(127)),
        ]
    );
}

#[test]
fn a_port_carries_bytes_both_ways_between_a_test_and_a_program_in_its_host() {
    let Some(case) =
        case("a_port_carries_bytes_both_ways_between_a_test_and_a_program_in_its_host")
    else {
        return;
    };
    let mut running = host()
        .port("org.novacron.test")
        .run(&["/init", "answer", "org.novacron.test"])
        .boot(&case)
        .unwrap();
    let deadline = running.machine().deadline();
    let port = running.machine().port("org.novacron.test").unwrap();
    port.send(b"question 4711\n").unwrap();
    assert_eq!(port.wait_for("answer:", deadline).unwrap(), "answer: question 4711");
    let report = running.finish().unwrap();
    assert_eq!(report.runs[0].ending, Ending::Exit(0), "{}", report.runs[0]);
}

#[test]
fn a_host_that_never_ends_is_ended_at_its_time_limit_with_its_logs_written() {
    let Some(case) =
        case("a_host_that_never_ends_is_ended_at_its_time_limit_with_its_logs_written")
    else {
        return;
    };
    let mut running = host().run(&["/init", "sleep", "3600"]).boot(&case).unwrap();
    let deadline = running.machine().deadline();
    running.machine().port(REPORT_PORT).unwrap().wait_for("host: run", deadline).unwrap();
    running.machine().end_within(Duration::from_millis(200));
    let asked = Instant::now();
    let error = running.finish().unwrap_err();
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
    assert!(
        matches!(error, HostError::Machine { error: MachineError::StillRunning, .. }),
        "{error}"
    );
    assert!(error.to_string().contains("host: run /init sleep 3600"), "{error}");
    let console = std::fs::read_to_string(case.logs.join("console.log")).unwrap();
    assert!(console.contains("Linux version 6.12"), "{console}");
}

#[test]
fn a_machine_is_gone_with_its_handle_and_a_lost_one_with_its_thread() {
    let name = "a_machine_is_gone_with_its_handle_and_a_lost_one_with_its_thread";
    let Some(case) = case(name) else { return };
    let runs = |id: u32| {
        let status = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        // The state follows the name in brackets; Z is a process that is dead and not waited for.
        status.rsplit_once(") ").is_some_and(|(_, state)| !state.starts_with('Z'))
    };

    let mut running = host().run(&["/init", "sleep", "3600"]).boot(&case).unwrap();
    let id = running.machine().id();
    assert!(runs(id));
    drop(running);
    assert!(!runs(id));

    // As when a test process is killed: the thread ends, and nothing drops the handle.
    let start = || host().run(&["/init", "sleep", "3600"]).boot(&case).unwrap();
    let mut lost = std::thread::scope(|scope| scope.spawn(start).join().unwrap());
    let id = lost.machine().id();
    let limit = Instant::now() + Duration::from_secs(10);
    while runs(id) {
        assert!(Instant::now() < limit, "QEMU {id} outlives its thread");
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(lost);
}

#[test]
fn a_host_whose_kernel_panics_ends_at_once_with_the_panic_in_the_failure() {
    let Some(case) = case("a_host_whose_kernel_panics_ends_at_once_with_the_panic_in_the_failure")
    else {
        return;
    };
    // An init that needs an interpreter which is not there: the kernel finds no init and panics.
    let script = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&script, "#!/absent\n").unwrap();
    let running = host().file("/init", script.path()).unwrap().boot(&case).unwrap();
    let started = Instant::now();
    let error = running.finish().unwrap_err();
    assert!(matches!(error, HostError::Report { .. }), "{error}");
    assert!(started.elapsed() < Duration::from_secs(30));
    let text = error.to_string();
    assert!(text.contains("Kernel panic"), "{text}");
}

#[test]
fn an_emulated_host_that_does_not_come_to_its_init_is_started_again_and_given_up() {
    let name = "an_emulated_host_that_does_not_come_to_its_init_is_started_again_and_given_up";
    let Some(case) = case(name) else { return };
    if Accelerator::asked_for() == Accelerator::Kvm {
        return;
    }
    // Less than any machine needs to emulate a boot; half of it is how long each of three starts may take.
    let limit = Duration::from_millis(600);
    let asked = Instant::now();
    let running = host().run(&["/init", "exit", "0"]).time_limit(limit).boot(&case).unwrap();
    assert!(asked.elapsed() > limit * 3 / 2, "{:?}", asked.elapsed());
    let error = running.finish().unwrap_err();
    assert!(asked.elapsed() < Duration::from_secs(30), "{:?}", asked.elapsed());
    assert!(
        matches!(error, HostError::Machine { error: MachineError::StillRunning, .. }),
        "{error}"
    );
}

/// What came back of datagrams of 1,000 bytes.
#[derive(Clone, Copy, Debug)]
struct Ping {
    back: u32,
    fastest: Duration,
    all: Duration,
}

/// From the first host to the second: so many, each so long after the one before.
fn ping(hosts: &mut WiredHosts, count: u32, every: Duration) -> Ping {
    let [address, count, every] =
        [ADDRESSES[1].to_string(), count.to_string(), every.as_micros().to_string()];
    let run = hosts.host(0).run(&["/init", "ping", &address, &count, &every]).unwrap();
    assert_eq!(run.ending, Ending::Exit(0), "{run}");
    let numbers: Vec<u64> = run.output[0].split(' ').filter_map(|word| word.parse().ok()).collect();
    let [back, _, fastest_us, all_us] = numbers[..] else { panic!("{run}") };
    let [fastest, all] = [fastest_us, all_us].map(Duration::from_micros);
    Ping { back: back.try_into().unwrap(), fastest, all }
}

#[test]
fn a_wire_is_as_long_and_as_bad_as_a_test_wants_it_while_it_is_in_use() {
    let name = "a_wire_is_as_long_and_as_bad_as_a_test_wants_it_while_it_is_in_use";
    let Some(case) = case(name) else { return };
    let mut hosts = WiredHosts::boot(&case, [host(), host()]).unwrap();
    let mut echo = hosts.host(1).start(&["/init", "echo"]).unwrap();
    hosts.host(1).wait_for(&mut echo, "echo: listens").unwrap();
    let step = Duration::from_millis(4);

    // As it is: nothing is lost, and it is much shorter than the ones below.
    let plain = ping(&mut hosts, 100, step);
    assert_eq!(plain.back, 100, "{plain:?}");
    assert!(plain.fastest < Duration::from_millis(20), "{plain:?}");

    let trip = Duration::from_millis(80);
    hosts.shape(Link { round_trip: trip, ..Link::default() }).unwrap();
    let long = ping(&mut hosts, 100, step);
    assert_eq!(long.back, 100, "{long:?}");
    assert!((trip..trip + Duration::from_millis(20)).contains(&long.fastest), "{long:?}");

    // A fifth there and a fifth on the way back: 64 % of 500 come back, by chance some 11 more or fewer.
    hosts.shape(Link::new(0, 200)).unwrap();
    let lossy = ping(&mut hosts, 500, Duration::from_millis(1));
    assert!((320 - 55..320 + 55).contains(&lossy.back), "{lossy:?}");
    assert!(lossy.fastest < trip, "{lossy:?}");

    // All at once, over a wire that takes a second for them: 125 packets of 1,000 bytes.
    hosts.shape(Link { rate: Some(125_000), ..Link::default() }).unwrap();
    let narrow = ping(&mut hosts, 125, Duration::ZERO);
    assert_eq!(narrow.back, 125, "{narrow:?}");
    assert!((950..1500).contains(&narrow.all.as_millis()), "{narrow:?}");

    hosts.shape(Link::CUT).unwrap();
    let cut = ping(&mut hosts, 20, step);
    assert_eq!(cut.back, 0, "{cut:?}");
    hosts.shape(Link::default()).unwrap();
    let healed = ping(&mut hosts, 20, step);
    assert_eq!(healed.back, 20, "{healed:?}");

    eprintln!("{plain:?}\n{long:?}\n{lossy:?}\n{narrow:?}");
    for report in hosts.finish().unwrap() {
        assert_eq!(report.runs[0].ending, Ending::Exit(0), "{}", report.runs[0]);
    }
}

#[test]
fn two_hosts_have_one_time_once_their_clocks_are_set() {
    let Some(case) = case("two_hosts_have_one_time_once_their_clocks_are_set") else { return };
    let mut hosts = WiredHosts::boot(&case, [host(), host()]).unwrap();
    for number in [0, 1] {
        let before = hosts.host(number).clock().unwrap();
        let after = hosts.host(number).set_clock().unwrap();
        eprintln!("host {number}: {before:?}, then {after:?}");
        assert!(after.error_ns < 5_000_000, "{after:?}");
        assert!(after.ahead_ns.abs() < 10_000_000, "{after:?}");
    }
    hosts.finish().unwrap();
}

#[test]
fn a_disk_has_what_one_machine_wrote_for_the_next_and_for_the_test() {
    let name = "a_disk_has_what_one_machine_wrote_for_the_next_and_for_the_test";
    let Some(case) = case(name) else { return };
    let (first, second) =
        (Disk::empty("first", 1 << 20).unwrap(), Disk::empty("second", 1 << 20).unwrap());
    second.write(0, b"from the test").unwrap();
    let running = host()
        .disk(&first)
        .disk(&second)
        .run(&["/init", "disk-read", "second", "13"])
        .run(&["/init", "disk-write", "first", "from the host"])
        .run(&["/init", "disk-read", "third", "1"]);
    let report = running.boot(&case).unwrap().finish().unwrap();
    assert_eq!(report.runs[0].output, ["disk second: from the test"]);
    assert_eq!(report.runs[1].ending, Ending::Exit(0), "{}", report.runs[1]);
    assert!(report.runs[2].output[0].contains("no disk has the serial number third"));
    assert_eq!(first.read(0, 14).unwrap(), b"from the host\0");
    // It lost its power, and had been told that it was written.
    let mut running = host()
        .disk(&first)
        .run(&["/init", "disk-read", "first", "13"])
        .run(&["/init", "disk-write", "first", "then power is lost"])
        .run(&["/init", "sleep", "3600"])
        .boot(&case)
        .unwrap();
    let deadline = running.machine().deadline();
    let report = running.machine().port(REPORT_PORT).unwrap();
    report.wait_for("disk first: from the host", deadline).unwrap();
    report.wait_for("host: run /init sleep", deadline).unwrap();
    // Two machines that write to one disk would be a test that proves nothing.
    let other = host().disk(&first).boot(&case).and_then(RunningHost::finish);
    let words = std::fs::read_to_string(case.logs.join("qemu.log")).unwrap();
    assert!(matches!(other, Err(HostError::Machine { .. })), "{other:?}");
    assert!(words.contains("lock"), "{words}");
    running.machine().kill();
    assert_eq!(first.read(0, 19).unwrap(), b"then power is lost\0");
}

#[test]
fn firmware_keeps_its_variables_from_one_machine_to_the_next() {
    let name = "firmware_keeps_its_variables_from_one_machine_to_the_next";
    let Some(case) = case(name) else { return };
    let firmware = Firmware::new().unwrap();
    let ours = |firmware: &Firmware| -> Vec<_> {
        let all = firmware.variables().unwrap();
        all.into_iter().filter(|variable| variable.vendor == VENDOR).collect()
    };
    assert_eq!(ours(&firmware), []);
    let set = ["/init", "variable-set", "Which", "slot b"];
    let get = ["/init", "variable-get", "Which"];
    let run = |firmware: &Firmware, command: &[&str]| {
        let running = host().firmware(firmware).run(command).boot(&case).unwrap();
        let report = running.finish().unwrap();
        report.runs.into_iter().next().unwrap()
    };
    let done = run(&firmware, &set);
    assert_eq!(done.ending, Ending::Exit(0), "{done}");
    let expected = Variable {
        name: "Which".to_owned(),
        vendor: VENDOR.to_owned(),
        attributes: 7,
        data: b"slot b".to_vec(),
    };
    assert_eq!(ours(&firmware), [expected]);
    assert_eq!(run(&firmware, &get).output, ["variable Which: slot b"]);
    // Another machine's is another's.
    let other = run(&Firmware::new().unwrap(), &get);
    assert_eq!(other.ending, Ending::Exit(64), "{other}");
}
