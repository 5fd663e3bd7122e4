//! Messages and descriptors between processes of one host, over a Unix stream socket.

mod channel;

pub use channel::{Channel, ChannelError};
pub(crate) use channel::{MAX_DESCRIPTORS, decode, exactly};
