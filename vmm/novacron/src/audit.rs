//! `novacron audit`: who asked for which change, and whether the record of it is whole.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use control::audit::{Event, Outcome, Phase, Record, RecordHash, Summary, Wanted, recent, verify};
use serde::Serialize;

use crate::Failure;
use crate::cli::OutputForm;
use crate::config::SourceOptions;
use crate::output::{print, print_json};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    novacron audit verify                      whether anything was altered, removed or put in; exit code 1 if so\n  \
    novacron audit verify --state /backup/nova the same of a copy\n  \
    novacron audit show --target web -n 50     the last calls that were to change the machine web\n\n\
    The chain has no key: note the hash that `verify` prints where nobody of this host can change it, and give\n\
    it to a later one with --holds.")]
pub(crate) struct AuditOptions {
    #[command(subcommand)]
    verb: AuditVerb,
}

#[derive(Debug, Subcommand)]
enum AuditVerb {
    /// Check that the log is whole
    Verify {
        #[command(flatten)]
        place: AuditPlace,
        /// Check that it still holds the record with this hash, which an earlier check printed
        #[arg(long, value_name = "HASH")]
        holds: Option<RecordHash>,
        /// For people or for programs
        #[arg(long, value_name = "FORM", default_value = "text")]
        output: OutputForm,
    },
    /// Show the last records
    Show {
        #[command(flatten)]
        place: AuditPlace,
        /// How many
        #[arg(short = 'n', long, value_name = "N", default_value_t = 20)]
        last: usize,
        /// Calls of this method only
        #[arg(long, value_name = "ID")]
        method: Option<String>,
        /// Calls that were to change this only, such as a machine
        #[arg(long, value_name = "NAME")]
        target: Option<String>,
        /// For people or for programs
        #[arg(long, value_name = "FORM", default_value = "text")]
        output: OutputForm,
    },
}

/// Where the log is.
#[derive(Debug, Args)]
struct AuditPlace {
    /// The daemon's state folder, instead of the one of its configuration
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    #[command(flatten)]
    source: SourceOptions,
}

impl AuditPlace {
    fn folder(&self) -> Result<PathBuf, Failure> {
        let state = match &self.state {
            Some(state) => state.clone(),
            None => self.source.load()?.config.storage.state,
        };
        Ok(state.join("audit"))
    }
}

pub(crate) fn audit(options: &AuditOptions) -> Result<(), Failure> {
    match &options.verb {
        AuditVerb::Verify { place, holds, output } => check(place, *holds, *output),
        AuditVerb::Show { place, last, method, target, output } => {
            let (method, target) = (method.clone(), target.clone());
            show(place, &Wanted { most: *last, method, target }, *output)
        }
    }
}

/// What `novacron audit verify --output json` says of a log that is whole.
#[derive(Serialize)]
struct SummaryDocument {
    records: u64,
    segments: u64,
    first_seq: Option<u64>,
    last_seq: Option<u64>,
    first_time: Option<String>,
    last_time: Option<String>,
    head: RecordHash,
    torn_bytes: u64,
}

fn check(place: &AuditPlace, holds: Option<RecordHash>, form: OutputForm) -> Result<(), Failure> {
    let folder = place.folder()?;
    let summary = verify(&folder, holds).map_err(|error| Failure::Other(error.to_string()))?;
    let Summary { segments, records, numbers, times, head, torn } = summary;
    let (first_time, last_time) = times.unzip();
    if form == OutputForm::Json {
        let (first_seq, last_seq) = numbers.unzip();
        let torn_bytes = torn;
        return print_json(&SummaryDocument {
            records,
            segments,
            first_seq,
            last_seq,
            first_time,
            last_time,
            head,
            torn_bytes,
        });
    }
    let mut text =
        format!("ok: {records} records in {segments} segments of {}\n", folder.display());
    if let (Some((first, last)), Some(from), Some(to)) = (numbers, first_time, last_time) {
        text += &format!("records: {first} to {last}, {from} to {to}\n");
    }
    text += &format!("head: {head}\n");
    if torn > 0 {
        text += &format!(
            "note: {torn} bytes of a last line that is being written, or was when its daemon was killed\n"
        );
    }
    print(&text)
}

fn show(place: &AuditPlace, wanted: &Wanted, form: OutputForm) -> Result<(), Failure> {
    let found =
        recent(&place.folder()?, wanted).map_err(|error| Failure::Other(error.to_string()))?;
    if found.unreadable > 0 {
        eprintln!(
            "note: lines that are no records: {}; see `novacron audit verify`",
            found.unreadable
        );
    }
    if form == OutputForm::Json {
        return print_json(&found.records);
    }
    print(&found.records.iter().map(line).collect::<String>())
}

/// A record in a line for people. What a caller chose is quoted: it may have control characters.
fn line(record: &Record) -> String {
    let Record { seq, time, event, .. } = record;
    let what = match event {
        Event::Segment(start) => format!("segment {} begins", start.number),
        Event::Torn(torn) => format!("a last line of {} bytes was cut off", torn.bytes),
        Event::Call(call) => {
            let who = call.caller;
            let who = match &call.host {
                Some(key) => format!("host {key}"),
                None => {
                    let role = who.role.map_or("no role", |role| role.name());
                    format!("uid {}, {role}", who.uid)
                }
            };
            let outcome = match &call.phase {
                Phase::Asked => "asked".to_owned(),
                Phase::Done(Outcome::Ok) => "ok".to_owned(),
                Phase::Done(Outcome::Denied) => "denied".to_owned(),
                Phase::Done(Outcome::Failed(code)) => format!("failed: {}", code.escape_debug()),
            };
            let operation =
                call.operation.as_ref().map_or(String::new(), |id| format!(" operation {id:?}"));
            let (method, target) = (call.method.escape_debug(), &call.target);
            format!("{method} {target:?}{operation} {outcome} ({who})")
        }
    };
    format!("{seq:>8}  {time}  {what}\n")
}
