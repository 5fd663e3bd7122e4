//! A Unix stream socket that carries length-prefixed messages, descriptors, and raw page bytes.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::state::MAX_STATE_BYTES;

/// Longest message: a saved state and a little around it.
const MAX_MESSAGE_BYTES: usize = MAX_STATE_BYTES + (1 << 20);

/// Most descriptors with one message: record, console and the files of a snapshot.
pub(crate) const MAX_DESCRIPTORS: usize = 10;

/// Why a message did not go through.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The other process closed the socket, or died
    #[error("the other process has gone")]
    Closed,
    /// The other process said nothing for too long
    #[error("the other process did not answer in time")]
    TimedOut,
    /// The socket failed
    #[error("socket: {0}")]
    Io(#[source] io::Error),
    /// A message longer than the limit
    #[error("a message of {0} bytes; the limit is {MAX_MESSAGE_BYTES}")]
    TooLong(usize),
    /// Not a message of this kind
    #[error("the other process sent a message that cannot be read: {0}")]
    Malformed(#[from] postcard::Error),
    /// A message of this kind with more behind it
    #[error("the other process sent a message with {0} bytes too many; is it of another version?")]
    TooMuch(usize),
    /// Fewer descriptors than the message needs
    #[error("the other process sent {found} descriptors; {needed} are needed")]
    Descriptors {
        /// How many came.
        found: usize,
        /// How many the message needs.
        needed: usize,
    },
}

impl From<io::Error> for ChannelError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::ConnectionReset => Self::Closed,
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Self::TimedOut,
            _ => Self::Io(error),
        }
    }
}

/// One end of a connection between two processes.
#[derive(Debug)]
pub struct Channel {
    stream: UnixStream,
}

impl Channel {
    /// Two connected ends.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (one, other) = UnixStream::pair()?;
        Ok((Self { stream: one }, Self { stream: other }))
    }

    /// Bounds how long a single read or write may wait for the other process.
    ///
    /// # Errors
    /// When `limit` is zero.
    pub fn set_time_limit(&self, limit: Option<Duration>) -> io::Result<()> {
        self.stream.set_read_timeout(limit)?;
        self.stream.set_write_timeout(limit)
    }

    /// Sends a message, and copies of `descriptors` with it.
    ///
    /// # Errors
    /// When the other process has gone or does not read.
    pub fn send<T: Serialize>(
        &self,
        message: &T,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), ChannelError> {
        let mut bytes = postcard::to_extend(message, vec![0_u8; 4])?;
        let length = bytes.len() - 4;
        if length > MAX_MESSAGE_BYTES {
            return Err(ChannelError::TooLong(length));
        }
        let length = u32::try_from(length).expect("within the limit");
        bytes[..4].copy_from_slice(&length.to_le_bytes());
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(ChannelError::Descriptors {
                found: descriptors.len(),
                needed: MAX_DESCRIPTORS,
            });
        }
        // NOSIGNAL: a peer that has died is an error here, not a SIGPIPE.
        let sent = loop {
            let outcome =
                sendmsg(&self.stream, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL);
            match outcome {
                Err(rustix::io::Errno::INTR) => {}
                outcome => break outcome.map_err(io::Error::from)?,
            }
        };
        Ok((&self.stream).write_all(&bytes[sent..])?)
    }

    /// Ends the connection for both ends, whoever is reading.
    pub(crate) fn end(&self) {
        // It may have ended already.
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }

    /// Sends raw bytes, whose number the other process knows from a message before.
    ///
    /// # Errors
    /// When the other process has gone or does not read.
    pub fn send_bytes(&self, bytes: &[u8]) -> Result<(), ChannelError> {
        Ok((&self.stream).write_all(bytes)?)
    }

    /// Receives a message and the descriptors that came with it.
    ///
    /// # Errors
    /// When the other process has gone, is silent for too long, or sends what is no such message.
    pub fn receive<T: DeserializeOwned>(&self) -> Result<(T, Vec<OwnedFd>), ChannelError> {
        let mut header = [0; 4];
        let (received, descriptors) = self.receive_with_descriptors(&mut header)?;
        (&self.stream).read_exact(&mut header[received..])?;
        let length = u32::from_le_bytes(header) as usize;
        if length > MAX_MESSAGE_BYTES {
            return Err(ChannelError::TooLong(length));
        }
        let mut bytes = vec![0; length];
        (&self.stream).read_exact(&mut bytes)?;
        Ok((decode(&bytes)?, descriptors))
    }

    /// Receives exactly as many raw bytes as fit.
    ///
    /// # Errors
    /// When the other process has gone or is silent for too long.
    pub fn receive_bytes(&self, into: &mut [u8]) -> Result<(), ChannelError> {
        Ok((&self.stream).read_exact(into)?)
    }

    /// Whether a message, or the end of the connection, can be read without waiting.
    ///
    /// # Errors
    /// When the socket fails.
    pub fn is_readable(&self) -> Result<bool, ChannelError> {
        self.is_readable_within(Duration::ZERO)
    }

    /// Waits so long at most for a message, or the end of the connection. False if neither came; or if a signal did.
    ///
    /// # Errors
    /// When the socket fails.
    pub fn is_readable_within(&self, limit: Duration) -> Result<bool, ChannelError> {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let mut descriptors = [PollFd::new(&self.stream, PollFlags::IN)];
        let limit = Timespec::try_from(limit).map_err(io::Error::other)?;
        match poll(&mut descriptors, Some(&limit)) {
            Ok(ready) => Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(error) => Err(io::Error::from(error).into()),
        }
    }

    /// Waits until a message, or the end of the connection, can be read, or `other` is readable, or so long. True if it
    /// is this, false if it is the other, None if it is neither.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn wait_readable_or(
        &self,
        other: BorrowedFd<'_>,
        until: Option<Instant>,
    ) -> io::Result<Option<bool>> {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        loop {
            let mut descriptors = [
                PollFd::new(&self.stream, PollFlags::IN),
                PollFd::from_borrowed_fd(other, PollFlags::IN),
            ];
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            let left = left.map(Timespec::try_from).transpose().map_err(io::Error::other)?;
            match poll(&mut descriptors, left.as_ref()) {
                Ok(0) => return Ok(None),
                Ok(_) => return Ok(Some(!descriptors[0].revents().is_empty())),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Whether the other end is closed.
    pub(crate) fn is_closed(&self) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let mut descriptors = [PollFd::new(&self.stream, PollFlags::RDHUP)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        // Where the kernel cannot tell, it is not known to be.
        poll(&mut descriptors, Some(&now)).is_ok_and(|ready| ready > 0)
    }

    fn receive_with_descriptors(
        &self,
        into: &mut [u8],
    ) -> Result<(usize, Vec<OwnedFd>), ChannelError> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            let mut slices = [IoSliceMut::new(into)];
            // CMSG_CLOEXEC: no descriptor leaks into a child.
            match recvmsg(&self.stream, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC) {
                Err(rustix::io::Errno::INTR) => {}
                outcome => break outcome.map_err(io::Error::from)?,
            }
        };
        if received.bytes == 0 {
            return Err(ChannelError::Closed);
        }
        let mut descriptors = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = message {
                descriptors.extend(received);
            }
        }
        Ok((received.bytes, descriptors))
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl From<OwnedFd> for Channel {
    fn from(socket: OwnedFd) -> Self {
        Self { stream: socket.into() }
    }
}

impl From<Channel> for OwnedFd {
    fn from(channel: Channel) -> Self {
        channel.stream.into()
    }
}

/// Reads a message that fills `bytes`.
///
/// # Errors
/// When it is none of this kind, or something follows it.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ChannelError> {
    match postcard::take_from_bytes(bytes)? {
        (message, []) => Ok(message),
        (_, rest) => Err(ChannelError::TooMuch(rest.len())),
    }
}

/// Takes exactly `N` descriptors.
pub(crate) fn exactly<const N: usize>(
    descriptors: Vec<OwnedFd>,
) -> Result<[OwnedFd; N], ChannelError> {
    let found = descriptors.len();
    descriptors.try_into().map_err(|_| ChannelError::Descriptors { found, needed: N })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_arrive_whole_and_with_their_descriptors() {
        let (one, other) = Channel::pair().unwrap();
        let file = tempfile::tempfile().unwrap();
        one.send(&(7_u32, "seven"), &[file.as_fd(), file.as_fd()]).unwrap();
        one.send(&8_u32, &[]).unwrap();
        let ((number, name), descriptors) = other.receive::<(u32, String)>().unwrap();
        assert_eq!((number, name.as_str(), descriptors.len()), (7, "seven", 2));
        let (number, descriptors) = other.receive::<u32>().unwrap();
        assert_eq!((number, descriptors.len()), (8, 0));
    }

    #[test]
    fn a_message_with_more_behind_it_is_refused() {
        let (one, other) = Channel::pair().unwrap();
        one.send(&(7_u32, 8_u8), &[]).unwrap();
        assert!(matches!(other.receive::<u32>(), Err(ChannelError::TooMuch(1))));
    }

    #[test]
    fn a_closed_peer_is_an_error_and_not_a_signal() {
        let (one, other) = Channel::pair().unwrap();
        drop(other);
        assert!(matches!(one.send(&1_u8, &[]), Err(ChannelError::Closed)));
        assert!(matches!(one.receive::<u8>(), Err(ChannelError::Closed)));
    }

    #[test]
    fn a_silent_peer_is_an_error_after_the_time_limit() {
        let (one, _other) = Channel::pair().unwrap();
        one.set_time_limit(Some(Duration::from_millis(10))).unwrap();
        assert!(matches!(one.receive::<u8>(), Err(ChannelError::TimedOut)));
    }

    #[test]
    fn a_length_beyond_the_limit_is_refused_before_anything_is_allocated() {
        let (one, other) = Channel::pair().unwrap();
        one.send_bytes(&u32::MAX.to_le_bytes()).unwrap();
        assert!(matches!(other.receive::<u8>(), Err(ChannelError::TooLong(_))));
    }
}
