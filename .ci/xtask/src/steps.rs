//! The steps of a run, in order: this list is the driver.

use std::time::Duration;

use crate::command_line::VerifyOptions;
use crate::context::{Context, Outcome, Skip};
use crate::log::Log;
use crate::packages::{self, Presence, Purpose};
use crate::process::{self, Red};
use crate::{deny, fuzz, hardening, kernel, release, rules, schemathesis, suite};

type Action = fn(&Context, &mut Log) -> Result<Outcome, Red>;

/// One step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    /// For people, and for `cargo verify NAME`.
    pub(crate) name: &'static str,
    /// After which it hangs, on any machine.
    pub(crate) limit: Duration,
    /// What it does.
    pub(crate) action: Action,
}

/// What `cargo verify` runs.
const ORDINARY: [Step; 12] = [
    step("packages", 10, install_packages),
    step("formatting", 2, |context, log| cargo(context, log, &["fmt", "--all", "--check"])),
    step("clippy", 20, clippy),
    step("rules", 2, rules::check),
    step("licences", 15, deny::check),
    step("tests", 30, |context, log| suite::ORDINARY.run(context, log)),
    step("examples", 10, suite::run_examples),
    step("rustdoc", 10, rustdoc),
    step("release", 20, release::check),
    step("kernel", 60, kernel::check),
    step("hardening", 10, hardening::check),
    step("qemu", 20, |context, log| suite::QEMU.run(context, log)),
];

/// What `--all` adds.
const LONG: [Step; 4] = [
    step("long tests", 240, |context, log| suite::LONG.run(context, log)),
    step("long qemu", 120, |context, log| suite::LONG_QEMU.run(context, log)),
    step("fuzzing", 240, fuzz::check),
    step("schemathesis", 180, schemathesis::check),
];

/// Feature sets in which every crate must be clean: all features at once, what ships, and the least; and the protocol's
/// core alone, since in the workspace somebody always wants its sockets.
const CLIPPY: [&[&str]; 4] = [
    &["--workspace", "--all-targets", "--all-features"],
    &["--workspace", "--all-targets"],
    &["--workspace", "--all-targets", "--no-default-features"],
    &["--package", "dwcp", "--no-default-features"],
];

const fn step(name: &'static str, limit_minutes: u64, action: Action) -> Step {
    Step { name, limit: Duration::from_secs(limit_minutes * 60), action }
}

/// The steps that these options ask for, in their order.
///
/// # Errors
/// They name a step that there is not.
pub(crate) fn chosen(options: &VerifyOptions) -> Result<Vec<Step>, Red> {
    let is_named = |step: &Step| options.only.iter().any(|name| *name == step.name);
    if let Some(unknown) =
        options.only.iter().find(|name| !ORDINARY.iter().chain(&LONG).any(|s| s.name == **name))
    {
        let names: Vec<_> = ORDINARY.iter().chain(&LONG).map(|step| step.name).collect();
        let names = names.join(", ");
        return Err(Red::caller_first(format!("there is no step `{unknown}`, but: {names}")));
    }
    let every =
        ORDINARY.iter().chain(LONG.iter().filter(|_| options.all || !options.only.is_empty()));
    Ok(every.filter(|step| options.only.is_empty() || is_named(step)).copied().collect())
}

fn install_packages(context: &Context, log: &mut Log) -> Result<Outcome, Red> {
    let mut purposes = vec![Purpose::Build, Purpose::Qemu];
    if context.long {
        purposes.push(Purpose::Long);
    }
    Ok(match packages::ensure(context.tree, &purposes, |command| log.run(command))? {
        Presence::Complete => Outcome::default(),
        Presence::Installed(names) => {
            context.made("Debian packages were installed");
            Outcome::detail(format!("installed {}", names.join(" ")))
        }
        Presence::Unknown => {
            let reason = "there is no dpkg-query here: see .ci/debian-packages".to_owned();
            let skip = Skip { name: "packages".to_owned(), reason };
            Outcome { skipped: vec![skip], ..Outcome::default() }
        }
    })
}

fn cargo(context: &Context, log: &mut Log, arguments: &[&str]) -> Result<Outcome, Red> {
    log.run(&mut process::cargo(&context.tree.root, arguments)).map(|()| Outcome::default())
}

fn clippy(context: &Context, log: &mut Log) -> Result<Outcome, Red> {
    for features in CLIPPY {
        cargo(context, log, &[&["clippy"], features, &["--", "-D", "warnings"]].concat())?;
    }
    Ok(Outcome::default())
}

fn rustdoc(context: &Context, log: &mut Log) -> Result<Outcome, Red> {
    // Of all that is documented, also what is private: its links rot just as fast.
    let arguments =
        ["doc", "--workspace", "--all-features", "--no-deps", "--document-private-items"];
    let mut command = process::cargo(&context.tree.root, &arguments);
    log.run(command.env("RUSTDOCFLAGS", "-D warnings")).map(|()| Outcome::default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(all: bool, only: &[&str]) -> Result<Vec<&'static str>, Red> {
        let only = only.iter().map(|&name| name.to_owned()).collect();
        let steps = chosen(&VerifyOptions { all, only, ..VerifyOptions::default() })?;
        Ok(steps.iter().map(|step| step.name).collect())
    }

    #[test]
    fn the_options_choose_the_steps() {
        assert_eq!(names(false, &[]).unwrap().len(), ORDINARY.len());
        assert_eq!(names(true, &[]).unwrap().len(), ORDINARY.len() + LONG.len());
        assert_eq!(names(false, &["rules", "clippy"]).unwrap(), ["clippy", "rules"]);
        assert_eq!(names(false, &["fuzzing"]).unwrap(), ["fuzzing"]);
        let red = names(true, &["rules", "rule"]).unwrap_err();
        assert!(red.why.contains("`rule`") && red.code == 2, "{red:?}");
    }

    #[test]
    fn a_clock_a_socket_a_thread_a_file_or_dice_planted_in_the_protocols_core_turn_clippy_red() {
        let core = concat!(env!("CARGO_MANIFEST_DIR"), "/../../dwcp");
        let folder = tempfile::tempdir().unwrap();
        for (planted, is_red) in [
            ("std::time::Instant::now()", true),
            ("std::time::SystemTime::now()", true),
            ("std::thread::spawn(|| ())", true),
            ("std::hash::RandomState::new()", true),
            ("std::net::TcpStream::connect(\"\")", true),
            ("std::fs::rename(\"\", \"\")", true),
            ("std::time::Duration::from_secs(1)", false),
        ] {
            let source = format!("pub fn planted() {{ let _ = {planted}; }}\n");
            std::fs::write(folder.path().join("planted.rs"), source).unwrap();
            let mut clippy = std::process::Command::new("clippy-driver");
            clippy.args(["--edition=2024", "--crate-type=lib", "--emit=metadata", "-Dwarnings"]);
            clippy.arg("planted.rs").current_dir(folder.path()).env("CLIPPY_CONF_DIR", core);
            let output = clippy.output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(i32::from(is_red)), "{planted}: {said}");
            assert!(!is_red || said.contains("use of a disallowed"), "{planted}: {said}");
        }
    }

    #[test]
    fn no_two_steps_share_a_name_and_with_it_a_log() {
        let mut names: Vec<_> = ORDINARY.iter().chain(&LONG).map(|step| step.name).collect();
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
