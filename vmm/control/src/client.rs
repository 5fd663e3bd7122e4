//! The other end of the control socket.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use machine::Channel;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::runtime::Runtime;

use crate::api::{ApiError, ErrorCode, Event, MachineName, Operation, OperationState};
use crate::method::HttpVerb;
use crate::server::{CONSOLE_PROTOCOL, FILES_PROTOCOL, Given};

/// The longest answer that is read: a thousand machines with long command lines.
const ANSWER_MAX_BYTES: usize = 64 << 20;
/// A line of an event stream; longer ones are not the daemon's.
const EVENT_MAX_BYTES: usize = 1 << 20;

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Nobody listens
    #[error("no daemon answers on {}: {source}; start one with `novacron daemon`, or name its socket with --socket", socket.display())]
    NoDaemon {
        /// Where.
        socket: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The daemon said no
    #[error(transparent)]
    Refused(#[from] ApiError),
    /// The connection broke, or said what no daemon says
    #[error("the daemon on {}: {why}", socket.display())]
    Broken {
        /// Where.
        socket: PathBuf,
        /// What happened.
        why: String,
    },
}

/// A client of one daemon. Each call is a connection of its own: a verb makes one or two, and a daemon that was killed in
/// between needs no second thought.
#[derive(Debug)]
pub struct Client {
    socket: PathBuf,
    runtime: Runtime,
}

impl Client {
    /// A client of the daemon on `socket`; nothing is connected yet.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn new(socket: &Path) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { socket: socket.to_owned(), runtime })
    }

    /// Where its daemon is.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Asks for something.
    ///
    /// # Errors
    /// When there is no daemon, or it refuses.
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, CallError> {
        self.decode(&self.bytes(HttpVerb::Get, path, None::<&()>)?)
    }

    /// Asks for something that is not JSON.
    ///
    /// # Errors
    /// When there is no daemon, or it refuses.
    pub fn get_bytes(&self, path: &str) -> Result<Vec<u8>, CallError> {
        self.bytes(HttpVerb::Get, path, None::<&()>)
    }

    /// Does something.
    ///
    /// # Errors
    /// When there is no daemon, or it refuses.
    pub fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, CallError> {
        self.decode(&self.bytes(HttpVerb::Post, path, Some(body))?)
    }

    /// Does something that has no answer.
    ///
    /// # Errors
    /// When there is no daemon, or it refuses.
    pub fn post_for_nothing(&self, path: &str, body: &impl Serialize) -> Result<(), CallError> {
        self.bytes(HttpVerb::Post, path, Some(body)).map(drop)
    }

    /// Changes what is named of something.
    ///
    /// # Errors
    /// When there is no daemon, or it refuses.
    pub fn patch<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, CallError> {
        self.decode(&self.bytes(HttpVerb::Patch, path, Some(body))?)
    }

    /// Deletes something.
    ///
    /// # Errors
    /// When there is no daemon, or it refuses.
    pub fn delete(&self, path: &str) -> Result<(), CallError> {
        self.bytes(HttpVerb::Delete, path, None::<&()>).map(drop)
    }

    /// Waits for an operation's end; `show` is given it a few times a second, while it lasts.
    ///
    /// # Errors
    /// When the daemon goes, or the operation fails: with its error.
    pub fn wait(
        &self,
        mut operation: Operation,
        show: &mut dyn FnMut(&Operation),
    ) -> Result<Operation, CallError> {
        const EVERY_MS: u64 = 100;
        while operation.state == OperationState::Running {
            show(&operation);
            let path = format!("/v1/operations/{}?wait_ms={EVERY_MS}", operation.id);
            operation = self.get(&path)?;
        }
        show(&operation);
        match operation.error.clone() {
            Some(error) => Err(CallError::Refused(error)),
            None => Ok(operation),
        }
    }

    /// Follows events: from behind the one with the id `after`, or from now on.
    ///
    /// # Errors
    /// When there is no daemon, or it refuses.
    pub fn events(&self, after: Option<&str>) -> Result<EventStream<'_>, CallError> {
        self.follow("/v1/events", after)
    }

    /// Follows events: the last `most` of those that were already, as far as they are kept, and those from now on.
    ///
    /// # Errors
    /// When there is no daemon, or it refuses.
    pub fn recent_events(&self, most: usize) -> Result<EventStream<'_>, CallError> {
        self.follow(&format!("/v1/events?last={most}"), None)
    }

    fn follow(&self, path: &str, after: Option<&str>) -> Result<EventStream<'_>, CallError> {
        let response = self.runtime.block_on(async {
            let mut request = self.request(HttpVerb::Get, path);
            if let Some(after) = after {
                request = request.header("last-event-id", after);
            }
            let request = request.body(Full::default()).map_err(|error| self.broken(error))?;
            let response = self.send(request).await?;
            self.refuse_errors(response).await
        })?;
        Ok(EventStream { client: self, body: response.into_body(), text: Vec::new() })
    }

    /// A connection that becomes another protocol's.
    fn upgrade(
        &self,
        verb: HttpVerb,
        path: &str,
        protocol: &str,
    ) -> Result<ConsoleStream, CallError> {
        self.runtime.block_on(async {
            let request = self
                .request(verb, path)
                .header(header::CONNECTION, "upgrade")
                .header(header::UPGRADE, protocol)
                .body(Full::default())
                .map_err(|error| self.broken(error))?;
            let response = self.send(request).await?;
            if response.status() != StatusCode::SWITCHING_PROTOCOLS {
                self.refuse_errors(response).await?;
                return Err(self.broken("it does not upgrade the connection"));
            }
            let upgraded =
                hyper::upgrade::on(response).await.map_err(|error| self.broken(error))?;
            let parts = upgraded
                .downcast::<TokioIo<UnixStream>>()
                .map_err(|_| self.broken("it is no Unix socket"))?;
            let stream = parts.io.into_inner().into_std().map_err(|error| self.broken(error))?;
            stream.set_nonblocking(false).map_err(|error| self.broken(error))?;
            Ok(ConsoleStream { stream, first: parts.read_buf.to_vec() })
        })
    }

    /// Passes open files to the daemon; returns the names by which calls can name them.
    ///
    /// # Errors
    /// When there is no daemon, or it refuses one of them.
    pub fn pass_files(&self, files: &[BorrowedFd<'_>]) -> Result<Vec<String>, CallError> {
        let upgraded = self.upgrade(HttpVerb::Post, "/v1/files", FILES_PROTOCOL)?;
        let channel = Channel::from(OwnedFd::from(upgraded.stream));
        files
            .iter()
            .map(|file| {
                channel.send(&(), &[*file]).map_err(|error| self.broken(error))?;
                let (given, _) = channel.receive::<Given>().map_err(|error| self.broken(error))?;
                given.map_err(|why| CallError::Refused(ApiError::new(ErrorCode::File, why)))
            })
            .collect()
    }

    /// Attaches to a machine's console.
    ///
    /// # Errors
    /// When there is no daemon, or it refuses.
    pub fn console(&self, machine: &MachineName) -> Result<ConsoleStream, CallError> {
        let path = format!("/v1/machines/{machine}/console");
        self.upgrade(HttpVerb::Get, &path, CONSOLE_PROTOCOL)
    }

    fn bytes(
        &self,
        verb: HttpVerb,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<Vec<u8>, CallError> {
        self.runtime.block_on(async {
            let mut request = self.request(verb, path);
            let body = match body {
                Some(body) => {
                    request = request.header(header::CONTENT_TYPE, "application/json");
                    serde_json::to_vec(body).map_err(|error| self.broken(error))?
                }
                None => Vec::new(),
            };
            let request = request.body(Full::from(body)).map_err(|error| self.broken(error))?;
            let response = self.send(request).await?;
            let response = self.refuse_errors(response).await?;
            self.collect(response).await
        })
    }

    fn request(&self, verb: HttpVerb, path: &str) -> hyper::http::request::Builder {
        Request::builder().method(verb.name()).uri(path).header(header::HOST, "novacron")
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, CallError> {
        let mut sender = self.connect().await?;
        sender.send_request(request).await.map_err(|error| self.broken(error))
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, CallError> {
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|source| CallError::NoDaemon { socket: self.socket.clone(), source })?;
        let (sender, connection) =
            handshake(TokioIo::new(stream)).await.map_err(|error| self.broken(error))?;
        tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "the connection to the daemon");
            }
        });
        Ok(sender)
    }

    async fn refuse_errors(
        &self,
        response: Response<Incoming>,
    ) -> Result<Response<Incoming>, CallError> {
        let status = response.status();
        if status.is_success() || status.is_informational() {
            return Ok(response);
        }
        let bytes = self.collect(response).await?;
        match serde_json::from_slice::<ApiError>(&bytes) {
            Ok(error) => Err(CallError::Refused(error)),
            Err(_) => Err(self.broken(format!("it answers {status}"))),
        }
    }

    async fn collect(&self, response: Response<Incoming>) -> Result<Vec<u8>, CallError> {
        let body = Limited::new(response.into_body(), ANSWER_MAX_BYTES).collect().await;
        body.map(|body| body.to_bytes().to_vec()).map_err(|error| self.broken(error))
    }

    fn decode<T: DeserializeOwned>(&self, bytes: &[u8]) -> Result<T, CallError> {
        serde_json::from_slice(bytes)
            .map_err(|error| self.broken(format!("it answers what cannot be read: {error}")))
    }

    fn broken(&self, why: impl std::fmt::Display) -> CallError {
        CallError::Broken { socket: self.socket.clone(), why: why.to_string() }
    }
}

/// Events as they come.
#[derive(Debug)]
pub struct EventStream<'a> {
    client: &'a Client,
    body: Incoming,
    text: Vec<u8>,
}

impl EventStream<'_> {
    /// The next event; waits for it. None when the daemon has ended the stream.
    ///
    /// # Errors
    /// When the connection breaks.
    pub fn next_event(&mut self) -> Result<Option<Event>, CallError> {
        loop {
            if let Some(event) = self.take()? {
                return Ok(Some(event));
            }
            let frame = self.client.runtime.block_on(self.body.frame());
            match frame {
                None => return Ok(None),
                Some(Ok(frame)) => self.text.extend(frame.into_data().unwrap_or_default()),
                Some(Err(error)) => return Err(self.client.broken(error)),
            }
        }
    }

    /// The same, and None, too, if it has not come within `limit`.
    ///
    /// # Errors
    /// When the connection breaks, or the daemon has ended the stream.
    pub fn next_within(&mut self, limit: Duration) -> Result<Option<Event>, CallError> {
        // Of the whole: what the daemon sends to show that it is there does not begin it anew.
        let end = tokio::time::Instant::now() + limit;
        loop {
            if let Some(event) = self.take()? {
                return Ok(Some(event));
            }
            let frame = self
                .client
                .runtime
                .block_on(async { tokio::time::timeout_at(end, self.body.frame()).await });
            match frame {
                Err(_) => return Ok(None),
                Ok(None) => return Err(self.client.broken("it has ended the events")),
                Ok(Some(Ok(frame))) => self.text.extend(frame.into_data().unwrap_or_default()),
                Ok(Some(Err(error))) => return Err(self.client.broken(error)),
            }
        }
    }

    /// Takes the first whole event of the text.
    fn take(&mut self) -> Result<Option<Event>, CallError> {
        while let Some(end) = self.text.windows(2).position(|pair| pair == b"\n\n") {
            let block: Vec<u8> = self.text.drain(..end + 2).collect();
            let block = String::from_utf8_lossy(&block);
            if let Some(data) = block.lines().find_map(|line| line.strip_prefix("data: ")) {
                return self.client.decode(data.as_bytes()).map(Some);
            }
        }
        if self.text.len() > EVENT_MAX_BYTES {
            return Err(self.client.broken("an event without end"));
        }
        Ok(None)
    }
}

/// A console: a socket, and what had come on it already.
#[derive(Debug)]
pub struct ConsoleStream {
    /// What the guest prints can be read here, and what is written here is typed.
    pub stream: std::os::unix::net::UnixStream,
    /// What comes before.
    pub first: Vec<u8>,
}
