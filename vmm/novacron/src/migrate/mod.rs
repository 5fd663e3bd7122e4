//! `novacron migrate`: a running machine moves to another host.

mod bar;
mod check;
mod follow;
mod limits;
mod report;
mod resolve;

use std::io::IsTerminal;

use clap::{Args, Subcommand, ValueEnum};
use control::api::{MachineName, Migrate, MigrationOutcome, ReceiptAudit};
use control::{Client, Size, TimeSpan};

pub(crate) use self::follow::carry_out;
use self::limits::{bandwidth, cpu, max_downtime, milliseconds, throttle, timeout};
pub(crate) use self::limits::{change, together};
use self::report::report;
pub(crate) use self::report::seconds;
use self::resolve::ResolveOptions;
use crate::Failure;
use crate::cli::OutputForm;
use crate::connect::connect;
use crate::globals::Globals;
use crate::machines::NameOption;
use crate::peers::HostNames;

/// Cells of a report's bar where there is no terminal, or one of an unknown width.
const BAR_CELLS: u16 = 60;
/// No bar says more by being wider.
const BAR_CELLS_MAX: u16 = 76;

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
#[command(after_help = "Examples:\n  \
    novacron migrate web --to east --dry-run                 what is in the way, and how it would go; exit code 1 if it cannot\n  \
    novacron migrate web --to east --max-downtime 100ms\n  \
    novacron migrate web --to east --throttle 80%            slow a guest down that writes too fast, to a fifth at most\n  \
    novacron migrate web --to east --stop-after-rounds 20    stop the guest then, however long it stands still\n  \
    novacron migrate web --to east --cpu 0.5                 send with half a processor while the guest runs\n  \
    novacron migrate resolve web                             what to do when nobody knows where web runs\n\n\
    Limits can be changed while the machine moves: novacron operation ID --set max-downtime=2s.\n\
    Both hosts must know each other: novacron peers add. SIGTERM or SIGINT cancels the move, and a second one\n\
    leaves it alone.")]
pub(crate) struct MigrateOptions {
    #[command(subcommand)]
    verb: Option<MigrateVerb>,
    #[command(flatten)]
    order: Option<OrderOptions>,
}

#[derive(Debug, Subcommand)]
enum MigrateVerb {
    /// Let a machine whose move is in doubt run here, since no other copy of it is alive
    Resolve(ResolveOptions),
    /// Drop what is kept here of the memory of a machine that has left
    Forget(NameOption),
}

#[derive(Debug, Args)]
struct OrderOptions {
    /// The machine's name
    name: MachineName,
    /// The host, by the name that it has here
    #[arg(long, value_name = "HOST")]
    to: MachineName,
    /// Only say what is in the way of the move, and how it would go: the guest is looked at for a second
    #[arg(long)]
    dry_run: bool,
    /// How long the guest may stand still
    #[arg(long, value_name = "TIME", default_value = "300ms", value_parser = max_downtime)]
    max_downtime: TimeSpan,
    /// Bytes a second that pages may take while the guest runs; no limit if not given
    #[arg(long, value_name = "SIZE", value_parser = bandwidth)]
    bandwidth: Option<Size>,
    /// How long the other host may be out of reach
    #[arg(long, value_name = "TIME", default_value = "1m", value_parser = timeout)]
    timeout: TimeSpan,
    /// Data streams beside the control stream, at most, 1 to 16
    #[arg(long, value_name = "N", default_value_t = 4)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=16))]
    streams: u32,
    /// Stop the guest after so many rounds, 1 to 1000, even if it will stand still for longer than it may; without
    /// it the move is given up then
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    stop_after_rounds: Option<u32>,
    /// How much a guest may be slowed down that writes too fast for the move to end: its vCPUs are held for so much of
    /// their time at most, no longer than needed, 1% to 99%; it is not slowed down if not given
    #[arg(long, value_name = "MAX%", value_parser = throttle)]
    throttle: Option<u32>,
    /// Processors that sending may take while the guest runs, such as 0.5; no limit if not given
    #[arg(long, value_name = "N", value_parser = cpu)]
    cpu: Option<u32>,
    /// How much of the memory is looked at again, once the guest runs there
    #[arg(long, value_name = "HOW", default_value = "sampled")]
    audit: AuditOption,
    /// For people or for programs
    #[arg(long, value_name = "FORM", default_value = "text")]
    output: OutputForm,
}

/// How much of the memory that is left is looked at again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum AuditOption {
    /// Nothing.
    None,
    /// One page of 64.
    Sampled,
    /// Every page.
    Whole,
}

impl From<AuditOption> for ReceiptAudit {
    fn from(audit: AuditOption) -> Self {
        match audit {
            AuditOption::None => Self::None,
            AuditOption::Sampled => Self::Sampled,
            AuditOption::Whole => Self::Whole,
        }
    }
}

impl OrderOptions {
    /// The same as the API has it.
    fn order(&self) -> Migrate {
        Migrate {
            to: self.to.clone(),
            max_downtime_ms: milliseconds(self.max_downtime),
            timeout_ms: milliseconds(self.timeout),
            bandwidth: self.bandwidth.map(|size| size.0),
            streams: self.streams,
            stop_after_rounds: self.stop_after_rounds,
            audit: self.audit.into(),
            throttle_percent: self.throttle,
            cpu_permille: self.cpu,
        }
    }
}

pub(crate) fn migrate(options: &MigrateOptions, globals: &Globals) -> Result<(), Failure> {
    match (&options.verb, &options.order) {
        (Some(MigrateVerb::Resolve(options)), _) => resolve::resolve(options, globals),
        (Some(MigrateVerb::Forget(options)), _) => {
            Ok(connect(globals)?.delete(&format!("/v1/machines/{}/kept", options.name))?)
        }
        (None, Some(order)) if order.dry_run => {
            check::check(&order.name, &order.order(), order.output, globals)
        }
        (None, Some(order)) => follow::follow(&order.name, &order.order(), order.output, globals),
        // The grammar lets nothing through that has neither.
        (None, None) => {
            Err(Failure::Misused("say which machine moves, and --to which host".into()))
        }
    }
}

/// A move's report, as wide as this terminal takes it, and with the names that hosts have here.
pub(crate) fn report_of(client: &Client, outcome: &MigrationOutcome) -> String {
    let names = HostNames::known_to(client);
    report_behind(0, outcome, &|key| names.name(key))
}

/// The same for lines that begin in the column `margin`, and with the caller's names.
pub(crate) fn report_behind(
    margin: u16,
    outcome: &MigrationOutcome,
    names: &dyn Fn(&str) -> String,
) -> String {
    let stdout = std::io::stdout();
    let columns = stdout.is_terminal().then(|| rustix::termios::tcgetwinsize(&stdout).ok());
    let columns = columns.flatten().map(|size| size.ws_col).filter(|columns| *columns > 0);
    let width = columns.map_or(BAR_CELLS, |columns| columns.saturating_sub(margin));
    report(outcome, names, width.min(BAR_CELLS_MAX).into())
}

#[cfg(test)]
mod tests;
