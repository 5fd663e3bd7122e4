//! `novacron demo`: all that it shows, and that it leaves nothing behind.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{has_kvm, shared};

/// Small, and written slowly enough for a busy host.
const SMALL: [&str; 5] =
    ["--memory=64M", "--hole-start=32M", "--working-set=1M", "--rate=500", "--times=1"];

/// A demonstration that keeps its folders in this one.
fn demo(folder: &Path, options: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_novacron"));
    command.arg("demo").args(SMALL).args(options).env("TMPDIR", folder);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Processes that were started with this folder as theirs, as far as their environment can be read.
fn processes(folder: &Path) -> Vec<String> {
    let marker = format!("TMPDIR={}\0", folder.display());
    let mut found = Vec::new();
    for process in fs::read_dir("/proc").unwrap().flatten() {
        let environment = fs::read(process.path().join("environ")).unwrap_or_default();
        if String::from_utf8_lossy(&environment).contains(&marker) {
            let words = fs::read(process.path().join("cmdline")).unwrap_or_default();
            let words = String::from_utf8_lossy(&words).replace('\0', " ");
            found.push(format!("{}: {words}", process.file_name().display()));
        }
    }
    found
}

fn leaves_nothing(folder: &Path) {
    let left: Vec<_> = fs::read_dir(folder).unwrap().flatten().map(|left| left.path()).collect();
    assert!(left.is_empty(), "{left:?}");
    let processes = processes(folder);
    assert!(processes.is_empty(), "{processes:?}");
}

/// Reads what it shows, up to a line that begins so.
fn shown_up_to(demo: &mut Child, start: &str) -> Vec<String> {
    let lines = BufReader::new(demo.stdout.as_mut().unwrap()).lines().map(Result::unwrap);
    let mut shown = Vec::new();
    for line in lines {
        shown.push(line);
        if shown[shown.len() - 1].starts_with(start) {
            return shown;
        }
    }
    panic!("no `{start}`: {shown:#?}");
}

#[test]
fn the_demonstration_hands_over_moves_there_and_back_saves_and_restores() {
    if !has_kvm("the_demonstration_hands_over_moves_there_and_back_saves_and_restores") {
        return;
    }
    let _shared = shared();
    let folder = tempfile::tempdir().unwrap();
    let output = demo(folder.path(), &[]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let progress = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{progress}");
    let lines: Vec<_> = said.lines().collect();
    let mut rest = lines.iter();
    for start in [
        "The oracle guest: 2 vCPUs",
        "  filled    ",
        "  running   ",
        "  shared  1/1  blackout ",
        "  copying 1/1  blackout ",
        "  moving    live from here to there, over TLS to 127.0.0.1:",
        "  there     1/1  blackout ",
        "      from      here",
        "      to        there",
        "      blackout  ",
        "      #",
        "      #  pause ",
        "  receipt   ",
        "  running   ",
        "  moving    live from there to here, over TLS to 127.0.0.1:",
        "  back      1/1  blackout ",
        "  receipt   ",
        "  running   ",
        "      MOVE       TOTAL  ",
        "      there 1/1  ",
        "      back 1/1   ",
        "  snapshot  1/1  ",
        "  restored  1/1  ",
        "  increment 1/1  ",
        "  lazily    1/1  ",
        "  verdict   ok: ",
        "demo: ok",
    ] {
        assert!(rest.any(|line| line.starts_with(start)), "no `{start}`: {said}\n{progress}");
    }
    let receipts = lines.iter().filter(|line| line.starts_with("  receipt   "));
    assert_eq!(receipts.filter(|line| line.contains(" verified: ")).count(), 2, "{said}");
    let moves = lines.iter().filter(|line| line.contains("  in process "));
    assert_eq!(moves.filter(|line| line.contains("  the guest saw ")).count(), 2, "{said}");
    assert!(said.contains(" 0 wrong pages, clock backwards 0 times"), "{said}");
    // Shorter phases may not be seen.
    assert!(progress.contains("live: memory is sent while the guest runs"), "{progress}");
    leaves_nothing(folder.path());
}

#[test]
fn a_demonstration_whose_guest_writes_too_fast_moves_it_nevertheless() {
    if !has_kvm("a_demonstration_whose_guest_writes_too_fast_moves_it_nevertheless") {
        return;
    }
    let _shared = shared();
    let folder = tempfile::tempdir().unwrap();
    let options = ["--times=0", "--snapshots=0", "--rate=0", "--working-set=16M"];
    let output = demo(folder.path(), &options).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("  there     1/1  ") && said.contains("  verdict   ok: "), "{said}");
    leaves_nothing(folder.path());
}

#[test]
fn a_demonstration_that_is_asked_to_end_in_a_move_leaves_nothing() {
    if !has_kvm("a_demonstration_that_is_asked_to_end_in_a_move_leaves_nothing") {
        return;
    }
    let _shared = shared();
    for signal in [Signal::INT, Signal::TERM] {
        let folder = tempfile::tempdir().unwrap();
        let mut demo = demo(folder.path(), &["--times=0"]).spawn().unwrap();
        shown_up_to(&mut demo, "  moving    live from here to there");
        // Itself and two daemons; whoever may look into machines sees those, too.
        let running = processes(folder.path());
        assert!(running.len() >= 3, "{running:?}");
        kill_process(Pid::from_child(&demo), signal).unwrap();
        let output = demo.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("asked to end"), "{said}");
        assert!(!said.contains("failed"), "{said}");
        leaves_nothing(folder.path());
    }
}

#[test]
fn a_demonstration_that_loses_a_daemon_says_so_and_leaves_nothing() {
    if !has_kvm("a_demonstration_that_loses_a_daemon_says_so_and_leaves_nothing") {
        return;
    }
    let _shared = shared();
    let folder = tempfile::tempdir().unwrap();
    let mut demo =
        demo(folder.path(), &["--times=0", "--moves=0", "--snapshots=100"]).spawn().unwrap();
    shown_up_to(&mut demo, "  restored  1/100");
    let daemons: Vec<_> = processes(folder.path());
    let daemons = daemons.iter().filter(|process| process.contains(" daemon "));
    for daemon in daemons {
        let (id, _) = daemon.split_once(':').unwrap();
        let id = Pid::from_raw(id.parse().unwrap()).unwrap();
        kill_process(id, Signal::KILL).unwrap();
    }
    let output = demo.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{said}");
    assert!(said.contains("novacron: "), "{said}");
    leaves_nothing(folder.path());
}
