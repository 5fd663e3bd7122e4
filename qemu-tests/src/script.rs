//! What the harness tells test-init, and where: the only things both sides must agree on.

use std::io;

use serde::{Deserialize, Serialize};

/// The script's place in the initramfs. Its presence is what makes test-init a host's init.
pub const SCRIPT: &str = "/script.json";

/// The port on which a host's test-init reports, named as virtio ports are: by owner, reversed.
pub const REPORT_PORT: &str = "org.novacron.report";

/// The commands that a host runs, one after the other.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Script {
    /// Each as the list of its arguments, the program's path first: there is no shell in a host,
    /// so nothing is ever quoted.
    pub commands: Vec<Vec<String>>,
}

impl Script {
    /// The script as the file's bytes.
    ///
    /// # Errors
    /// None that the type allows; serialisers return one.
    pub fn to_bytes(&self) -> io::Result<Vec<u8>> {
        Ok(serde_json::to_vec(self)?)
    }

    /// Reads the file's bytes back.
    ///
    /// # Errors
    /// The bytes are not a script.
    pub fn from_bytes(bytes: &[u8]) -> io::Result<Self> {
        Ok(serde_json::from_slice(bytes)?)
    }
}
