//! Connections: how many, whose, and how patiently.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::patient::Patient;
use crate::access::{Caller, Roles};
use crate::api::{ApiError, ErrorCode};
use crate::audit_trail::Sender;
use crate::metrics::Metrics;

/// How long calls under way may take to be answered when the daemon ends.
const LAST_CALLS: Duration = Duration::from_secs(2);

/// Of the connections, so many are for callers without a role, who are told so and no more.
const PART_FOR_STRANGERS: usize = 8;

/// The control socket, bound.
#[derive(Debug)]
pub(crate) struct Listener(std::os::unix::net::UnixListener);

impl Listener {
    /// Binds the socket, in the place of one that nobody listens on any more.
    ///
    /// # Errors
    /// When somebody does, or it cannot be made.
    pub(crate) fn bind(path: &Path, mode: u32) -> io::Result<Self> {
        use std::os::unix::net::{UnixListener, UnixStream};
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        match UnixStream::connect(path) {
            Ok(_) => {
                let why = format!("{}: somebody listens there already", path.display());
                return Err(io::Error::new(io::ErrorKind::AddrInUse, why));
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                std::fs::remove_file(path)?;
            }
            Err(_) => {}
        }
        // Nobody may connect before the mode is what it shall be.
        let old = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
        let bound = UnixListener::bind(path);
        rustix::process::umask(old);
        let listener = bound?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
        listener.set_nonblocking(true)?;
        Ok(Self(listener))
    }
}

/// How connections are treated.
#[derive(Clone, Debug)]
pub(crate) struct Terms {
    pub(crate) roles: Arc<Roles>,
    pub(crate) connections: usize,
    /// How long a request's head may take, and a write that nobody reads.
    pub(crate) patience: Duration,
    pub(crate) metrics: Arc<Metrics>,
}

/// Serves until `stop` says so; then the calls under way are finished.
pub(crate) async fn serve(
    listener: Listener,
    router: Router,
    terms: Terms,
    mut stop: watch::Receiver<bool>,
) -> io::Result<()> {
    let listener = UnixListener::from_std(listener.0)?;
    let all = Arc::new(Semaphore::new(terms.connections));
    let strangers = Arc::new(Semaphore::new((terms.connections / PART_FOR_STRANGERS).max(1)));
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Of one connection, or for want of descriptors: those that end give some back.
                    tracing::warn!(%error, "a connection was not accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
            () = told(&mut stop) => break,
        };
        let Ok(caller) = Caller::of(&stream) else { continue };
        let role = terms.roles.of(&caller);
        let room = if role.is_some() { &all } else { &strangers };
        let Ok(permit) = Arc::clone(room).try_acquire_owned() else {
            terms.metrics.connections_refused.inc();
            refuse(&stream);
            continue;
        };
        let sender = Sender { caller, role, host: None };
        let connection = Connection { stream, sender, permit };
        tokio::spawn(connection.run(router.clone(), terms.clone(), stop.clone()));
    }
    // Calls under way are answered; nobody is waited for who does not read.
    let everybody = u32::try_from(terms.connections).unwrap_or(u32::MAX);
    let _ = tokio::time::timeout(LAST_CALLS, all.acquire_many(everybody)).await;
    Ok(())
}

/// Waits until the daemon is to end.
async fn told(stop: &mut watch::Receiver<bool>) {
    // The sender lives as long as the daemon.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Says that there is no room, if the socket takes it at once.
fn refuse(stream: &UnixStream) {
    let error = ApiError::new(ErrorCode::Limit, "there are too many connections")
        .with_hint("try again; limits.connections is the limit");
    let body = serde_json::to_string(&error).unwrap_or_default();
    let text = format!(
        "HTTP/1.1 {} Too Many Requests\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        error.code.status(),
        body.len(),
    );
    let _ = stream.try_write(text.as_bytes());
}

/// One connection, and who is at its other end.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) stream: UnixStream,
    pub(super) sender: Sender,
    pub(super) permit: OwnedSemaphorePermit,
}

impl Connection {
    /// Answers its requests, until it or the daemon ends.
    pub(super) async fn run(self, router: Router, terms: Terms, mut stop: watch::Receiver<bool>) {
        let Self { stream, sender, permit } = self;
        terms.metrics.connections.inc();
        let is_stranger = sender.role.is_none();
        // Not a layer of the router, which would be made anew, every route of it, for each connection.
        let router = TowerToHyperService::new(router);
        let service = service_fn(move |mut request: hyper::Request<Incoming>| {
            request.extensions_mut().insert(sender.clone());
            router.call(request)
        });
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(terms.patience)
            .max_headers(64)
            .max_buf_size(16 << 10)
            // A stranger has its answer, and makes room.
            .keep_alive(!is_stranger);
        let stream = TokioIo::new(Patient::new(stream, terms.patience));
        let connection = http.serve_connection(stream, service);
        let mut connection = std::pin::pin!(connection.with_upgrades());
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = told(&mut stop) => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a connection failed");
        }
        terms.metrics.connections.dec();
        drop(permit);
    }
}
