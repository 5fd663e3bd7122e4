//! `novacron top`: what it shows of a real daemon, and how it leaves a terminal.

use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use control::api::{Info, RestartPolicy};
use rustix::process::{Pid, Signal, kill_process};

use crate::daemon::Daemon;
use crate::harness::{has_kvm, shared};
use crate::pseudo_terminal::PseudoTerminal;

const LEAVES_ALTERNATE_SCREEN: &str = "\u{1b}[?1049l";
const SHOWS_CURSOR: &str = "\u{1b}[?25h";

fn top(daemon: &Daemon, environment: &[(&str, &str)]) -> PseudoTerminal {
    let mut command = daemon.command(&["top", "--interval", "1"]);
    command.envs(environment.iter().copied());
    PseudoTerminal::run(&command, 100, 30)
}

/// The cells of a machine's row below their headings; figures and their units are one cell.
fn cell(screen: &str, machine: &str, heading: &str) -> String {
    let headings = screen.lines().find(|line| line.starts_with("  NAME ")).unwrap();
    let row = screen.lines().find(|line| line.get(2..).is_some_and(|row| row.starts_with(machine)));
    let row = row.unwrap_or_else(|| panic!("{machine} is not in\n{screen}"));
    let end = headings.find(heading).unwrap() + heading.len();
    let cell = row.get(..end.min(row.len())).unwrap().trim_end();
    cell.rsplit("  ").next().unwrap().trim().to_owned()
}

#[test]
fn one_screen_shows_a_machine_that_works_and_what_it_uses() {
    if !has_kvm("one_screen_shows_a_machine_that_works_and_what_it_uses") {
        return;
    }
    let _shared = shared();
    let daemon = Daemon::start();
    daemon.oracle("worker", "fill=4M working_set=1M report=20", RestartPolicy::Never);
    let screen = || {
        let mut command = daemon.command(&["top", "--once", "--interval", "1"]);
        let output = command.env("COLUMNS", "120").env("LINES", "25").output().unwrap();
        assert!(output.status.success(), "{output:?}\n{}", daemon.log());
        String::from_utf8(output.stdout).unwrap()
    };
    let shown = screen();
    assert_eq!(shown.lines().count(), 25, "{shown}");
    assert!(
        shown.starts_with(&format!("NovaCron {}  ready", env!("CARGO_PKG_VERSION"))),
        "{shown}"
    );
    assert!(shown.contains("machines  1 use ") && shown.contains(": 1 running"), "{shown}");
    assert!(shown.contains("worker is running"), "events that were before are there: {shown}");
    let running = cell(&shown, "worker", "STATE   ");
    assert_eq!(running, "running", "{shown}");
    assert_eq!(cell(&shown, "worker", "MEMORY"), "32 MiB", "{shown}");
    let number = |shown: &str, heading: &str| -> f64 {
        let cell = cell(shown, "worker", heading);
        cell.split(' ').next().unwrap().parse().unwrap_or_else(|_| panic!("{cell:?} in {shown}"))
    };
    assert!(number(&shown, " CPU") > 0.0, "its guest does not stand still: {shown}");
    assert!(number(&shown, "RESIDENT") >= 4.0, "its guest has filled 4 MiB: {shown}");
    assert!(number(&shown, "CONSOLE/S") > 0.0, "its guest reports 50 times a second: {shown}");
    daemon.says(&["pause", "worker"]);
    let shown = screen();
    assert_eq!(cell(&shown, "worker", "STATE   "), "paused", "{shown}");
    assert!(number(&shown, " CPU") < 20.0, "its guest stands still: {shown}");
    daemon.operate("worker", "stop").unwrap();
    let shown = screen();
    assert_eq!(cell(&shown, "worker", "STATE   "), "stopped", "{shown}");
    assert!(shown.contains("the guest was stopped"), "{shown}");
}

#[test]
fn however_it_ends_the_terminal_is_as_it_was() {
    let _shared = shared();
    let daemon = Daemon::start();
    let check = |what: &str, environment: &[(&str, &str)], end: &dyn Fn(&mut PseudoTerminal)| {
        let mut terminal = top(&daemon, environment);
        let is_to_panic = !environment.is_empty();
        if !is_to_panic {
            terminal.wait_for("no machines");
            assert!(terminal.is_raw() && !terminal.is_as_it_was(), "{what}");
            end(&mut terminal);
        }
        let (status, written) = terminal.end();
        let aborted = is_to_panic.then_some(libc::SIGABRT);
        assert_eq!(status.signal(), aborted, "{what}: {status}: {written}");
        assert!(is_to_panic || status.success(), "{what}: {status}: {written}");
        assert!(terminal.is_as_it_was() && !terminal.is_raw(), "{what}");
        let last = written.rfind(LEAVES_ALTERNATE_SCREEN);
        let last = last.unwrap_or_else(|| panic!("{what}: it stays on the alternate screen"));
        assert!(written[last..].contains(SHOWS_CURSOR), "{what}: the cursor stays hidden");
        if is_to_panic {
            assert!(written[last..].contains("a test has asked for a panic"), "{what}: {written}");
        }
    };
    check("q", &[], &|terminal| terminal.type_in("q"));
    check("Esc", &[], &|terminal| terminal.type_in("\u{1b}"));
    check("Ctrl-C", &[], &|terminal| terminal.type_in("\u{3}"));
    for signal in [Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT] {
        check(&format!("{signal:?}"), &[], &|terminal| terminal.signal(signal));
    }
    check("a panic", &[("NOVACRON_FAULT", "panic:top")], &|_| {});
}

#[test]
fn a_daemon_that_goes_comes_back_or_hangs_is_shown_and_no_key_waits_for_it() {
    let _shared = shared();
    let mut daemon = Daemon::start();
    let mut terminal = top(&daemon, &[]);
    terminal.wait_for("ready");
    terminal.wait_for("no machines");
    daemon.kill();
    terminal.wait_for("NO DAEMON");
    terminal.wait_for("no daemon answers on");
    daemon.start_again();
    terminal.wait_for("ready");
    let create = serde_json::json!({ "name": "new-one" });
    daemon.client().post::<control::api::Machine>("/v1/machines", &create).unwrap();
    terminal.wait_for("new-one  ");
    terminal.wait_for("new-one was made");

    let process = daemon.client().get::<Info>("/v1/info").unwrap().process_id;
    let process = Pid::from_raw(process.try_into().unwrap()).unwrap();
    kill_process(process, Signal::STOP).unwrap();
    terminal.type_in("?");
    terminal.wait_for("hold the display");
    terminal.type_in("x");
    terminal.wait_for("SILENT for");
    kill_process(process, Signal::CONT).unwrap();
    terminal.wait_for("ready");

    terminal.resize(30, 8);
    terminal.wait_for("This terminal has 30 columns");
    terminal.resize(60, 15);
    terminal.wait_for("q leave");
    assert!(terminal.screen().lines().count() <= 15, "{}", terminal.screen());
    terminal.type_in("q");
    assert!(terminal.end().0.success());
}

#[test]
fn what_is_no_terminal_is_refused_with_what_to_do_instead() {
    let _shared = shared();
    let folder = tempfile::tempdir().unwrap();
    let refuses = |arguments: &[&str], code: i32, words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_novacron"));
        command.arg("top").args(arguments).env("NOVACRON_SOCKET", folder.path().join("s"));
        let output = command.output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
        for word in words {
            assert!(said.contains(word), "{arguments:?}: {word:?} is not in {said}");
        }
    };
    refuses(&[], 1, &["not both a terminal", "`novacron top --once`"]);
    refuses(&["--once"], 1, &["no daemon answers", "novacron daemon"]);
    for interval in ["0", "61", "-1", "x", "1.5"] {
        let option = format!("--interval={interval}");
        refuses(&["--once", &option], 2, &["--interval"]);
    }
}
