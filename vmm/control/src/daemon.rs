//! The daemon: everything put together, started and ended in order.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tokio::sync::watch;

use crate::StoreError;
use crate::access::{Accounts, Files, Folders, Role, Roles};
use crate::api::EventKind;
use crate::audit::{AuditError, AuditLog};
use crate::audit_trail::AuditTrail;
use crate::config::Config;
use crate::events::Events;
use crate::kept_images::{KeptImages, KeptImagesError};
use crate::metrics::Metrics;
use crate::operations::Operations;
use crate::peers::{Arrivals, Identity, IdentityError, PeerBook, PeerBookError, Ports};
use crate::receipts::{ReceiptShelf, ReceiptShelfError};
use crate::registry::{Limits, Registry, Shared, Store};
use crate::server::{Listener, State, Terms, router, serve};

/// How often what is too old to be kept is looked for. It is not used meanwhile, it is only there.
const FORGETTING: Duration = Duration::from_secs(3600);

/// The daemon cannot start, or go on.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// Its records
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Its key
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Other hosts
    #[error(transparent)]
    Peers(#[from] PeerBookError),
    /// Receipts of moves
    #[error(transparent)]
    Receipts(#[from] ReceiptShelfError),
    /// The folder of kept images
    #[error(transparent)]
    Kept(#[from] KeptImagesError),
    /// Its audit log
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// Its port
    #[error("{address}, where other hosts reach this one: {source}; peers.listen gives another")]
    Port {
        /// Where it should be.
        address: SocketAddr,
        /// Why it is not.
        source: io::Error,
    },
    /// Its socket
    #[error("the control socket {}: {source}; --socket gives another", path.display())]
    Socket {
        /// Where it should be.
        path: PathBuf,
        /// Why it is not.
        source: io::Error,
    },
    /// Somebody to whom a role was given
    #[error("roles.{role}: {why}; correct it in the configuration, or give the number")]
    Role {
        /// The role.
        role: Role,
        /// Why.
        why: String,
    },
    /// The system
    #[error("{what}: {source}")]
    Io {
        /// What for.
        what: &'static str,
        /// What it said.
        source: io::Error,
    },
}

impl DaemonError {
    fn io(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what, source }
    }
}

/// What a daemon is made with.
#[derive(Debug)]
pub struct DaemonOptions {
    /// What holds for it.
    pub config: Config,
    /// The executable whose verb `machine` is a machine's process.
    pub executable: PathBuf,
    /// What that has in its environment besides ours.
    pub environment: Vec<(String, String)>,
    /// How many lines of its log were lost, now and from now on.
    pub log_lines_lost: Arc<AtomicU64>,
    /// The built-in guest.
    pub oracle: &'static [u8],
}

/// A daemon that is ready: its socket is bound, its records are read, its machines are found.
#[derive(Debug)]
pub struct Daemon {
    runtime: tokio::runtime::Runtime,
    listener: Listener,
    ports: Ports,
    terms: Terms,
    state: State,
    stop: Arc<watch::Sender<bool>>,
}

/// Ends a daemon from another thread.
#[derive(Clone, Debug)]
pub struct DaemonEnder(Arc<watch::Sender<bool>>);

impl DaemonEnder {
    /// Asks it to end. Its machines live on.
    pub fn end(&self) {
        self.0.send_replace(true);
    }
}

impl Daemon {
    /// Reads the records, finds the machines that live, and binds the socket.
    ///
    /// # Errors
    /// When another daemon is there, or something that it needs is not.
    pub fn start(options: DaemonOptions) -> Result<Self, DaemonError> {
        let DaemonOptions { config, executable, environment, log_lines_lost, oracle } = options;
        let own_uid = rustix::process::geteuid().as_raw();
        let roles = Arc::new(roles(&config, own_uid)?);
        let store = Store::open(&config.storage.state, &config.storage.runtime, own_uid)?;
        // Made, so that somebody can put a file there.
        for folder in &config.storage.folders {
            std::fs::create_dir_all(folder).map_err(DaemonError::io("a folder for files"))?;
        }
        let metrics = Arc::new(Metrics { log_lines_lost, ..Metrics::default() });
        let log = AuditLog::open(&config.storage.state.join("audit"), &config.audit)?;
        let audit = AuditTrail::new(log, Arc::clone(&metrics));
        let identity = Identity::open(&config.storage.state)?;
        let peers = PeerBook::open(&config.storage.state, identity.public())?;
        let listen = config.peers.listen.iter().map(|listen| listen.0);
        let ports = Ports::bind(listen, count(config.peers.unknown_connections))
            .map_err(|(address, source)| DaemonError::Port { address, source })?;
        let kept = KeptImages::open(&config.storage.state, &config.kept, own_uid)?;
        let receipts = ReceiptShelf::open(&config.storage.state, own_uid)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .max_blocking_threads(64)
            .thread_name("control")
            .enable_all()
            .build()
            .map_err(DaemonError::io("threads for the control socket"))?;
        let events = Arc::new(Events::new(count(config.limits.events_kept)));
        let on_end = {
            let audit = Arc::clone(&audit);
            Box::new(move |operation: &crate::api::Operation| audit.ended(operation))
        };
        let shared = Arc::new(Shared {
            executable,
            environment,
            oracle,
            files: Files::new(Folders::new(config.storage.folders.clone()), own_uid),
            limits: Limits {
                machines: count(config.limits.machines),
                console_clients: count(config.limits.console_clients),
                restart_backoff_max: config.machines.restart_backoff_max.duration(),
                stop_timeout: config.machines.stop_timeout.duration(),
                nice: u8::try_from(config.machines.nice).expect("the table allows up to 19"),
            },
            operations: Operations::new(count(config.limits.operations_kept), Arc::clone(&events)),
            events,
            metrics: Arc::clone(&metrics),
            identity,
            peers: Arc::new(peers),
            arrivals: Arrivals::default(),
            listens: ports.addresses(),
            receipts,
            kept,
            runtime: runtime.handle().clone(),
            on_end,
        });
        let registry = Registry::open(store, Arc::clone(&shared))?;
        // After the lock on the state folder: whoever still listens on the socket is no daemon of this folder.
        let path = &config.socket.path;
        let listener = Listener::bind(path, config.socket.mode.bits())
            .map_err(|source| DaemonError::Socket { path: path.clone(), source })?;
        let adopted = registry.adopt_all();
        shared.events.publish(EventKind::DaemonStarted { adopted });
        tracing::info!(socket = %path.display(), adopted, "the daemon is ready");
        let terms = Terms {
            roles,
            connections: count(config.limits.connections),
            patience: config.limits.request_timeout.duration(),
            metrics,
        };
        let stop = Arc::new(watch::Sender::new(false));
        let state = State::new(registry, config, audit, Arc::clone(&stop));
        Ok(Self { runtime, listener, ports, terms, state, stop })
    }

    /// What ends it.
    #[must_use]
    pub fn ender(&self) -> DaemonEnder {
        DaemonEnder(Arc::clone(&self.stop))
    }

    /// Answers calls until it is asked to end; then lets go of its machines, which live on.
    ///
    /// # Errors
    /// When the socket fails.
    pub fn run(self) -> Result<(), DaemonError> {
        let Self { runtime, listener, ports, terms, state, stop } = self;
        let socket = state.config().socket.path.clone();
        {
            let _inside = runtime.enter();
            let served = ports.serve(&state, &stop.subscribe());
            served.map_err(DaemonError::io("the port for other hosts"))?;
            let kept = Arc::clone(&state.registry().shared().kept);
            tokio::spawn(kept.forget_every(FORGETTING));
        }
        let served =
            runtime.block_on(serve(listener, router(state.clone()), terms, stop.subscribe()));
        // Before the socket's name goes, so that whoever waits for that finds nobody's machine kept.
        state.registry().leave_all();
        let removed = std::fs::remove_file(&socket);
        runtime.shutdown_background();
        tracing::info!("the daemon ends; its machines go on");
        if let Err(error) = removed {
            tracing::warn!(%error, socket = %socket.display(), "the socket is left");
        }
        served.map_err(|source| DaemonError::Socket { path: socket, source })
    }
}

#[cfg(test)]
impl Daemon {
    /// What a test needs that speaks to it without its socket. Other hosts reach it as usual.
    pub(crate) fn into_parts(self) -> (tokio::runtime::Runtime, State, Terms) {
        {
            let _inside = self.runtime.enter();
            self.ports.serve(&self.state, &self.stop.subscribe()).unwrap();
        }
        (self.runtime, self.state, self.terms)
    }
}

fn roles(config: &Config, own_uid: u32) -> Result<Roles, DaemonError> {
    let accounts =
        Accounts::of_this_host().map_err(DaemonError::io("the accounts of this host"))?;
    let mut roles = Roles::new(own_uid);
    let given = [
        (Role::Admin, &config.roles.admin),
        (Role::Operator, &config.roles.operator),
        (Role::Viewer, &config.roles.viewer),
    ];
    for (role, members) in given {
        for member in members {
            let outcome = roles.give(role, member, &accounts);
            outcome.map_err(|why| DaemonError::Role { role, why })?;
        }
    }
    Ok(roles)
}

fn count(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
