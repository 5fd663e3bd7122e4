//! The port on which other hosts reach this one: who is it, and for whom. See `dwcp/SPEC.md`, 12.1 and 12.2.
//!
//! ```text
//!  connection ─► peek at its greeting, no key needed ─┬─ novacron/1 ─────► TLS with the host's key ─► the peer's calls
//!                                                     ├─ dwcp/3, session ─► the machine process that waits for it
//!                                                     └─ anything else ───► closed
//! ```

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dwcp::transport::{
    CONTROL_PROTOCOL, Greeting, KnownPeers, PAGES_PROTOCOL, PEEK_BYTES, TlsServer, session_of,
    shown_key,
};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use machine::ArrivalDoor;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_rustls::TlsAcceptor;

use super::service;
use crate::server::State;

/// How long a connection may take to say what it wants, and to prove who it is.
const GREETING: Duration = Duration::from_secs(2);
/// How often it is looked whether the rest of a greeting has come: a socket that is readable says so again and again,
/// and the bytes stay where they are. Nearly every greeting comes in one piece.
const PEEK_AGAIN: Duration = Duration::from_millis(10);
/// How long a peer may take for the head of a request; so long a connection may idle between two.
pub(super) const HEAD: Duration = Duration::from_secs(10);
/// Calls that are under way at a time, of all hosts together: the API needs threads, too.
const CALLS_MAX: usize = 32;
/// Of those, calls of one host.
const CALLS_OF_ONE_MAX: usize = 8;
/// Connections of one host: between its calls they cost a descriptor each. From half of them on each is for one call.
const CONNECTIONS_OF_ONE_MAX: usize = 64;
/// How long a connection, or a call, waits for room.
const ROOM: Duration = Duration::from_secs(5);

/// The bound ports.
#[derive(Debug)]
pub(crate) struct Ports {
    listeners: Vec<std::net::TcpListener>,
    unknown: usize,
}

impl Ports {
    /// Binds them.
    ///
    /// # Errors
    /// With the address that cannot be bound.
    pub(crate) fn bind(
        addresses: impl Iterator<Item = SocketAddr>,
        unknown: usize,
    ) -> Result<Self, (SocketAddr, io::Error)> {
        let bind = |address| {
            let listener = std::net::TcpListener::bind(address).and_then(|listener| {
                listener.set_nonblocking(true)?;
                Ok(listener)
            });
            listener.map_err(|error| (address, error))
        };
        let listeners = addresses.map(bind).collect::<Result<_, _>>()?;
        Ok(Self { listeners, unknown })
    }

    /// Where they are.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect()
    }

    /// Serves each until the daemon ends.
    ///
    /// # Errors
    /// When the runtime does not take one.
    pub(crate) fn serve(self, state: &State, stop: &watch::Receiver<bool>) -> io::Result<()> {
        let shared = state.registry().shared();
        let peers = Arc::clone(&shared.peers) as Arc<dyn KnownPeers>;
        let tls = TlsServer::new(shared.identity.keys(), peers, CONTROL_PROTOCOL);
        let guest = Guests {
            state: state.clone(),
            tls: TlsAcceptor::from(tls.config()),
            unknown: Arc::new(Semaphore::new(self.unknown)),
            calls: Arc::new(Semaphore::new(CALLS_MAX)),
            known: Mutex::default(),
        };
        let guests = Arc::new(guest);
        for listener in self.listeners {
            let listener = TcpListener::from_std(listener)?;
            tokio::spawn(accept_all(listener, Arc::clone(&guests), stop.clone()));
        }
        Ok(())
    }
}

/// What every connection is judged by.
struct Guests {
    state: State,
    tls: TlsAcceptor,
    unknown: Arc<Semaphore>,
    calls: Arc<Semaphore>,
    /// By the hosts' keys; there are as many as were ever known since the daemon started.
    known: Mutex<HashMap<String, Rooms>>,
}

/// How much room one host has.
#[derive(Clone)]
struct Rooms {
    connections: Arc<Semaphore>,
    own_calls: Arc<Semaphore>,
    all_calls: Arc<Semaphore>,
}

impl Rooms {
    /// Room for a call, while it is kept.
    async fn call(self) -> Option<[OwnedSemaphorePermit; 2]> {
        let both =
            async { [self.own_calls.acquire_owned().await, self.all_calls.acquire_owned().await] };
        let [own, all] = tokio::time::timeout(ROOM, both).await.ok()?;
        Some([own.ok()?, all.ok()?])
    }
}

impl Guests {
    fn rooms(&self, key: &str) -> Rooms {
        // A panic aborts the process, so that no lock is ever poisoned.
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let rooms = known.entry(key.to_owned()).or_insert_with(|| Rooms {
            connections: Arc::new(Semaphore::new(CONNECTIONS_OF_ONE_MAX)),
            own_calls: Arc::new(Semaphore::new(CALLS_OF_ONE_MAX)),
            all_calls: Arc::clone(&self.calls),
        });
        rooms.clone()
    }
}

async fn accept_all(listener: TcpListener, guests: Arc<Guests>, mut stop: watch::Receiver<bool>) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            // The sender lives as long as the daemon.
            _ = stop.wait_for(|stop| *stop) => return,
        };
        match accepted {
            Ok((stream, from)) => match Arc::clone(&guests.unknown).try_acquire_owned() {
                Ok(permit) => {
                    drop(tokio::spawn(receive(Arc::clone(&guests), stream, from, permit)));
                }
                // Closed without a word: whoever it is, it has not said so yet.
                Err(_) => tracing::debug!(%from, "too many connections that are not known yet"),
            },
            Err(error) => {
                // Of one connection, or for want of descriptors: those that end give some back.
                tracing::warn!(%error, "a host's connection was not accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// Finds out what a connection wants. `permit` counts it among those that are not known yet.
async fn receive(
    guests: Arc<Guests>,
    stream: TcpStream,
    from: SocketAddr,
    permit: OwnedSemaphorePermit,
) {
    let greeting = match tokio::time::timeout(GREETING, peek(&stream)).await {
        Ok(Ok(greeting)) => greeting,
        Ok(Err(why)) => return tracing::debug!(%from, why, "a connection is turned away"),
        Err(_) => return tracing::debug!(%from, "a connection does not say what it wants"),
    };
    let speaks = |protocol: &[u8]| greeting.protocols.iter().any(|spoken| spoken == protocol);
    if speaks(PAGES_PROTOCOL) {
        drop(permit);
        let session = greeting.server_name.as_deref().and_then(session_of);
        let arrivals = &guests.state.registry().shared().arrivals;
        let door = session.and_then(|session| arrivals.door(session.bytes()));
        let brought = match door {
            Some(door) => tokio::task::spawn_blocking(move || bring_in(&door, stream)).await.ok(),
            None => None,
        };
        let brought = brought.flatten();
        if brought.is_none() {
            tracing::debug!(%from, ?session, "nobody waits for this session");
        }
    } else if speaks(CONTROL_PROTOCOL) {
        converse(&guests, stream, from, permit).await;
    } else {
        tracing::debug!(%from, ?greeting, "a connection asks for what is not spoken here");
    }
}

/// Gives a process a socket as it finds it: it waits for it in poll(2).
fn bring_in(door: &ArrivalDoor, stream: TcpStream) -> Option<()> {
    let stream = stream.into_std().ok()?;
    stream.set_nonblocking(false).ok()?;
    door.bring_in(&stream).ok()
}

async fn peek(stream: &TcpStream) -> Result<Greeting, String> {
    let mut bytes = vec![0; PEEK_BYTES];
    loop {
        let count = stream.peek(&mut bytes).await.map_err(|error| error.to_string())?;
        if count == 0 {
            return Err("it was closed".to_owned());
        }
        match Greeting::peek(bytes.get(..count).unwrap_or_default()) {
            Ok(Some(greeting)) => return Ok(greeting),
            Ok(None) => tokio::time::sleep(PEEK_AGAIN).await,
            Err(error) => return Err(error.to_string()),
        }
    }
}

/// Answers a peer's calls, once it has proven who it is.
async fn converse(
    guests: &Guests,
    stream: TcpStream,
    from: SocketAddr,
    permit: OwnedSemaphorePermit,
) {
    let accepted = tokio::time::timeout(GREETING, guests.tls.accept(stream)).await;
    let stream = match accepted {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            return tracing::info!(%from, %error, "a host that is not known here was turned away");
        }
        Err(_) => return tracing::debug!(%from, "a handshake takes too long"),
    };
    let shared = guests.state.registry().shared();
    // It was known a moment ago; it may have been removed since.
    let Some(key) = shown_key(stream.get_ref().1) else { return };
    let Some(peer) = shared.peers.by_key(&key) else { return };
    drop(permit);
    let rooms = guests.rooms(&peer.key);
    let connection = Arc::clone(&rooms.connections).acquire_owned();
    let Ok(Ok(_connection)) = tokio::time::timeout(ROOM, connection).await else {
        return tracing::warn!(peer = %peer.name, "a host has too many connections");
    };
    // Where many of them are under way, one that idles would be in the next one's way.
    let idles = rooms.connections.available_permits() >= CONNECTIONS_OF_ONE_MAX / 2;
    let _ = stream.get_ref().0.set_nodelay(true);
    let router = TowerToHyperService::new(service::router(guests.state.clone()));
    let peers = Arc::clone(&shared.peers);
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        // It may have been removed since its last call.
        let peer = peers.by_key(&key);
        let (router, rooms) = (router.clone(), rooms.clone());
        async move {
            let refused = |why| Err(io::Error::other(why));
            let Some(peer) = peer else { return refused("the host is not known here any more") };
            let Some(_room) = rooms.call().await else {
                tracing::warn!(peer = %peer.name, "too many calls of other hosts are under way");
                return refused("there is no room for its call");
            };
            request.extensions_mut().insert(peer);
            router.call(request).await.map_err(|never| match never {})
        }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_headers(64)
        .max_buf_size(64 << 10)
        // A few calls, one right after the other: over a long way each connection costs as much as two more.
        .keep_alive(idles);
    if let Err(error) = http.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%from, %error, "a host's connection failed");
    }
}
