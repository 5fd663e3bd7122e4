//! [`PeerBook`]: which other hosts there are.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use dwcp::transport::{KnownPeers, PublicKey};
use serde::{Deserialize, Serialize};

use crate::api::{AddPeer, ApiError, ErrorCode, MachineName, Peer, Timestamp};
use crate::whole_file;

/// The port that an address has which names none.
pub(crate) const DEFAULT_PORT: u16 = 7478;
/// Hosts that can be known.
const PEERS_MAX: usize = 1000;
/// A thousand hosts with long addresses.
const FILE_MAX_BYTES: u64 = 1 << 20;
const VERSION: u32 = 1;

/// The other hosts that are known here, kept in one file.
#[derive(Debug)]
pub(crate) struct PeerBook {
    folder: PathBuf,
    own: PublicKey,
    peers: Mutex<BTreeMap<MachineName, Peer>>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File1 {
    version: u32,
    peers: Vec<Peer>,
}

/// The other hosts cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("the other hosts that are known, {}: {why}", path.display())]
pub struct PeerBookError {
    path: PathBuf,
    why: String,
}

impl PeerBook {
    /// The book in this folder; an empty one, if there is none yet. `own` is this host's own key, which is no peer's.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(crate) fn open(folder: &Path, own: PublicKey) -> Result<Self, PeerBookError> {
        let path = folder.join("peers.json");
        let peers = read(&path).map_err(|why| PeerBookError { path, why })?;
        let peers = peers.into_iter().map(|peer| (peer.name.clone(), peer)).collect();
        Ok(Self { folder: folder.to_owned(), own, peers: Mutex::new(peers) })
    }

    /// All of them, by name.
    pub(crate) fn list(&self) -> Vec<Peer> {
        self.lock().values().cloned().collect()
    }

    /// The one of this name.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) fn find(&self, name: &MachineName) -> Result<Peer, ApiError> {
        self.lock().get(name).cloned().ok_or_else(|| {
            ApiError::new(ErrorCode::NotFound, format!("no host {name} is known here")).with_hint(
                "`novacron peers list` shows those that are; `novacron peers add` adds one",
            )
        })
    }

    /// The one with this key.
    pub(crate) fn by_key(&self, key: &PublicKey) -> Option<Peer> {
        let key = key.to_string();
        self.lock().values().find(|peer| peer.key == key).cloned()
    }

    /// What a host is called here; its key, if it is not known any more.
    pub(crate) fn name_of(&self, key: &str) -> String {
        let found = self.lock().values().find(|peer| peer.key == key).map(|peer| peer.name.clone());
        found.map_or_else(|| key.to_owned(), |name| name.to_string())
    }

    /// Adds a host.
    ///
    /// # Errors
    /// When it cannot be, or is there already.
    pub(crate) fn add(&self, add: AddPeer) -> Result<Peer, ApiError> {
        let refused = |code, why: String| Err(ApiError::new(code, why));
        let AddPeer { name, address, key } = add;
        let address =
            with_port(&address).map_err(|why| ApiError::new(ErrorCode::BadRequest, why))?;
        let key: PublicKey = key.parse().map_err(|error: dwcp::transport::KeyError| {
            ApiError::new(ErrorCode::BadRequest, error.to_string())
                .with_hint("`novacron info` on the other host shows its key")
        })?;
        if key == self.own {
            return refused(ErrorCode::BadRequest, "that is this host's own key".to_owned());
        }
        let mut peers = self.lock();
        if peers.contains_key(&name) {
            return refused(ErrorCode::AlreadyExists, format!("there is a host {name} already"));
        }
        if let Some(other) = peers.values().find(|peer| peer.key == key.to_string()) {
            let why = format!("the host with that key is known already, as {}", other.name);
            return refused(ErrorCode::AlreadyExists, why);
        }
        if peers.len() >= PEERS_MAX {
            return refused(ErrorCode::Limit, format!("there are {PEERS_MAX} hosts already"));
        }
        let peer =
            Peer { name: name.clone(), address, key: key.to_string(), added_at: Timestamp::now() };
        let mut changed = peers.clone();
        changed.insert(name, peer.clone());
        self.write(&changed).map_err(ApiError::internal)?;
        *peers = changed;
        Ok(peer)
    }

    /// Removes a host: nothing comes from it or goes to it any more.
    ///
    /// # Errors
    /// When it is not there, or that cannot be written.
    pub(crate) fn remove(&self, name: &MachineName) -> Result<(), ApiError> {
        self.find(name)?;
        let mut peers = self.lock();
        let mut changed = peers.clone();
        changed.remove(name);
        self.write(&changed).map_err(ApiError::internal)?;
        *peers = changed;
        Ok(())
    }

    fn write(&self, peers: &BTreeMap<MachineName, Peer>) -> io::Result<()> {
        let content = File1 { version: VERSION, peers: peers.values().cloned().collect() };
        whole_file::replace(&self.folder, "peers.json", |file| {
            serde_json::to_writer_pretty(&mut *file, &content)?;
            file.write_all(b"\n")
        })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<MachineName, Peer>> {
        // A panic aborts the process, so that no lock is ever poisoned.
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl KnownPeers for PeerBook {
    fn knows(&self, key: &PublicKey) -> bool {
        self.by_key(key).is_some()
    }
}

fn read(path: &Path) -> Result<Vec<Peer>, String> {
    let mut text = String::new();
    match File::open(path) {
        Ok(file) => file.take(FILE_MAX_BYTES).read_to_string(&mut text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => Err(error),
    }
    .map_err(|error| error.to_string())?;
    let File1 { version, peers } =
        serde_json::from_str(&text).map_err(|error| error.to_string())?;
    if version == VERSION {
        Ok(peers)
    } else {
        Err(format!("it is of version {version}, this executable knows {VERSION}"))
    }
}

/// Whether a host can be added under this address.
#[cfg(test)]
pub(crate) fn is_address(address: &str) -> bool {
    with_port(address).is_ok()
}

/// An address with its port. Whether there is such a host, only a connection shows.
fn with_port(address: &str) -> Result<String, String> {
    let wrong = || {
        let shown: String = address.chars().take(80).collect();
        format!("{shown:?} is no HOST or HOST:PORT; an IPv6 address stands in brackets")
    };
    let (host, port) = match address.rsplit_once(':') {
        Some((host, port)) if !address.ends_with(']') => {
            (host, port.parse().ok().filter(|port| *port != 0).ok_or_else(wrong)?)
        }
        _ => (address, DEFAULT_PORT),
    };
    let is_v6 = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .is_some_and(|host| host.parse::<std::net::Ipv6Addr>().is_ok());
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let is_named = !host.is_empty() && host.len() <= 253 && host.chars().all(is_name);
    if is_v6 || is_named { Ok(format!("{host}:{port}")) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(name: &str, address: &str, key: u8) -> AddPeer {
        let key = PublicKey::new([key; 32]).to_string();
        AddPeer { name: name.parse().unwrap(), address: address.to_owned(), key }
    }

    #[test]
    fn hosts_are_kept_and_found_by_name_and_key() {
        let folder = tempfile::tempdir().unwrap();
        let own = PublicKey::new([9; 32]);
        let book = PeerBook::open(folder.path(), own).unwrap();
        book.add(add("east", "east.example", 1)).unwrap();
        book.add(add("west", "10.0.0.2:99", 2)).unwrap();
        let again = PeerBook::open(folder.path(), own).unwrap();
        assert_eq!(again.list(), book.list());
        assert_eq!(again.find(&"east".parse().unwrap()).unwrap().address, "east.example:7478");
        assert!(again.knows(&PublicKey::new([2; 32])) && !again.knows(&own));
        assert_eq!(again.name_of(&PublicKey::new([1; 32]).to_string()), "east");
        again.remove(&"east".parse().unwrap()).unwrap();
        assert!(!again.knows(&PublicKey::new([1; 32])));
        assert_eq!(PeerBook::open(folder.path(), own).unwrap().list().len(), 1);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "and no half of one");
    }

    #[test]
    fn what_is_there_already_and_what_is_no_host_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let book = PeerBook::open(folder.path(), PublicKey::new([9; 32])).unwrap();
        book.add(add("east", "east", 1)).unwrap();
        for (request, why) in [
            (add("east", "other", 2), "a host east already"),
            (add("other", "east", 1), "as east"),
            (add("me", "here", 9), "own key"),
            (add("other", "", 2), "HOST:PORT"),
            (add("other", "a:0", 2), "HOST:PORT"),
            (add("other", "a:b", 2), "HOST:PORT"),
            (add("other", "a b", 2), "HOST:PORT"),
            (add("other", "::1", 2), "HOST:PORT"),
            (AddPeer { key: "12".to_owned(), ..add("other", "a", 2) }, "64 hexadecimal"),
        ] {
            let error = book.add(request.clone()).unwrap_err().to_string();
            assert!(error.contains(why), "{request:?}: {error}");
        }
        let error = book.find(&"north".parse().unwrap()).unwrap_err().to_string();
        assert!(error.contains("novacron peers"), "{error}");
    }

    #[test]
    fn an_address_has_a_port() {
        for (address, whole) in
            [("a", "a:7478"), ("a:1", "a:1"), ("[::1]", "[::1]:7478"), ("[::1]:5", "[::1]:5")]
        {
            assert_eq!(with_port(address).as_deref(), Ok(whole));
        }
    }

    #[test]
    fn a_file_that_is_not_understood_is_named() {
        let folder = tempfile::tempdir().unwrap();
        for text in ["{", r#"{"version":2,"peers":[]}"#, r#"{"version":1,"peers":[],"more":1}"#] {
            std::fs::write(folder.path().join("peers.json"), text).unwrap();
            let error = PeerBook::open(folder.path(), PublicKey::new([9; 32])).unwrap_err();
            assert!(error.to_string().contains("peers.json"), "{error}");
        }
    }
}
