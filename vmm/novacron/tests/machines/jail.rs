//! The jail of a machine process: what it does not have, and what happens when it tries.

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use control::Client;
use control::api::{Info, Machine, Shutdown};
use machine::{Death, Form, SuperviseError};

use crate::harness::{Faulty, MIB, Oracle, Shape, has_kvm, shared};

const SHAPE: fn() -> Shape = || Shape { memory: 64 * MIB, ..Shape::default() };

/// What `/proc/PID/status`, or a thread's, says of something.
fn status(path: &Path, of: &str) -> String {
    let text = fs::read_to_string(path.join("status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{of}:")));
    line.unwrap_or_else(|| panic!("{of} in {text}")).trim().to_owned()
}

fn process(id: u32) -> PathBuf {
    PathBuf::from(format!("/proc/{id}"))
}

/// Asserts of a process that it has nothing of the host's but what was passed to it; returns how many threads it has.
fn is_in_jail(id: u32) -> usize {
    let threads = has_no_rights(id);
    for namespace in ["net", "mnt", "ipc", "uts"] {
        assert_ne!(link(&process(id), namespace), link(Path::new("/proc/self"), namespace));
    }
    let root = fs::read_dir(process(id).join("root")).unwrap();
    assert_eq!(root.count(), 0, "its root is empty");
    let mounts = fs::read_to_string(process(id).join("mounts")).unwrap();
    assert_eq!(mounts.lines().count(), 1, "nothing else is mounted: {mounts}");
    threads
}

fn link(process: &Path, namespace: &str) -> PathBuf {
    fs::read_link(process.join("ns").join(namespace)).unwrap()
}

/// Asserts it of every thread.
fn has_no_rights(id: u32) -> usize {
    let tasks = fs::read_dir(process(id).join("task")).unwrap();
    let mut threads = 0;
    for task in tasks {
        let task = task.unwrap().path();
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(status(&task, set), "0000000000000000", "{set} of {}", task.display());
        }
        assert_eq!(status(&task, "NoNewPrivs"), "1");
        assert_eq!(status(&task, "Seccomp"), "2");
        threads += 1;
    }
    threads
}

#[test]
fn a_machine_process_has_nothing_but_what_it_was_given() {
    if !has_kvm("a_machine_process_has_nothing_but_what_it_was_given") {
        return;
    }
    let mut oracle = Oracle::boot(SHAPE(), &Faulty::new(""));
    // The loop and two vCPUs; KVM has threads of its own in the process.
    assert!(is_in_jail(oracle.machine.process().id()) >= 3);
    oracle.hand_over(Form::Copying).unwrap();
    is_in_jail(oracle.machine.process().id());
    oracle.end_well();
}

/// Boots with a fault that must end the process, before or after it says that its guest runs: how it ended, and the
/// error's words.
fn dies_of(fault: &str) -> (Option<Death>, String) {
    let booted = Oracle::try_boot(SHAPE(), &Faulty::new(fault));
    let outcome = booted.and_then(|oracle| oracle.machine.wait());
    match outcome {
        Err(error @ SuperviseError::Lost { death, .. }) => (death, error.to_string()),
        other => panic!("{fault}: {other:?}"),
    }
}

#[test]
fn a_forbidden_call_kills_the_process_and_is_reported_as_such() {
    if !has_kvm("a_forbidden_call_kills_the_process_and_is_reported_as_such") {
        return;
    }
    for fault in [
        "call:device-loop:openat",
        "call:vcpu:openat",
        "call:device-loop:socket",
        "call:device-loop:execve",
        // What one kind of thread may, another may not.
        "call:vcpu:eventfd2",
    ] {
        let (death, words) = dies_of(fault);
        assert_eq!(death, Some(Death::Signal(libc::SIGSYS)), "{fault}: {words}");
        assert!(words.contains("killed for a forbidden system call (SIGSYS)"), "{words}");
    }
}

#[test]
fn a_forbidden_call_in_a_job_kills_the_process() {
    let name = "a_forbidden_call_in_a_job_kills_the_process";
    if !has_kvm(name) {
        return;
    }
    let mut oracle = Oracle::boot(SHAPE(), &Faulty::new("call:job:eventfd2"));
    let error = oracle.hand_over(Form::Shared).unwrap_err();
    let is_killed = |death: &Option<Death>| *death == Some(Death::Signal(libc::SIGSYS));
    assert!(matches!(&error, SuperviseError::Lost { death, .. } if is_killed(death)), "{error:?}");
}

#[test]
fn a_new_process_that_is_killed_is_named_and_the_guest_goes_on() {
    if !has_kvm("a_new_process_that_is_killed_is_named_and_the_guest_goes_on") {
        return;
    }
    let mut oracle = Oracle::boot(SHAPE(), &Faulty::new(""));
    let outcome = oracle.hand_over_with(Form::Shared, &Faulty::new("call:vcpu:openat"));
    let error = outcome.unwrap_err();
    assert!(matches!(error, SuperviseError::HandOver(_)), "{error:?}");
    assert!(error.to_string().contains("SIGSYS"), "{error}");
    oracle.wait_for_rounds(50);
    oracle.end_well();
}

#[test]
fn a_panic_and_a_crash_are_told_from_a_forbidden_call() {
    if !has_kvm("a_panic_and_a_crash_are_told_from_a_forbidden_call") {
        return;
    }
    for (fault, signal, name) in [
        ("panic:device-loop", libc::SIGABRT, "SIGABRT"),
        ("panic:vcpu", libc::SIGABRT, "SIGABRT"),
        ("crash:vcpu", libc::SIGSEGV, "SIGSEGV"),
    ] {
        let (death, words) = dies_of(fault);
        assert_eq!(death, Some(Death::Signal(signal)), "{fault}: {words}");
        assert!(words.contains(&format!("killed by {name}")), "{words}");
    }
}

#[test]
fn no_name_opens_even_past_the_filter() {
    if !has_kvm("no_name_opens_even_past_the_filter") {
        return;
    }
    let error = Oracle::try_boot(SHAPE(), &Faulty::new("open-by-name")).err().unwrap();
    let said = error.to_string();
    // The root is there, and Landlock keeps it; and there is nothing in it.
    assert!(said.contains("/: PermissionDenied") && said.contains("/proc: NotFound"), "{said}");
}

/// A shell's beginning of what another user does: a /dev of its own, in which everybody may open /dev/kvm.
const DEV: &str = "mount -t tmpfs none /dev && mknod -m 666 /dev/kvm c 10 232 \
                   && mknod -m 666 /dev/null c 1 3 && ";

/// `novacron daemon`, started by a shell that becomes another user first.
struct Other {
    child: Child,
    client: Client,
    _folder: tempfile::TempDir,
}

impl Other {
    /// `become_other` is a command that runs what follows it. `None`, with a word why, where that cannot be had.
    fn run(test: &str, become_other: &str) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED {test}: only root can become another user");
            return None;
        }
        // The build directory may be closed to other users; a copy is not.
        let folder = tempfile::Builder::new().prefix("novacron-test").tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let copy = folder.path().join("novacron");
        fs::copy(env!("CARGO_BIN_EXE_novacron"), &copy).unwrap();
        let own = folder.path().join("own");
        fs::create_dir(&own).unwrap();
        fs::set_permissions(&own, fs::Permissions::from_mode(0o777)).unwrap();
        let script = format!(
            "{DEV} exec {become_other} \"$0\" daemon --config /dev/null --log warn --socket {own}/s --state {own}/state",
            own = own.display()
        );
        let child = Command::new("unshare")
            .args(["--mount", "sh", "-c", &script])
            .arg(&copy)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let client = Client::new(&own.join("s")).unwrap();
        Some(Self { child, client, _folder: folder })
    }

    /// Makes a machine and starts it; returns the process that runs it.
    fn machine(&mut self) -> u32 {
        let end = Instant::now() + Duration::from_secs(60);
        while self.client.get::<Info>("/v1/info").is_err() {
            if self.child.try_wait().unwrap().is_some() || Instant::now() > end {
                panic!("no daemon: {}", self.said());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let create = serde_json::json!({ "name": "one", "spec": { "memory_bytes": 32 << 20 } });
        self.client.post::<Machine>("/v1/machines", &create).unwrap();
        let start = self.client.post("/v1/machines/one/start", &()).unwrap();
        self.client.wait(start, &mut |_| {}).unwrap();
        self.client.get::<Machine>("/v1/machines/one").unwrap().process_id.unwrap()
    }

    fn said(&mut self) -> String {
        let mut said = String::new();
        self.child.stderr.as_mut().unwrap().read_to_string(&mut said).unwrap();
        said
    }

    /// Ends it; what it said on standard error.
    fn end(mut self) -> String {
        let stop = Shutdown { stop_machines: true };
        self.client.post_for_nothing("/v1/shutdown", &stop).unwrap();
        let said = self.said();
        self.child.wait().unwrap();
        said
    }
}

#[test]
fn a_machine_of_an_ordinary_user_is_in_the_same_jail() {
    let name = "a_machine_of_an_ordinary_user_is_in_the_same_jail";
    if !has_kvm(name) {
        return;
    }
    let _shared = shared();
    let nobody = "setpriv --reuid 65534 --regid 65534 --clear-groups";
    let Some(mut other) = Other::run(name, nobody) else { return };
    let id = other.machine();
    assert_eq!(status(&process(id), "Uid").split_whitespace().next(), Some("65534"));
    assert!(is_in_jail(id) >= 2);
    assert_ne!(link(&process(id), "user"), link(Path::new("/proc/self"), "user"));
    assert_eq!(other.end(), "", "nothing is missing, and nothing is said");
}

#[test]
fn where_no_namespace_may_be_made_that_is_said_and_the_rest_holds() {
    let name = "where_no_namespace_may_be_made_that_is_said_and_the_rest_holds";
    if !has_kvm(name) {
        return;
    }
    let _shared = shared();
    // In a user namespace that may have none below it, and without the rights of its root.
    let nobody = "unshare --user --map-root-user sh -c \
                  'echo 0 > /proc/sys/user/max_user_namespaces && \
                  exec setpriv --bounding-set -all --inh-caps -all \"$0\" \"$@\"'";
    let Some(mut other) = Other::run(name, nobody) else { return };
    let id = other.machine();
    assert!(has_no_rights(id) >= 2);
    assert_eq!(link(&process(id), "net"), link(Path::new("/proc/self"), "net"));
    let said = other.end();
    assert_eq!(said.matches("stays in namespaces of its host").count(), 1, "{said}");
}
