//! A machine in the foreground is saved when it is asked to end, and restored.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use firmware::oracle::report::Report;
use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{has_kvm, shared};

/// A verb of `novacron` in the foreground, and what its guest says.
struct Foreground {
    child: Child,
    console: BufReader<ChildStdout>,
}

impl Foreground {
    fn start(arguments: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_novacron"))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let console = BufReader::new(child.stdout.take().unwrap());
        Self { child, console }
    }

    /// Waits until the guest says something that `is_it` takes.
    fn wait_for(&mut self, is_it: impl Fn(&Report<'_>) -> bool) {
        loop {
            let mut line = String::new();
            assert_ne!(self.console.read_line(&mut line).unwrap(), 0, "the guest fell silent");
            // A restored one goes on in the middle of a line.
            if Report::parse(line.trim_end()).is_ok_and(|report| is_it(&report)) {
                return;
            }
        }
    }

    fn ask_to_end(&self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
    }

    /// Its exit code, and what it said on standard error.
    fn end(mut self) -> (Option<i32>, String) {
        // Whoever reads no more must not keep it from ending.
        std::thread::spawn(move || std::io::copy(&mut self.console, &mut std::io::sink()));
        let output = self.child.wait_with_output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

const GUEST: [&str; 6] = [
    "run",
    "oracle",
    "--memory",
    "32M",
    "--cmdline",
    "pattern=random rate=2000 working_set=1M report=50",
];

#[test]
fn a_machine_that_is_asked_to_end_is_saved_and_goes_on_where_it_was() {
    if !has_kvm("a_machine_that_is_asked_to_end_is_saved_and_goes_on_where_it_was") {
        return;
    }
    let _shared = shared();
    let folder = tempfile::tempdir().unwrap();
    let [one, two, key] = ["one", "two", "key"].map(|name| folder.path().join(name));
    fs::write(&key, [7; 32]).unwrap();
    let key = ["--key", text(&key)];
    let mut first = Foreground::start(&[&GUEST[..], &key, &["--suspend-to", text(&one)]].concat());
    first.wait_for(|report| matches!(report, Report::Rounds(_)));
    first.ask_to_end();
    let (code, said) = first.end();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains(&format!("saved to {}", one.display())), "{said}");

    let onto = ["restore", text(&one), "--lazy", "--suspend-to", text(&two), "--base", text(&one)];
    let mut second = Foreground::start(&[&onto[..], &key].concat());
    second.wait_for(|report| matches!(report, Report::Rounds(_)));
    second.child.stdin.as_mut().unwrap().write_all(b"v").unwrap();
    second.wait_for(|report| match report {
        Report::Verdict(verdict) => {
            assert!(verdict.ok && verdict.tsc_backwards == 0, "{verdict:?}");
            true
        }
        _ => false,
    });
    second.ask_to_end();
    let (code, said) = second.end();
    assert_eq!(code, Some(0), "{said}");
    let bytes = |path: &Path| fs::metadata(path).unwrap().len();
    assert!(bytes(&two) < bytes(&one) / 2, "an increment of {} bytes", bytes(&two));

    let (code, said) = Foreground::start(&["restore", text(&two)]).end();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("is encrypted; give its key with --key"), "{said}");
}

#[test]
fn a_guest_that_cannot_be_saved_goes_on() {
    if !has_kvm("a_guest_that_cannot_be_saved_goes_on") {
        return;
    }
    let _shared = shared();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("one");
    let options = [&GUEST[..], &["--suspend-to", text(&path)]].concat();
    let mut machine = Foreground::start(&options);
    machine.wait_for(|report| matches!(report, Report::Rounds(_)));
    fs::write(&path, b"of somebody else").unwrap();
    machine.ask_to_end();
    let mut reports = 0;
    while reports < 5 {
        machine.wait_for(|report| matches!(report, Report::Rounds(_)));
        reports += 1;
    }
    machine.ask_to_end();
    let (code, said) = machine.end();
    assert_eq!(code, Some(1), "{said}");
    for words in ["never overwritten", "the guest goes on", "ended, and not saved"] {
        assert!(said.contains(words), "no `{words}`: {said}");
    }
    assert_eq!(fs::read(&path).unwrap(), b"of somebody else");
    // And the next one is told before it starts.
    let (code, said) = Foreground::start(&options).end();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("it is there already"), "{said}");
}
