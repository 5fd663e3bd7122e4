//! The tree's own rules: what no compiler and no linter checks.
//!
//! Each rule is a pure function over text, so that its tests show it go red.

mod allowances;
mod citations;
mod code;
mod dependencies;
mod imports;
mod length;
mod lints;
mod manifests;
mod words;

use std::fmt;

use crate::context::{Context, Outcome};
use crate::log::Log;
use crate::process::Red;
use crate::tree::{TextFile, Tree};

type FileRule = fn(&TextFile) -> Vec<Violation>;
type TreeRule = fn(&Tree, &[TextFile]) -> Vec<Violation>;

/// Rules that judge one file at a time.
const OF_A_FILE: [FileRule; 7] = [
    allowances::give_a_reason,
    imports::point_downwards,
    length::files_have_no_tail,
    lints::thresholds_are_set,
    words::no_leftover_markers,
    words::no_ignored_tests,
    words::no_paths_of_a_machine,
];

/// Rules that judge the packages and their manifests.
const OF_THE_TREE: [TreeRule; 5] = [
    |_, files| citations::name_sections(files),
    |tree, _| dependencies::point_one_way(&tree.packages),
    |_, files| manifests::versions_stand_in_the_root_with_a_reason(files),
    |tree, files| manifests::members_take_the_lints(&tree.packages, files),
    |_, files| lints::are_set(files),
];

/// A place where a rule is broken.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Violation {
    /// Relative to the root.
    path: String,
    /// From 1; 0 if it concerns the whole file.
    line: usize,
    /// What is wrong, and what to do about it.
    what: String,
}

impl Violation {
    fn new(path: &str, line: usize, what: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, what: what.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.path, self.what),
            line => write!(f, "{}:{line}: {}", self.path, self.what),
        }
    }
}

/// Judges the tree by every rule.
///
/// # Errors
/// A rule is broken: each place is in the log. Or a file cannot be read.
pub(crate) fn check(context: &Context, log: &mut Log) -> Result<Outcome, Red> {
    let files = context.tree.text_files()?;
    let of_files = files.iter().flat_map(|file| OF_A_FILE.iter().flat_map(|rule| rule(file)));
    let of_tree = OF_THE_TREE.iter().flat_map(|rule| rule(context.tree, &files));
    let violations: Vec<_> = of_files.chain(of_tree).collect();
    for violation in &violations {
        log.say(&violation.to_string());
    }
    let rules = OF_A_FILE.len() + OF_THE_TREE.len();
    match violations.len() {
        0 => Ok(Outcome::detail(format!("{rules} rules, {} files", files.len()))),
        count => Err(Red::new(format!("places where a rule of the tree is broken: {count}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines that a rule complains of in a file with this text.
    pub(super) fn lines(rule: FileRule, path: &str, text: &str) -> Vec<usize> {
        let file = TextFile { path: path.to_owned(), text: text.to_owned() };
        rule(&file).iter().map(|violation| violation.line).collect()
    }
}
