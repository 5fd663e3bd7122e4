//! The configuration on paper: the default file, the documentation, and what is in effect.

use std::fmt::Write;

use super::effective::Effective;
use super::field::{Field, Section, all, path, variable};
use super::places::one_line;
use super::problem::Place;
use super::surroundings::Surroundings;
use super::table::{Config, SECTIONS};

/// Columns of a comment in the default file.
const WIDTH: usize = 100;

/// How the documentation is remade.
pub(super) const REMAKE: &str =
    "cargo run -p novacron -- config reference > vmm/control/configuration.md";

impl Effective {
    /// As a file that says the same, the origin of each value beside it.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let mut text = match &self.file {
            Some(file) => {
                let file = one_line(&file.display().to_string());
                format!("# From {file}, the environment, options and defaults.\n")
            }
            None => "# No file was read: from the environment, options and defaults.\n".to_owned(),
        };
        let mut last = "";
        for (section, name, value, place) in self.fields() {
            if section != last {
                let _ = write!(text, "\n[{section}]\n");
                last = section;
            }
            let origin = match place {
                Place::Default => "default".to_owned(),
                given => one_line(&given.to_string()),
            };
            let _ = writeln!(text, "{name} = {value} # {origin}");
        }
        text
    }
}

/// What root's file would look like that says nothing, with all there is to say in comments.
#[must_use]
pub fn default_file() -> String {
    let config = defaults();
    let mut text = "# The configuration of novacron daemon. Each line in comments is the default.\n\
                    # `novacron config check` says whether a file is good, `novacron config show` what is in effect.\n"
        .to_owned();
    for section in SECTIONS {
        text.push('\n');
        comment(&mut text, section.about);
        let _ = writeln!(text, "[{}]", section.name);
        for field in section.fields {
            text.push('\n');
            comment(&mut text, field.about);
            comment(&mut text, &format!("It is {}.", (field.allowed)()));
            if let Some(words) = field.default {
                comment(&mut text, &format!("Default: {words}."));
            }
            let _ = writeln!(text, "#{} = {}", field.name, (field.show)(&config));
        }
    }
    text
}

/// The documentation of every field, in Markdown.
#[must_use]
pub fn reference() -> String {
    let mut text = format!(
        "# Configuration of the daemon\n\n\
         `novacron daemon` reads one TOML file: the one that `--config FILE` or `NOVACRON_CONFIG` names, else\n\
         `/etc/novacron/novacron.toml` as root and `$XDG_CONFIG_HOME/novacron/novacron.toml` as anybody else, if it is there.\n\
         Every field has a default, and none is outside of this list. `--set section.field=VALUE` goes before a variable of\n\
         the environment, that before the file, and that before the default. A variable that is empty is as if it were not\n\
         there; items of a list are separated by commas where it is not in a file. `NOVACRON_SOCKET` and `NOVACRON_LOG` are\n\
         short for `NOVACRON_SOCKET_PATH` and `NOVACRON_LOG_LEVEL`.\n\n\
         `novacron config default` prints a file with all fields in comments, `novacron config check [FILE]` says what is\n\
         wrong or unusual, and `novacron config show` what is in effect and where it comes from.\n\n\
         Made from the table in `src/config/table.rs`: `{REMAKE}`.\n"
    );
    let config = defaults();
    for section in SECTIONS {
        let about = section.about.split_whitespace().collect::<Vec<_>>().join(" ");
        let _ = write!(
            text,
            "\n## `[{}]`\n\n{about}\n\n| field | what it is | what may be written | default | variable |\n|---|---|---|---|---|\n",
            section.name
        );
        for field in section.fields {
            row(&mut text, section, field, &config);
        }
    }
    text
}

fn row(text: &mut String, section: &Section, field: &Field, config: &Config) {
    let about = field.about.split_whitespace().collect::<Vec<_>>().join(" ");
    let default = match field.default {
        Some(words) => words.to_owned(),
        None => format!("`{}`", (field.show)(config)),
    };
    let (name, allowed) = (field.name, (field.allowed)());
    let variable = variable(section, field);
    let _ = writeln!(text, "| `{name}` | {about} | {allowed} | {default} | `{variable}` |");
}

/// Root's defaults.
fn defaults() -> Config {
    let mut config = Config::unset();
    for (section, field) in all() {
        let filled = (field.fill)(&mut config, &Surroundings::of_root());
        debug_assert!(filled.is_ok(), "{} has no default for root", path(section, field));
    }
    config
}

/// Words as comments, in lines of a readable width.
fn comment(text: &mut String, words: &str) {
    let mut line = "#".to_owned();
    for word in words.split_whitespace() {
        if line.len() + 1 + word.len() > WIDTH {
            let _ = writeln!(text, "{line}");
            line = "#".to_owned();
        }
        let _ = write!(line, " {word}");
    }
    let _ = writeln!(text, "{line}");
}

#[cfg(test)]
#[path = "render_tests.rs"]
mod tests;
