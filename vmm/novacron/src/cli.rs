//! The command line's grammar.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use control::Size;
use machine::{CpuModel, DirtyLogKind};

use crate::audit::AuditOptions;
use crate::config::ConfigOptions;
use crate::daemon::DaemonVerb;
use crate::globals::Globals;
use crate::machines::{
    HandOverOptions, ListOptions, NameOption, ShowOptions, SnapshotOptions, StopOptions,
};
use crate::migrate::MigrateOptions;
use crate::observe::{EventsOptions, OperationOptions, OutputOption, ShutdownOptions};
use crate::peers::PeersOptions;
use crate::receipt::ReceiptOptions;
use crate::run::{RestoreOptions, RunOptions};
use crate::top::TopOptions;

/// Runs virtual machines, and moves them while they run.
#[derive(Debug, Parser)]
#[command(name = "novacron", version, propagate_version = true)]
#[command(
    after_help = "Exit codes: 0 done, 1 failed, 2 misused, 3 this host cannot run machines, \
                        4 the guest failed."
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) globals: Globals,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Make a machine and start it, its console on this terminal
    Run(RunOptions),
    /// Make a machine of a snapshot, and go on with it
    Restore(RestoreOptions),
    /// Show all machines
    List(ListOptions),
    /// Show one machine
    Show(ShowOptions),
    /// Attach to a machine's console; Ctrl-] leaves it
    Console(NameOption),
    /// Show what a guest printed lately
    Logs(NameOption),
    /// Start a machine that is stopped
    Start(NameOption),
    /// Ask a guest to switch itself off, and end it if it does not
    Stop(StopOptions),
    /// End a machine's process at once
    Kill(NameOption),
    /// Stop a machine's vCPUs
    Pause(NameOption),
    /// Let a machine's vCPUs run again
    Resume(NameOption),
    /// Delete a machine that is stopped
    Delete(NameOption),
    /// Save a machine to a new file; it goes on as it was
    Snapshot(SnapshotOptions),
    /// Give a running machine to a new process
    Handover(HandOverOptions),
    /// Move a running machine to another host
    Migrate(MigrateOptions),
    /// Show, add and remove the hosts to which machines move
    Peers(PeersOptions),
    /// Show what happens, as it happens
    Events(EventsOptions),
    /// Show an operation, or cancel it
    Operation(OperationOptions),
    /// Say whether the daemon can do its work, and what is in its way
    Health(OutputOption),
    /// Show the daemon and its host
    Info(OutputOption),
    /// Watch machines, operations, events and the daemon's health on one screen
    Top(TopOptions),
    /// Run a guest that checks its own memory; hand it over, move it to another host and back, save and restore it while
    /// it writes
    Demo(DemoOptions),
    /// Show what this host's CPU offers to guests, or what it has in common with another host
    Cpu(CpuOptions),
    /// Check, show and document the configuration of the daemon
    Config(ConfigOptions),
    /// Keep machines, and answer on the control socket
    Daemon(DaemonVerb),
    /// End the daemon; its machines go on
    Shutdown(ShutdownOptions),
    /// Print the description of the control socket's API (OpenAPI)
    Api,
    /// Print a completion script for a shell
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Show who asked for which change, and check that the record of it is whole
    Audit(AuditOptions),
    /// Show and check what both hosts of a machine's move have signed
    Receipt(ReceiptOptions),
    /// The process of one machine; started by other verbs, not by people
    #[command(hide = true)]
    Machine,
}

/// Of an option that is given twice the last counts: `cargo demo` puts its own before the caller's.
#[derive(Debug, Args)]
#[command(args_override_self = true)]
#[command(after_help = "Examples:\n  \
    novacron demo --memory 4G --cpus 4 --rate 20000\n  \
    novacron demo --times 0 --snapshots 0 --moves 5\n  \
    novacron demo --kernel bzImage --initrd initrd.img --cmdline 'console=ttyS0' --after login:\n\n\
    Two daemons are started for it, with folders of their own, which are hosts for each other on 127.0.0.1. Ctrl-C, too,\n\
    ends both, and all machines.")]
pub(crate) struct DemoOptions {
    /// Plain lines, even on a terminal
    #[arg(long)]
    pub(crate) plain: bool,
    /// How often the guest is handed over in each form
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub(crate) times: u32,
    /// How often it moves live to the other of two daemons, over TLS, and back; 0 leaves that out. It is stopped after 12
    /// rounds, even if it writes so fast that it will stand still for longer than the 300 ms that it may
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) moves: u32,
    /// How often it is saved, killed and restored, eagerly and lazily
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) snapshots: u32,
    /// vCPUs, 1 to 64
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub(crate) cpus: u32,
    /// CPU model: host, or x86-64-v1 to x86-64-v3, which are the same on every host
    #[arg(long, value_name = "MODEL", default_value = "host")]
    pub(crate) cpu: CpuModel,
    /// Memory
    #[arg(long, value_name = "SIZE", default_value = "512M")]
    pub(crate) memory: Size,
    /// Where the hole below 4 GiB starts: memory beyond it lies above 4 GiB
    #[arg(long, value_name = "ADDRESS", default_value = "256M")]
    pub(crate) hole_start: Size,
    /// Pages that each vCPU writes a second; 0 is as many as it can
    #[arg(long, value_name = "PAGES", default_value_t = 5_000)]
    pub(crate) rate: u64,
    /// Memory that is written again and again
    #[arg(long, value_name = "SIZE", default_value = "64M")]
    pub(crate) working_set: Size,
    /// How KVM logs written pages: bitmap, ring, or ring:N for rings of N pages
    #[arg(long, value_name = "KIND", default_value_t)]
    pub(crate) dirty_log: DirtyLogKind,
    #[command(flatten)]
    pub(crate) own_guest: Option<OwnGuest>,
}

/// A guest of the user's instead of the oracle: it is handed over and moves as often, its console is shown, and in the end
/// its power button is pressed.
#[derive(Debug, Args)]
#[group(conflicts_with_all = ["rate", "working_set"])]
pub(crate) struct OwnGuest {
    /// Hand over and move this kernel instead of the oracle guest: a vmlinux (ELF) or bzImage
    #[arg(long, value_name = "FILE", required = false)]
    pub(crate) kernel: PathBuf,
    /// Its initial RAM disk
    #[arg(long, value_name = "FILE", requires = "kernel")]
    pub(crate) initrd: Option<PathBuf>,
    /// Its command line
    #[arg(long, value_name = "TEXT", default_value = "", requires = "kernel")]
    pub(crate) cmdline: String,
    /// What it says on its console when it is ready to be handed over; without it, it is at once
    #[arg(long, value_name = "TEXT", default_value = "", requires = "kernel")]
    pub(crate) after: String,
    /// Milliseconds that it runs after each hand-over and each move
    #[arg(long, value_name = "MS", default_value_t = 1000, requires = "kernel")]
    pub(crate) pause_ms: u64,
}

impl OwnGuest {
    /// How long it runs after each hand-over and each move.
    pub(crate) fn pause(&self) -> Duration {
        Duration::from_millis(self.pause_ms)
    }
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    novacron cpu                              which models this host offers, and what it lacks for others\n  \
    novacron cpu --output json > this.json    the same for another host to compare with\n  \
    novacron cpu that.json                    what guests can count on that move between the two\n  \
    novacron cpu --model x86-64-v2            the whole CPUID of a model, the same on every host")]
pub(crate) struct CpuOptions {
    /// What `novacron cpu --output json` said on another host
    #[arg(value_name = "FILE", conflicts_with = "model")]
    pub(crate) other: Option<PathBuf>,
    /// Show a model's CPUID instead of this host's
    #[arg(long, value_name = "MODEL")]
    pub(crate) model: Option<CpuModel>,
    /// vCPUs of the machine whose CPUID is shown
    #[arg(long, value_name = "N", default_value_t = 1, requires = "model")]
    pub(crate) cpus: u32,
    /// For people or for programs
    #[arg(long, value_name = "FORM", default_value = "text")]
    pub(crate) output: OutputForm,
}

/// How a verb says what it found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OutputForm {
    /// Lines for people.
    Text,
    /// One JSON value with stable names.
    Json,
}

/// What a machine is made of.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Shape {
    /// vCPUs, 1 to 64
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) cpus: u32,
    /// CPU model: host, or x86-64-v1 to x86-64-v3, which are the same on every host
    #[arg(long, value_name = "MODEL", default_value = "host")]
    pub(crate) cpu: CpuModel,
    /// Memory
    #[arg(long, value_name = "SIZE", default_value = "512M")]
    pub(crate) memory: Size,
    /// Where the hole below 4 GiB starts: memory beyond it lies above 4 GiB
    #[arg(long, value_name = "ADDRESS", default_value = "3G")]
    pub(crate) hole_start: Size,
    /// How KVM logs written pages: bitmap, ring, or ring:N for rings of N pages
    #[arg(long, value_name = "KIND", default_value_t)]
    pub(crate) dirty_log: DirtyLogKind,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::Cli;

    #[test]
    fn the_grammar_contradicts_itself_nowhere() {
        Cli::command().debug_assert();
    }
}
