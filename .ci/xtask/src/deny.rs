//! Licences, bans and sources of what we depend on, judged by cargo-deny with `deny.toml`.

use std::fs;
use std::path::{Path, PathBuf};

use crate::context::{Context, Outcome, Skip};
use crate::log::Log;
use crate::process::{self, Red};

const VERSION: &str = "0.20.2";

/// It reads a few files: compiling it without optimisation takes a minute instead of many.
const QUICK_BUILD: [(&str, &str); 4] = [
    ("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0"),
    ("CARGO_PROFILE_RELEASE_LTO", "off"),
    ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "64"),
    ("CARGO_PROFILE_RELEASE_DEBUG", "0"),
];

/// Names a folder that holds clones of advisory databases, laid out as cargo-deny keeps them. There
/// is none without a network, so this is opt-in.
const DATABASE: &str = "NOVACRON_ADVISORY_DB";

/// Runs cargo-deny, installing it first if this machine does not have it.
///
/// # Errors
/// It cannot be installed, or finds something.
pub(crate) fn check(context: &Context, log: &mut Log) -> Result<Outcome, Red> {
    let program = installed(context, log)?;
    let root = &context.tree.root;
    let deny = |arguments: &[&str]| {
        let mut command = process::in_folder(&program, root);
        command.args(arguments);
        command
    };
    log.run(&mut deny(&["--all-features", "check", "bans", "licenses", "sources"]))?;
    let Some(database) = std::env::var_os(DATABASE) else {
        let reason = format!("{DATABASE} names no advisory database");
        let skip = Skip { name: "advisories".to_owned(), reason };
        return Ok(Outcome { skipped: vec![skip], ..Outcome::default() });
    };
    let config = with_database(&context.tree.read("deny.toml")?, Path::new(&database));
    let path = context.tree.target.join("verify/deny-with-advisories.toml");
    fs::write(&path, config)
        .map_err(|error| Red::system(&format!("write {}", path.display()), &error))?;
    let path = path.to_string_lossy();
    log.run(&mut deny(&["--all-features", "--offline", "--config", &path, "check", "advisories"]))?;
    Ok(Outcome::detail("with advisories"))
}

/// The path of the program; its folder is named for its version, so a new one replaces nothing.
fn installed(context: &Context, log: &mut Log) -> Result<PathBuf, Red> {
    let folder = context.cache.join(format!("cargo-deny-{VERSION}"));
    let program = folder.join("bin/cargo-deny");
    if program.is_file() {
        return Ok(program);
    }
    // Cargo moves the finished program into place: a run that is killed leaves none.
    // Neither the static linking nor the target of this tree concern it: it is built elsewhere.
    let mut install = process::cargo(Path::new("/"), &["install", "--locked", "cargo-deny"]);
    install.args(["--version", VERSION, "--root"]).arg(&folder).envs(QUICK_BUILD);
    log.run(&mut install)?;
    context.made(format!("cargo-deny {VERSION} was installed"));
    Ok(program)
}

/// `deny.toml` has no `[advisories]`: without a database there is nothing to say about them.
fn with_database(config: &str, database: &Path) -> String {
    format!("{config}\n[advisories]\ndb-path = {:?}\n", database.to_string_lossy())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_database_is_the_only_thing_added_to_the_configuration() {
        let config = include_str!("../../../deny.toml");
        assert!(!config.contains("[advisories]"), "it would be defined twice");
        let with = with_database(config, Path::new("/a b/\"c\""));
        assert_eq!(
            with.strip_prefix(config),
            Some("\n[advisories]\ndb-path = \"/a b/\\\"c\\\"\"\n")
        );
    }
}
