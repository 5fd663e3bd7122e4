//! [`Header`]: the 40 bytes in front of every payload.

use std::fmt;
use std::ops::Range;

use super::Kind;
use super::limits::PAYLOAD_MAX;
use crate::acp::SessionId;

/// Bytes of a header.
pub const HEADER_BYTES: usize = 40;

/// The bytes of a header.
pub type HeaderBytes = [u8; HEADER_BYTES];

/// The version of frames that this code speaks.
pub const VERSION: u16 = 3;

const MAGIC_BYTES: [u8; 4] = *b"DWCP";

const MAGIC: Range<usize> = 0..4;
const VERSION_AT: Range<usize> = 4..6;
const KIND: usize = 6;
const FLAGS: usize = 7;
const LENGTH: Range<usize> = 8..12;
const CONNECTION: Range<usize> = 12..14;
const PLACE: Range<usize> = 14..16;
const SEQUENCE: Range<usize> = 16..24;
const SESSION: Range<usize> = 24..40;

const _: () = assert!(SESSION.end == HEADER_BYTES && SEQUENCE.start.is_multiple_of(8));
const _: () = {
    // A payload of any kind fits the buffer of `PAYLOAD_MAX` bytes that a receiver has.
    assert!(super::limits::PAGES_MAX <= PAYLOAD_MAX && super::limits::STATE_MAX <= PAYLOAD_MAX);
    assert!(
        super::limits::ANNOUNCE_MAX <= PAYLOAD_MAX && super::limits::NUMBERS_MAX <= PAYLOAD_MAX
    );
};

/// A stream of a session, by the connection that it belongs to and its place in that. No two streams
/// of a session have the same: one that replaces a dead one has a place of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId {
    /// The source's connections are counted from 1. Each begins with a control stream, and ends with
    /// it.
    pub connection: u16,
    /// 0 is the control stream, which carries what decides the session.
    pub place: u16,
}

impl StreamId {
    /// The control stream of a connection.
    #[must_use]
    pub const fn control(connection: u16) -> Self {
        Self { connection, place: 0 }
    }

    /// Whether it carries what decides the session.
    #[must_use]
    pub const fn is_control(self) -> bool {
        self.place == 0
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "stream {}.{}", self.connection, self.place)
    }
}

/// Bytes that are no header, or not the next one of their stream. The peer is at fault: the stream
/// cannot be read on, since where its next frame begins is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Not DWCP
    #[error("the peer does not speak DWCP: its frame begins with {0:02x?}")]
    Magic([u8; 4]),
    /// Another version
    #[error("the peer speaks version {0} of the protocol, this program speaks {VERSION}")]
    Version(u16),
    /// No kind of this version
    #[error("the peer sent a frame of kind {0}, which does not exist")]
    Kind(u8),
    /// Flags that this version does not have
    #[error("the peer set the flags {0:#04x}, which do not exist")]
    Flags(u8),
    /// More or less than the kind allows
    #[error("the peer announced {length} bytes of {kind:?}")]
    Length {
        /// The kind.
        kind: Kind,
        /// The length announced.
        length: u32,
    },
    /// A kind for the control stream, elsewhere
    #[error("the peer sent {kind:?} on {stream}, and it belongs on the control stream")]
    NotControl {
        /// The kind.
        kind: Kind,
        /// Where it was sent.
        stream: StreamId,
    },
    /// No session, or not the stream's
    #[error("the peer named another session than the one of this stream")]
    Session,
    /// A frame of another stream
    #[error("the peer sent a frame of {found} on {expected}")]
    Stream {
        /// Where it arrived.
        expected: StreamId,
        /// The stream it names.
        found: StreamId,
    },
    /// A frame was lost, repeated, or moved
    #[error("the peer sent frame {found} where {expected} was due")]
    Sequence {
        /// The number that was due.
        expected: u64,
        /// The number found.
        found: u64,
    },
}

/// The head of a frame that may exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    kind: Kind,
    length: u32,
    session: SessionId,
    stream: StreamId,
    sequence: u64,
}

impl Header {
    /// The head of a frame with a payload of `length` bytes, the `sequence`-th of its stream.
    ///
    /// # Errors
    /// When the kind allows no such payload, or does not belong on the stream.
    pub fn new(
        kind: Kind,
        length: u32,
        session: SessionId,
        stream: StreamId,
        sequence: u64,
    ) -> Result<Self, HeaderError> {
        if !kind.payload_bytes().contains(&length) {
            return Err(HeaderError::Length { kind, length });
        }
        if kind.is_control_only() && !stream.is_control() {
            return Err(HeaderError::NotControl { kind, stream });
        }
        Ok(Self { kind, length, session, stream, sequence })
    }

    /// What the frame is.
    #[must_use]
    pub fn kind(self) -> Kind {
        self.kind
    }

    /// Bytes of payload that follow; within the kind's limits.
    #[must_use]
    pub fn length(self) -> u32 {
        self.length
    }

    /// The session.
    #[must_use]
    pub fn session(self) -> SessionId {
        self.session
    }

    /// The stream.
    #[must_use]
    pub fn stream(self) -> StreamId {
        self.stream
    }

    /// The header as bytes.
    #[must_use]
    pub fn to_bytes(self) -> HeaderBytes {
        let mut bytes = [0; HEADER_BYTES];
        bytes[MAGIC].copy_from_slice(&MAGIC_BYTES);
        bytes[VERSION_AT].copy_from_slice(&VERSION.to_le_bytes());
        bytes[KIND] = self.kind as u8;
        bytes[LENGTH].copy_from_slice(&self.length.to_le_bytes());
        bytes[CONNECTION].copy_from_slice(&self.stream.connection.to_le_bytes());
        bytes[PLACE].copy_from_slice(&self.stream.place.to_le_bytes());
        bytes[SEQUENCE].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[SESSION].copy_from_slice(&self.session.bytes());
        bytes
    }

    /// The header in these bytes, whichever stream it belongs to: for the first frame of a stream,
    /// which says what stream it is. Those after it go through [`Expected::check`].
    ///
    /// # Errors
    /// When it is no header.
    pub fn parse(bytes: &HeaderBytes) -> Result<Self, HeaderError> {
        let magic = array(bytes, MAGIC);
        if magic != MAGIC_BYTES {
            return Err(HeaderError::Magic(magic));
        }
        let version = u16::from_le_bytes(array(bytes, VERSION_AT));
        if version != VERSION {
            return Err(HeaderError::Version(version));
        }
        let kind = Kind::from_number(bytes[KIND]).ok_or(HeaderError::Kind(bytes[KIND]))?;
        if bytes[FLAGS] != 0 {
            return Err(HeaderError::Flags(bytes[FLAGS]));
        }
        let session = SessionId::new(array(bytes, SESSION)).ok_or(HeaderError::Session)?;
        let stream = StreamId {
            connection: u16::from_le_bytes(array(bytes, CONNECTION)),
            place: u16::from_le_bytes(array(bytes, PLACE)),
        };
        let length = u32::from_le_bytes(array(bytes, LENGTH));
        Self::new(kind, length, session, stream, u64::from_le_bytes(array(bytes, SEQUENCE)))
    }
}

fn array<const N: usize>(bytes: &HeaderBytes, range: Range<usize>) -> [u8; N] {
    bytes[range].try_into().expect("a range of the layout")
}

/// What the next header of a stream must say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expected {
    session: SessionId,
    stream: StreamId,
    sequence: u64,
}

impl Expected {
    /// A stream of a session, before its first frame, which has the sequence number 0.
    #[must_use]
    pub fn first(session: SessionId, stream: StreamId) -> Self {
        Self { session, stream, sequence: 0 }
    }

    /// Checks the next header of the stream, and expects the one after it.
    ///
    /// # Errors
    /// When it is no header, or not the next one. What is expected stays the same, though a stream
    /// with such a peer is to be closed.
    pub fn check(&mut self, bytes: &HeaderBytes) -> Result<Header, HeaderError> {
        let header = Header::parse(bytes)?;
        if header.session != self.session {
            return Err(HeaderError::Session);
        }
        if header.stream != self.stream {
            return Err(HeaderError::Stream { expected: self.stream, found: header.stream });
        }
        if header.sequence != self.sequence {
            let (expected, found) = (self.sequence, header.sequence);
            return Err(HeaderError::Sequence { expected, found });
        }
        // At 10^9 frames a second the counter lasts for 584 years.
        self.sequence += 1;
        Ok(header)
    }
}

#[cfg(test)]
mod tests;
