//! Other hosts: who this one is to them, which of them it knows, and how daemons speak to each other.
//!
//! | module | what it holds |
//! |---|---|
//! | `identity` | this host's key |
//! | `book` | the hosts that are known |
//! | `message` | what daemons say to each other |
//! | `client`, `service` | the two ends of that |
//! | `port` | where other hosts connect, and whom a connection is for |
//! | `arrivals` | the sessions that are waited for |

mod arrivals;
mod book;
mod client;
mod identity;
pub(crate) mod message;
mod port;
mod service;

pub(crate) use arrivals::Arrivals;
pub use book::PeerBookError;
#[cfg(test)]
pub(crate) use book::is_address;
pub(crate) use book::{DEFAULT_PORT, PeerBook};
pub(crate) use client::{PATIENT, PeerClient, PeerError, QUICK};
pub(crate) use identity::Identity;
pub use identity::IdentityError;
pub(crate) use port::Ports;
pub(crate) use service::id;
