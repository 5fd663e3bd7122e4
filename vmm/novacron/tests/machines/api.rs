//! The control socket: who may do what, what it refuses, and what it counts.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use control::api::{Machine, MachineState, RestartPolicy};
use control::{METHODS, Method, Role};
use rustix::fs::{Gid, Uid};

use crate::daemon::Daemon;
use crate::harness::{has_kvm, shared};

/// Users whom no host has.
const STRANGER: u32 = 61_000;
const VIEWER: u32 = 61_001;
const OPERATOR: u32 = 61_002;

/// Far more than anything takes on a loaded host.
const PATIENCE: Duration = Duration::from_secs(20);

/// An answer, as far as it came.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) text: String,
}

/// Sends bytes, and reads until the daemon closes the connection or says nothing for a while.
pub(crate) fn send(socket: &Path, request: &[u8]) -> Answer {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    // It may have been refused before it was all sent.
    let _ = stream.write_all(request);
    read(stream)
}

fn read(mut stream: UnixStream) -> Answer {
    let (mut bytes, mut piece) = (Vec::new(), [0; 4096]);
    while let Ok(count @ 1..) = stream.read(&mut piece) {
        bytes.extend_from_slice(&piece[..count]);
        // A stream of events has no end.
        if bytes.starts_with(b"HTTP/1.1 200") && bytes.windows(12).any(|w| w == b"event-stream") {
            break;
        }
    }
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    Answer { status, text }
}

pub(crate) fn request(verb: &str, path: &str, body: &str) -> Vec<u8> {
    format!(
        "{verb} {path} HTTP/1.1\r\nhost: n\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// Calls as another user. Linux has credentials by thread: this one is lost for anything else.
fn call_as(uid: u32, socket: &Path, request: Vec<u8>) -> Answer {
    let socket = socket.to_owned();
    std::thread::spawn(move || {
        let (user, group) = (Uid::from_raw(uid), Gid::from_raw(uid));
        rustix::thread::set_thread_groups(&[]).unwrap();
        rustix::thread::set_thread_res_gid(group, group, group).unwrap();
        rustix::thread::set_thread_res_uid(user, user, user).unwrap();
        send(&socket, &request)
    })
    .join()
    .unwrap()
}

/// A daemon that everybody can connect to, with a viewer and an operator.
fn open_daemon() -> Daemon {
    let (viewer, operator) =
        (format!("roles.viewer=user:{VIEWER}"), format!("roles.operator=user:{OPERATOR}"));
    let daemon = Daemon::start_set(&["socket.mode=0666", &viewer, &operator]);
    let open = std::fs::Permissions::from_mode(0o711);
    std::fs::set_permissions(daemon.folder(), open).unwrap();
    daemon
}

fn is_root(test: &str) -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        eprintln!("SKIPPED {test}: only root can become another user");
    }
    is_root
}

#[test]
fn every_method_takes_its_role_and_who_has_less_changes_nothing() {
    if !is_root("every_method_takes_its_role_and_who_has_less_changes_nothing") {
        return;
    }
    let _shared = shared();
    let daemon = open_daemon();
    daemon.says(&["audit", "verify", "--state", daemon.state().to_str().unwrap()]);
    let create = r#"{"name":"one"}"#;
    assert_eq!(send(&daemon.socket(), &request("POST", "/v1/machines", create)).status, 201);
    let before = daemon.show("one");
    let callers =
        [(STRANGER, None), (VIEWER, Some(Role::Viewer)), (OPERATOR, Some(Role::Operator))];
    for method in METHODS {
        for (uid, role) in callers {
            let may = role.is_some_and(|role| role >= method.role);
            // What an operator may, the last test of all does.
            if may && method.changes {
                continue;
            }
            let answer = call_as(uid, &daemon.socket(), call(&method));
            let context = format!("{} by {uid}: {answer:?}", method.name);
            if may {
                // There is no such operation, and no such receipt; and a check needs to know of which host.
                let is_missing = ["{id}", "{session}"].iter().any(|it| method.path.contains(it))
                    || method.name == "machines.migration_check";
                assert_eq!(answer.status / 100, if is_missing { 4 } else { 2 }, "{context}");
                assert_ne!(answer.status, 403, "{context}");
            } else {
                assert_eq!(answer.status, 403, "{context}");
                assert!(answer.text.contains("roles"), "it says what to do: {context}");
            }
        }
    }
    assert_eq!(daemon.show("one"), before);
    // Every refusal of a change is in the audit log, with who it was.
    let shown = daemon.says(&[
        "audit",
        "show",
        "--state",
        daemon.state().to_str().unwrap(),
        "--output",
        "json",
        "--last",
        "1000",
    ]);
    for method in METHODS.iter().filter(|method| method.changes) {
        assert!(shown.contains(method.name), "{} is not in the audit log", method.name);
    }
    // Who may is answered by the method itself; the last one ends the daemon.
    for method in METHODS.iter().filter(|method| method.changes && method.role <= Role::Operator) {
        let answer = call_as(OPERATOR, &daemon.socket(), call(method));
        assert!(!matches!(answer.status, 0 | 403), "{}: {answer:?}", method.name);
    }
    for method in METHODS {
        let answer = send(&daemon.socket(), &call(&method));
        assert!(!matches!(answer.status, 0 | 403), "{}: {answer:?}", method.name);
    }
}

#[test]
fn every_change_has_both_of_its_ends_in_the_audit_log() {
    if !has_kvm("every_change_has_both_of_its_ends_in_the_audit_log") {
        return;
    }
    let _shared = shared();
    let daemon = Daemon::start();
    daemon.says(&["run", "one", "--memory", "32M", "--cmdline", "fill=4M rate=200", "--detach"]);
    daemon.says(&["pause", "one"]);
    daemon.says(&["snapshot", "one", "one.nova"]);
    daemon.says(&["restore", "one.nova", "--name", "two", "--lazy", "--detach"]);
    assert!(!daemon.novacron(&["delete", "two"]).status.success(), "it runs");
    daemon.operate("one", "stop").unwrap();
    daemon.says(&["delete", "one"]);
    let state = daemon.state();
    let show =
        ["audit", "show", "--output", "json", "--last", "1000", "--state", state.to_str().unwrap()];
    let shown: serde_json::Value = serde_json::from_str(&daemon.says(&show)).unwrap();
    let word =
        |call: &serde_json::Value, field: &str| call[field].as_str().unwrap_or_default().to_owned();
    let calls: Vec<_> =
        shown.as_array().unwrap().iter().filter_map(|record| record.get("call")).collect();
    let asked: Vec<_> = calls.iter().filter(|call| call["phase"] == "asked").collect();
    let ends: Vec<_> = asked
        .iter()
        .map(|asked| {
            let is_its = |call: &&&serde_json::Value| {
                call["phase"] == "done" && call["operation"] == asked["operation"]
            };
            let done: Vec<_> = calls.iter().filter(is_its).collect();
            assert_eq!(done.len(), 1, "{asked} ends once: {done:?}");
            let method = word(done[0], "method");
            format!("{method} {} {}", word(done[0], "target"), word(done[0], "outcome"))
        })
        .filter(|end| !end.starts_with("files.pass"))
        .collect();
    let expected = [
        "machines.create one ok",
        "machines.start one ok",
        "machines.pause one ok",
        "machines.snapshot one ok",
        "snapshots.restore two ok",
        "machines.delete two conflict",
        "machines.stop one ok",
        "machines.delete one ok",
    ];
    assert_eq!(ends, expected);
    daemon.says(&["audit", "verify", "--state", state.to_str().unwrap()]);
}

/// A call of a method that would do something, if it were allowed.
fn call(method: &Method) -> Vec<u8> {
    let path = method.path.replace("{name}", "one").replace("{id}", "0").replace("{session}", "0");
    let body = match method.name {
        "machines.create" => r#"{"name":"two"}"#,
        "machines.snapshot" => r#"{"file":"one.nova"}"#,
        "snapshots.restore" => r#"{"file":"one.nova","name":"two"}"#,
        "machines.stop" | "machines.handover" | "shutdown" => "{}",
        _ => "",
    };
    request(method.verb.name(), &path, body)
}

#[test]
fn what_no_call_looks_like_is_refused_in_its_place_and_in_time() {
    let _shared = shared();
    let daemon = Daemon::start_set(&["limits.request_timeout=500ms", "limits.request_size=4K"]);
    let socket = daemon.socket();
    let check = |what: &str, request: &[u8], status: u16, word: &str| {
        let started = Instant::now();
        let answer = send(&socket, request);
        assert_eq!(answer.status, status, "{what}: {answer:?}");
        assert!(answer.text.contains(word), "{what}: {answer:?}");
        assert!(started.elapsed() < Duration::from_secs(4), "{what}: {:?}", started.elapsed());
    };
    let post = |body: &str| request("POST", "/v1/machines", body);
    check("no JSON", &post("{"), 400, "bad_request");
    check("no object", &post("7"), 400, "bad_request");
    check("no name", &post("{}"), 400, "missing field `name`");
    check("a bad name", &post(r#"{"name":"../x"}"#), 400, "is no name");
    check("an unknown field", &post(r#"{"name":"a","colour":1}"#), 400, "unknown field `colour`");
    check("an impossible machine", &post(r#"{"name":"a","spec":{"cpus":65}}"#), 400, "spec.cpus");
    check("too much", &post(&format!(r#"{{"name":"{}"}}"#, "a".repeat(5000))), 413, "too_large");
    check("deep", &post(&"[".repeat(4000)), 400, "bad_request");
    check("no path", &request("GET", "/v1/nothing", ""), 404, "not_found");
    check("a wrong verb", &request("PUT", "/v1/machines", ""), 405, "method_not_allowed");
    check("no machine", &request("GET", "/v1/machines/a", ""), 404, "novacron list");
    check("a name that is none", &request("GET", "/v1/machines/%2e%2e", ""), 400, "is no name");
    check("no HTTP", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400, "");
    let form = b"POST /v1/machines HTTP/1.1\r\nhost: n\r\ncontent-type: text/plain\r\ncontent-length: 2\r\n\r\n{}";
    check("a form", form, 400, "application/json");
    let many = format!("GET /v1/info HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(1000));
    check("many headers", many.as_bytes(), 431, "");
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(100_000));
    assert_ne!(send(&socket, long.as_bytes()).status, 200);
    check(
        "a body that does not come",
        b"POST /v1/machines HTTP/1.1\r\nhost: n\r\ncontent-length: 9\r\n\r\n{",
        408,
        "timed_out",
    );
    // A head that does not come, and a caller that closes one half: the connection ends.
    for start in [&b"GET /v1/info HT"[..], b""] {
        let started = Instant::now();
        send(&socket, start);
        assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
    }
    let mut half = UnixStream::connect(&socket).unwrap();
    half.write_all(b"GET /v1/info HTTP/1.1\r\n").unwrap();
    half.shutdown(std::net::Shutdown::Write).unwrap();
    read(half);
    assert_eq!(daemon.names(), []);
    assert_eq!(send(&socket, &request("GET", "/v1/health", "")).status, 200);
}

#[test]
fn connections_beyond_the_limit_are_told_so_and_the_others_are_served() {
    let _shared = shared();
    let daemon = Daemon::start_set(&["limits.connections=8"]);
    let open: Vec<_> = (0..8).map(|_| UnixStream::connect(daemon.socket()).unwrap()).collect();
    let end = Instant::now() + Duration::from_secs(20);
    while send(&daemon.socket(), &request("GET", "/v1/info", "")).status != 429 {
        assert!(Instant::now() < end, "eight connections are open");
    }
    drop(open);
    while send(&daemon.socket(), &request("GET", "/v1/info", "")).status != 200 {
        assert!(Instant::now() < end, "they are closed");
    }
    let metrics = String::from_utf8(daemon.client().get_bytes("/v1/metrics").unwrap()).unwrap();
    assert!(!metrics.contains("novacron_api_connections_refused_total 0\n"), "{metrics}");
}

#[test]
fn files_outside_of_the_folders_are_no_files() {
    let _shared = shared();
    let daemon = Daemon::start();
    std::os::unix::fs::symlink("/etc/passwd", daemon.state().join("images/link")).unwrap();
    for (number, kernel) in
        ["/etc/passwd", "../lock", "link", "/proc/self/mem", "/dev/zero", "nothing", "", "fd:0"]
            .iter()
            .enumerate()
    {
        let name = format!("m{number}");
        let create = serde_json::json!({
            "name": name,
            "spec": { "boot": { "type": "kernel", "kernel": kernel } },
        });
        daemon.client().post::<Machine>("/v1/machines", &create).unwrap();
        let error = daemon.operate(&name, "start").unwrap_err().to_string();
        assert!(error.contains("files may be named in"), "{kernel}: {error}");
        let machine = daemon.wait_for_state(&name, MachineState::Stopped);
        assert!(machine.ended.unwrap().failed);
    }
}

/// A metric's value; 0 if it is not there yet.
fn metric(daemon: &Daemon, name: &str) -> f64 {
    value(&String::from_utf8(daemon.client().get_bytes("/v1/metrics").unwrap()).unwrap(), name)
}

/// The same in a text that has them all.
pub(crate) fn value(metrics: &str, name: &str) -> f64 {
    let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.and_then(|value| value.parse().ok()).unwrap_or(0.0)
}

#[test]
fn every_metric_moves_when_what_it_counts_happens() {
    if !has_kvm("every_metric_moves_when_what_it_counts_happens") {
        return;
    }
    let _shared = shared();
    let daemon = Daemon::start();
    const SLOW: &str = "fill=4M working_set=1M rate=200 report=200";
    let moves = |name: &str, happen: &dyn Fn()| {
        let before = metric(&daemon, name);
        happen();
        let end = Instant::now() + Duration::from_secs(20);
        while metric(&daemon, name) <= before {
            assert!(Instant::now() < end, "{name} stays at {before}");
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    let list = r#"novacron_api_calls_total{method="machines.list",status="200"}"#;
    moves(list, &|| drop(daemon.names()));
    let seconds = r#"novacron_api_call_duration_seconds_count{method="machines.list"}"#;
    moves(seconds, &|| drop(daemon.names()));
    let held = std::cell::RefCell::new(Vec::new());
    moves("novacron_api_connections", &|| {
        // More than those of calls before that are not closed yet.
        held.borrow_mut().extend((0..8).map(|_| UnixStream::connect(daemon.socket()).unwrap()));
    });
    drop(held);
    moves("novacron_console_output_bytes_total", &|| {
        daemon.oracle("one", SLOW, RestartPolicy::OnFailure);
    });
    let of_one = |name: &str| format!("novacron_machine_{name}{{machine=\"one\"}}");
    // Its guest works, and reports that.
    moves(&of_one("cpu_seconds_total"), &|| {});
    moves(&of_one("console_output_bytes_total"), &|| {});
    assert!(metric(&daemon, &of_one("resident_bytes")) >= f64::from(4 << 20), "fill=4M");
    assert!(metric(&daemon, r#"novacron_machines{state="running"}"#) > 0.5);
    moves("novacron_audit_records_total", &|| drop(daemon.says(&["pause", "one"])));
    daemon.says(&["resume", "one"]);
    moves("novacron_blackout_seconds_count", &|| drop(daemon.operate("one", "handover").unwrap()));
    moves("novacron_snapshot_bytes_total", &|| drop(daemon.says(&["snapshot", "one", "one.nova"])));
    moves(r#"novacron_guest_ends_total{end="failed"}"#, &|| drop(daemon.says(&["kill", "one"])));
    moves("novacron_machine_restarts_total", &|| {
        daemon.wait_for("one", |machine| machine.restarts > 0);
        daemon.wait_for_state("one", MachineState::Running);
    });
    moves(r#"novacron_guest_ends_total{end="orderly"}"#, &|| {
        daemon.operate("one", "stop").unwrap();
    });
    assert!(metric(&daemon, "novacron_operations_running") < 0.5);
    assert!(metric(&daemon, &of_one("resident_bytes")) < 0.5, "it has no process any more");
}

#[test]
fn events_are_followed_from_where_one_left_and_a_gap_is_said() {
    let _shared = shared();
    let mut daemon = Daemon::start_set(&["limits.events_kept=4"]);
    // Before anything else has happened: who comes late can have what was.
    let first = daemon.client().recent_events(9).unwrap().next_within(PATIENCE).unwrap().unwrap();
    assert_eq!(first.kind.name(), "daemon_started");
    let mut events = daemon.client().events(None).unwrap();
    let make = |name: &str| {
        let create = serde_json::json!({ "name": name });
        daemon.client().post::<Machine>("/v1/machines", &create).unwrap();
    };
    make("a");
    let first = events.next_event().unwrap().unwrap();
    make("b");
    drop(events);
    let next = daemon.client().events(Some(&first.id)).unwrap().next_event().unwrap().unwrap();
    assert_eq!(serde_json::to_value(&next.kind).unwrap()["machine"], "b");
    for name in ["c", "d", "e", "f", "g"] {
        make(name);
    }
    let gap = daemon.client().events(Some(&first.id)).unwrap().next_event().unwrap().unwrap();
    assert_eq!(gap.kind.name(), "gap");
    // Another life has other events.
    daemon.kill();
    daemon.start_again();
    let gap = daemon.client().events(Some(&next.id)).unwrap().next_event().unwrap().unwrap();
    assert_eq!(gap.kind.name(), "gap");
}
