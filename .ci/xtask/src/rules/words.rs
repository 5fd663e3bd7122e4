//! Words that must not stand anywhere.

use super::{Violation, code};
use crate::tree::TextFile;

/// Spelled in two halves, so that this file keeps its own rule.
const MARKERS: [&str; 4] =
    [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("X", "XX"), concat!("HA", "CK")];

const UNFINISHED: [&str; 2] = [concat!("to", "do!"), concat!("unimple", "mented!")];

/// Homes of whoever wrote the line.
const HOMES: [&str; 3] = [concat!("/ro", "ot/"), concat!("/ho", "me/"), concat!("/Us", "ers/")];

/// Whatever is left to do is an issue, not a comment.
pub(super) fn no_leftover_markers(file: &TextFile) -> Vec<Violation> {
    let markers = occurrences(&file.text, &MARKERS);
    let unfinished = occurrences(&file.text, &UNFINISHED);
    markers
        .chain(unfinished)
        .map(|(line, word)| Violation::new(&file.path, line, format!("leftover `{word}`")))
        .collect()
}

/// A test that cannot run says so with a line that is counted; an attribute would hide it.
pub(super) fn no_ignored_tests(file: &TextFile) -> Vec<Violation> {
    if !file.path.ends_with(".rs") {
        return Vec::new();
    }
    let code = code::only(&file.text);
    let what = "a test that cannot run prints `SKIPPED name: reason` and returns";
    let attributes = code.match_indices("#[ignore").chain(code.match_indices(", ignore"));
    let ignored = attributes.filter(|(at, word)| {
        let after = code[at + word.len()..].trim_start();
        after.starts_with([']', ')', '='])
    });
    ignored.map(|(at, _)| Violation::new(&file.path, code::line_of(&code, at), what)).collect()
}

/// Nothing depends on where a person keeps things.
pub(super) fn no_paths_of_a_machine(file: &TextFile) -> Vec<Violation> {
    occurrences(&file.text, &HOMES)
        .map(|(line, home)| Violation::new(&file.path, line, format!("`{home}` of some machine")))
        .collect()
}

/// Lines with one of the words as a whole word.
fn occurrences<'a>(
    text: &'a str,
    words: &'a [&'static str],
) -> impl Iterator<Item = (usize, &'static str)> + 'a {
    (1..).zip(text.lines()).flat_map(move |(number, line)| {
        words.iter().filter(|word| contains_word(line, word)).map(move |&word| (number, word))
    })
}

fn contains_word(line: &str, word: &str) -> bool {
    let is_word = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        // What ends in a sign may be followed by anything.
        let goes_on = word.ends_with(char::is_alphanumeric) && is_word(after);
        !is_word(before) && !goes_on
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::tests::lines;

    #[test]
    fn markers_are_found_as_whole_words() {
        let [to_do, fix_me, three_x, rough] = MARKERS;
        for (text, broken) in [
            (format!("a\n// {to_do}: b"), &[2][..]),
            (format!("# {fix_me}(me)\n{rough}"), &[1, 2]),
            (format!("mktemp {three_x}{three_x}\n{three_x}"), &[2]),
            (format!("{}();", UNFINISHED[0]), &[1]),
            (format!("{}()", UNFINISHED[1]), &[1]),
            (format!("{to_do}S and un{}", UNFINISHED[0]), &[]),
            ("todo = \"warn\"".to_owned(), &[]),
        ] {
            assert_eq!(lines(no_leftover_markers, "any.md", &text), broken, "{text}");
        }
    }

    #[test]
    fn ignored_tests_are_found() {
        for (text, broken) in [
            ("#[test]\n#[ignore]\nfn f() {}", &[2][..]),
            ("#[ignore = \"slow\"]", &[1]),
            ("#[cfg_attr(miri, ignore)]", &[1]),
            ("#[ignored_field]\n// #[ignore]\nlet s = \"#[ignore]\";", &[]),
        ] {
            assert_eq!(lines(no_ignored_tests, "a.rs", text), broken, "{text}");
        }
    }

    #[test]
    fn homes_are_found() {
        for home in HOMES {
            assert_eq!(lines(no_paths_of_a_machine, "any", &format!("x\nin {home}a")), [2]);
        }
        assert!(lines(no_paths_of_a_machine, "any", "/usr/share/root/x").is_empty());
    }
}
