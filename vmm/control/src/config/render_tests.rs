use std::path::Path;

use super::super::effective::Effective;
use super::*;
use crate::access::Accounts;

fn load(text: &str) -> Config {
    let file = Some((Path::new("f.toml"), text));
    let set = &[];
    Effective::of(file, set, &Surroundings::of_root(), &Accounts::default()).unwrap().config
}

/// The default file with the fields' comments taken away.
fn uncommented() -> String {
    let is_field = |line: &&str| line.starts_with('#') && !line.starts_with("# ");
    let text = default_file();
    let lines = text.lines().map(|line| if is_field(&line) { &line[1..] } else { line });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn the_default_file_says_nothing_and_with_its_fields_uncommented_it_says_the_defaults() {
    assert_eq!(load(&default_file()), defaults());
    assert_eq!(load(&uncommented()), defaults());
    let fields = uncommented().lines().filter(|line| line.contains(" = ")).count();
    assert_eq!(fields, all().count(), "{}", uncommented());
}

#[test]
fn no_field_has_a_hidden_default() {
    let (file, documentation, config) = (default_file(), reference(), defaults());
    for (section, field) in all() {
        let line = format!("\n#{} = {}\n", field.name, (field.show)(&config));
        let own = file.split(&format!("\n[{}]\n", section.name)).nth(1).unwrap();
        let own = own.split("\n[").next().unwrap();
        assert!(own.contains(&line), "{}: {own}", path(section, field));
        let start = format!("| `{}` |", field.name);
        let end = format!("| `{}` |", variable(section, field));
        let is_row = |line: &&str| line.starts_with(&start) && line.ends_with(&end);
        assert_eq!(documentation.lines().filter(is_row).count(), 1, "{start} … {end}");
    }
}

#[test]
fn each_field_can_be_given_and_nothing_else_changes_with_it() {
    let config = defaults();
    for (section, field) in all() {
        let name = path(section, field);
        let other = match (field.show)(&config) {
            toml::Value::Integer(number) => (number + 1).to_string(),
            toml::Value::Boolean(truth) => (!truth).to_string(),
            toml::Value::Array(_) if section.name == "roles" => "['user:77']".to_owned(),
            toml::Value::Array(_) if section.name == "peers" => "['[::]:7478']".to_owned(),
            toml::Value::Array(_) => "['/other']".to_owned(),
            toml::Value::String(text) if text.ends_with('B') => "'65 KiB'".to_owned(),
            toml::Value::String(text) if text.starts_with('/') => "'/other'".to_owned(),
            _ if name == "socket.mode" => "'0660'".to_owned(),
            _ if name == "log.level" => "'trace'".to_owned(),
            _ => "'77s'".to_owned(),
        };
        let given = load(&format!("{name} = {other}"));
        let is_other = |(section, field): &(&Section, &Field)| {
            (field.show)(&given) != (field.show)(&config) && path(section, field) != name
        };
        assert_ne!((field.show)(&given), (field.show)(&config), "{name} = {other}");
        let others: Vec<_> = all().filter(is_other).map(|(s, f)| path(s, f)).collect();
        let expected: &[&str] = match name.as_str() {
            // What lies in them by default.
            "socket.path" => &["storage.runtime"],
            "storage.state" => &["storage.folders"],
            _ => &[],
        };
        assert_eq!(others, expected, "{name}");
    }
}

#[test]
fn the_documentation_is_that_of_the_table() {
    let written = include_str!("../../configuration.md");
    assert!(
        written == reference(),
        "configuration.md is not as the table has it; remake it: {REMAKE}"
    );
}

#[test]
fn comments_have_a_readable_width() {
    let longest = default_file().lines().map(str::len).max();
    assert!(longest <= Some(WIDTH), "{longest:?}");
}
