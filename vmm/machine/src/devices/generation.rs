//! The generation id: 16 bytes in guest memory that change when a guest finds itself to be a copy, so
//! that it draws its random numbers anew ("Virtual Machine Generation ID", Microsoft, 2012).

use std::io;

use serde::{Deserialize, Serialize};

use crate::memory::{GuestRam, RamError};
use crate::random::random;

/// The page that it has to itself: the guest's memory map calls it reserved, as the specification
/// demands. Memory for ACPI tables would be free for use once they are read.
pub(crate) const GENERATION_PAGE: u64 = 0xd_f000;
/// Where it lies: not at the page's start, where a guest that looks for option ROMs could take its
/// first bytes for a signature.
pub(crate) const GENERATION_ID_ADDRESS: u64 = GENERATION_PAGE + 0x10;

/// A generation id. What guest memory holds may be another, if the guest has written there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct GenerationId([u8; 16]);

/// The saved form.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct GenerationStateV1 {
    id: [u8; 16],
}

impl GenerationId {
    /// An id that no machine ever had.
    ///
    /// # Errors
    /// When the host has no random source.
    pub(crate) fn fresh() -> io::Result<Self> {
        random().map(Self)
    }

    pub(crate) fn bytes(&self) -> [u8; 16] {
        self.0
    }

    /// Puts it where the guest reads it.
    ///
    /// # Errors
    /// Never: every machine has RAM there.
    pub(crate) fn write(&self, ram: &GuestRam) -> Result<(), RamError> {
        ram.write(GENERATION_ID_ADDRESS, &self.0)
    }

    pub(crate) fn save(&self) -> GenerationStateV1 {
        GenerationStateV1 { id: self.0 }
    }

    /// The id that was saved. Guest memory has it already.
    pub(crate) fn restored(state: &GenerationStateV1) -> Self {
        Self(state.id)
    }
}
