//! The Debian packages that the project uses: `.ci/debian-packages` is their one list.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};

use crate::process::Red;
use crate::tree::Tree;

const LIST: &str = ".ci/debian-packages";

/// What a package is needed for: a section of the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Building and running the executable.
    Build,
    /// Measurements.
    Benches,
    /// The long run.
    Long,
    /// Machines inside QEMU, and the kernel that runs in them.
    Qemu,
}

impl Purpose {
    fn of_section(name: &str) -> Option<Self> {
        Some(match name {
            "benches" => Self::Benches,
            "build" => Self::Build,
            "long" => Self::Long,
            "qemu" => Self::Qemu,
            _ => return None,
        })
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Package {
    name: String,
    purpose: Purpose,
}

/// What came of looking for the packages.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Presence {
    /// All were there.
    Complete,
    /// These were installed just now.
    Installed(Vec<String>),
    /// This is no Debian: nobody knows.
    Unknown,
}

/// Sees to it that the packages of these purposes are installed. `run` runs the commands for it,
/// where their output belongs.
///
/// # Errors
/// Some are missing and cannot be installed; or the list is not well formed.
pub(crate) fn ensure(
    tree: &Tree,
    purposes: &[Purpose],
    mut run: impl FnMut(&mut Command) -> Result<(), Red>,
) -> Result<Presence, Red> {
    let packages = parse(&tree.read(LIST)?).map_err(Red::new)?;
    let wanted: Vec<_> = packages
        .into_iter()
        .filter(|package| purposes.contains(&package.purpose))
        .map(|package| package.name)
        .collect();
    let Some(missing) = missing(&wanted)? else { return Ok(Presence::Unknown) };
    if missing.is_empty() {
        return Ok(Presence::Complete);
    }
    if !is_root()? {
        return Err(ask_for(&missing));
    }
    run(&mut apt_get(&["update"]))?;
    run(apt_get(&["install", "--yes", "--no-install-recommends"]).args(&missing))?;
    Ok(Presence::Installed(missing))
}

fn ask_for(missing: &[String]) -> Red {
    Red::caller_first(format!(
        "Debian packages are missing; run:\n  sudo apt-get install --no-install-recommends {}",
        missing.join(" ")
    ))
}

fn parse(list: &str) -> Result<Vec<Package>, String> {
    let mut packages = Vec::new();
    let mut section = None;
    for (number, line) in (1..).zip(list.lines()) {
        let complain = |what: &str| Err(format!("{LIST}:{number}: {what}: {line}"));
        let (words, comment) = line.split_once('#').unwrap_or((line, ""));
        let words = words.trim();
        if let Some(name) = words.strip_prefix('[').and_then(|name| name.strip_suffix(']')) {
            section = Purpose::of_section(name);
            if section.is_none() {
                return complain("there is no such section");
            }
        } else if !words.is_empty() {
            let Some(purpose) = section else { return complain("a package before any section") };
            if comment.trim().is_empty() {
                return complain("a package without a reason");
            }
            // What is not a package's name could be an option of apt-get.
            let is_name =
                |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "+-.".contains(c);
            if words.starts_with('-') || !words.chars().all(is_name) {
                return complain("not the name of one package");
            }
            packages.push(Package { name: words.to_owned(), purpose });
        }
    }
    Ok(packages)
}

/// Which of them are not installed; `None` where there is no dpkg.
fn missing(wanted: &[String]) -> Result<Option<Vec<String>>, Red> {
    let mut query = Command::new("dpkg-query");
    query.args(["--show", "--showformat=${db:Status-Status} ${Package}\\n"]).args(wanted);
    // It fails if it does not know one of them; what it does know is in its answer all the same.
    match query.stdin(Stdio::null()).output() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Red::system("run dpkg-query", &error)),
        Ok(output) => Ok(Some(not_installed(wanted, &String::from_utf8_lossy(&output.stdout)))),
    }
}

fn not_installed(wanted: &[String], answer: &str) -> Vec<String> {
    let installed: Vec<_> =
        answer.lines().filter_map(|line| line.strip_prefix("installed ")).collect();
    wanted.iter().filter(|name| !installed.contains(&name.as_str())).cloned().collect()
}

fn is_root() -> Result<bool, Red> {
    let own = fs::metadata("/proc/self").map_err(|error| Red::system("read /proc/self", &error))?;
    Ok(own.uid() == 0)
}

fn apt_get(arguments: &[&str]) -> Command {
    let mut command = Command::new("apt-get");
    command.arg("--quiet").args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_in_the_tree_is_well_formed() {
        let packages = parse(include_str!("../../debian-packages")).unwrap();
        for purpose in [Purpose::Build, Purpose::Qemu, Purpose::Long, Purpose::Benches] {
            assert!(packages.iter().any(|package| package.purpose == purpose), "{purpose:?}");
        }
    }

    #[test]
    fn packages_stand_in_sections_with_a_reason_each() {
        let package = |name: &str, purpose| Package { name: name.to_owned(), purpose };
        assert_eq!(
            parse("# list\n[build] # x\ngcc # links\n\n[qemu]\nflex # kernel\nbc # kernel"),
            Ok(vec![
                package("gcc", Purpose::Build),
                package("flex", Purpose::Qemu),
                package("bc", Purpose::Qemu)
            ])
        );
        for (list, complaint) in [
            ("gcc # links", "1: a package before any section"),
            ("[build]\ngcc", "2: a package without a reason"),
            ("[build]\ngcc #", "2: a package without a reason"),
            ("[bild]", "1: there is no such section"),
            ("[build]\ngcc make # both", "2: not the name of one package"),
            ("[build]\n-y # option", "2: not the name of one package"),
        ] {
            assert!(parse(list).unwrap_err().contains(complaint), "{list}");
        }
    }

    #[test]
    fn whoever_is_not_root_gets_one_command_and_a_code_of_its_own() {
        let red = ask_for(&["bc".to_owned(), "flex".to_owned()]);
        let command = red.why.lines().last().unwrap().trim();
        assert_eq!(command, "sudo apt-get install --no-install-recommends bc flex");
        assert_eq!(red.code, 2);
    }

    #[test]
    fn only_an_installed_package_is_not_missing() {
        let wanted = ["gcc", "make", "bc", "flex"].map(str::to_owned);
        let answer = "installed gcc\nconfig-files make\nnot-installed bc\n";
        assert_eq!(not_installed(&wanted, answer), ["make", "bc", "flex"]);
    }
}
