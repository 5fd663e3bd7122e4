//! The control socket of a daemon, as any program can speak to it: HTTP/1.1 over a Unix socket.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use crate::stop::Stop;

/// How long the daemon may take for anything.
const PATIENCE: Duration = Duration::from_secs(60);
/// Longer heads are not the daemon's.
const HEAD_MAX_BYTES: usize = 64 << 10;

/// A connection to the control socket, for one call after another.
#[derive(Debug)]
pub struct Connection {
    stream: BufReader<UnixStream>,
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// When nobody listens there.
    pub fn open(socket: &Path) -> Result<Self, Stop> {
        let stream = UnixStream::connect(socket).map_err(Stop::failed("connect"))?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(Stop::failed("a time limit"))?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Makes a call; the body of an answer of success.
    ///
    /// # Errors
    /// When the answer is none of success, with what it says; or none comes.
    pub fn call(&mut self, verb: &str, path: &str, body: &str) -> Result<String, Stop> {
        let length = body.len();
        let request =
            format!("{verb} {path} HTTP/1.1\r\nhost: n\r\ncontent-length: {length}\r\n\r\n{body}");
        self.stream.get_mut().write_all(request.as_bytes()).map_err(Stop::failed("write"))?;
        let status = self.line()?;
        let mut length = 0;
        loop {
            let line = self.line()?;
            if line.is_empty() {
                break;
            }
            if let Some(value) = line.strip_prefix("content-length: ") {
                length = value.parse().map_err(Stop::failed("content-length"))?;
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).map_err(Stop::failed("read"))?;
        let body = String::from_utf8(body).map_err(Stop::failed("a body"))?;
        if status.starts_with("HTTP/1.1 2") {
            Ok(body)
        } else {
            Err(Stop::Failed(format!("{verb} {path}: {status}: {body}")))
        }
    }

    fn line(&mut self) -> Result<String, Stop> {
        let mut line = String::new();
        self.stream.read_line(&mut line).map_err(Stop::failed("read"))?;
        Ok(line.trim_end().to_owned())
    }
}

/// Attaches to a machine's console: first comes what is kept of it, then what the guest prints.
///
/// # Errors
/// When the daemon does not give it.
pub fn attach(socket: &Path, machine: &str) -> Result<UnixStream, Stop> {
    let mut stream = UnixStream::connect(socket).map_err(Stop::failed("connect"))?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(Stop::failed("a time limit"))?;
    let request = format!(
        "GET /v1/machines/{machine}/console HTTP/1.1\r\nhost: n\r\nconnection: upgrade\r\n\
         upgrade: novacron-console\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).map_err(Stop::failed("write"))?;
    // Byte by byte: what is behind the head is the guest's.
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") && head.len() < HEAD_MAX_BYTES {
        let mut byte = [0];
        stream.read_exact(&mut byte).map_err(Stop::failed("read"))?;
        head.push(byte[0]);
    }
    if head.starts_with(b"HTTP/1.1 101") {
        Ok(stream)
    } else {
        let head = String::from_utf8_lossy(&head);
        Err(Stop::Failed(format!("the console of {machine}: {}", head.trim_end())))
    }
}
