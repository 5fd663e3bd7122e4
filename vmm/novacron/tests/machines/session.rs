//! The README's first session, run as it is written; and what verbs say, to the letter.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};

use control::api::{MachineState, RestartPolicy};

use crate::daemon::Daemon;
use crate::harness::{has_kvm, shared};

const README: &str = include_str!("../../../../README.md");

/// The commands of the first session, without those that build the executable.
fn session() -> String {
    let rest = README.split_once("## A first session").expect("the README has one").1;
    let block = rest.split("```").nth(1).expect("it has commands");
    let commands = block.strip_prefix("sh\n").unwrap();
    let start = commands.find("novacron run").unwrap();
    commands[start..].to_owned()
}

/// Ends the daemon that the session started, and its machines, should it stop in the middle.
struct Ended<'a>(&'a Path);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        let mut end = Command::new(env!("CARGO_BIN_EXE_novacron"));
        let _ = end
            .args(["shutdown", "--stop-machines"])
            .env("NOVACRON_SOCKET", self.0.join("run/control.sock"))
            .stderr(Stdio::null())
            .status();
    }
}

#[test]
fn the_first_session_of_the_readme_runs_as_it_is_written() {
    if !has_kvm("the_first_session_of_the_readme_runs_as_it_is_written") {
        return;
    }
    let _shared = shared();
    let folder = tempfile::tempdir().unwrap();
    let _ended = Ended(folder.path());
    let executable = env!("CARGO_BIN_EXE_novacron");
    // A person leaves the console with a key; here a signal does it. The daemon is started by the first command.
    let script = format!(
        "set -eu\nnovacron() {{ case $1 in console) timeout 1 {executable} \"$@\" || true;; *) {executable} \"$@\";; esac; }}\n{}",
        session()
    );
    let output = Command::new("bash")
        .args(["-c", &script])
        .current_dir(folder.path())
        .env("NOVACRON_SOCKET", folder.path().join("run/control.sock"))
        .env("NOVACRON_STORAGE_STATE", folder.path().join("state"))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let complaints = String::from_utf8_lossy(&output.stderr);
    let log = std::fs::read_to_string(folder.path().join("run/daemon.log")).unwrap_or_default();
    assert!(output.status.success(), "{said}\n{complaints}\n{log}");
    for word in [
        "running",
        "oracle: hello",
        "saved to web.nova",
        "blackout",
        "\"name\":\"copy\"",
        "machines.snapshot",
    ] {
        assert!(said.contains(word), "{word:?} is not in: {said}\n{complaints}");
    }
    assert!(complaints.contains("a daemon was started"), "{complaints}");
    assert!(!folder.path().join("run/control.sock").exists(), "the daemon has ended");
    for socket in std::fs::read_dir(folder.path().join("run/machines")).unwrap() {
        let socket = socket.unwrap().path();
        assert!(UnixStream::connect(&socket).is_err(), "a machine is left: {}", socket.display());
    }
}

/// Words in the place of what differs from run to run.
fn golden(text: &str) -> String {
    let word = |word: &str| {
        let is_number = !word.is_empty() && word.chars().all(|c| c.is_ascii_digit());
        let is_id = word.len() >= 16 && word.chars().all(|c| c.is_ascii_hexdigit());
        let is_moment = word.len() > 20 && word.ends_with('Z') && word.contains('T');
        match () {
            () if is_moment => "MOMENT".to_owned(),
            () if is_id => "ID".to_owned(),
            () if is_number => "N".to_owned(),
            () => word.to_owned(),
        }
    };
    let line = |line: &str| line.split_whitespace().map(word).collect::<Vec<_>>().join(" ");
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn what_verbs_say_is_as_it_was() {
    if !has_kvm("what_verbs_say_is_as_it_was") {
        return;
    }
    let _shared = shared();
    let daemon = Daemon::start();
    assert_eq!(daemon.says(&["list"]), "NAME  STATE  CPUS  MEMORY  UP  PROCESS  LATELY\n");
    daemon.oracle("web", "fill=4M rate=200", RestartPolicy::OnFailure);
    let check = |arguments: &[&str], expected: &str| {
        assert_eq!(golden(&daemon.says(arguments)), expected, "{arguments:?}");
    };
    check(&["list"], "NAME STATE CPUS MEMORY UP PROCESS LATELY\nweb running N N MiB N s N");
    check(
        &["show", "web"],
        "name web\nid ID\nstate running\ncpus N (host)\nmemory N MiB\n\
         boots the oracle guest fill=4M rate=200\nrestart on_failure\ncreated MOMENT\nstarted MOMENT\n\
         process N",
    );
    check(&["pause", "web"], "");
    check(&["list"], "NAME STATE CPUS MEMORY UP PROCESS LATELY\nweb paused N N MiB N s N");
    check(&["stop", "web"], "");
    check(
        &["list"],
        "NAME STATE CPUS MEMORY UP PROCESS LATELY\nweb stopped N N MiB the guest was stopped",
    );
    check(
        &["operation"],
        "ID METHOD MACHINE STATE BEGAN ERROR\nID machines.start web done MOMENT\n\
         ID machines.stop web done MOMENT",
    );
    check(&["delete", "web"], "");

    let refuses = |arguments: &[&str], expected: &str| {
        let output = daemon.novacron(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {output:?}");
        assert_eq!(String::from_utf8(output.stderr).unwrap(), expected, "{arguments:?}");
    };
    refuses(
        &["pause", "web"],
        "novacron: there is no machine web; `novacron list` shows those that there are\n",
    );
    refuses(
        &["operation", "0"],
        "novacron: there is no operation \"0\"; operations are forgotten when the daemon ends, and the \
         oldest when there are many; the audit log has them all\n",
    );
    let socket = daemon.folder().join("other");
    let socket = socket.to_str().unwrap();
    refuses(
        &["list", "--socket", socket],
        &format!(
            "novacron: no daemon answers on {socket}: No such file or directory (os error 2); start \
             one with `novacron daemon`, or name its socket with --socket\n"
        ),
    );
}

#[test]
fn who_waited_for_an_operation_finds_the_machine_as_it_left_it() {
    if !has_kvm("who_waited_for_an_operation_finds_the_machine_as_it_left_it") {
        return;
    }
    let _shared = shared();
    let daemon = Daemon::start();
    for round in 0..20 {
        daemon.oracle("web", "fill=4M rate=200", RestartPolicy::Always);
        daemon.operate("web", "stop").unwrap();
        // Looked at first, since that waits for nothing; a deletion waits for the audit log.
        assert_eq!(daemon.show("web").state, MachineState::Stopped, "{round}");
        daemon
            .client()
            .delete("/v1/machines/web")
            .unwrap_or_else(|error| panic!("{round}: {error}"));
        // One that cannot be started, neither: `run` deletes it, so that its name is free.
        let create = serde_json::json!({
            "name": "web",
            "spec": { "boot": { "type": "kernel", "kernel": "nothing" } },
        });
        daemon.client().post::<control::api::Machine>("/v1/machines", &create).unwrap();
        daemon.operate("web", "start").unwrap_err();
        assert_eq!(daemon.show("web").state, MachineState::Stopped, "{round}");
        daemon
            .client()
            .delete("/v1/machines/web")
            .unwrap_or_else(|error| panic!("{round}: {error}"));
    }
}

#[test]
fn json_has_stable_names() {
    let _shared = shared();
    let daemon = Daemon::start();
    let create = serde_json::json!({ "name": "web" });
    daemon.client().post::<control::api::Machine>("/v1/machines", &create).unwrap();
    let list: serde_json::Value =
        serde_json::from_str(&daemon.says(&["list", "--output", "json"])).unwrap();
    let mut names: Vec<_> = list[0].as_object().unwrap().keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["created_at", "id", "name", "restarts", "spec", "state"]);
    let spec: Vec<_> = list[0]["spec"].as_object().unwrap().keys().cloned().collect();
    for name in ["boot", "cpu", "cpus", "dirty_log", "hole_start_bytes", "memory_bytes", "restart"]
    {
        assert!(spec.iter().any(|found| found == name), "{name}: {spec:?}");
    }
}

#[test]
fn machines_step_back_behind_others_as_far_as_the_configuration_says() {
    if !has_kvm("machines_step_back_behind_others_as_far_as_the_configuration_says") {
        return;
    }
    let _shared = shared();
    let daemon = Daemon::start_set(&["machines.nice=7"]);
    daemon.oracle("web", "fill=4M rate=200", RestartPolicy::Never);
    let is_nice = |machine: &control::api::Machine| {
        let threads = format!("/proc/{}/task", machine.process_id.unwrap());
        for thread in std::fs::read_dir(threads).unwrap() {
            let stat = std::fs::read_to_string(thread.unwrap().path().join("stat")).unwrap();
            // proc_pid_stat(5): the 19th field, counted from the name's end, which may have spaces in it.
            let (_, fields) = stat.rsplit_once(')').unwrap();
            assert_eq!(fields.split_whitespace().nth(16), Some("7"), "{stat}");
        }
    };
    is_nice(&daemon.show("web"));
    daemon.operate("web", "handover").unwrap();
    is_nice(&daemon.show("web"));
}
