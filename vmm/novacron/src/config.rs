//! `novacron config`: what the daemon is told, and whether it can be.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use control::config::{Effective, Place, Sources, Surroundings, default_file, reference};
use serde::Serialize;

use crate::Failure;
use crate::cli::OutputForm;
use crate::output::{print, print_json};

/// Where a configuration is taken from: the options of every verb that goes by one.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct SourceOptions {
    /// The configuration file, instead of the usual one
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Set a field, as section.field=VALUE; it goes before the environment and the file
    #[arg(long, value_name = "FIELD=VALUE")]
    pub(crate) set: Vec<String>,
}

impl SourceOptions {
    /// What is in effect in this process.
    pub(crate) fn load(&self) -> Result<Effective, Failure> {
        let surroundings = Surroundings::of_this_process();
        let sources = Sources { file: self.config.clone(), set: self.set.clone(), surroundings };
        Ok(Effective::load(&sources)?)
    }
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    novacron config default > novacron.toml    a file with every field, its default and what it is\n  \
    novacron config check novacron.toml        what is wrong or unusual in it; exit code 2 if it cannot be used\n  \
    novacron config show --set log.level=debug what would be in effect, and where each value comes from")]
pub(crate) struct ConfigOptions {
    #[command(subcommand)]
    verb: ConfigVerb,
}

#[derive(Debug, Subcommand)]
enum ConfigVerb {
    /// Say what is wrong or unusual
    Check {
        /// The file, instead of the usual one
        file: Option<PathBuf>,
    },
    /// Show every value that is in effect, and where it comes from
    Show {
        #[command(flatten)]
        source: SourceOptions,
        /// For people or for programs
        #[arg(long, value_name = "FORM", default_value = "text")]
        output: OutputForm,
    },
    /// Print a file with every field in comments
    Default,
    /// Print the documentation of every field, in Markdown
    Reference,
}

pub(crate) fn config(options: &ConfigOptions) -> Result<(), Failure> {
    match &options.verb {
        ConfigVerb::Check { file } => check(file.clone()),
        ConfigVerb::Show { source, output } => show(&source.load()?, *output),
        ConfigVerb::Default => print(&default_file()),
        ConfigVerb::Reference => print(&reference()),
    }
}

fn check(file: Option<PathBuf>) -> Result<(), Failure> {
    let effective = SourceOptions { config: file, ..SourceOptions::default() }.load()?;
    let notes = effective.notes(rustix::process::geteuid().as_raw());
    let notes: String = notes.iter().map(|note| format!("note: {note}\n")).collect();
    let file = match &effective.file {
        Some(file) => file.display().to_string(),
        None => "no file, and the defaults".to_owned(),
    };
    print(&format!("{notes}ok: {file}\n"))
}

/// What `novacron config show --output json` says.
#[derive(Serialize)]
struct Document {
    file: Option<PathBuf>,
    fields: Vec<FieldDocument>,
}

#[derive(Serialize)]
struct FieldDocument {
    /// `section.field`.
    field: String,
    /// As in a file.
    value: toml::Value,
    /// `default`, `file`, `environment` or `option`.
    origin: &'static str,
    /// Where that is, for people; none for a default.
    place: Option<String>,
}

fn show(effective: &Effective, form: OutputForm) -> Result<(), Failure> {
    if form == OutputForm::Text {
        return print(&effective.to_toml());
    }
    let field = |(section, name, value, place): (&str, &str, toml::Value, &Place)| FieldDocument {
        field: format!("{section}.{name}"),
        value,
        origin: match place {
            Place::Default => "default",
            Place::File { .. } => "file",
            Place::Variable(_) => "environment",
            Place::Flag(_) => "option",
        },
        place: (*place != Place::Default).then(|| place.to_string()),
    };
    let fields = effective.fields().map(field).collect();
    print_json(&Document { file: effective.file.clone(), fields })
}
