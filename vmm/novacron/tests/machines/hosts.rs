//! Two daemons that know each other, and a network between them that can be cut.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use control::api::{
    AddPeer, Info, MachineState, Migrate, MigrationOutcome, Operation, OperationState, Peer,
    RestartPolicy,
};
use control::{CallError, ConsoleStream};
use dwcp::acp::PermitState;
use machine::Home;

use crate::daemon::Daemon;
use crate::moments::BUSY;

/// The names that the hosts have for each other.
pub(crate) const NAMES: [&str; 2] = ["east", "west"];

/// Far more than anything takes on a loaded host.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Hosts {
    pub(crate) daemons: [Daemon; 2],
    pub(crate) wires: [Wire; 2],
}

impl Hosts {
    pub(crate) fn start() -> Self {
        Self::start_with([&[], &[]])
    }

    /// With more in the environment of each daemon, which its machine processes have, too.
    pub(crate) fn start_with(environments: [&[(&str, &str)]; 2]) -> Self {
        Self::start_as(environments, &[])
    }

    /// With fields of both configurations set.
    pub(crate) fn start_set(settings: &[&str]) -> Self {
        Self::start_as([&[], &[]], settings)
    }

    fn start_as(environments: [&[(&str, &str)]; 2], settings: &[&str]) -> Self {
        let settings = [&["peers.listen=127.0.0.1:0", "log.level=debug"], settings].concat();
        let daemons = environments.map(|environment| Daemon::start_as(environment, &settings));
        let wires = [0, 1].map(|host: usize| Wire::to(Self::port(&daemons[host])));
        let hosts = Self { daemons, wires };
        for host in [0, 1] {
            let other = 1 - host;
            let key = hosts.daemons[other].client().get::<Info>("/v1/info").unwrap().host_key;
            let address = hosts.wires[other].address.to_string();
            let add = AddPeer { name: NAMES[other].parse().unwrap(), address, key };
            hosts.daemons[host].client().post::<Peer>("/v1/peers", &add).unwrap();
        }
        hosts
    }

    /// Where a daemon is reached by the other one.
    pub(crate) fn port(daemon: &Daemon) -> SocketAddr {
        let info: Info = daemon.client().get("/v1/info").unwrap();
        info.peers_listen[0].parse().unwrap()
    }

    /// Kills a host's daemon, and starts the next one.
    pub(crate) fn restart(&mut self, host: usize) {
        self.daemons[host].kill();
        self.start_again(host);
    }

    /// Starts a host's next daemon, once this one has gone.
    pub(crate) fn start_again(&mut self, host: usize) {
        self.daemons[host].start_again();
        self.wires[host].leads_to(Self::port(&self.daemons[host]));
    }

    /// Waits until a machine process on this host has died: its daemon says so.
    pub(crate) fn wait_for_death(&self, host: usize) {
        let end = Instant::now() + PATIENCE;
        let says_so = |log: &str| {
            ["the machine did not come", "the guest has ended", "its process is lost"]
                .iter()
                .any(|words| log.contains(words))
        };
        while !says_so(&self.daemons[host].log()) {
            assert!(Instant::now() < end, "{}", self.logs());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn begin_move(
        &self,
        from: usize,
        machine: &str,
        change: impl FnOnce(&mut Migrate),
    ) -> Result<Operation, CallError> {
        let mut request: Migrate =
            serde_json::from_value(serde_json::json!({ "to": NAMES[1 - from] })).unwrap();
        change(&mut request);
        let path = format!("/v1/machines/{machine}/migrate");
        self.daemons[from].client().post(&path, &request)
    }

    /// Moves a machine, and waits for that.
    pub(crate) fn moves(&self, from: usize, machine: &str) -> Result<MigrationOutcome, CallError> {
        let operation = self.begin_move(from, machine, |_| {})?;
        let ended = self.daemons[from].client().wait(operation, &mut |_| {})?;
        Ok(ended.migration.unwrap_or_else(|| panic!("a move without an outcome\n{}", self.logs())))
    }

    /// The operation, when it has ended.
    pub(crate) fn end_of(&self, host: usize, operation: &Operation) -> Operation {
        let client = self.daemons[host].client();
        let end = Instant::now() + PATIENCE;
        loop {
            let path = format!("/v1/operations/{}?wait_ms=1000", operation.id);
            match client.get::<Operation>(&path) {
                Ok(operation) if operation.state != OperationState::Running => return operation,
                other => assert!(Instant::now() < end, "{other:?}\n{}", self.logs()),
            }
        }
    }

    /// Where the machine runs; nowhere, or in doubt, if nowhere.
    pub(crate) fn runs_on(&self, machine: &str) -> Option<usize> {
        let runs = |host: usize| {
            let path = format!("/v1/machines/{machine}");
            let shown = self.daemons[host].client().get::<control::api::Machine>(&path);
            shown.is_ok_and(|machine| machine.state == MachineState::Running)
        };
        self.check_permits(machine);
        match [runs(0), runs(1)] {
            [true, false] => Some(0),
            [false, true] => Some(1),
            // A source that has not heard yet shows what it knew last.
            [true, true] | [false, false] => None,
        }
    }

    /// At most one of the hosts may run the machine, as their records say.
    pub(crate) fn check_permits(&self, machine: &str) {
        // The first again: in between, the permit may have moved.
        let may_run = |host: usize| {
            let folder = self.daemons[host].state().join("machines").join(machine);
            let client = self.daemons[host].client();
            let shown = client.get::<control::api::Machine>(&format!("/v1/machines/{machine}"));
            let Ok(shown) = shown else { return false };
            let home = Home::new(id(&shown.id), &folder, &folder).unwrap();
            matches!(home.permit_state(), Ok(PermitState::Held { .. } | PermitState::Taken { .. }))
        };
        assert!(!(may_run(0) && may_run(1) && may_run(0)), "it may run twice\n{}", self.logs());
    }

    /// Starts the guest that most of these tests move, and waits until it has filled its memory: before that, there is less
    /// to move than they need.
    pub(crate) fn busy(&self, host: usize, restart: RestartPolicy) {
        let daemon = &self.daemons[host];
        daemon.oracle("web", BUSY, restart);
        let end = Instant::now() + PATIENCE;
        loop {
            let log = daemon.client().get_bytes("/v1/machines/web/log");
            if log.is_ok_and(|log| String::from_utf8_lossy(&log).contains("oracle: ready")) {
                return;
            }
            assert!(Instant::now() < end, "it does not get ready\n{}", self.logs());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until it runs on one of the hosts.
    pub(crate) fn wait_until_it_runs(&self, machine: &str) -> usize {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(host) = self.runs_on(machine) {
                return host;
            }
            assert!(Instant::now() < end, "it runs nowhere\n{}", self.logs());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn logs(&self) -> String {
        format!("east:\n{}\nwest:\n{}", self.daemons[0].log(), self.daemons[1].log())
    }

    /// Asks the oracle what it thinks of its memory.
    pub(crate) fn verdict(&self, host: usize, machine: &str) -> String {
        let console = self.daemons[host].client().console(&machine.parse().unwrap()).unwrap();
        let ConsoleStream { stream, first } = console;
        let mut stream = stream;
        stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        let mut text = String::from_utf8_lossy(&first).into_owned();
        let from = text.len();
        let end = Instant::now() + PATIENCE;
        stream.write_all(b"v").unwrap();
        loop {
            let said = &text[from..];
            if let Some(line) = said.lines().find(|line| line.contains("oracle: verdict "))
                && (said.contains(&format!("{line}\n")) || said.contains(&format!("{line}\r")))
            {
                return line.to_owned();
            }
            assert!(Instant::now() < end, "no verdict: {text}\n{}", self.logs());
            let mut bytes = [0; 4096];
            match stream.read(&mut bytes) {
                Ok(0) => panic!("the console has ended: {text}\n{}", self.logs()),
                Ok(count) => text.push_str(&String::from_utf8_lossy(&bytes[..count])),
                // The key may have come while the guest stood still, and a console is no guest's memory.
                Err(_) => stream.write_all(b"v").unwrap(),
            }
        }
    }

    /// Its memory is what it wrote.
    pub(crate) fn check(&self, host: usize, machine: &str) {
        let verdict = self.verdict(host, machine);
        assert!(verdict.contains("verdict ok"), "{verdict}\n{}", self.logs());
    }
}

fn id(text: &str) -> [u8; 16] {
    std::array::from_fn(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap())
}

/// A relay: what connects to `address` is connected with wherever it leads, unless it is cut.
pub(crate) struct Wire {
    pub(crate) address: SocketAddr,
    inner: Arc<Inner>,
}

struct Inner {
    target: Mutex<SocketAddr>,
    is_cut: AtomicBool,
    is_over: AtomicBool,
    sockets: Mutex<Vec<TcpStream>>,
    /// Bytes a second that go towards the host, all connections together; 0 is as many as can.
    rate: AtomicU64,
    /// When the next bytes may go.
    next: Mutex<Instant>,
}

impl Wire {
    fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        // What connects has it, too: a link that is limited must not swallow seconds of bytes first.
        rustix::net::sockopt::set_socket_recv_buffer_size(&listener, 64 << 10).unwrap();
        let address = listener.local_addr().unwrap();
        let inner = Arc::new(Inner {
            target: Mutex::new(target),
            is_cut: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
            sockets: Mutex::default(),
            rate: AtomicU64::new(0),
            next: Mutex::new(Instant::now()),
        });
        let of_thread = Arc::clone(&inner);
        std::thread::spawn(move || of_thread.relay(&listener));
        Self { address, inner }
    }

    pub(crate) fn leads_to(&self, target: SocketAddr) {
        *self.inner.target.lock().unwrap() = target;
    }

    /// Nothing goes through until it is healed; what is connected is reset.
    pub(crate) fn cut(&self) {
        self.inner.is_cut.store(true, Ordering::Release);
        self.reset();
    }

    /// What is connected is reset, and can connect again.
    pub(crate) fn reset(&self) {
        for socket in self.inner.sockets.lock().unwrap().drain(..) {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    /// Towards the host no more than so many bytes a second go through; 0 is as many as can.
    pub(crate) fn limit(&self, bytes_per_second: u64) {
        self.inner.rate.store(bytes_per_second, Ordering::Relaxed);
    }

    pub(crate) fn heal(&self) {
        self.inner.is_cut.store(false, Ordering::Release);
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.inner.is_over.store(true, Ordering::Release);
        self.reset();
        // So that the relay looks.
        let _ = TcpStream::connect(self.address);
    }
}

impl Inner {
    /// Waits until so many bytes may go.
    fn wait_for_turn(&self, bytes: u64) {
        let rate = self.rate.load(Ordering::Relaxed);
        if rate == 0 {
            return;
        }
        let mine = {
            let mut next = self.next.lock().unwrap();
            let mine = (*next).max(Instant::now());
            *next = mine + Duration::from_nanos(bytes * 1_000_000_000 / rate);
            mine
        };
        std::thread::sleep(mine.saturating_duration_since(Instant::now()));
    }

    fn relay(self: &Arc<Self>, listener: &TcpListener) {
        for near in listener.incoming().flatten() {
            if self.is_over.load(Ordering::Acquire) {
                return;
            }
            let target = *self.target.lock().unwrap();
            if self.is_cut.load(Ordering::Acquire) {
                continue;
            }
            let Ok(far) = TcpStream::connect(target) else { continue };
            let _ = (near.set_nodelay(true), far.set_nodelay(true));
            let mut sockets = self.sockets.lock().unwrap();
            sockets.extend([near.try_clone().unwrap(), far.try_clone().unwrap()]);
            let there = (near.try_clone().unwrap(), far.try_clone().unwrap());
            for ((mut from, mut to), is_limited) in [(there, true), ((far, near), false)] {
                let inner = Arc::clone(self);
                std::thread::spawn(move || {
                    let mut bytes = vec![0; 16 << 10];
                    while let Ok(count @ 1..) = from.read(&mut bytes) {
                        if is_limited {
                            inner.wait_for_turn(count as u64);
                        }
                        if to.write_all(&bytes[..count]).is_err() {
                            break;
                        }
                    }
                    let _ = to.shutdown(Shutdown::Write);
                });
            }
        }
    }
}
