//! Other hosts: who this one is to them, which of them it knows, and how daemons speak to each other.

mod book;
mod identity;

pub(crate) use book::PeerBook;
pub use book::PeerBookError;
pub(crate) use identity::Identity;
pub use identity::IdentityError;
