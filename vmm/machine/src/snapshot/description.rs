//! What a snapshot says of its machine, besides memory and state.

use serde::{Deserialize, Serialize};

use super::SnapshotError;
use crate::cpu::SavedCpuid;
use crate::vm::MachineConfig;

/// Raised whenever a field changes: a description of another version is refused, by name.
const VERSION: u16 = 1;

/// Of a machine that was saved: what is needed to build it again, before its memory and its state come.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Description {
    pub(crate) config: MachineConfig,
    /// What the guest has seen since its start.
    pub(crate) cpuid: SavedCpuid,
    /// The sections that its state has, with their versions.
    pub(crate) sections: Vec<(String, u16)>,
    /// The secret under which pages are digested; a restored machine and its snapshots keep it.
    pub(crate) digest_key: [u8; 32],
    /// The name, in the same folder, of the snapshot on which this one builds.
    pub(crate) parent_name: Option<String>,
}

/// The state, and when it was that.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SavedMoment {
    /// `CLOCK_REALTIME` of the host, in nanoseconds, when the guest's clocks were read.
    pub(crate) realtime_ns: u64,
    /// Which boot of which host that was.
    pub(crate) boot_id: [u8; 16],
    /// `MachineState`, encoded.
    pub(crate) state: Vec<u8>,
}

impl Description {
    /// Its bytes: the version in front, so that another one can be refused whatever it holds.
    pub(crate) fn encode(&self) -> Vec<u8> {
        postcard::to_extend(self, VERSION.to_le_bytes().to_vec()).expect("it is data alone")
    }

    /// Reads a description; `name` is the file's, for messages.
    pub(crate) fn decode(bytes: &[u8], name: &str) -> Result<Self, SnapshotError> {
        let unreadable =
            |why: &str| SnapshotError::Description { name: name.to_owned(), why: why.to_owned() };
        let (version, rest) = bytes.split_first_chunk().ok_or_else(|| unreadable("it is empty"))?;
        let found = u16::from_le_bytes(*version);
        if found != VERSION {
            let name = name.to_owned();
            return Err(SnapshotError::DescriptionVersion { name, found, known: VERSION });
        }
        match postcard::take_from_bytes(rest) {
            Ok((description, [])) => Ok(description),
            Ok((_, rest)) => Err(unreadable(&format!("{} bytes too many", rest.len()))),
            Err(error) => Err(unreadable(&error.to_string())),
        }
    }
}

impl SavedMoment {
    pub(crate) fn encode(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("it is data alone")
    }

    pub(crate) fn decode(bytes: &[u8], name: &str) -> Result<Self, SnapshotError> {
        let unreadable = |why: String| SnapshotError::Description { name: name.to_owned(), why };
        match postcard::take_from_bytes(bytes) {
            Ok((moment, [])) => Ok(moment),
            Ok((_, rest)) => Err(unreadable(format!("{} bytes too many", rest.len()))),
            Err(error) => Err(unreadable(error.to_string())),
        }
    }
}
