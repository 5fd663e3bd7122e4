//! All fragments together, and the comparison of what was asked with what the kernel made of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use thiserror::Error;

use crate::fragment::{Fragment, Value, setting};

/// The merged settings, by name. No option has two values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options(BTreeMap<String, Value>);

/// Two fragments want different things of one option.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{option} has one value in {first} and another in {second}")]
pub struct Conflict {
    /// The option.
    pub option: String,
    /// The fragment that was read first.
    pub first: String,
    /// The fragment that contradicts it.
    pub second: String,
}

/// One option that is not as it was asked for.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum Deviation {
    /// No Kconfig file of this source defines the option: it was renamed, removed or misspelt.
    #[error("{0}: this kernel has no such option")]
    Unknown(String),
    /// A dependency is missing, or another option decides.
    #[error("{option}: asked for {asked}, the kernel's configuration made it {found}")]
    Lost {
        /// The option.
        option: String,
        /// As a value or `off`.
        asked: String,
        /// As a value or `off`.
        found: String,
    },
}

impl Options {
    /// Lays fragments over each other. Fragments may repeat each other, so that each is complete
    /// for its purpose; they may not contradict each other.
    ///
    /// # Errors
    /// The first contradiction.
    pub fn merge(fragments: &[Fragment]) -> Result<Self, Conflict> {
        let mut merged: BTreeMap<String, (Value, &str)> = BTreeMap::new();
        for fragment in fragments {
            for setting in &fragment.settings {
                let (value, first) = merged
                    .entry(setting.name.clone())
                    .or_insert_with(|| (setting.value.clone(), &fragment.name));
                if *value != setting.value {
                    return Err(Conflict {
                        option: setting.name.clone(),
                        first: (*first).to_owned(),
                        second: fragment.name.clone(),
                    });
                }
            }
        }
        Ok(Self(merged.into_iter().map(|(name, (value, _))| (name, value)).collect()))
    }

    /// The settings in `.config` syntax, sorted: equal options give equal bytes.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (name, value) in &self.0 {
            // Writing to a String cannot fail.
            let _ = match value {
                Value::Off => writeln!(text, "# {name} is not set"),
                Value::Set(value) => writeln!(text, "{name}={value}"),
            };
        }
        text
    }

    /// Every option that `config`, the finished `.config`, does not hold as asked.
    ///
    /// `known` are the options that the source's Kconfig files define, without prefix. Without it
    /// a misspelt `is not set` would look fulfilled: an option that does not exist is always off.
    #[must_use]
    pub fn deviations(&self, config: &str, known: &BTreeSet<String>) -> Vec<Deviation> {
        let found: BTreeMap<&str, Value> = config.lines().filter_map(setting).collect();
        let mut deviations = Vec::new();
        for (name, asked) in &self.0 {
            let found = found.get(name.as_str()).unwrap_or(&Value::Off);
            if !known.contains(name.trim_start_matches("CONFIG_")) {
                deviations.push(Deviation::Unknown(name.clone()));
            } else if found != asked {
                deviations.push(Deviation::Lost {
                    option: name.clone(),
                    asked: word(asked).to_owned(),
                    found: word(found).to_owned(),
                });
            }
        }
        deviations
    }
}

fn word(value: &Value) -> &str {
    match value {
        Value::Off => "off",
        Value::Set(value) => value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fragment(name: &str, text: &str) -> Fragment {
        Fragment::parse(name, text).unwrap()
    }

    fn options(text: &str) -> Options {
        Options::merge(&[fragment("x", text)]).unwrap()
    }

    fn known(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn fragments_may_repeat_each_other_and_their_order_does_not_show() {
        let (a, b) = (
            fragment("a", "# .\nCONFIG_X=y\n# .\nCONFIG_A=1\n"),
            fragment("b", "# .\n# CONFIG_B is not set\n# .\nCONFIG_X=y\n"),
        );
        let forth = Options::merge(&[a.clone(), b.clone()]).unwrap();
        assert_eq!(forth.text(), "CONFIG_A=1\n# CONFIG_B is not set\nCONFIG_X=y\n");
        assert_eq!(forth, Options::merge(&[b, a]).unwrap());
    }

    #[test]
    fn a_contradiction_names_both_fragments() {
        let pair =
            [fragment("a", "# .\nCONFIG_X=y\n"), fragment("b", "# .\n# CONFIG_X is not set\n")];
        let expected =
            Conflict { option: "CONFIG_X".into(), first: "a".into(), second: "b".into() };
        assert_eq!(Options::merge(&pair), Err(expected));
    }

    #[test]
    fn every_option_that_did_not_survive_is_named() {
        let asked = options(
            "# .\nCONFIG_KEPT=y\n# .\nCONFIG_GONE=y\n# .\nCONFIG_OTHER=64\n\
             # .\n# CONFIG_BACK is not set\n# .\n# CONFIG_HIDDEN is not set\n",
        );
        let config = "CONFIG_KEPT=y\n# CONFIG_GONE is not set\nCONFIG_OTHER=8\nCONFIG_BACK=y\n";
        let known = known(&["KEPT", "GONE", "OTHER", "BACK", "HIDDEN"]);
        let named: Vec<_> =
            asked.deviations(config, &known).iter().map(ToString::to_string).collect();
        assert_eq!(
            named,
            [
                "CONFIG_BACK: asked for off, the kernel's configuration made it y",
                "CONFIG_GONE: asked for y, the kernel's configuration made it off",
                "CONFIG_OTHER: asked for 64, the kernel's configuration made it 8",
            ]
        );
    }

    #[test]
    fn an_option_that_the_source_does_not_define_is_named_even_when_it_is_asked_to_be_off() {
        let asked = options("# .\n# CONFIG_MISSPELT is not set\n");
        let deviations = asked.deviations("", &known(&["MISSPELLED"]));
        assert_eq!(deviations, [Deviation::Unknown("CONFIG_MISSPELT".into())]);
    }
}
