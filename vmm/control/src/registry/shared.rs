//! What the registry and every attendant need.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use machine::{DirtyLogKind, Executable};
use tokio::runtime::Handle;

use crate::access::Files;
use crate::api::{ApiError, ErrorCode, Peer};
use crate::events::Events;
use crate::kept_images::KeptImages;
use crate::metrics::Metrics;
use crate::operations::{Operations, Outcome, Pending};
use crate::peers::{Arrivals, Identity, PeerBook, PeerClient};
use crate::receipts::ReceiptShelf;

/// Bounds that the configuration sets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) machines: usize,
    pub(crate) console_clients: usize,
    pub(crate) restart_backoff_max: Duration,
    pub(crate) stop_timeout: Duration,
    pub(crate) nice: u8,
}

/// Is told how an operation ended: the audit log has both ends of each.
pub(crate) type OnEnd = Box<dyn Fn(&crate::api::Operation) + Send + Sync>;

/// What every attendant needs.
pub(crate) struct Shared {
    pub(crate) executable: PathBuf,
    /// What a machine process has in its environment besides ours.
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) oracle: &'static [u8],
    pub(crate) files: Files,
    pub(crate) limits: Limits,
    pub(crate) events: Arc<Events>,
    pub(crate) operations: Operations,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) identity: Identity,
    pub(crate) peers: Arc<PeerBook>,
    pub(crate) arrivals: Arrivals,
    /// Where other hosts reach this one.
    pub(crate) listens: Vec<std::net::SocketAddr>,
    pub(crate) receipts: ReceiptShelf,
    pub(crate) kept: Arc<KeptImages>,
    pub(crate) runtime: Handle,
    pub(crate) on_end: OnEnd,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("executable", &self.executable).finish_non_exhaustive()
    }
}

impl Shared {
    /// Runs `with` on the executable that has every role.
    pub(super) fn with_executable<T>(
        &self,
        dirty_log: DirtyLogKind,
        with: impl FnOnce(Executable<'_>) -> T,
    ) -> T {
        let environment: Vec<_> =
            self.environment.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        with(Executable {
            path: &self.executable,
            environment: &environment,
            dirty_log,
            nice: self.limits.nice,
        })
    }

    /// The other host with this key, to be spoken to.
    ///
    /// # Errors
    /// When it is not known here any more.
    pub(super) fn peer(&self, key: &str) -> Result<PeerClient, ApiError> {
        PeerClient::new(&self.identity, self.known_peer(key)?, self.runtime.clone())
    }

    /// What is known of the other host with this key.
    ///
    /// # Errors
    /// When it is not known here any more.
    pub(super) fn known_peer(&self, key: &str) -> Result<Peer, ApiError> {
        let known = key.parse().ok().and_then(|key| self.peers.by_key(&key));
        known.ok_or_else(|| {
            let message = format!("the host with the key {key} is not known here any more");
            ApiError::new(ErrorCode::NotFound, message)
                .with_hint("`novacron peers add` adds it again")
        })
    }

    /// Ends an operation, for everybody who wants to know.
    pub(crate) fn end(&self, operation: &Pending, outcome: Result<Outcome, ApiError>) {
        operation.end(outcome);
        (self.on_end)(&operation.show());
    }
}
