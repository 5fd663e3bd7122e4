//! Messages and descriptors between processes of one host, over a Unix stream socket.

mod channel;

pub(crate) use channel::exactly;
pub use channel::{Channel, ChannelError};
