//! Sockets, TLS and threads that carry a session between two hosts. See `SPEC.md`, 8.5.
//!
//! This module decides nothing. A [`SourceLink`] does what a [`Source`](crate::session::Source) asks for, a
//! [`DestinationLink`] what a [`Destination`](crate::session::Destination) does, and both tell it what became of that.
//!
//! | module | what it holds |
//! |---|---|
//! | `keys` | the Ed25519 keys by which ends of streams know each other, and what they sign |
//! | `tls` | what rustls is to do with them: TLS 1.3, raw public keys, mutual |
//! | `greeting` | what a new connection wants, from the first bytes of it |
//! | `socket` | options of TCP sockets |
//! | `wake` | how one thread wakes another that waits for its socket |
//! | `stream` | one stream: frames in and out of a TLS connection |
//! | `link` | what a side and the threads of its streams share |
//! | `source`, `destination` | the two links |
//!
//! A stream has a thread, since it has a codec: pages are read, encoded and encrypted by the thread whose socket takes
//! them. What a stream sends is decided when its socket has room, and not before.

#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the one part of the crate that has clocks, sockets and threads"
)]

mod destination;
mod greeting;
mod keys;
mod link;
mod socket;
mod source;
mod stream;
mod tls;
mod wake;

use std::io;
use std::time::Duration;

pub use destination::{DestinationLink, DestinationMemory, DestinationTerms, Door, KeptReader};
pub use greeting::{Greeting, GreetingError, PEEK_BYTES};
pub use keys::{KeyError, KeyPair, PUBLIC_KEY_BYTES, PublicKey, SIGNATURE_BYTES, Signature};
pub use source::{SourceLink, SourceSide, SourceTerms};
pub use tls::{
    CONTROL_PROTOCOL, KnownPeers, PAGES_PROTOCOL, TlsClient, TlsServer, server_name, session_of,
    shown_key,
};

use crate::wire::StreamId;

/// How long it may take until a connected socket is a stream.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// How long threads may take to end that were told to.
const CLOSING: Duration = Duration::from_secs(2);

/// What a link tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkEvent<E> {
    /// The session's own event.
    Session(E),
    /// A stream has ended, or was never connected. The session knows it, and what to do; this is for the log.
    StreamEnded {
        /// Which.
        stream: StreamId,
        /// Why.
        why: String,
    },
    /// A connection did not become a stream. The peer may be a stranger.
    Turned {
        /// Why.
        why: String,
    },
}

/// An error of rustls as one of a stream.
fn tls_error(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests;
