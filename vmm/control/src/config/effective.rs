//! What a daemon goes by, from all that it was told: an option goes before the environment, that before the file, and
//! that before the default.

use std::path::{Path, PathBuf};

use super::check;
use super::field::{Field, Section, all, path, variable, variable_prefix};
use super::file::{self, Given, unknown_field};
use super::places::shorten;
use super::problem::{ConfigError, Place, Problem};
use super::setting::Refusal;
use super::surroundings::Surroundings;
use super::table::{Config, SECTIONS};
use super::value::Value;
use crate::access::{Accounts, Roles};

/// Short names that are older than the long ones, or typed more often. Of both the long one counts.
const SHORT_VARIABLES: [(&str, &str); 2] =
    [("NOVACRON_SOCKET", "socket.path"), ("NOVACRON_LOG", "log.level")];

/// Where a configuration is to be taken from.
#[derive(Clone, Debug)]
pub struct Sources {
    /// The file that was named, if any was.
    pub file: Option<PathBuf>,
    /// Fields from the command line, `section.field=VALUE`.
    pub set: Vec<String>,
    /// User and environment.
    pub surroundings: Surroundings,
}

/// A configuration in which every field has a value, and where each comes from.
#[derive(Clone, Debug)]
pub struct Effective {
    /// The values.
    pub config: Config,
    /// Who has which role: those of the configuration, by number.
    pub roles: Roles,
    /// The file that was read.
    pub file: Option<PathBuf>,
    /// In the order of the table.
    places: Vec<Place>,
}

impl Effective {
    /// Reads the file and the environment.
    ///
    /// # Errors
    /// Says all that is wrong, not only the first.
    pub fn load(sources: &Sources) -> Result<Self, ConfigError> {
        let file = file::find(sources.file.as_deref(), &sources.surroundings)?;
        let accounts = Accounts::of_this_host().map_err(|error| {
            let problem = Problem { place: Place::Default, what: format!("the roles: {error}") };
            ConfigError::Wrong(vec![problem])
        })?;
        let text = file.as_ref().map(|(path, text)| (path.as_path(), text.as_str()));
        Self::of(text, &sources.set, &sources.surroundings, &accounts).map_err(ConfigError::Wrong)
    }

    /// The same without looking at anything: from a file's path and text, fields from the command line, user and
    /// environment, and the names of accounts.
    ///
    /// # Errors
    /// All that is wrong.
    pub fn of(
        file: Option<(&Path, &str)>,
        set: &[String],
        surroundings: &Surroundings,
        accounts: &Accounts,
    ) -> Result<Self, Vec<Problem>> {
        let mut layers = Layers::new();
        if let Some((path, text)) = file {
            let (given, problems) = file::parse(path, text);
            layers.problems = problems;
            given.into_iter().for_each(|given| layers.apply(given));
        }
        layers.apply_environment(surroundings);
        set.iter().for_each(|text| layers.apply_flag(text));
        layers.apply_defaults(surroundings);
        // What does not fit together is judged once each part does.
        if !layers.problems.is_empty() {
            return Err(layers.problems);
        }
        let places = layers.given.iter().map(Layer::place).collect();
        let mut effective = Self {
            config: layers.config,
            roles: Roles::new(surroundings.uid),
            file: file.map(|(path, _)| path.to_owned()),
            places,
        };
        let items: Vec<_> = layers.given.into_iter().map(|layer| layer.items).collect();
        let problems = check::problems(&mut effective, &items, accounts);
        if problems.is_empty() { Ok(effective) } else { Err(problems) }
    }

    /// Every field: its section, its name, its value as it can be written in a file, and where that comes from.
    pub fn fields(
        &self,
    ) -> impl Iterator<Item = (&'static str, &'static str, toml::Value, &Place)> {
        let fields = all().zip(&self.places);
        fields.map(|((section, field), place)| {
            (section.name, field.name, (field.show)(&self.config), place)
        })
    }

    /// Where a field's value comes from.
    pub(super) fn place(&self, name: &str) -> Place {
        let found =
            all().zip(&self.places).find(|((section, field), _)| path(section, field) == name);
        found.map_or(Place::Default, |(_, place)| place.clone())
    }
}

/// Where the value of a field has come from so far.
#[derive(Clone, Debug, Default)]
struct Layer {
    /// None for its default.
    place: Option<Place>,
    items: Vec<Place>,
}

impl Layer {
    fn place(&self) -> Place {
        self.place.clone().unwrap_or(Place::Default)
    }
}

/// Values laid over each other.
struct Layers {
    config: Config,
    given: Vec<Layer>,
    problems: Vec<Problem>,
}

impl Layers {
    fn new() -> Self {
        Self {
            config: Config::unset(),
            given: vec![Layer::default(); all().count()],
            problems: Vec::new(),
        }
    }

    /// A value that is wrong is an error even if another one is laid over it.
    fn apply(&mut self, given: Given) {
        let Given { section, field, value, place, items, shown } = given;
        match (field.set)(&mut self.config, &value) {
            Ok(()) => {
                let same = |(_, other): (_, &Field)| std::ptr::eq(other, field);
                if let Some(index) = all().position(same) {
                    self.given[index] = Layer { place: Some(place), items };
                }
            }
            Err(Refusal { item, why }) => {
                let place = item.and_then(|item| items.get(item).cloned()).unwrap_or(place);
                let name = path(section, field);
                let allowed = (field.allowed)();
                let what = format!("{name} = {shown}: {why}; it must be {allowed}");
                self.problems.push(Problem { place, what });
            }
        }
    }

    fn apply_words(
        &mut self,
        (section, field): (&'static Section, &'static Field),
        words: &str,
        place: Place,
    ) {
        let value = Value::Words(words.to_owned());
        let shown = format!("{:?}", shorten(words));
        self.apply(Given { section, field, value, place, items: Vec::new(), shown });
    }

    fn apply_environment(&mut self, here: &Surroundings) {
        for (short, name) in SHORT_VARIABLES {
            if let (Some(words), Some(field)) = (here.variable(short), named(name)) {
                self.apply_words(field, words, Place::Variable(short.to_owned()));
            }
        }
        for name in here.variables.keys() {
            let Some(words) = here.variable(name) else { continue };
            let place = Place::Variable(name.clone());
            if let Some(field) = all().find(|(section, field)| variable(section, field) == *name) {
                self.apply_words(field, words, place);
            } else if let Some((section, field)) = SECTIONS
                .iter()
                .find_map(|section| Some((section, name.strip_prefix(&variable_prefix(section))?)))
            {
                // Of no other program: what begins like one of ours and is none is a typing error.
                let what =
                    unknown_field(&format!("{}.{}", section.name, field.to_ascii_lowercase()));
                self.problems.push(Problem { place, what });
            }
        }
    }

    fn apply_flag(&mut self, text: &str) {
        let place = Place::Flag(format!("--set {}", shorten(text)));
        let Some((name, words)) = text.split_once('=') else {
            let what = "write --set section.field=VALUE".to_owned();
            return self.problems.push(Problem { place, what });
        };
        match named(name) {
            Some(field) => self.apply_words(field, words, place),
            None => self.problems.push(Problem { place, what: unknown_field(name) }),
        }
    }

    fn apply_defaults(&mut self, here: &Surroundings) {
        for (index, (section, field)) in all().enumerate() {
            if self.given[index].place.is_some() {
                continue;
            }
            if let Err(why) = (field.fill)(&mut self.config, here) {
                let what = format!("{}: {why}; give it a value", path(section, field));
                self.problems.push(Problem { place: Place::Default, what });
            }
        }
    }
}

fn named(name: &str) -> Option<(&'static Section, &'static Field)> {
    all().find(|(section, field)| path(section, field) == name)
}

#[cfg(test)]
#[path = "effective_tests.rs"]
mod tests;
