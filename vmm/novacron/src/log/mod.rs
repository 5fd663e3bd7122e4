//! What is logged, where to, and how the processes that this one starts come to log the same.
//!
//! | process | how a line is written | what a sink that is stuck holds up |
//! |---|---|---|
//! | the daemon | by a thread, from a queue (`queue.rs`) | that thread |
//! | a machine process | at once or not at all (`unwaiting.rs`) | nothing |
//! | another verb, which somebody waits for | by whoever logs | the verb, and no line is lost |

mod queue;
mod unwaiting;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{self, IsTerminal, Write};
use std::process::abort;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use clap::Args;
use clap::builder::FalseyValueParser;
use control::config::LogConfig;
use queue::Queue;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};

use crate::Failure;

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
        start(self.filter(), self.log_json, io::stderr);
    }

    /// The same in a machine process, which never waits for its log.
    pub(crate) fn start_unwaiting(&self) {
        let json = self.log_json;
        let unblocked = unwaiting::unblock();
        let write = move |line: &[u8]| unwaiting::write(line, |lost| told(lost, json));
        start(self.filter(), json, move || Line(write));
        if let Err(error) = unblocked {
            tracing::warn!(%error, "a log that nobody reads can hold this machine process up");
        }
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

/// The lines of a daemon.
static QUEUE: OnceLock<Queue> = OnceLock::new();

/// How long a process that ends waits for its log to be written.
const LAST_LINES: Duration = Duration::from_secs(1);

/// What is known once a daemon logs.
#[derive(Debug)]
pub(crate) struct DaemonLog {
    /// What a process needs in its environment to log the same.
    pub(crate) environment: Vec<(String, String)>,
    /// How many lines were lost, now and from now on.
    pub(crate) lines_lost: Arc<AtomicU64>,
}

/// Begins to log as a daemon's configuration says, in a way that nothing waits for.
pub(crate) fn start_daemon(config: &LogConfig) -> Result<DaemonLog, Failure> {
    let LogConfig { json, .. } = *config;
    let (level, queue) = (config.level.as_str(), QUEUE.get_or_init(Queue::default));
    let sink = rustix::io::dup(rustix::stdio::stderr()).map_err(io::Error::from);
    let sink = sink.map_err(Failure::other("standard error"))?.into();
    let writer = std::thread::Builder::new().name("log".into());
    let write = move || queue.write(sink, |lost| told(lost, json));
    writer.spawn(write).map_err(Failure::other("a thread for the log"))?;
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("a thread");
        let backtrace = Backtrace::capture();
        last_words(&match backtrace.status() {
            BacktraceStatus::Captured => format!("{name}: {panic}\n{backtrace}"),
            _ => format!("{name}: {panic}"),
        });
        abort()
    }));
    start(level, json, move || Line(move |line: &[u8]| queue.push(line)));
    let environment = [(FILTER_VARIABLE, level), (JSON_VARIABLE, if json { "1" } else { "0" })];
    Ok(DaemonLog {
        environment: environment.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        lines_lost: queue.lost(),
    })
}

/// Says why a process ends, and sees to it that this and what it has logged is written, if that is possible in time.
pub(crate) fn last_words(words: &str) {
    match QUEUE.get() {
        Some(queue) => queue.push(format!("novacron: {words}\n").as_bytes()),
        None => eprintln!("novacron: {words}"),
    }
    finish();
}

/// Sees to it that what was logged is written, if that is possible in time.
pub(crate) fn finish() {
    if let Some(queue) = QUEUE.get() {
        queue.finish(LAST_LINES);
    }
}

fn start<W>(filter: &str, json: bool, writer: W)
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let builder = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(filter))
        .with_ansi(io::stderr().is_terminal())
        .with_writer(writer);
    if json { builder.json().init() } else { builder.init() }
}

/// The line about lines that were lost. Not by way of `tracing`: it is due whatever the filter is.
fn told(lost: u64, json: bool) -> String {
    let mut time = String::new();
    // A clock that cannot be read is no reason to be silent.
    let _ = SystemTime.format_time(&mut format::Writer::new(&mut time));
    let message = if lost == 1 {
        "1 log line was lost: standard error did not take it".to_owned()
    } else {
        format!("{lost} log lines were lost: standard error did not take them")
    };
    if json {
        let fields = serde_json::json!({ "message": message, "lost": lost });
        let line = serde_json::json!({
            "timestamp": time, "level": "WARN", "fields": fields, "target": "novacron::log",
        });
        format!("{line}\n")
    } else {
        format!("{time}  WARN novacron::log: {message}\n")
    }
}

/// Does something with each line.
struct Line<F>(F);

impl<F: Fn(&[u8])> Write for Line<F> {
    /// Takes all of it: a formatter writes a line at once, and would write about an error where the line did not go.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        (self.0)(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A filter that can be used, as it was given.
fn filter(text: &str) -> Result<String, tracing_subscriber::filter::ParseError> {
    EnvFilter::builder().parse(text).map(|_| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_about_lost_lines_looks_like_the_others() {
        let text = told(3, false);
        assert!(
            text.ends_with(
                "Z  WARN novacron::log: 3 log lines were lost: standard error did not take them\n"
            ),
            "{text}"
        );
        let value: serde_json::Value = serde_json::from_str(&told(1, true)).unwrap();
        assert_eq!((&value["fields"]["lost"], &value["level"]), (&1.into(), &"WARN".into()));
    }
}
