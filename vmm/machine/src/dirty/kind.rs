//! The choice between KVM's two dirty logs.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::kvm::{Host, HostError, RingEntries, RingEntriesError};

/// Which of its two dirty logs KVM keeps for a VM. It is decided before the VM has vCPUs, and holds as long as the
/// VM. The guest sees nothing of it, and it is no part of a saved state: each process chooses for itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum DirtyLogKind {
    /// One bit for each page of a slot: a harvest takes time with the size of memory.
    #[default]
    Bitmap,
    /// A list for each vCPU, of so many pages: a harvest takes time with the pages written.
    Ring(RingEntries),
}

/// Not a kind of dirty log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnknownDirtyLog {
    /// Not the name of one
    #[error("give bitmap, ring, or ring:N for a ring of N pages a vCPU")]
    Name,
    /// Not a size of a ring
    #[error(transparent)]
    Entries(#[from] RingEntriesError),
}

impl DirtyLogKind {
    /// A ring of a size that fits most guests.
    pub const RING: Self = Self::Ring(RingEntries::USUAL);

    /// Whether this host's KVM can keep such a log.
    ///
    /// # Errors
    /// When it has no dirty ring, or none so large.
    pub fn check(self, host: &Host) -> Result<(), HostError> {
        match self {
            Self::Bitmap => Ok(()),
            Self::Ring(entries) => host.check_dirty_ring(entries),
        }
    }
}

impl fmt::Display for DirtyLogKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bitmap => f.write_str("bitmap"),
            Self::Ring(entries) => write!(f, "ring:{}", entries.get()),
        }
    }
}

impl FromStr for DirtyLogKind {
    type Err = UnknownDirtyLog;

    fn from_str(text: &str) -> Result<Self, UnknownDirtyLog> {
        match text.split_once(':') {
            None if text == "bitmap" => Ok(Self::Bitmap),
            None if text == "ring" => Ok(Self::RING),
            Some(("ring", entries)) => {
                let entries: u32 = entries.parse().map_err(|_| UnknownDirtyLog::Name)?;
                Ok(Self::Ring(entries.try_into()?))
            }
            _ => Err(UnknownDirtyLog::Name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_read_as_it_is_written() {
        for text in ["bitmap", "ring:1024", "ring:65536"] {
            assert_eq!(text.parse::<DirtyLogKind>().unwrap().to_string(), text);
        }
        assert_eq!("ring".parse(), Ok(DirtyLogKind::RING));
        for text in ["", "Ring", "bitmap:1024", "ring:", "ring:x", "ring:1024:1"] {
            assert_eq!(text.parse::<DirtyLogKind>(), Err(UnknownDirtyLog::Name), "{text}");
        }
        assert!(matches!("ring:1000".parse::<DirtyLogKind>(), Err(UnknownDirtyLog::Entries(_))));
    }

    #[test]
    fn an_order_with_an_impossible_ring_is_refused() {
        let sound = postcard::to_stdvec(&DirtyLogKind::RING).unwrap();
        assert_eq!(postcard::from_bytes::<DirtyLogKind>(&sound).unwrap(), DirtyLogKind::RING);
        // The variant, and 1000 as a varint.
        assert!(postcard::from_bytes::<DirtyLogKind>(&[1, 0xe8, 0x07]).is_err());
    }
}
