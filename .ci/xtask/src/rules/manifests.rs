//! Cargo manifests: one place for versions, one set of lints.

use super::Violation;
use crate::tree::{Package, TextFile};

/// A line of a manifest.
pub(super) struct Line<'a> {
    /// From 1.
    number: usize,
    /// The section that it stands in, without brackets.
    pub(super) section: &'a str,
    /// The line without its comment.
    pub(super) text: &'a str,
    /// The comment, without its sign.
    comment: &'a str,
}

/// The lines of a manifest that set something. Multi-line values are more lines: the rules read
/// manifests as people of this project write them.
pub(super) fn lines(manifest: &str) -> impl Iterator<Item = Line<'_>> {
    let mut section = "";
    (1..).zip(manifest.lines()).filter_map(move |(number, line)| {
        let (text, comment) = line.split_once('#').unwrap_or((line, ""));
        let (text, comment) = (text.trim(), comment.trim());
        if let Some(name) = text.strip_prefix('[').and_then(|name| name.strip_suffix(']')) {
            section = name;
            return None;
        }
        (!text.is_empty()).then_some(Line { number, section, text, comment })
    })
}

/// Versions stand in the workspace's manifest, each with a reason beside it; members refer to them.
pub(super) fn versions_stand_in_the_root_with_a_reason(files: &[TextFile]) -> Vec<Violation> {
    files.iter().filter(|file| is_manifest(&file.path)).flat_map(judge).collect()
}

fn judge(file: &TextFile) -> Vec<Violation> {
    let mut violations = Vec::new();
    for line in lines(&file.text) {
        let what = if line.section == "workspace.dependencies" {
            // Our own packages need no reason.
            let is_ours = line.text.contains("path = ");
            (!is_ours && line.comment.is_empty())
                .then_some("a dependency without a reason beside it")
        } else if line.section.ends_with("dependencies") {
            (!line.text.contains("workspace = true"))
                .then_some("a version outside the workspace's list")
        } else {
            // `[dependencies.name]` would hide from both.
            line.section.contains("dependencies.").then_some("a dependency that is not one line")
        };
        violations.extend(what.map(|what| Violation::new(&file.path, line.number, what)));
    }
    violations
}

/// Every member takes the workspace's lints.
pub(super) fn members_take_the_lints(packages: &[Package], files: &[TextFile]) -> Vec<Violation> {
    let is_taken = |path: &str| {
        files.iter().filter(|file| file.path == path).any(|file| {
            lines(&file.text).any(|line| line.section == "lints" && line.text == "workspace = true")
        })
    };
    packages
        .iter()
        .map(|package| package.folder.join("Cargo.toml").to_string_lossy().into_owned())
        .filter(|path| !is_taken(path))
        .map(|path| Violation::new(&path, 0, "lacks `[lints] workspace = true`"))
        .collect()
}

fn is_manifest(path: &str) -> bool {
    path == "Cargo.toml" || path.ends_with("/Cargo.toml")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> TextFile {
        TextFile { path: path.to_owned(), text: text.to_owned() }
    }

    #[test]
    fn a_version_has_its_place_and_its_reason() {
        let root = "[workspace.dependencies]\n";
        for (path, text, broken) in [
            ("Cargo.toml", format!("{root}a = \"1\" # why\nown = {{ path = \"own\" }}\n"), &[][..]),
            ("Cargo.toml", format!("{root}\na = \"1\"\nb = \"1\" #\n"), &[3, 4]),
            ("a/Cargo.toml", "[dependencies]\na.workspace = true\n".to_owned(), &[]),
            (
                "a/Cargo.toml",
                "[dev-dependencies]\na = { workspace = true, features = [] }\nb = \"1\" # c\n"
                    .to_owned(),
                &[3],
            ),
            ("a/Cargo.toml", "[target.'cfg(unix)'.dependencies]\nb = \"1\"\n".to_owned(), &[2]),
            ("a/Cargo.toml", "[dependencies.b]\nversion = \"1\"\n".to_owned(), &[2]),
            ("a/other.toml", "[dependencies]\nb = \"1\"\n".to_owned(), &[]),
        ] {
            let found = versions_stand_in_the_root_with_a_reason(&[file(path, &text)]);
            let found: Vec<_> = found.iter().map(|violation| violation.line).collect();
            assert_eq!(found, broken, "{path}: {text}");
        }
    }

    #[test]
    fn a_member_without_the_lints_is_named() {
        let package = Package { folder: "a".into(), ..Package::default() };
        for (text, broken) in [
            ("[lints]\nworkspace = true\n", 0),
            ("[lints]\n# workspace = true\n", 1),
            ("[dependencies]\nworkspace = true\n", 1),
        ] {
            let found = members_take_the_lints(
                std::slice::from_ref(&package),
                &[file("a/Cargo.toml", text)],
            );
            assert_eq!(found.len(), broken, "{text}");
        }
        assert_eq!(members_take_the_lints(&[package], &[]).len(), 1);
    }
}
