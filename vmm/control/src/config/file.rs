//! The file: found, read, and taken apart into fields, each with its place.

use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::field::{Field, Section, all, path as field_path};
use super::places::Text;
use super::problem::{ConfigError, Place, Problem};
use super::surroundings::Surroundings;
use super::table::SECTIONS;
use super::value::Value;

/// Longest file that is read.
const MOST: u64 = 1 << 20;
/// A name that is as many letters off is taken for a typing error.
const TYPING_ERROR: usize = 2;

/// What somebody wrote for a field.
pub(super) struct Given {
    pub(super) section: &'static Section,
    pub(super) field: &'static Field,
    pub(super) value: Value,
    pub(super) place: Place,
    /// Of each item, if it is a list in a file.
    pub(super) items: Vec<Place>,
    /// As it was written, for messages.
    pub(super) shown: String,
}

/// Reads the file that is named, or else the one that is usual, if there is one.
pub(super) fn find(
    named: Option<&Path>,
    here: &Surroundings,
) -> Result<Option<(PathBuf, String)>, ConfigError> {
    let named = named.or_else(|| here.variable("NOVACRON_CONFIG").map(Path::new));
    let Some(path) = named.map(Path::to_owned).or_else(|| here.file()) else { return Ok(None) };
    match read(&path) {
        Ok(text) => Ok(Some((path, text))),
        Err(error) if error.kind() == io::ErrorKind::NotFound && named.is_none() => Ok(None),
        Err(error) => Err(ConfigError::File { path, why: error.to_string() }),
    }
}

fn read(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MOST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MOST {
        return Err(io::Error::other("longer than 1 MiB"));
    }
    String::from_utf8(bytes).map_err(|error| {
        io::Error::other(format!("byte {} is not UTF-8", error.utf8_error().valid_up_to()))
    })
}

/// Takes a file apart. Of one that is no TOML, all errors are of that kind: what its parser makes of the rest is a guess.
pub(super) fn parse(path: &Path, text: &str) -> (Vec<Given>, Vec<Problem>) {
    let text = Text { path, text };
    let (table, errors) = DeTable::parse_recoverable(text.text);
    if !errors.is_empty() {
        let problem = |error: &toml::de::Error| Problem {
            place: text.place(error.span().map_or(0, |span| span.start)),
            what: format!("this is no TOML: {}", error.message()),
        };
        return (Vec::new(), errors.iter().map(problem).collect());
    }
    let mut parser = Parser { text, given: Vec::new(), problems: Vec::new() };
    for (name, value) in table.get_ref() {
        parser.section(name, value);
    }
    // The table is in the order of names; people want that of lines.
    parser.problems.sort_by_key(|problem| match problem.place {
        Place::File { line, column, .. } => (line, column),
        _ => (0, 0),
    });
    (parser.given, parser.problems)
}

struct Parser<'a> {
    text: Text<'a>,
    given: Vec<Given>,
    problems: Vec<Problem>,
}

type Name<'i> = Spanned<std::borrow::Cow<'i, str>>;

impl Parser<'_> {
    fn section(&mut self, name: &Name, value: &Spanned<DeValue>) {
        let Some(section) = SECTIONS.iter().find(|section| section.name == name.get_ref()) else {
            let names: Vec<_> = SECTIONS.iter().map(|section| section.name.to_owned()).collect();
            let known = format!("the sections are {}", names.join(", "));
            let what = unknown(name.get_ref(), "section", &names, &known);
            return self.complain(&name.span(), what);
        };
        let Some(table) = value.get_ref().as_table() else {
            let what = format!("{0} is a section: write [{0}] and its fields below", section.name);
            return self.complain(&value.span(), what);
        };
        for (name, value) in table {
            self.field(section, name, value);
        }
    }

    fn field(&mut self, section: &'static Section, name: &Name, value: &Spanned<DeValue>) {
        let Some(field) = section.fields.iter().find(|field| field.name == name.get_ref()) else {
            let what = unknown_field(&format!("{}.{}", section.name, name.get_ref()));
            return self.complain(&name.span(), what);
        };
        let items = value.get_ref().as_array().map_or_else(Vec::new, |items| {
            items.iter().map(|item| self.text.place(item.span().start)).collect()
        });
        self.given.push(Given {
            section,
            field,
            value: Value::of_file(value.get_ref()),
            place: self.text.place(value.span().start),
            items,
            shown: self.text.excerpt(value.span()),
        });
    }

    fn complain(&mut self, span: &Range<usize>, what: String) {
        self.problems.push(Problem { place: self.text.place(span.start), what });
    }
}

/// What to say of a name that no field has.
pub(super) fn unknown_field(name: &str) -> String {
    let names: Vec<_> = all().map(|(section, field)| field_path(section, field)).collect();
    unknown(name, "field", &names, "`novacron config default` shows all")
}

fn unknown(name: &str, word: &str, known: &[String], else_say: &str) -> String {
    let name = super::places::shorten(name);
    let nearest = known.iter().map(|known| (distance(&name, known), known)).min();
    match nearest {
        Some((distance, nearest)) if distance <= TYPING_ERROR => {
            format!("{name} is no {word}: did you mean {nearest}?")
        }
        _ => format!("{name} is no {word}; {else_say}"),
    }
}

/// How many letters must be put in, taken out or changed to make one word of the other (Levenshtein's distance).
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (index, letter) in from.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = index + 1;
        for at in 1..row.len() {
            let changed = diagonal + usize::from(letter != to[at - 1]);
            diagonal = row[at];
            row[at] = changed.min(row[at] + 1).min(row[at - 1] + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_distance_of_words_is_that_of_typing_errors() {
        for (from, to, expected) in [
            ("", "", 0),
            ("a", "", 1),
            ("", "ab", 2),
            ("machine", "machines", 1),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(distance(from, to), expected, "{from} {to}");
            assert_eq!(distance(to, from), expected, "{to} {from}");
        }
    }

    #[test]
    fn the_usual_file_may_be_missing_and_a_named_one_may_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        let here = |variables: &[(&str, &str)]| Surroundings {
            uid: 7,
            variables: variables.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect(),
        };
        std::fs::create_dir(path("novacron")).unwrap();
        std::fs::write(path("novacron/novacron.toml"), "usual").unwrap();
        std::fs::write(path("other"), "other").unwrap();
        std::fs::write(path("bytes"), b"ab\xff").unwrap();
        std::fs::write(path("long"), vec![b'#'; (1 << 20) + 1]).unwrap();
        let (top, other, none) = (path(""), path("other"), path("none"));
        let usual = [("XDG_CONFIG_HOME", top.as_str())];
        let text = |named: Option<&str>, variables: &[(&str, &str)]| {
            let found = find(named.map(Path::new), &here(variables));
            found.map(|found| found.map(|(_, text)| text)).map_err(|error| error.to_string())
        };
        assert_eq!(text(None, &[]), Ok(None));
        assert_eq!(text(None, &[("HOME", &none)]), Ok(None));
        assert_eq!(text(None, &usual), Ok(Some("usual".to_owned())));
        let both = [usual[0], ("NOVACRON_CONFIG", &other)];
        assert_eq!(text(None, &both), Ok(Some("other".to_owned())));
        let wrong = [usual[0], ("NOVACRON_CONFIG", none.as_str())];
        assert_eq!(text(Some(&other), &wrong), Ok(Some("other".to_owned())));
        for (named, words) in [
            ("none", "No such file"),
            ("bytes", "byte 2 is not UTF-8"),
            ("long", "longer than 1 MiB"),
        ] {
            let error = text(Some(&path(named)), &usual).unwrap_err();
            assert!(error.contains(words) && error.contains("--config"), "{error}");
        }
        assert!(text(None, &wrong).unwrap_err().contains("No such file"));
    }
}
