//! A machine moves from one process to another as it does between hosts: records of their own, memory of their own, TLS.

use std::io;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::ops::ControlFlow;
use std::os::unix::net::UnixStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use dwcp::acp::PermitState;
use dwcp::transport::KeyPair;
use machine::{
    Dial, Home, MoveImages, MoveLimits, MoveReport, Prepared, Progress, SessionKeys,
    SuperviseError, Visit, Watch,
};

use crate::harness::{Faulty, MIB, Oracle, Shape, has_kvm};

const VM: [u8; 16] = [7; 16];

/// Two hosts are two folders.
struct Hosts {
    folders: [tempfile::TempDir; 2],
    attempts: u8,
}

/// An attempt, and a network for it.
struct Attempt {
    /// What the source is told, and the destination.
    visits: [Visit; 2],
    listener: TcpListener,
    /// Both ends of every stream so far.
    sockets: Mutex<Vec<TcpStream>>,
    dialled: AtomicUsize,
    is_cut: AtomicBool,
}

impl Hosts {
    fn new() -> Self {
        Self { folders: [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()], attempts: 0 }
    }

    fn home(&self, host: usize) -> Home {
        let folder = self.folders[host].path();
        Home::new(VM, folder, folder).unwrap()
    }

    /// A machine on the first of them.
    fn boot(&self, shape: Shape, faults: &Faulty) -> Oracle {
        self.home(0).create_permit().unwrap();
        Oracle::boot_at(&self.home(0), shape, faults)
    }

    fn state(&self, host: usize) -> PermitState {
        self.home(host).permit_state().unwrap()
    }

    fn attempt(&mut self) -> Attempt {
        self.attempts += 1;
        Attempt {
            visits: visits(self.attempts),
            listener: TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap(),
            sockets: Mutex::default(),
            dialled: AtomicUsize::new(0),
            is_cut: AtomicBool::new(false),
        }
    }

    fn prepare(
        &self,
        to: usize,
        oracle: &Oracle,
        attempt: &Attempt,
        faults: &Faulty,
    ) -> Result<(Prepared, UnixStream), SuperviseError> {
        let description = oracle.machine.describe().unwrap();
        let visit = attempt.visits[1].clone();
        faults.with(|executable| self.home(to).prepare(executable, description, visit, None))
    }
}

/// What the source and the destination of an attempt are told.
pub(crate) fn visits(attempt: u8) -> [Visit; 2] {
    let [(here, here_public), (there, there_public)] = [keys(), keys()];
    let visit = |from: &str, own, peer| Visit {
        session: [attempt; 16],
        from: from.to_owned(),
        keys: SessionKeys { own, peer },
        patience: Duration::from_secs(30),
    };
    [visit("there", here, there_public), visit("here", there, here_public)]
}

fn keys() -> (Vec<u8>, [u8; 32]) {
    let own = KeyPair::generate().unwrap();
    let public = *KeyPair::from_pkcs8(&own).unwrap().public().bytes();
    (own, public)
}

impl Attempt {
    fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    /// Moves the machine to whoever is prepared, and watches.
    fn run(
        &self,
        oracle: &Oracle,
        prepared: &Prepared,
        limits: MoveLimits,
        watch: Option<Watch<'_>>,
    ) -> Result<MoveReport, SuperviseError> {
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                loop {
                    let (socket, _) = self.listener.accept().unwrap();
                    if is_over.load(Ordering::Acquire) {
                        return;
                    }
                    // Fails once the destination has gone.
                    let _ = prepared.door().bring_in(&socket);
                    self.sockets.lock().unwrap().push(socket);
                }
            });
            let dial = |_: Dial| -> io::Result<TcpStream> {
                self.dialled.fetch_add(1, Ordering::Relaxed);
                if self.is_cut.load(Ordering::Acquire) {
                    return Err(io::ErrorKind::HostUnreachable.into());
                }
                TcpStream::connect(self.address())
            };
            let moved = oracle.machine.migrate(
                &self.visits[0],
                "there",
                limits,
                MoveImages::default(),
                &dial,
                watch,
            );
            is_over.store(true, Ordering::Release);
            let _ = TcpStream::connect(self.address());
            moved
        })
    }

    /// Cuts every stream that there is.
    fn cut(&self) {
        for socket in self.sockets.lock().unwrap().drain(..) {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

/// Moves the machine to a host: the machine there.
fn goes_well(
    hosts: &mut Hosts,
    oracle: Oracle,
    to: usize,
    faults: &Faulty,
) -> (Oracle, MoveReport) {
    let attempt = hosts.attempt();
    let (prepared, console) = hosts.prepare(to, &oracle, &attempt, faults).unwrap();
    let report = attempt.run(&oracle, &prepared, MoveLimits::default(), None).unwrap();
    oracle.machine.into_process().bury();
    assert!(matches!(hosts.state(1 - to), PermitState::Gone { .. }));
    (Oracle::in_a_line(prepared.wait(None).unwrap().0, console), report)
}

#[test]
fn a_machine_moves_to_another_host_and_back_and_there_again() {
    if !has_kvm("a_machine_moves_to_another_host_and_back_and_there_again") {
        return;
    }
    let (mut hosts, faults) = (Hosts::new(), Faulty::new(""));
    let mut oracle = hosts.boot(Shape::default(), &faults);
    for to in [1, 0, 1] {
        oracle.wait_for_rounds(100);
        let (there, report) = goes_well(&mut hosts, oracle, to, &faults);
        let parts: u64 = report.blackout.parts().map(|(_, ns)| ns).sum();
        assert_eq!(parts, report.blackout.total_ns(), "nothing of a blackout is unnamed");
        assert!(report.pages_sent >= 320 * MIB / 4096, "{report:?}");
        assert_eq!(report.connections, 1, "{report:?}");
        assert!(matches!(hosts.state(to), PermitState::Held { .. }));
        oracle = there;
    }
    oracle.wait_for_rounds(100);
    oracle.end_well();
}

#[test]
fn a_move_goes_on_after_every_stream_was_cut() {
    if !has_kvm("a_move_goes_on_after_every_stream_was_cut") {
        return;
    }
    let (mut hosts, faults) = (Hosts::new(), Faulty::new(""));
    let oracle = hosts.boot(Shape::default(), &faults);
    let attempt = hosts.attempt();
    let (prepared, console) = hosts.prepare(1, &oracle, &attempt, &faults).unwrap();
    // Three times, each when a few thousand pages more have gone.
    let cuts = AtomicUsize::new(0);
    let watch = |progress: Progress| {
        let done = cuts.load(Ordering::Relaxed);
        if done < 3 && progress.pages_done > 3000 * (done as u64 + 1) {
            cuts.store(done + 1, Ordering::Relaxed);
            attempt.cut();
        }
        ControlFlow::Continue(())
    };
    let limits = MoveLimits { streams: 2, ..MoveLimits::default() };
    let report = attempt.run(&oracle, &prepared, limits, Some(Watch(&watch))).unwrap();
    assert!(report.connections > 1, "{report:?}");
    oracle.machine.into_process().bury();
    let mut oracle = Oracle::in_a_line(prepared.wait(None).unwrap().0, console);
    oracle.wait_for_rounds(100);
    oracle.end_well();
}

#[test]
fn a_move_that_is_given_up_leaves_the_guest_as_it_was() {
    if !has_kvm("a_move_that_is_given_up_leaves_the_guest_as_it_was") {
        return;
    }
    let (mut hosts, faults) = (Hosts::new(), Faulty::new(""));
    let mut oracle = hosts.boot(Shape::default(), &faults);

    // It is cancelled.
    let attempt = hosts.attempt();
    let (prepared, _console) = hosts.prepare(1, &oracle, &attempt, &faults).unwrap();
    let cancels = |progress: Progress| match progress.pages_done {
        ..1000 => ControlFlow::Continue(()),
        _ => ControlFlow::Break(()),
    };
    let limits = MoveLimits::default();
    let error = attempt.run(&oracle, &prepared, limits, Some(Watch(&cancels))).unwrap_err();
    assert!(error.to_string().contains("it was cancelled"), "{error}");
    let error = prepared.wait(None).unwrap_err();
    assert!(error.to_string().contains("it was cancelled"), "{error}");
    assert!(matches!(hosts.state(0), PermitState::Held { .. }));
    assert!(matches!(hosts.state(1), PermitState::Refused { .. }));
    oracle.wait_for_rounds(100);

    // The destination cannot be reached.
    let attempt = hosts.attempt();
    let (prepared, _console) = hosts.prepare(1, &oracle, &attempt, &faults).unwrap();
    attempt.is_cut.store(true, Ordering::Release);
    let limits = MoveLimits { patience: Duration::from_secs(2), ..limits };
    let error = attempt.run(&oracle, &prepared, limits, None).unwrap_err();
    assert!(error.to_string().contains("could not be reached"), "{error}");
    assert!(attempt.dialled.load(Ordering::Relaxed) > 1);
    assert!(prepared.refuse().unwrap().is_none());
    oracle.wait_for_rounds(100);

    // It has another key.
    let mut attempt = hosts.attempt();
    attempt.visits[1].keys.own = keys().0;
    let (prepared, _console) = hosts.prepare(1, &oracle, &attempt, &faults).unwrap();
    let error = attempt.run(&oracle, &prepared, limits, None).unwrap_err();
    assert!(error.to_string().contains("invalid peer certificate"), "{error}");
    assert!(prepared.refuse().unwrap().is_none());

    // It dies.
    let attempt = hosts.attempt();
    let (prepared, _console) = hosts.prepare(1, &oracle, &attempt, &faults).unwrap();
    let is_killed = AtomicBool::new(false);
    let kills = |progress: Progress| {
        if progress.pages_done > 1000 && !is_killed.swap(true, Ordering::Relaxed) {
            prepared.process().ender().unwrap().kill();
            // With its host, and what it had on its way.
            attempt.cut();
        }
        ControlFlow::Continue(())
    };
    let error = attempt.run(&oracle, &prepared, limits, Some(Watch(&kills))).unwrap_err();
    assert!(error.to_string().contains("could not be reached"), "{error}");
    assert!(matches!(hosts.state(0), PermitState::Held { .. }));
    oracle.wait_for_rounds(100);
    // Nothing of all that keeps it from moving.
    let (mut oracle, _) = goes_well(&mut hosts, oracle, 1, &faults);
    oracle.wait_for_rounds(100);
    oracle.end_well();
}

#[test]
fn what_a_host_must_not_receive_is_refused_before_anything_moves() {
    if !has_kvm("what_a_host_must_not_receive_is_refused_before_anything_moves") {
        return;
    }
    let (mut hosts, faults) = (Hosts::new(), Faulty::new(""));
    let mut oracle = hosts.boot(Shape { memory: 64 * MIB, ..Shape::default() }, &faults);
    let attempt = hosts.attempt();
    // Its own host has it, and it is alive.
    let error = hosts.prepare(0, &oracle, &attempt, &faults).unwrap_err();
    assert!(error.to_string().contains("alive in another process"), "{error}");
    // A host without a feature of the guest's.
    let error = hosts.prepare(1, &oracle, &attempt, &Faulty::new("lacks:nx")).unwrap_err();
    assert!(error.to_string().contains("lacks nx"), "{error}");
    oracle.wait_for_rounds(100);
    // One that has it, in another attempt.
    let (mut oracle, _) = goes_well(&mut hosts, oracle, 1, &faults);
    oracle.wait_for_rounds(100);
    oracle.end_well();
}
