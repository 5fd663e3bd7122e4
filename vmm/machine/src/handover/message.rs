//! What the two processes of a hand-over say to each other.

use dwcp::digest::Root;
use serde::{Deserialize, Serialize};

use super::blackout::Blackout;
use crate::cpu::SavedCpuid;
use crate::vm::MachineConfig;

/// Raised whenever a message changes: a process of another version is refused, by name.
pub(crate) const VERSION: u32 = 2;

/// How memory gets to the successor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Form {
    /// Both map the same memory file; no page is copied.
    Shared,
    /// The successor has a memory file of its own, and every page is copied into it.
    Copying,
}

/// The predecessor's first message. Descriptors: record, console, and in the shared form the memory
/// file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Hello {
    pub(super) version: u32,
    pub(super) form: Form,
    /// The VM's id.
    pub(super) vm: [u8; 16],
    /// This attempt's id.
    pub(super) session: [u8; 16],
    pub(super) config: MachineConfig,
    /// What the guest has seen since its start.
    pub(super) cpuid: SavedCpuid,
    /// The sections that its state will have, with their versions.
    pub(super) sections: Vec<(String, u16)>,
    /// The VM's secret, with which both digest pages.
    pub(super) digest_key: [u8; 32],
}

/// A batch of pages: parts, whose pages have consecutive send numbers in this order. The bytes of
/// those that are not zero follow the message, in this order.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct PagesFrame {
    /// The send number of the first page.
    pub(super) first_number: u64,
    /// Sum of the pages' digests: the arrival check.
    pub(super) digest_sum: [u8; 32],
    pub(super) parts: Vec<Part>,
}

/// Consecutive pages.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Part {
    pub(super) first_frame: u64,
    pub(super) pages: u64,
    /// Whether every byte of them is zero.
    pub(super) is_zero: bool,
}

/// Says that the guest may run at the successor, if everything is as the message says. The last
/// frame: written only when every other has been handed to the socket.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct PermitFrame {
    /// The machine's saved state.
    pub(super) state: Vec<u8>,
    /// `dwcp`'s root: the sum over all pages (copying; else zero), and the state's digest.
    #[serde(with = "root_bytes")]
    pub(super) root: Root,
    pub(super) blackout: Blackout,
}

/// From the predecessor to the successor.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum ToSuccessor {
    Hello(Hello),
    /// A batch of pages; bytes follow.
    Pages(PagesFrame),
    Permit(Box<PermitFrame>),
    /// A descriptor: memory as it was at the pause, to be compared with.
    #[cfg(feature = "fault-injection")]
    Reference,
}

impl ToSuccessor {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Hello(_) => "hello",
            Self::Pages(_) => "pages",
            Self::Permit(_) => "permit",
            #[cfg(feature = "fault-injection")]
            Self::Reference => "reference",
        }
    }
}

/// From the successor to the predecessor.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum ToPredecessor {
    /// The machine is built. `successor` is the nonce under which the record shall be offered.
    Ready { successor: [u8; 16] },
    /// Written into guest memory and digest-checked: pages `first_number` and on.
    Applied { first_number: u64, pages: u64 },
    /// The guest runs here. The record says so.
    Running { blackout: Blackout },
    /// It does not run here, and never will in this session.
    Refused { why: String },
}

#[cfg(feature = "fault-injection")]
pub(crate) fn reference_message() -> impl Serialize {
    ToSuccessor::Reference
}

/// A root travels as its 64 bytes, in two halves: serde's arrays end at 32.
mod root_bytes {
    use dwcp::digest::Root;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(root: &Root, serializer: S) -> Result<S::Ok, S::Error> {
        let bytes = root.to_bytes();
        let (memory, state) = bytes.split_at(32);
        let halves: ([u8; 32], [u8; 32]) =
            (memory.try_into().expect("32 of 64"), state.try_into().expect("32 of 64"));
        halves.serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Root, D::Error> {
        let (memory, state) = <([u8; 32], [u8; 32])>::deserialize(deserializer)?;
        let mut bytes = [0; 64];
        bytes[..32].copy_from_slice(&memory);
        bytes[32..].copy_from_slice(&state);
        Ok(Root::from_bytes(&bytes))
    }
}
