//! [`Network`]: what the world needs of a network, whether it moves frames or packets.

use std::time::Duration;

use crate::wire::StreamId;

/// An end of the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Side {
    Source,
    Destination,
}

impl Side {
    pub(super) const BOTH: [Self; 2] = [Self::Source, Self::Destination];

    pub(super) fn other(self) -> Self {
        match self {
            Self::Source => Self::Destination,
            Self::Destination => Self::Source,
        }
    }

    pub(super) fn index(self) -> usize {
        usize::from(self == Self::Destination)
    }
}

/// What the network does to a side.
#[derive(Debug)]
pub(super) enum NetEvent {
    /// The source's attempt to connect has succeeded.
    Connected(StreamId),
    /// The stream is gone, or could not be connected.
    Closed(Side, StreamId),
    /// A frame has arrived at this side.
    Frame(Side, StreamId, Vec<u8>),
    /// The last frame of this side is in its socket.
    Written(Side, StreamId),
}

/// Streams between two hosts. A stream is what TLS over TCP gives: frames arrive whole, once and in
/// order, or the stream dies.
pub(super) trait Network {
    fn is_up(&self) -> bool;

    /// When something happens next.
    fn next_time(&mut self) -> Option<Duration>;

    /// What has happened until now.
    fn poll(&mut self, now: Duration) -> Option<NetEvent>;

    /// Frames that have arrived so far, at both sides.
    fn delivered(&self) -> u64;

    fn connect(&mut self, now: Duration, stream: StreamId);

    fn write(&mut self, now: Duration, side: Side, stream: StreamId, frame: Vec<u8>);

    /// A side closes a stream: what it has sent arrives, then the other side learns of it.
    fn close(&mut self, now: Duration, side: Side, stream: StreamId);

    /// All streams that carry, oldest first.
    fn streams(&self) -> Vec<StreamId>;

    /// A stream dies with what it carried. Each side learns of it some time later, or never.
    fn kill_stream(&mut self, now: Duration, stream: StreamId);

    /// What a stream carries arrives later by this much.
    fn clog(&mut self, now: Duration, stream: StreamId, pause: Duration);

    /// Nothing of an attempt that is over reaches the processes of the next.
    fn forget_all(&mut self);

    fn cut(&mut self, now: Duration);

    fn heal(&mut self);
}
