//! A host that is known here and lies: everything that it can send, changed, and what that may change here.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::exchange::Fixture;
use super::random::Random;
use super::values::mutate;
use crate::api::{AddPeer, ErrorCode, MachineSpec, Peer, Timestamp};
use crate::peers::{Identity, PeerClient, PeerError, QUICK};
use crate::registry::measure;

/// Messages of a run.
const MESSAGES: u64 = 400;

/// Less than what a machine that comes back waits for its image.
const AT_ONCE: Duration = Duration::from_secs(4);

/// A known host, and this one as it sees it.
struct Liar {
    here: Fixture,
    client: PeerClient,
    identity: Identity,
    key: String,
    _folder: tempfile::TempDir,
}

impl Liar {
    fn new() -> Self {
        let here = Fixture::new();
        let folder = tempfile::tempdir().unwrap();
        let identity = Identity::open(folder.path()).unwrap();
        let key = identity.public().to_string();
        let shared = here.state.registry().shared();
        let (name, address) = ("liar".parse().unwrap(), "127.0.0.1:9".to_owned());
        shared.peers.add(AddPeer { name, address, key: key.clone() }).unwrap();
        let client = client(&here, &identity, shared.listens[0]);
        Self { here, client, identity, key, _folder: folder }
    }

    /// The same host, as somebody sees it to whom it has another address.
    fn client_at(&self, address: SocketAddr) -> PeerClient {
        client(&self.here, &self.identity, address)
    }

    fn send(&self, path: &str, message: &Value) -> Result<Value, PeerError> {
        self.client.post(path, message, QUICK)
    }

    /// What the daemon keeps that a message could have changed.
    fn kept(&self) -> String {
        let registry = self.here.state.registry();
        let state = &self.here.state.config().storage.state;
        let names = |folder: &str| -> Vec<_> {
            let entries = std::fs::read_dir(state.join(folder)).unwrap();
            entries.map(|entry| entry.unwrap().file_name()).collect()
        };
        let receipts = registry.shared().receipts.list().unwrap().len();
        format!(
            "{:?} {:?} {receipts} {:?} {:?}",
            registry.list(),
            registry.shared().peers.list(),
            names("machines"),
            names("permits"),
        )
    }
}

/// What speaks as `identity` to a host at an address.
fn client(here: &Fixture, identity: &Identity, address: SocketAddr) -> PeerClient {
    let peer = Peer {
        name: "here".parse().unwrap(),
        address: address.to_string(),
        key: here.state.registry().shared().identity.public().to_string(),
        added_at: Timestamp::now(),
    };
    PeerClient::new(identity, peer, here.runtime.handle().clone()).unwrap()
}

/// Each call with a message that is sound. Where KVM opens, the invitation is accepted up to the process that is to build the
/// machine: this daemon has no executable for it.
fn sound(liar: &Liar) -> [(&'static str, Value); 4] {
    let (session, machine) = ("5".repeat(32), "7".repeat(32));
    let own = liar.here.state.registry().shared().identity.public().to_string();
    let invitation = json!({
        "version": 1,
        "session": session,
        "machine": machine,
        "name": "web",
        "spec": { "memory_bytes": 33_554_432, "cpu": "x86-64-v1" },
        "description": {
            "config": {
                "cpus": 1,
                "cpu": "x86-64-v1",
                "memory": { "size": 33_554_432, "hole_start": 3_221_225_472_u64 },
            },
            "cpuid": { "entries": [], "cpus": 1 },
            "sections": machine::MachineState::sections(),
            "digest_key": vec![0; 32],
            "generation": [0, 0],
        },
        "key": liar.key,
        "patience_ms": 60_000,
    });
    let statement = json!({
        "session": session,
        "machine": machine,
        "from": liar.key,
        "to": own,
        "generation": "0.1",
        "root": "a".repeat(128),
        "blackout_ns": 5,
        "audit": "whole",
        "ended_at": "2026-01-01T00:00:00Z",
    });
    let outcome = json!({
        "session": session, "from": liar.key, "to": own, "generation": "0.1",
        "root": "a".repeat(128), "blackout_ns": 5, "causes": [["wire", 5]], "total_ns": 9,
        "rounds": 1, "pages_sent": 1, "pages_again": 0, "payload_bytes": 1,
        "payload_bytes_paused": 0, "connections": 1, "audit": "whole", "audited_pages": 1,
        "audited_different": 0, "has_receipt": false,
    });
    let offer = json!({ "statement": statement, "signature": "b".repeat(128), "outcome": outcome });
    [
        ("/v1/check", invitation.clone()),
        ("/v1/invitations", invitation),
        ("/v1/answers", json!({ "session": session, "machine": machine, "refuse": true })),
        ("/v1/receipts", offer),
    ]
}

#[test]
fn whatever_a_known_host_sends_is_answered_and_leaves_nothing() {
    let liar = Liar::new();
    let before = liar.kept();
    let calls = sound(&liar);
    let mut refused = 0;
    for seed in 0..MESSAGES {
        let mut random = Random::new(seed);
        let (path, message) = random.pick(&calls);
        let mut message = message.clone();
        // The first of each as it is.
        if seed >= calls.len() as u64 {
            (0..=random.below(3)).for_each(|_| mutate(&mut message, &mut random));
        }
        match liar.send(path, &message) {
            Ok(_) => {}
            Err(PeerError::Refused { .. }) => refused += 1,
            Err(error) => panic!("seed {seed}: {path}: {error}"),
        }
    }
    assert!((MESSAGES / 4..MESSAGES).contains(&refused), "{refused} of {MESSAGES}");
    let end = Instant::now() + QUICK;
    while liar.kept() != before {
        assert!(Instant::now() < end, "{} was {before}", liar.kept());
        std::thread::sleep(Duration::from_millis(5));
    }
    // It is still there for those who do not lie.
    liar.client.get::<Value>("/v1/hello").unwrap();
}

#[test]
fn calls_that_follow_each_other_share_a_connection_until_the_host_is_not_known_any_more() {
    let liar = Liar::new();
    let hello = || liar.client.get::<Value>("/v1/hello");
    hello().unwrap();
    let first = liar.client.connections();
    for _ in 0..20 {
        hello().unwrap();
    }
    assert_eq!((first, liar.client.connections()), (1, 1));
    // The connection is there still, and gives no right.
    liar.here.state.registry().shared().peers.remove(&"liar".parse().unwrap()).unwrap();
    assert!(matches!(hello().unwrap_err(), PeerError::Unreachable { .. }));
    assert!(matches!(hello().unwrap_err(), PeerError::Unreachable { .. }));
}

#[test]
fn connections_between_whose_calls_a_host_does_other_things_are_in_no_calls_way() {
    let liar = Liar::new();
    let address = liar.here.state.registry().shared().listens[0];
    let clients: Vec<_> = (0..100).map(|_| liar.client_at(address)).collect();
    let hello = |client: &PeerClient| client.get::<Value>("/v1/hello");
    // More than connections may be there, and many more than calls at a time.
    for client in &clients {
        hello(client).unwrap();
    }
    let begun = Instant::now();
    hello(clients.last().unwrap()).unwrap();
    assert!(begun.elapsed() < AT_ONCE, "it waits for no room");
}

/// Another address of a host, at which everything comes so much later, each way.
fn far_away(address: SocketAddr, later: Duration) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let far = listener.local_addr().unwrap();
    let pass = move |mut from: TcpStream, mut to: TcpStream| {
        let mut bytes = vec![0; 1 << 20];
        while let Ok(count @ 1..) = from.read(&mut bytes) {
            std::thread::sleep(later);
            if to.write_all(&bytes[..count]).is_err() {
                break;
            }
        }
        let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
    };
    // Ends with the test's process: the host's own end closes each connection.
    std::thread::spawn(move || {
        for near in listener.incoming().flatten() {
            std::thread::sleep(2 * later);
            let Ok(there) = TcpStream::connect(address) else { continue };
            let (Ok(near2), Ok(there2)) = (near.try_clone(), there.try_clone()) else { continue };
            std::thread::spawn(move || pass(near, there));
            std::thread::spawn(move || pass(there2, near2));
        }
    });
    far
}

#[test]
fn a_host_is_as_far_away_as_it_is_whether_it_was_connected_with_before_or_not() {
    const LATER: Duration = Duration::from_millis(60);
    let mut liar = Liar::new();
    let address = liar.here.state.registry().shared().listens[0];
    liar.client = liar.client_at(far_away(address, LATER));
    for _ in 0..2 {
        let (round_trip, bytes_per_second) = measure(&liar.client).unwrap();
        assert!((2 * LATER..3 * LATER).contains(&round_trip), "{round_trip:?}");
        // Two MiB take a round trip, and some of that besides: by chance no link is infinitely fast.
        assert!((1e5..3e8).contains(&bytes_per_second), "{bytes_per_second}");
    }
}

#[test]
fn a_machine_that_cannot_be_built_after_all_leaves_no_record() {
    let name = "a_machine_that_cannot_be_built_after_all_leaves_no_record";
    if machine::Host::open().is_err() {
        return eprintln!("SKIPPED {name}: no KVM");
    }
    let liar = Liar::new();
    let before = liar.kept();
    let [_, (invitations, invitation), (answers, question), _] = sound(&liar);
    let Err(PeerError::Refused { error, .. }) = liar.send(invitations, &invitation) else {
        panic!("it is built");
    };
    assert!(error.message.contains("cannot start a machine process"), "{error}");
    // It is answered before it is all cleared.
    let end = Instant::now() + QUICK;
    while liar.kept() != before {
        assert!(Instant::now() < end, "{} was {before}", liar.kept());
        std::thread::sleep(Duration::from_millis(5));
    }
    // It never was prepared, and nothing is known of it.
    assert_eq!(liar.send(answers, &question).unwrap(), json!({ "answer": "unknown" }));
}

#[test]
fn nothing_is_known_of_what_did_not_happen_and_nobody_signs_it() {
    let liar = Liar::new();
    let [_, _, (answers, question), (receipts, offer)] = sound(&liar);
    let answered = liar.send(answers, &question).unwrap();
    assert_eq!(answered, json!({ "answer": "unknown" }));
    let Err(PeerError::Refused { error, .. }) = liar.send(receipts, &offer) else {
        panic!("it is signed");
    };
    assert!(error.message.contains("does not remember that move"), "{error}");
    // Of a move of others.
    let mut offer = offer;
    offer["statement"]["from"] = json!("c".repeat(64));
    let Err(PeerError::Refused { error, .. }) = liar.send(receipts, &offer) else {
        panic!("it is signed");
    };
    assert!(error.message.contains("not of a move from there to here"), "{error}");
}

#[test]
fn what_is_too_long_is_refused_and_what_never_ends_holds_up_nobody() {
    let liar = Liar::new();
    let long = json!({ "session": "5".repeat(5 << 20) });
    // Each time: an answer that is sent before all is read may be lost.
    for _ in 0..20 {
        match liar.send("/v1/answers", &long) {
            Err(PeerError::Refused { error, .. }) => assert_eq!(error.code, ErrorCode::TooLarge),
            other => panic!("{other:?}"),
        }
    }
    let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    let deep = Value::String(deep);
    assert!(matches!(liar.send("/v1/invitations", &deep), Err(PeerError::Refused { .. })));
}

#[test]
fn what_a_person_says_of_one_attempt_is_not_taken_for_another() {
    let liar = Liar::new();
    let registry = liar.here.state.registry();
    let name = "web".parse().unwrap();
    registry.create(&name, MachineSpec::default()).unwrap();
    let entry = registry.find(&name).unwrap();
    let (first, second) = ([1; 16], [2; 16]);
    assert_eq!(registry.resolve(&name).unwrap_err().code, ErrorCode::Conflict, "no doubt");
    entry.put_in_doubt(first);
    registry.resolve(&name).unwrap();
    assert!(entry.take_resolution(first) && !entry.take_resolution(first), "once");
    registry.resolve(&name).unwrap();
    assert!(!entry.take_resolution(second) && !entry.take_resolution(first), "it is forgotten");
}

#[test]
fn who_could_not_come_anyway_ends_no_image_that_is_being_written() {
    let liar = Liar::new();
    let [_, (invitations, mut invitation), ..] = sound(&liar);
    let images = &liar.here.state.registry().shared().kept;
    let writing = images.place([0x77; 16], 1 << 20, None).unwrap();
    let begun = Instant::now();
    // Refused by its version, and by what it is made of.
    invitation["version"] = json!(2);
    liar.send(invitations, &invitation).unwrap_err();
    invitation["version"] = json!(1);
    invitation["spec"]["cpu"] = json!("x86-64-v2");
    liar.send(invitations, &invitation).unwrap_err();
    assert!(begun.elapsed() < AT_ONCE, "it waits for nothing: {:?}", begun.elapsed());
    assert_eq!(writing.finish(), Ok(0), "it is wanted as before");
}

#[test]
fn memory_is_counted_when_what_is_left_of_the_machine_is_written() {
    let name = "memory_is_counted_when_what_is_left_of_the_machine_is_written";
    if machine::Host::open().is_err() {
        return eprintln!("SKIPPED {name}: no KVM");
    }
    let liar = Liar::new();
    let [_, (invitations, mut invitation), ..] = sound(&liar);
    let most = crate::host::available_memory().unwrap() >> 21 << 21;
    invitation["spec"]["memory_bytes"] = json!(most);
    invitation["description"]["config"]["memory"]["size"] = json!(most);
    let images = &liar.here.state.registry().shared().kept;
    let writing = images.place([0x77; 16], 1 << 20, None).unwrap();
    std::thread::scope(|scope| {
        let (liar, invitation) = (&liar, &invitation);
        let answer = scope.spawn(move || liar.send(invitations, invitation));
        std::thread::sleep(Duration::from_millis(500));
        assert!(!answer.is_finished(), "there may be more memory in a moment");
        writing.finish().unwrap();
        let Err(PeerError::Refused { error, .. }) = answer.join().unwrap() else {
            panic!("it comes");
        };
        assert!(error.message.contains("MiB of memory"), "{error}");
    });
}
