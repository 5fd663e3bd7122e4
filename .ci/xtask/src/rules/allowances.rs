//! Whoever switches a lint off says why.

use super::{Violation, code};
use crate::tree::TextFile;

/// Every `allow` and `expect` attribute has a `reason`. For `unsafe_code` that is the sentence that
/// opens a module to unsafe code.
pub(super) fn give_a_reason(file: &TextFile) -> Vec<Violation> {
    if !file.path.ends_with(".rs") {
        return Vec::new();
    }
    let code = code::only(&file.text);
    let mut violations = Vec::new();
    for (start, _) in code.match_indices("#[").chain(code.match_indices("#![")) {
        let attribute = &code[start..start + length(&code[start..])];
        for (at, name) in switches(attribute) {
            let inside = &attribute[at + name.len()..];
            if !inside[..length(inside)].contains("reason") {
                let line = code::line_of(&code, start + at);
                let what = format!("`{name}…)` has no `reason = \"…\"`");
                violations.push(Violation::new(&file.path, line, what));
            }
        }
        if attribute.contains("too_many_lines") {
            let what = "a long function is split, not excused";
            violations.push(Violation::new(&file.path, code::line_of(&code, start), what));
        }
    }
    violations
}

/// Where an attribute switches lints off, also behind a `cfg_attr`.
fn switches(attribute: &str) -> impl Iterator<Item = (usize, &'static str)> {
    ["allow(", "expect("].into_iter().flat_map(move |name| {
        attribute.match_indices(name).filter_map(move |(at, _)| {
            let before = attribute[..at].chars().next_back();
            before.is_some_and(|c| !c.is_alphanumeric() && c != '_').then_some((at, name))
        })
    })
}

/// The length up to and with the bracket that closes the first one, or the one before the text.
fn length(text: &str) -> usize {
    let mut depth = i32::from(!text.starts_with('#'));
    for (at, c) in text.char_indices() {
        depth += match c {
            '(' | '[' => 1,
            ')' | ']' => -1,
            _ => 0,
        };
        if depth == 0 && at > 1 {
            return at + 1;
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::tests::lines;

    #[test]
    fn a_lint_is_switched_off_with_a_reason_only() {
        for (text, broken) in [
            ("#![allow(unsafe_code)]", &[1][..]),
            ("#![allow(unsafe_code, reason = \"a ring\")]", &[]),
            ("\n#[expect(dead_code)]\nfn f() {}", &[2]),
            ("#[cfg_attr(test, allow(dead_code))]", &[1]),
            ("#[cfg_attr(test, allow(dead_code, reason = \"(x)\"), expect(a))]", &[1]),
            ("// #[allow(unsafe_code)]\nlet s = \"#[allow(a)]\";", &[]),
            ("let x = map[0].expect(\"there\"); disallow(y)", &[]),
            ("#[derive(A)] fn f() { g.expect(\"b\") }", &[]),
            ("#[allow(\n    a,\n    reason = \"why\",\n)]", &[]),
            ("#[expect(clippy::too_many_lines, reason = \"long\")]", &[1]),
        ] {
            assert_eq!(lines(give_a_reason, "a.rs", text), broken, "{text}");
        }
        assert!(lines(give_a_reason, "a.md", "#[allow(a)]").is_empty());
    }
}
