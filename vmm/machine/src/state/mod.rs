//! The saved form of a paused machine: a list of named, versioned sections.
//!
//! Live structs are never serialised. Each section has a type of its own whose name ends in its
//! version; a reader that meets a section or a version it does not know refuses the whole state
//! before it touches anything.

mod section;

use serde::{Deserialize, Serialize};

pub use section::StateError;
use section::{Schema, Sections};

use crate::devices::{ConsoleStateV1, SerialStateV1};
use crate::vcpu::VcpuStateV1;
use crate::vm::VmStateV1;

/// More than any machine's state: 64 vCPUs with 16 KiB each, the console and the rest.
pub const MAX_STATE_BYTES: usize = 16 << 20;

/// Everything about a paused machine but its memory and what stands in its configuration.
#[derive(Clone, Debug)]
pub struct MachineState {
    /// Clock and interrupt controllers.
    pub(crate) vm: VmStateV1,
    /// Every vCPU, by index.
    pub(crate) vcpus: Vec<VcpuStateV1>,
    /// COM1.
    pub(crate) serial: SerialStateV1,
    /// The console's history.
    pub(crate) console: ConsoleStateV1,
}

macro_rules! schema {
    ($($type:ty => $name:literal, $version:literal;)*) => {$(
        impl Schema for $type {
            const NAME: &'static str = $name;
            const VERSION: u16 = $version;
        }
    )*};
}

schema! {
    VmStateV1 => "vm", 1;
    VcpuStateV1 => "vcpu", 1;
    SerialStateV1 => "serial", 1;
    ConsoleStateV1 => "console", 1;
}

impl MachineState {
    /// The state's bytes.
    ///
    /// # Errors
    /// When a section cannot be encoded, or the whole is larger than [`MAX_STATE_BYTES`].
    pub fn encode(&self) -> Result<Vec<u8>, StateError> {
        let mut sections = Sections::default();
        sections.put(0, &self.vm)?;
        for (index, vcpu) in (0_u16..).zip(&self.vcpus) {
            sections.put(index, vcpu)?;
        }
        sections.put(0, &self.serial)?;
        sections.put(0, &self.console)?;
        sections.encode()
    }

    /// Reads a state of `cpus` vCPUs.
    ///
    /// # Errors
    /// Names the section that is missing, unknown, of another version, or damaged; or says that
    /// these are not the bytes which [`Self::encode`] gives.
    pub fn decode(bytes: &[u8], cpus: u8) -> Result<Self, StateError> {
        let mut sections = Sections::decode(bytes)?;
        let state = Self {
            vm: sections.take(0)?,
            vcpus: (0..u16::from(cpus))
                .map(|index| sections.take(index))
                .collect::<Result<_, _>>()?,
            serial: sections.take(0)?,
            console: sections.take(0)?,
        };
        sections.finish()?;
        // KVM's structures are read from too few bytes as if zeros followed, and from too many as if
        // they ended: only the bytes that this state is written as are known to mean it.
        if state.encode()? != bytes {
            return Err(StateError::NotAsWritten);
        }
        Ok(state)
    }

    /// The state with everything fixed that time alone changes, for comparisons by tests.
    #[cfg(any(test, feature = "fault-injection"))]
    #[must_use]
    pub fn without_time(&self) -> Self {
        Self {
            vm: self.vm.without_time(),
            vcpus: self.vcpus.iter().map(VcpuStateV1::without_time).collect(),
            serial: self.serial.clone(),
            console: self.console.clone(),
        }
    }
}

/// One section, as it is stored.
#[derive(Serialize, Deserialize)]
struct Section {
    name: String,
    version: u16,
    /// Which of several, such as a vCPU's index.
    instance: u16,
    bytes: Vec<u8>,
}
