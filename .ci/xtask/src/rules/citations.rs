//! What code says about the specification: a section that it names is there.

use std::collections::BTreeSet;

use super::Violation;
use crate::tree::TextFile;

const SPECIFICATION: &str = "dwcp/SPEC.md";
const NAME: &str = "SPEC.md";

/// Every citation, such as `SPEC.md`, 0.0 or `SPEC.md`, "No title", names a heading of the specification. This file's own
/// examples name none, and are left out.
pub(super) fn name_sections(files: &[TextFile]) -> Vec<Violation> {
    let Some(specification) = files.iter().find(|file| file.path == SPECIFICATION) else {
        let what = "the specification is not there, and code cites it";
        return vec![Violation::new(SPECIFICATION, 0, what)];
    };
    let headings = headings(&specification.text);
    let others = files.iter().filter(|file| file.path != SPECIFICATION);
    let cited = others.filter(|file| !file.path.ends_with("rules/citations.rs")).flat_map(|file| {
        let lines = (1..).zip(file.text.lines());
        lines.flat_map(move |(number, line)| cited(line).map(move |name| (file, number, name)))
    });
    let missing = cited.filter(|(_, _, name)| !headings.contains(name.as_str()));
    missing
        .map(|(file, line, name)| {
            let what = format!("{SPECIFICATION} has no section {name}");
            Violation::new(&file.path, line, what)
        })
        .collect()
}

/// The numbers of all sections, and their titles in quotation marks.
fn headings(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter_map(|line| {
        line.strip_prefix("## ").or_else(|| line.strip_prefix("### "))?.split_once(' ')
    });
    headings.flat_map(|(number, title)| [number.to_owned(), format!("{title:?}")]).collect()
}

/// The sections that a line cites.
fn cited(line: &str) -> impl Iterator<Item = String> {
    line.match_indices(NAME).flat_map(|(at, name)| after(&line[at + name.len()..]))
}

/// The sections that follow the specification's name: a title, or numbers with commas or `and` between them.
fn after(text: &str) -> Vec<String> {
    let text = text.strip_prefix('`').unwrap_or(text);
    let text = text.strip_prefix(',').unwrap_or(text);
    let Some(mut text) = text.strip_prefix(' ') else { return Vec::new() };
    text = text.strip_prefix("section ").unwrap_or(text);
    if let Some(title) = text.strip_prefix('"') {
        return title.split_once('"').map(|(title, _)| format!("{title:?}")).into_iter().collect();
    }
    let mut numbers = Vec::new();
    loop {
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let number = text[..end].trim_end_matches('.');
        if number.is_empty() {
            return numbers;
        }
        numbers.push(number.to_owned());
        let rest = &text[end..];
        let Some(next) = rest.strip_prefix(", ").or_else(|| rest.strip_prefix(" and ")) else {
            return numbers;
        };
        text = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_that_is_not_there_is_found() {
        let specification = "# T\n\n## 1 Terms\n\n## 8 Streams, resume, timers\n\n### 8.3 Timers\n";
        for (text, broken) in [
            ("//! See `SPEC.md`, 8.3.\n", &[][..]),
            ("//! See `SPEC.md`, 1, 8 and 8.3, and so on.\n", &[]),
            ("//! A.\n//! See `dwcp/SPEC.md`, 8.4.\n", &[2]),
            ("//! See `SPEC.md`, 8.3 and 9.\n", &[1]),
            ("/// SPEC.md, section 4, says so.\n", &[1]),
            ("/// SPEC.md 8.3, and SPEC.md 2\n", &[1]),
            ("//! `SPEC.md`, \"Timers\" and `SPEC.md`, \"Streams, resume, timers\"\n", &[]),
            ("//! `SPEC.md`, \"Timer\"\n", &[1]),
            ("include_str!(\"../SPEC.md\"); // `SPEC.md` numbers its rules\n", &[]),
        ] {
            let file = |path: &str, text: &str| TextFile { path: path.into(), text: text.into() };
            let files = [file("a.rs", text), file(SPECIFICATION, specification)];
            let found: Vec<_> = name_sections(&files).iter().map(|found| found.line).collect();
            assert_eq!(found, broken, "{text}");
        }
    }

    #[test]
    fn without_the_specification_every_citation_is_wrong() {
        assert_eq!(name_sections(&[]).len(), 1);
    }
}
