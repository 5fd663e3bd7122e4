//! `novacron audit`: what it says, and its exit codes.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use control::audit::{AuditLog, Call, Outcome, Phase};
use control::config::AuditConfig;
use control::{Caller, Role, Size};
use serde_json::Value;
use tempfile::TempDir;

fn audit(state: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_novacron"));
    command.arg("audit").args(arguments).arg("--state").arg(state).env_clear().output().unwrap()
}

fn says(state: &Path, arguments: &[&str]) -> String {
    let output = audit(state, arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn refuses(state: &Path, arguments: &[&str], words: &str) {
    let output = audit(state, arguments);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(words) && output.stdout.is_empty(), "{words}: {said}");
}

/// A state folder whose log has a start that was done, and a stop that was denied.
fn state() -> TempDir {
    let state = tempfile::tempdir().unwrap();
    let limits = AuditConfig { segment_size: Size(1 << 20), segments_kept: 4 };
    let log = AuditLog::open(&state.path().join("audit"), &limits).unwrap();
    let caller = Caller { uid: 1000, gid: 100, groups: Vec::new(), pid: Some(7) };
    let role = Some(Role::Operator);
    for (method, target, phase) in [
        ("machine.start", "web", Phase::Asked),
        ("machine.start", "web", Phase::Done(Outcome::Ok)),
        ("machine.stop", "d\x1b[2Jb", Phase::Done(Outcome::Denied)),
    ] {
        log.append(Call::new(&caller, role, method, target, None, phase)).unwrap();
    }
    state
}

#[test]
fn a_whole_log_is_summed_up_and_its_hash_can_be_asked_for_later() {
    let state = state();
    let said = says(state.path(), &["verify"]);
    assert!(said.starts_with("ok: 4 records in 1 segments of "), "{said}");
    assert!(said.contains("\nrecords: 1 to 4, 20"), "{said}");
    let json: Value =
        serde_json::from_str(&says(state.path(), &["verify", "--output", "json"])).unwrap();
    assert_eq!((&json["records"], &json["last_seq"]), (&4.into(), &4.into()));
    let head = json["head"].as_str().unwrap();
    assert!(said.contains(&format!("\nhead: {head}\n")), "{said}");
    says(state.path(), &["verify", "--holds", head]);
    refuses(state.path(), &["verify", "--holds", &"1".repeat(64)], "written anew");
}

#[test]
fn a_log_that_was_changed_is_refused_with_the_line() {
    let state = state();
    let segment = state.path().join("audit/00000001.jsonl");
    let text = fs::read_to_string(&segment).unwrap();
    fs::write(&segment, text.replacen("denied", "ok", 1)).unwrap();
    refuses(state.path(), &["verify"], "00000001.jsonl, line 4: this line was altered");
    let lines: Vec<_> = text.lines().collect();
    fs::write(&segment, format!("{}\n", lines[..3].join("\n"))).unwrap();
    refuses(state.path(), &["verify"], "the end was cut off");
    refuses(&state.path().join("nowhere"), &["verify"], "No such file");
}

#[test]
fn records_are_shown_and_chosen_by_method_and_target() {
    let state = state();
    let said = says(state.path(), &["show"]);
    assert_eq!(said.lines().count(), 4);
    assert!(said.contains("  machine.start \"web\" ok (uid 1000, operator)\n"), "{said}");
    // What a caller wrote does nothing to the terminal of whoever reads it.
    assert!(
        said.contains("machine.stop \"d\\u{1b}[2Jb\" denied") && !said.contains('\x1b'),
        "{said}"
    );
    assert_eq!(says(state.path(), &["show", "--method", "machine.start"]).lines().count(), 2);
    assert_eq!(says(state.path(), &["show", "--target", "web", "-n", "1"]).lines().count(), 1);
    let json: Value =
        serde_json::from_str(&says(state.path(), &["show", "-n", "1", "--output", "json"]))
            .unwrap();
    assert_eq!(json[0]["call"]["outcome"], "denied");
    assert_eq!(json[0]["call"]["caller"]["uid"], 1000);
}
