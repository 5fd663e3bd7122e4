//! The tail of long files. That of long functions is clippy's, see [`super::lints`].

use super::{Violation, code};
use crate::tree::TextFile;

/// Lines before the tests.
const LONGEST: usize = 800;

/// What a person has to read from top to bottom.
const ENDINGS: [&str; 4] = [".rs", ".s", ".S", ".ld"];

/// No source file is longer than a person reads in one go; its tests come on top.
pub(super) fn files_have_no_tail(file: &TextFile) -> Vec<Violation> {
    let is_source = ENDINGS.iter().any(|ending| file.path.ends_with(ending));
    if !is_source || is_all_tests(&file.path) {
        return Vec::new();
    }
    let code = code::only(&file.text);
    let count = file.text[..code::start_of_tests(&code)].lines().count();
    if count <= LONGEST {
        return Vec::new();
    }
    let what = format!("{count} lines before its tests; {LONGEST} are the most: split it");
    vec![Violation::new(&file.path, 0, what)]
}

fn is_all_tests(path: &str) -> bool {
    path.ends_with("_tests.rs") || path.ends_with("/tests.rs") || path.contains("/tests/")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::tests::lines;

    #[test]
    fn a_file_may_have_800_lines_before_its_tests() {
        let full = "line\n".repeat(LONGEST);
        let tests = format!("{full}#[cfg(test)]\nmod tests {{\n{full}}}\n");
        let longer = format!("{full}line\n");
        for (path, text, broken) in [
            ("a.rs", &full, &[][..]),
            ("a.rs", &tests, &[]),
            ("a.rs", &longer, &[0]),
            ("entry.s", &longer, &[0]),
            ("page_tests.rs", &longer, &[]),
            ("vmm/tests/main.rs", &longer, &[]),
            ("CHANGELOG.md", &longer, &[]),
        ] {
            assert_eq!(lines(files_have_no_tail, path, text), broken, "{path}");
        }
    }
}
