//! The options of every verb.

use std::path::PathBuf;

use clap::Args;
use control::config::{Effective, Sources, Surroundings};

use crate::Failure;
use crate::log::LogOptions;

#[derive(Debug, Args)]
pub(crate) struct Globals {
    #[command(flatten)]
    pub(crate) log: LogOptions,
    /// The daemon's socket, instead of the usual one
    #[arg(long, global = true, value_name = "PATH", env = "NOVACRON_SOCKET")]
    socket: Option<PathBuf>,
}

impl Globals {
    /// Where the daemon is, or will be.
    pub(crate) fn socket(&self) -> Result<PathBuf, Failure> {
        if let Some(socket) = &self.socket {
            return Ok(socket.clone());
        }
        let surroundings = Surroundings::of_this_process();
        let sources = Sources { file: None, set: Vec::new(), surroundings };
        Ok(Effective::load(&sources)?.config.socket.path)
    }

    /// What was asked for here, as a daemon's configuration has it.
    pub(crate) fn settings(&self) -> Vec<String> {
        let socket = self.socket.as_ref().map(|path| format!("socket.path={}", path.display()));
        socket.into_iter().chain(self.log.settings()).collect()
    }
}
