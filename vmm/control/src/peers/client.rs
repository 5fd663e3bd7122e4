//! [`PeerClient`]: calls to another daemon.

use std::io;
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dwcp::transport::{CONTROL_PROTOCOL, PublicKey, TlsClient};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use super::Identity;
use super::message::MESSAGE_MAX_BYTES;
use super::port::HEAD;
use crate::api::{ApiError, ErrorCode, Peer};

/// How long a connection may take.
const CONNECTING: Duration = Duration::from_secs(5);
/// How long a socket may take, whatever addresses a name has: whoever wants it does not wait much longer.
const DIALLING: Duration = Duration::from_secs(10);
/// How long an answer may take that needs no more than a look at a record.
pub(crate) const QUICK: Duration = Duration::from_secs(10);
/// How long it may take to build a machine.
pub(crate) const PATIENT: Duration = Duration::from_secs(60);

/// How long a connection may idle between two calls. The other end closes one that idles for twice as long, and a call that
/// meets that is lost.
const IDLING: Duration = HEAD.checked_div(2).unwrap();

/// Why another daemon has not answered.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum PeerError {
    /// It cannot be reached, or is not who it should be
    #[error("host {name} ({address}) {why}")]
    Unreachable {
        /// What it is called here.
        name: String,
        /// Where it should be.
        address: String,
        /// Why.
        why: String,
    },
    /// It said no
    #[error("host {name} says: {error}")]
    Refused {
        /// What it is called here.
        name: String,
        /// Its words.
        error: ApiError,
    },
}

impl From<PeerError> for ApiError {
    fn from(error: PeerError) -> Self {
        let code = match &error {
            PeerError::Unreachable { .. } => ErrorCode::PeerUnreachable,
            PeerError::Refused { error, .. } => error.code,
        };
        Self::new(code, error.to_string())
    }
}

/// Speaks to one other daemon, in one connection as long as calls follow each other closely: over a long way a connection
/// takes longer than a call.
#[derive(Debug)]
pub(crate) struct PeerClient {
    peer: Peer,
    own: PublicKey,
    tls: TlsClient,
    runtime: Handle,
    connection: Mutex<Option<Connection>>,
    #[cfg(test)]
    connections: std::sync::atomic::AtomicU32,
}

/// A connection, until it is dropped.
#[derive(Debug)]
struct Connection {
    /// When its last call was answered.
    idles_since: Instant,
    sender: SendRequest<Full<Bytes>>,
    task: JoinHandle<hyper::Result<()>>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl PeerClient {
    /// As this host, to `peer` and nobody else.
    pub(crate) fn new(identity: &Identity, peer: Peer, runtime: Handle) -> Result<Self, ApiError> {
        let key: PublicKey = peer.key.parse().map_err(ApiError::internal)?;
        let tls = TlsClient::new(identity.keys(), Arc::new(key), CONTROL_PROTOCOL);
        Ok(Self {
            peer,
            own: identity.public(),
            tls,
            runtime,
            connection: Mutex::default(),
            #[cfg(test)]
            connections: 0.into(),
        })
    }

    /// Whom it speaks to.
    pub(crate) fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Asks for something. Waits; not for the threads of a runtime.
    pub(crate) fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, PeerError> {
        self.call(Method::GET, path, Bytes::new(), QUICK)
    }

    /// Sends something, and waits for what comes back.
    pub(crate) fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
        limit: Duration,
    ) -> Result<T, PeerError> {
        let body = serde_json::to_vec(body).map_err(|error| self.unreachable(&error))?;
        self.call(Method::POST, path, body.into(), limit)
    }

    /// Sends bytes that nobody looks at; says how long it took until they were answered.
    pub(crate) fn send_trial(&self, bytes: usize) -> Result<Duration, PeerError> {
        let began = Instant::now();
        let body = Bytes::from(vec![0xa5; bytes]);
        self.call::<()>(Method::POST, "/v1/trial", body, QUICK)?;
        Ok(began.elapsed())
    }

    /// How many connections were made.
    #[cfg(test)]
    pub(crate) fn connections(&self) -> u32 {
        self.connections.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// A socket for a stream of a session.
    pub(crate) fn dial(&self) -> io::Result<TcpStream> {
        let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
        let end = Instant::now() + DIALLING;
        for address in self.peer.address.to_socket_addrs()? {
            let left = end.saturating_duration_since(Instant::now()).min(CONNECTING);
            if left.is_zero() {
                break;
            }
            match TcpStream::connect_timeout(&address, left) {
                Ok(socket) => return Ok(socket),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        limit: Duration,
    ) -> Result<T, PeerError> {
        let answered = self.runtime.block_on(async {
            tokio::time::timeout(limit, self.exchange(method, path, body)).await
        });
        let (status, bytes) = match answered {
            Ok(answered) => answered.map_err(|why| self.unreachable(&why))?,
            Err(_) => return Err(self.unreachable(&format!("does not answer within {limit:?}"))),
        };
        if status.is_success() {
            let text: &[u8] = if bytes.is_empty() { b"null" } else { &bytes };
            return serde_json::from_slice(text).map_err(|error| {
                self.unreachable(&format!("answers what makes no sense: {error}"))
            });
        }
        let error = serde_json::from_slice(&bytes).unwrap_or_else(|_| {
            ApiError::new(ErrorCode::Internal, format!("it answers with the status {status}"))
        });
        Err(PeerError::Refused { name: self.peer.name.to_string(), error })
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), String> {
        let mut connection = match self.kept().await {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "novacron")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| error.to_string())?;
        let response = connection.sender.send_request(request).await;
        let response = response.map_err(|error| self.not_known(&error))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MESSAGE_MAX_BYTES).collect().await;
        let body = body.map_err(|error| format!("breaks off: {error}"))?.to_bytes();
        // Only now: one that has failed is not used again.
        connection.idles_since = Instant::now();
        *self.lock() = Some(connection);
        Ok((status, body))
    }

    /// The connection of the call before this one, if it is still there.
    async fn kept(&self) -> Option<Connection> {
        let mut connection = self.lock().take()?;
        if connection.idles_since.elapsed() >= IDLING {
            return None;
        }
        connection.sender.ready().await.ok().map(|()| connection)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Connection>> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn connect(&self) -> Result<Connection, String> {
        let connected = tokio::net::TcpStream::connect(self.peer.address.as_str());
        let stream = tokio::time::timeout(CONNECTING, connected).await;
        let stream = stream.map_err(|_| "does not answer".to_owned())?;
        let stream = stream.map_err(|error| format!("cannot be reached: {error}"))?;
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        let name = ServerName::try_from("novacron").expect("it is a name");
        let stream = TlsConnector::from(self.tls.config()).connect(name, stream).await;
        let stream = stream
            .map_err(|error| format!("is not the host with the key {}: {error}", self.peer.key))?;
        let (sender, connection) =
            handshake(TokioIo::new(stream)).await.map_err(|error| self.not_known(&error))?;
        #[cfg(test)]
        self.connections.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Ok(Connection { idles_since: Instant::now(), sender, task: tokio::spawn(connection) })
    }

    /// Who does not know our key says so by ending the connection: in TLS 1.3 that comes after the handshake.
    fn not_known(&self, error: &hyper::Error) -> String {
        format!(
            "ends the connection ({error}); does it know this host? There: novacron peers add THIS-HOST --key {}",
            self.own
        )
    }

    fn unreachable(&self, why: &dyn ToString) -> PeerError {
        let (name, address) = (self.peer.name.to_string(), self.peer.address.clone());
        PeerError::Unreachable { name, address, why: why.to_string() }
    }
}
