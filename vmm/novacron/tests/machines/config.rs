//! `novacron config`: what it says, and its exit codes.

use std::fs;
use std::process::{Command, Output};

use serde_json::Value;

/// Runs it as if nothing of this process's environment were there.
fn config(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_novacron"));
    command.arg("config").args(arguments).env_clear().envs(variables.iter().copied());
    command.output().unwrap()
}

fn says(arguments: &[&str], variables: &[(&str, &str)]) -> String {
    let output = config(arguments, variables);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_default_file_is_good() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("novacron.toml");
    fs::write(&file, says(&["default"], &[])).unwrap();
    let home = [("HOME", folder.path().to_str().unwrap())];
    let said = says(&["check", file.to_str().unwrap()], &home);
    assert!(said.ends_with(&format!("ok: {}\n", file.display())), "{said}");
    // What is unusual is said, and is no error: the folders of this one are not there.
    let state = folder.path().join("state");
    fs::write(&file, format!("[storage]\nstate = {:?}\n", state.display().to_string())).unwrap();
    let said = says(&["check", file.to_str().unwrap()], &home);
    assert!(said.starts_with("note: ") && said.contains("storage.folders: "), "{said}");
}

#[test]
fn all_errors_are_said_with_exit_code_2() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("wrong.toml");
    fs::write(&file, "[limits]\nmachines = 0\nconnection = 1\n").unwrap();
    let path = file.to_str().unwrap();
    let home = [("HOME", folder.path().to_str().unwrap()), ("NOVACRON_LOG_LEVEL", "inof")];
    for arguments in [&["check", path][..], &["show", "--config", path]] {
        let output = config(arguments, &home);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(output.stdout.is_empty());
        for words in [
            "novacron: the configuration has 3 errors\n".to_owned(),
            format!("\n  {path}:2:12: limits.machines = 0: out of bounds"),
            format!(
                "\n  {path}:3:1: limits.connection is no field: did you mean limits.connections?"
            ),
            "\n  environment variable NOVACRON_LOG_LEVEL: log.level = \"inof\"".to_owned(),
        ] {
            assert!(said.contains(&words), "{words:?}: {said}");
        }
    }
    let output = config(&["check", "/no/such/file"], &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("--config"));
}

#[test]
fn every_value_is_shown_with_where_it_comes_from() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("novacron.toml");
    fs::write(&file, "limits.machines = 5\nlimits.connections = 6\n").unwrap();
    let path = file.to_str().unwrap();
    let variables = [
        ("HOME", folder.path().to_str().unwrap()),
        ("NOVACRON_CONFIG", path),
        ("NOVACRON_LIMITS_CONNECTIONS", "7"),
    ];
    let set = ["show", "--set", "limits.events_kept=8"];
    let text = says(&set, &variables);
    for line in [
        format!("machines = 5 # {path}:1:19\n"),
        "connections = 7 # environment variable NOVACRON_LIMITS_CONNECTIONS\n".to_owned(),
        "events_kept = 8 # --set limits.events_kept=8\n".to_owned(),
        "console_clients = 16 # default\n".to_owned(),
    ] {
        assert!(text.contains(&format!("\n{line}")), "{line}: {text}");
    }
    let json: Value =
        serde_json::from_str(&says(&[&set[..], &["--output", "json"]].concat(), &variables))
            .unwrap();
    let field = |name: &str| {
        let fields = json["fields"].as_array().unwrap();
        fields.iter().find(|field| field["field"] == name).unwrap().clone()
    };
    assert_eq!(json["file"], path);
    assert_eq!(field("limits.machines")["origin"], "file");
    assert_eq!(field("limits.connections")["origin"], "environment");
    assert_eq!(field("limits.events_kept")["origin"], "option");
    assert_eq!(field("limits.events_kept")["value"], 8);
    assert_eq!(field("log.json")["origin"], "default");
    assert_eq!(field("log.json")["place"], Value::Null);
}
