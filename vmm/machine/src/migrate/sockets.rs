//! How a machine process, which has no network, gets sockets: from whoever keeps it.

use std::io;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use dwcp::transport::Door;
use dwcp::wire::StreamId;
use serde::{Deserialize, Serialize};

use crate::ipc::{Channel, ChannelError};
use crate::jail::{self, ThreadKind};

/// How long a keeper may take to connect a socket.
const DIALLING: Duration = Duration::from_secs(15);

/// Asks for a socket that is connected to the destination.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Dial {
    /// The number of the question, which its answer repeats.
    pub number: u32,
    /// The connection of the stream that it is for.
    pub connection: u16,
    /// Its place there.
    pub place: u16,
}

/// The answer; with it comes the socket, if there is one.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Dialled {
    /// That of the question.
    pub number: u32,
    /// Why there is none.
    pub failed: Option<String>,
}

/// A socket comes with this, on which the session was asked for.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Accepted;

/// The source's end: one socket after the other.
#[derive(Debug)]
pub(crate) struct Dialler(Mutex<Asking>);

#[derive(Debug)]
struct Asking {
    channel: Channel,
    /// Questions so far.
    number: u32,
}

impl Dialler {
    pub(crate) fn new(channel: Channel) -> io::Result<Self> {
        channel.set_time_limit(Some(DIALLING))?;
        Ok(Self(Mutex::new(Asking { channel, number: 0 })))
    }

    /// Uses another keeper's socket from now on.
    pub(crate) fn replace(&self, channel: Channel) -> io::Result<()> {
        channel.set_time_limit(Some(DIALLING))?;
        self.0.lock().unwrap_or_else(PoisonError::into_inner).channel = channel;
        Ok(())
    }

    pub(super) fn dial(&self, stream: StreamId) -> io::Result<TcpStream> {
        let mut asking = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        asking.number = asking.number.wrapping_add(1);
        let (channel, number) = (&asking.channel, asking.number);
        let StreamId { connection, place } = stream;
        channel.send(&Dial { number, connection, place }, &[]).map_err(io::Error::other)?;
        loop {
            let (answer, mut descriptors) =
                channel.receive::<Dialled>().map_err(io::Error::other)?;
            if answer.number != number {
                // It was waited for long enough, and has come after all: by now the other end has closed it.
                continue;
            }
            return match (answer.failed, descriptors.pop()) {
                (None, Some(socket)) => Ok(TcpStream::from(socket)),
                (Some(why), _) => Err(io::Error::other(why)),
                (None, None) => Err(io::Error::other("no socket came with the answer")),
            };
        }
    }
}

/// Brings the sockets that a keeper sends in, until it closes its end or we ours.
pub(crate) fn bring_in(channel: &Channel, door: &Door) {
    jail::narrow(ThreadKind::Stream);
    loop {
        match channel.receive::<Accepted>() {
            Ok((Accepted, descriptors)) => take(descriptors, door),
            Err(ChannelError::TimedOut) => {}
            Err(_) => return,
        }
    }
}

fn take(descriptors: Vec<OwnedFd>, door: &Door) {
    for socket in descriptors {
        if let Err(error) = door.accept(TcpStream::from(socket)) {
            tracing::debug!(%error, "a connection was not taken");
        }
    }
}
