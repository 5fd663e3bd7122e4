//! NovaCron's one executable: the command line, and the roles that its processes play.

mod cli;
mod cpu;
mod demo;
mod foreground;
mod log;
mod restore;
mod run;
mod signals;

use std::process::ExitCode;

use clap::Parser;
use cli::{Cli, Verb};
use machine::SuperviseError;

/// The stable exit codes; `novacron help` lists them.
mod exit_code {
    /// What was asked for failed.
    pub(crate) const FAILED: u8 = 1;
    /// This host cannot run machines: no KVM, no right, too old.
    pub(crate) const HOST: u8 = 3;
    /// The guest ended otherwise than a guest may.
    pub(crate) const GUEST: u8 = 4;
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    cli.log.start();
    let outcome = match cli.verb {
        Verb::Run(options) => run::run(&options, &cli.log),
        Verb::Restore(options) => restore::restore(&options, &cli.log),
        Verb::Demo(options) => demo::demo(&options, &cli.log),
        Verb::Cpu(options) => cpu::cpu(&options),
        Verb::Machine => machine_role(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("novacron: {failure}");
            ExitCode::from(failure.exit_code())
        }
    }
}

/// Why a verb failed, in words that a user can act on.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// This host cannot run machines
    #[error(transparent)]
    Host(#[from] machine::HostError),
    /// The guest, or its process
    #[error(transparent)]
    Machine(#[from] SuperviseError),
    /// What the guest itself says is wrong
    #[error("{0}")]
    Guest(String),
    /// Anything else
    #[error("{0}")]
    Other(String),
}

impl Failure {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Host(_) => exit_code::HOST,
            Self::Guest(_)
            | Self::Machine(SuperviseError::GuestEnded { .. } | SuperviseError::Lost { .. }) => {
                exit_code::GUEST
            }
            Self::Machine(_) | Self::Other(_) => exit_code::FAILED,
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
        let why = "a role that `novacron run` starts; standard input must be its control socket";
        return Err(Failure::Other(format!("machine is {why}")));
    }
    // The role alone decides when the connection is closed.
    let null = std::fs::File::open("/dev/null").map_err(Failure::other("/dev/null"))?;
    rustix::stdio::dup2_stdin(null)
        .map_err(|error| Failure::other("standard input")(error.into()))?;
    machine::run_role(control).map_err(|error| Failure::Other(error.to_string()))
}
