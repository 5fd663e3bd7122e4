//! What a machine is made of, checked.

use serde::{Deserialize, Serialize};

use crate::cpu::CpuModel;
use crate::memory::MemoryLayout;

/// Most vCPUs that a machine can have.
const MAX_CPUS: u8 = 64;

/// Why a configuration was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Not 1 to 64 vCPUs
    #[error("{0} vCPUs: give 1 to {MAX_CPUS}")]
    CpuCount(u32),
}

/// A number of vCPUs, 1 to 64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u8")]
pub struct CpuCount(u8);

impl CpuCount {
    /// The number.
    #[must_use]
    pub fn get(self) -> u8 {
        self.0
    }
}

impl TryFrom<u32> for CpuCount {
    type Error = ConfigError;

    fn try_from(count: u32) -> Result<Self, ConfigError> {
        match u8::try_from(count) {
            Ok(small @ 1..=MAX_CPUS) => Ok(Self(small)),
            _ => Err(ConfigError::CpuCount(count)),
        }
    }
}

impl TryFrom<u8> for CpuCount {
    type Error = ConfigError;

    fn try_from(count: u8) -> Result<Self, ConfigError> {
        Self::try_from(u32::from(count))
    }
}

/// What both ends of a hand-over must agree on before anything moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineConfig {
    /// How many vCPUs.
    pub cpus: CpuCount,
    /// What each of them is.
    pub cpu: CpuModel,
    /// How much RAM, and where.
    pub memory: MemoryLayout,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_to_sixty_four_vcpus_are_accepted() {
        for count in [1_u32, 2, 64] {
            assert_eq!(u32::from(CpuCount::try_from(count).unwrap().get()), count);
        }
        for count in [0_u32, 65, 256, 257, u32::MAX] {
            assert_eq!(CpuCount::try_from(count), Err(ConfigError::CpuCount(count)));
        }
    }

    #[test]
    fn a_count_from_outside_is_checked_as_it_is_read() {
        assert!(postcard::from_bytes::<CpuCount>(&[0]).is_err());
        assert_eq!(postcard::from_bytes::<CpuCount>(&[3]).unwrap().get(), 3);
    }
}
