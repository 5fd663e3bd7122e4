//! NovaCron's one executable: the command line, and the roles that its processes play.

mod attach;
mod audit;
mod cli;
mod config;
mod connect;
mod cpu;
mod daemon;
mod demo;
mod globals;
mod log;
mod machines;
mod migrate;
mod observe;
mod output;
mod peers;
mod progress;
mod receipt;
mod run;
mod signals;
mod table;
mod terminal;
mod top;

use std::process::{ExitCode, abort};

use clap::{CommandFactory, Parser};
use cli::{Cli, Verb};
use globals::Globals;

/// The stable exit codes; `novacron help` lists them.
mod exit_code {
    /// What was asked for failed.
    pub(crate) const FAILED: u8 = 1;
    /// Options, environment or configuration say what cannot be. It is clap's own code, too.
    pub(crate) const MISUSED: u8 = 2;
    /// This host cannot run machines: no KVM, no right, too old.
    pub(crate) const HOST: u8 = 3;
    /// The guest ended otherwise than a guest may.
    pub(crate) const GUEST: u8 = 4;
}

fn main() -> ExitCode {
    // As the profile of a release says, too; a build for tests unwinds.
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        abort()
    }));
    let Cli { globals, verb } = Cli::parse();
    match verb {
        // It logs as its configuration says.
        Verb::Daemon(_) => {}
        Verb::Machine => globals.log.start_unwaiting(),
        _ => globals.log.start(),
    }
    match obey(verb, &globals) {
        Ok(()) => {
            log::finish();
            ExitCode::SUCCESS
        }
        Err(failure) => {
            log::last_words(&failure.to_string());
            ExitCode::from(failure.exit_code())
        }
    }
}

fn obey(verb: Verb, globals: &Globals) -> Result<(), Failure> {
    match verb {
        Verb::Run(options) => run::run(&options, globals),
        Verb::Restore(options) => run::restore(&options, globals),
        Verb::List(options) => machines::list(&options, globals),
        Verb::Show(options) => machines::show(&options, globals),
        Verb::Console(options) => machines::console(&options, globals),
        Verb::Logs(options) => machines::logs(&options, globals),
        Verb::Start(options) => machines::start(&options, globals),
        Verb::Stop(options) => machines::stop(&options, globals),
        Verb::Kill(options) => machines::quick(&options, "kill", globals),
        Verb::Pause(options) => machines::quick(&options, "pause", globals),
        Verb::Resume(options) => machines::quick(&options, "resume", globals),
        Verb::Delete(options) => machines::delete(&options, globals),
        Verb::Snapshot(options) => machines::snapshot(&options, globals),
        Verb::Handover(options) => machines::hand_over(&options, globals),
        Verb::Migrate(options) => migrate::migrate(&options, globals),
        Verb::Peers(options) => peers::peers(&options, globals),
        Verb::Events(options) => observe::events(&options, globals),
        Verb::Operation(options) => observe::operation(&options, globals),
        Verb::Health(options) => observe::health(&options, globals),
        Verb::Info(options) => observe::info(&options, globals),
        Verb::Top(options) => top::top(&options, globals),
        Verb::Demo(options) => demo::demo(&options, &globals.log),
        Verb::Cpu(options) => cpu::cpu(&options),
        Verb::Config(options) => config::config(&options),
        Verb::Audit(options) => audit::audit(&options),
        Verb::Receipt(options) => receipt::receipt(&options, globals),
        Verb::Daemon(options) => daemon::daemon(options, globals),
        Verb::Shutdown(options) => observe::shutdown(&options, globals),
        Verb::Api => {
            print!("{}", control::openapi_json());
            Ok(())
        }
        Verb::Completion { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "novacron", &mut std::io::stdout());
            Ok(())
        }
        Verb::Machine => machine_role(),
    }
}

/// Why a verb failed, in words that a user can act on.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// This host cannot run machines
    #[error(transparent)]
    Host(#[from] machine::HostError),
    /// The daemon, or its answer
    #[error(transparent)]
    Call(#[from] control::CallError),
    /// The daemon cannot start
    #[error(transparent)]
    Daemon(#[from] control::DaemonError),
    /// The daemon's configuration
    #[error(transparent)]
    Config(#[from] control::config::ConfigError),
    /// What the guest itself says is wrong
    #[error("{0}")]
    Guest(String),
    /// Options that say too little, or what cannot be
    #[error("{0}")]
    Misused(String),
    /// Anything else
    #[error("{0}")]
    Other(String),
}

impl Failure {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Host(_) => exit_code::HOST,
            Self::Config(_) | Self::Misused(_) => exit_code::MISUSED,
            Self::Guest(_) => exit_code::GUEST,
            Self::Call(_) | Self::Daemon(_) | Self::Other(_) => exit_code::FAILED,
        }
    }

    /// Words around an error of any kind.
    fn other(context: &str) -> impl FnOnce(std::io::Error) -> Self + '_ {
        move |error| Self::Other(format!("{context}: {error}"))
    }
}

/// `novacron machine`: standard input is the control socket.
fn machine_role() -> Result<(), Failure> {
    let control = std::os::fd::AsFd::as_fd(&std::io::stdin())
        .try_clone_to_owned()
        .map_err(Failure::other("the control socket on standard input"))?;
    let is_socket = rustix::net::sockopt::socket_type(&control).is_ok();
    if !is_socket {
        let why = "a role that a daemon starts; standard input must be its control socket";
        return Err(Failure::Other(format!("machine is {why}")));
    }
    // The role alone decides when the connection is closed.
    let null = std::fs::File::open("/dev/null").map_err(Failure::other("/dev/null"))?;
    rustix::stdio::dup2_stdin(null)
        .map_err(|error| Failure::other("standard input")(error.into()))?;
    machine::run_role(control).map_err(|error| Failure::Other(error.to_string()))
}
