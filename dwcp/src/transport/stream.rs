//! [`Stream`]: frames in and out of a TLS connection. See `SPEC.md`, 8.5 and 10.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::Connection;

use super::wake::Wake;
use super::{socket, tls_error};
use crate::session::Fault;
use crate::wire::{HEADER_BYTES, Header, HeaderBytes};

/// Plaintext that is encrypted at a time: what the kernel takes in one call, and not much more.
const ENCRYPT_BYTES: usize = 256 << 10;

/// Bytes that are taken in before it is looked at what can go out.
const RECEIVE_BYTES: usize = 1 << 20;

/// How long the peer may take to close a stream that we have closed.
const PARTING: Duration = Duration::from_millis(500);

/// Why a stream has ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum End {
    /// Somebody here wants it.
    #[error("it was ended here")]
    Asked,
    /// The other end is gone
    #[error("the peer has closed it")]
    Closed,
    /// The socket or TLS
    #[error(transparent)]
    Broken(#[from] io::Error),
    /// What the peer sent
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// What a stream has waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// Room in its socket
    Room,
    /// Something to do
    Work,
}

/// What a stream's frames mean, and which are to go out.
pub(super) trait Endpoint {
    /// A header has arrived.
    fn header(&mut self, bytes: &HeaderBytes) -> Result<Header, Fault>;
    /// A frame has arrived, whole.
    fn frame(&mut self, header: Header, payload: &[u8]) -> Result<(), Fault>;
    /// Puts the next frame into `frame`, which is empty. There may be none.
    fn next(&mut self, frame: &mut Vec<u8>);
    /// That frame is in the socket.
    fn written(&mut self);
    /// For so long it was waited: until the socket took more of that frame, or there was none.
    fn waited(&mut self, _for_what: Wait, _time: Duration) {}
}

/// A stream, its handshake done.
#[derive(Debug)]
pub(super) struct Stream {
    socket: TcpStream,
    tls: Connection,
    wake: Arc<Wake>,
    incoming: Incoming,
    /// The frame that is going out, and how much of it was encrypted.
    out: Vec<u8>,
    encrypted: usize,
}

/// A frame that arrives.
#[derive(Debug)]
struct Incoming {
    head: HeaderBytes,
    /// Once it is whole, and was checked.
    header: Option<Header>,
    payload: Vec<u8>,
    /// Bytes of the one that is being filled.
    filled: usize,
}

impl Incoming {
    fn new() -> Self {
        Self { head: [0; HEADER_BYTES], header: None, payload: Vec::new(), filled: 0 }
    }
}

impl Stream {
    /// Shakes hands over a connected socket.
    pub(super) fn open(
        socket: TcpStream,
        mut tls: Connection,
        wake: Arc<Wake>,
        until: Instant,
    ) -> Result<Self, End> {
        socket::prepare(&socket)?;
        tls.set_buffer_limit(Some(2 * ENCRYPT_BYTES));
        let mut stream =
            Self { socket, tls, wake, incoming: Incoming::new(), out: Vec::new(), encrypted: 0 };
        while stream.tls.is_handshaking() {
            stream.wake.clear();
            let wrote = stream.flush()?;
            let read = stream.read_tls()?;
            if !wrote && read == 0 && stream.tls.is_handshaking() {
                stream.wait(Some(until))?;
            }
        }
        if stream.tls.alpn_protocol().is_none() {
            let why = "the peer asked for no protocol";
            return Err(io::Error::new(io::ErrorKind::InvalidData, why).into());
        }
        Ok(stream)
    }

    /// Waits until these bytes of plaintext have arrived.
    pub(super) fn read_exact(&mut self, mut into: &mut [u8], until: Instant) -> Result<(), End> {
        while !into.is_empty() {
            self.wake.clear();
            let count = read_plain(&mut self.tls, into)?;
            into = &mut into[count..];
            let wrote = self.flush()?;
            if count == 0 && self.read_tls()? == 0 && !wrote {
                self.wait(Some(until))?;
            }
        }
        Ok(())
    }

    /// Carries frames until something ends it.
    pub(super) fn serve(&mut self, endpoint: &mut impl Endpoint) -> End {
        loop {
            match self.turn(endpoint) {
                Ok(()) => {}
                Err(end) => {
                    self.tls.send_close_notify();
                    if matches!(end, End::Asked) {
                        self.part();
                    } else {
                        let _ = self.tls.write_tls(&mut self.socket);
                    }
                    return end;
                }
            }
        }
    }

    /// Lets what was written arrive: a socket that is closed while bytes are there to be read resets the connection, and
    /// what is on its way is lost with it. The last words of a session are.
    fn part(&mut self) {
        let until = Instant::now() + PARTING;
        let mut rest = [0; 4096];
        loop {
            let is_written = self.flush().is_err() || !self.tls.wants_write();
            if is_written && self.socket.shutdown(Shutdown::Write).is_err() {
                return;
            }
            match self.socket.read(&mut rest) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) if is_passing(&error) => {
                    if !matches!(self.wake.wait(&self.socket, !is_written, Some(until)), Ok(true)) {
                        return;
                    }
                }
                Err(_) => return,
            }
            if Instant::now() >= until {
                return;
            }
        }
    }

    /// Takes in what is there, puts out what there is room for, and waits if there was neither.
    fn turn(&mut self, endpoint: &mut impl Endpoint) -> Result<(), End> {
        self.wake.clear();
        if self.wake.is_over() {
            return Err(End::Asked);
        }
        let mut did_something = false;
        if self.out.is_empty() {
            endpoint.next(&mut self.out);
        }
        did_something |= self.put_out(endpoint)?;
        let mut total = 0;
        while total < RECEIVE_BYTES {
            let read = self.read_tls();
            // What came before the end is looked at first: it may be what the end is about.
            self.take_in(endpoint)?;
            match read? {
                0 => break,
                count => total += count,
            }
        }
        if did_something || total > 0 {
            return Ok(());
        }
        let for_what = if self.tls.wants_write() { Wait::Room } else { Wait::Work };
        let since = Instant::now();
        let waited = self.wait(None);
        endpoint.waited(for_what, since.elapsed());
        waited
    }

    /// Encrypts and writes the frame that goes out, as far as the socket takes it; whether it took any.
    fn put_out(&mut self, endpoint: &mut impl Endpoint) -> Result<bool, End> {
        let mut wrote = self.flush()?;
        while !self.tls.wants_write() && !self.out.is_empty() {
            let rest = &self.out[self.encrypted..];
            if rest.is_empty() {
                self.out.clear();
                self.encrypted = 0;
                endpoint.written();
                return Ok(true);
            }
            self.encrypted += self.tls.writer().write(&rest[..rest.len().min(ENCRYPT_BYTES)])?;
            wrote |= self.flush()?;
        }
        Ok(wrote)
    }

    /// Writes what is encrypted, as far as the socket takes it; whether it took any.
    fn flush(&mut self) -> Result<bool, End> {
        let mut wrote = false;
        while self.tls.wants_write() {
            match self.tls.write_tls(&mut self.socket) {
                Ok(0) => return Err(End::Closed),
                Ok(_) => wrote = true,
                Err(error) if is_passing(&error) => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(wrote)
    }

    /// Takes bytes from the socket, as many as rustls has room for, and decrypts them; how many.
    fn read_tls(&mut self) -> Result<usize, End> {
        if !self.tls.wants_read() {
            return Ok(0);
        }
        let count = match self.tls.read_tls(&mut self.socket) {
            Ok(0) => return Err(End::Closed),
            Ok(count) => count,
            Err(error) if is_passing(&error) => return Ok(0),
            Err(error) => return Err(error.into()),
        };
        if let Err(error) = self.tls.process_new_packets() {
            // The alert that tells the peer why.
            let _ = self.tls.write_tls(&mut self.socket);
            return Err(tls_error(error).into());
        }
        Ok(count)
    }

    /// Makes frames of the plaintext that has arrived.
    fn take_in(&mut self, endpoint: &mut impl Endpoint) -> Result<(), End> {
        loop {
            let incoming = &mut self.incoming;
            let missing = match incoming.header {
                None => &mut incoming.head[incoming.filled..],
                Some(header) => &mut incoming.payload[incoming.filled..payload_bytes(header)],
            };
            if !missing.is_empty() {
                match read_plain(&mut self.tls, missing)? {
                    0 => return Ok(()),
                    count => incoming.filled += count,
                }
                continue;
            }
            incoming.filled = 0;
            match incoming.header.take() {
                None => {
                    let header = endpoint.header(&incoming.head)?;
                    incoming.header = Some(header);
                    // As long as the longest so far; the header's kind bounds it.
                    if incoming.payload.len() < payload_bytes(header) {
                        incoming.payload.resize(payload_bytes(header), 0);
                    }
                }
                Some(header) => {
                    endpoint.frame(header, &incoming.payload[..payload_bytes(header)])?;
                }
            }
        }
    }

    fn wait(&self, until: Option<Instant>) -> Result<(), End> {
        if self.wake.is_over() {
            return Err(End::Asked);
        }
        if self.wake.wait(&self.socket, self.tls.wants_write(), until)? {
            Ok(())
        } else {
            Err(io::Error::from(io::ErrorKind::TimedOut).into())
        }
    }
}

/// Plaintext that has arrived; 0 if there is none now.
fn read_plain(tls: &mut Connection, into: &mut [u8]) -> Result<usize, End> {
    match tls.reader().read(into) {
        Ok(0) => Err(End::Closed),
        Ok(count) => Ok(count),
        Err(error) if is_passing(&error) => Ok(0),
        Err(error) => Err(error.into()),
    }
}

/// Whether it may go better the next time.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

fn payload_bytes(header: Header) -> usize {
    usize::try_from(header.length()).expect("at most a few MiB")
}
