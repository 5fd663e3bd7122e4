//! `novacron daemon`: keeps machines, and answers on the control socket.

use std::path::PathBuf;

use clap::Args;
use control::{Daemon, DaemonOptions};

use crate::Failure;
use crate::config::SourceOptions;
use crate::globals::Globals;
use crate::signals::{Continue, on_request_to_end};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    novacron daemon                                   as the configuration says\n  \
    novacron daemon --socket /tmp/n.sock --state /tmp/n\n  \
    novacron daemon --set limits.machines=50 --set log.level=debug\n\n\
    SIGTERM or SIGINT ends the daemon; its machines go on, and the next daemon finds them.\n\
    `novacron shutdown --stop-machines` stops them first.")]
pub(crate) struct DaemonVerb {
    #[command(flatten)]
    source: SourceOptions,
    /// Where it keeps the records of machines and the audit log, as storage.state
    #[arg(long, value_name = "FOLDER")]
    state: Option<PathBuf>,
    /// Leave the terminal's session: it was started by another verb, for whoever comes next
    #[arg(long, hide = true)]
    detached: bool,
}

pub(crate) fn daemon(options: DaemonVerb, globals: &Globals) -> Result<(), Failure> {
    let DaemonVerb { mut source, state, detached } = options;
    source.set.extend(globals.settings());
    source.set.extend(state.map(|state| format!("storage.state={}", state.display())));
    let effective = source.load()?;
    let log = crate::log::start_daemon(&effective.config.log)?;
    if detached {
        // It leads a group already, if this fails: then no terminal's signals reach it either.
        let _ = rustix::process::setsid();
    }
    let executable = std::env::current_exe();
    let daemon = Daemon::start(DaemonOptions {
        config: effective.config,
        executable: executable.map_err(Failure::other("the path of this executable"))?,
        environment: log.environment,
        log_lines_lost: log.lines_lost,
        oracle: firmware::ORACLE,
    })?;
    let ender = daemon.ender();
    on_request_to_end(move |_| {
        ender.end();
        Continue::No
    })
    .map_err(Failure::other("waiting for signals"))?;
    Ok(daemon.run()?)
}
