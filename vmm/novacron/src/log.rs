//! What is logged, where to, and how the processes that this one starts come to log the same.

use std::io::{self, IsTerminal};

use clap::Args;
use clap::builder::FalseyValueParser;
use control::config::LogConfig;
use tracing_subscriber::EnvFilter;

const FILTER_VARIABLE: &str = "NOVACRON_LOG";
const JSON_VARIABLE: &str = "NOVACRON_LOG_JSON";

/// The options of every verb.
#[derive(Debug, Args)]
pub(crate) struct LogOptions {
    /// How much is logged on standard error, by this process and those it starts: error, warn, info,
    /// debug, or a filter by module
    #[arg(long, global = true, value_name = "LEVEL", env = FILTER_VARIABLE, value_parser = filter)]
    log: Option<String>,
    /// Write log lines as JSON
    #[arg(long, global = true, env = JSON_VARIABLE, value_parser = FalseyValueParser::new())]
    log_json: bool,
}

impl LogOptions {
    /// Begins to log. Once a process.
    pub(crate) fn start(&self) {
        start(self.filter(), self.log_json);
    }

    /// What was asked for here, as a daemon's configuration has it.
    pub(crate) fn settings(&self) -> Vec<String> {
        let level = self.log.as_ref().map(|level| format!("log.level={level}"));
        level.into_iter().chain(self.log_json.then(|| "log.json=true".to_owned())).collect()
    }

    /// What a process of this executable needs in its environment to log as this one does.
    pub(crate) fn environment(&self) -> [(&'static str, &str); 2] {
        [(FILTER_VARIABLE, self.filter()), (JSON_VARIABLE, if self.log_json { "1" } else { "0" })]
    }

    fn filter(&self) -> &str {
        self.log.as_deref().unwrap_or("warn")
    }
}

/// Begins to log as a daemon's configuration says; returns what a process needs in its environment to do the same.
pub(crate) fn start_configured(config: &LogConfig) -> Vec<(String, String)> {
    start(config.level.as_str(), config.json);
    let json = if config.json { "1" } else { "0" };
    vec![
        (FILTER_VARIABLE.to_owned(), config.level.as_str().to_owned()),
        (JSON_VARIABLE.to_owned(), json.to_owned()),
    ]
}

fn start(filter: &str, json: bool) {
    let builder = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(filter))
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr);
    if json { builder.json().init() } else { builder.init() }
}

/// A filter that can be used, as it was given.
fn filter(text: &str) -> Result<String, tracing_subscriber::filter::ParseError> {
    EnvFilter::builder().parse(text).map(|_| text.to_owned())
}
