//! The lints that enforce the rest of the rules are switched on.

use super::{Violation, manifests};
use crate::tree::TextFile;

/// Of the workspace, with the level that each must have; warnings are denied where clippy runs.
const REQUIRED: [(&str, &str); 9] = [
    ("unsafe_code", "deny"),
    ("missing_docs", "warn"),
    ("undocumented_unsafe_blocks", "warn"),
    ("multiple_unsafe_ops_per_block", "warn"),
    ("too_many_lines", "warn"),
    ("unwrap_used", "warn"),
    ("todo", "warn"),
    ("unimplemented", "warn"),
    ("dbg_macro", "warn"),
];

/// Lines of the longest function.
const THRESHOLD: &str = "too-many-lines-threshold = 70";

/// The workspace's manifest switches them on.
pub(super) fn are_set(files: &[TextFile]) -> Vec<Violation> {
    let Some(root) = files.iter().find(|file| file.path == "Cargo.toml") else {
        return vec![Violation::new("Cargo.toml", 0, "is missing")];
    };
    let set: Vec<_> = manifests::lines(&root.text)
        .filter(|line| line.section.starts_with("workspace.lints."))
        .filter_map(|line| line.text.split_once('='))
        .map(|(name, level)| (name.trim(), level.trim().trim_matches('"')))
        .collect();
    let missing = REQUIRED.iter().filter(|required| !set.contains(required));
    missing
        .map(|(name, level)| {
            Violation::new(
                &root.path,
                0,
                format!("the workspace's lints lack {name} = \"{level}\""),
            )
        })
        .collect()
}

/// Clippy takes the file nearest to the crate and that one only: each must set the threshold.
pub(super) fn thresholds_are_set(file: &TextFile) -> Vec<Violation> {
    let is_config = file.path == "clippy.toml" || file.path.ends_with("/clippy.toml");
    if !is_config || file.text.lines().any(|line| line == THRESHOLD) {
        return Vec::new();
    }
    vec![Violation::new(&file.path, 0, format!("lacks `{THRESHOLD}`"))]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::tests::lines;

    #[test]
    fn a_lint_that_is_missing_or_weaker_is_named() {
        let judge = |text: String| are_set(&[TextFile { path: "Cargo.toml".to_owned(), text }]);
        let whole: String = std::iter::once("[workspace.lints.rust]\n".to_owned())
            .chain(REQUIRED.iter().map(|(name, level)| format!("{name} = \"{level}\"\n")))
            .collect();
        assert_eq!(judge(whole.clone()), []);
        for broken in [
            whole.replace("todo = \"warn\"\n", ""),
            whole.replace("unsafe_code = \"deny\"", "unsafe_code = \"warn\""),
            whole.replace("dbg_macro", "# dbg_macro"),
        ] {
            assert_eq!(judge(broken).len(), 1);
        }
        assert_eq!(judge(whole.replace("[workspace.lints", "[lints")).len(), REQUIRED.len());
        assert_eq!(are_set(&[]).len(), 1);
    }

    #[test]
    fn every_clippy_configuration_sets_the_threshold() {
        for (path, text, broken) in [
            (
                "clippy.toml",
                "allow-unwrap-in-tests = true\ntoo-many-lines-threshold = 70\n",
                &[][..],
            ),
            ("dwcp/clippy.toml", "disallowed-methods = []\n", &[0]),
            ("clippy.toml", "too-many-lines-threshold = 700\n", &[0]),
            ("notes.toml", "", &[]),
        ] {
            assert_eq!(lines(thresholds_are_set, path, text), broken, "{path}");
        }
    }
}
