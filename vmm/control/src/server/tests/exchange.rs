//! One request and its answer, through everything from a connection's first byte on.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::runtime::Runtime;
use tokio::sync::{Semaphore, watch};

use crate::access::{Caller, Role};
use crate::audit_trail::Sender;
use crate::config::{Effective, Surroundings};
use crate::daemon::{Daemon, DaemonOptions};
use crate::receipts::fixture;
use crate::server::accept::{Connection, Terms};
use crate::server::router::{State, router};

/// Far more than any answer takes: what takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(30);

/// A daemon whose machines never start: there is no executable. Everything else of it is real.
#[derive(Debug)]
pub(super) struct Fixture {
    _folder: tempfile::TempDir,
    pub(super) runtime: Runtime,
    pub(super) state: State,
    terms: Terms,
    /// Connections are not told of a shutdown, so that there can be a next request.
    open: watch::Sender<bool>,
}

/// An answer, as far as it is of interest.
#[derive(Debug, Default)]
pub(super) struct Answer {
    /// 0 for a connection that was closed without one.
    pub(super) status: u16,
    head: String,
    pub(super) body: Vec<u8>,
}

impl Fixture {
    pub(super) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let place = |name: &str| folder.path().join(name).display().to_string();
        let set = [
            format!("socket.path={}", place("s")),
            format!("storage.state={}", place("state")),
            format!("storage.runtime={}", place("run")),
            "limits.machines=6".to_owned(),
            "peers.listen=127.0.0.1:0".to_owned(),
        ];
        let surroundings =
            Surroundings { uid: rustix::process::geteuid().as_raw(), variables: [].into() };
        let accounts = crate::access::Accounts::from_files("", "");
        let effective = Effective::of(None, &set, &surroundings, &accounts).unwrap();
        let first = effective.config.storage.folders[0].clone();
        let daemon = Daemon::start(DaemonOptions {
            config: effective.config,
            executable: folder.path().join("no-executable"),
            environment: Vec::new(),
            log_lines_lost: Arc::default(),
            oracle: b"no guest",
        });
        std::fs::write(first.join("garbage.nova"), "no snapshot and no kernel").unwrap();
        let (runtime, state, terms) = daemon.unwrap().into_parts();
        let receipt = fixture::signed(fixture::statement());
        state.registry().shared().receipts.put(&receipt).unwrap();
        let open = watch::Sender::new(false);
        Self { _folder: folder, runtime, state, terms, open }
    }

    /// Sends a request's bytes on a connection of its own, as a caller of that role.
    pub(super) fn exchange(
        &self,
        role: Option<Role>,
        request: &[u8],
        is_head: bool,
    ) -> Result<Answer, String> {
        self.runtime.block_on(async {
            let (mut ours, theirs) = UnixStream::pair().unwrap();
            let caller = Caller { uid: 61_000, gid: 61_000, groups: Vec::new(), pid: None };
            let sender = Sender { caller, role, host: None };
            let permit = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
            let connection = Connection { stream: theirs, sender, permit };
            let router = router(self.state.clone());
            tokio::spawn(connection.run(router, self.terms.clone(), self.open.subscribe()));
            let answer = async {
                // It may be refused before it was all sent.
                let _ = ours.write_all(request).await;
                read(&mut ours, is_head).await
            };
            tokio::time::timeout(PATIENCE, answer).await.map_err(|_| "it hangs".to_owned())
        })
    }
}

impl Answer {
    /// The content type, without parameters.
    pub(super) fn kind(&self) -> &str {
        self.header("content-type").split(';').next().unwrap_or_default().trim()
    }

    fn header(&self, name: &str) -> &str {
        let named = |line: &'_ str| -> Option<(usize, usize)> {
            let (found, _) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then_some((found.len() + 1, line.len()))
        };
        self.head
            .lines()
            .find_map(|line| named(line).map(|(start, end)| line[start..end].trim()))
            .unwrap_or_default()
    }
}

async fn read(stream: &mut UnixStream, is_head: bool) -> Answer {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        if !matches!(stream.read_buf(&mut bytes).await, Ok(1..)) {
            return Answer::default();
        }
    };
    let body = bytes.split_off(end);
    let head = String::from_utf8_lossy(&bytes).into_owned();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    let mut answer = Answer { status, head, body };
    let length = answer.header("content-length").parse().unwrap_or(0);
    if is_head || status == 101 {
        return answer;
    }
    // A stream of events has no end: its first chunk says enough.
    let is_stream = answer.kind() == "text/event-stream";
    while answer.body.len() < length || (is_stream && answer.body.is_empty()) {
        if !matches!(stream.read_buf(&mut answer.body).await, Ok(1..)) {
            break;
        }
    }
    answer
}
