//! What is logged, where to, and how the processes that this one starts come to log the same.

use std::io::{self, IsTerminal};

use clap::Args;
use clap::builder::FalseyValueParser;
use tracing_subscriber::EnvFilter;

const FILTER_VARIABLE: &str = "NOVACRON_LOG";
const JSON_VARIABLE: &str = "NOVACRON_LOG_JSON";

/// The options of every verb.
#[derive(Debug, Args)]
pub(crate) struct LogOptions {
    /// How much is logged on standard error, by this process and those it starts: error, warn, info,
    /// debug, or a filter by module
    #[arg(long, global = true, value_name = "LEVEL", env = FILTER_VARIABLE, value_parser = filter)]
    #[arg(default_value = "warn")]
    log: String,
    /// Write log lines as JSON
    #[arg(long, global = true, env = JSON_VARIABLE, value_parser = FalseyValueParser::new())]
    log_json: bool,
}

impl LogOptions {
    /// Begins to log. Once a process.
    pub(crate) fn start(&self) {
        let builder = tracing_subscriber::fmt()
            .with_env_filter(EnvFilter::new(&self.log))
            .with_ansi(io::stderr().is_terminal())
            .with_writer(io::stderr);
        if self.log_json { builder.json().init() } else { builder.init() }
    }

    /// What a process of this executable needs in its environment to log as this one does.
    pub(crate) fn environment(&self) -> [(&'static str, &str); 2] {
        [(FILTER_VARIABLE, &self.log), (JSON_VARIABLE, if self.log_json { "1" } else { "0" })]
    }
}

/// A filter that can be used, as it was given.
fn filter(text: &str) -> Result<String, tracing_subscriber::filter::ParseError> {
    EnvFilter::builder().parse(text).map(|_| text.to_owned())
}
