//! The saved form of a paused machine: a list of named, versioned sections.
//!
//! Live structs are never serialised. Each section has a type of its own whose name ends in its
//! version; a reader that meets a section or a version it does not know refuses the whole state
//! before it touches anything.

mod section;

use serde::{Deserialize, Serialize};

pub use section::StateError;
use section::{Schema, Sections};

use crate::devices::{
    CmosStateV1, ConsoleStateV1, EventsStateV1, GenerationStateV1, PciStateV1, SerialStateV1,
};
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
    /// The CMOS clock.
    pub(crate) cmos: CmosStateV1,
    /// Events that the guest has not taken.
    pub(crate) events: EventsStateV1,
    /// The address of PCI's ports.
    pub(crate) pci: PciStateV1,
    /// The generation id.
    pub(crate) generation: GenerationStateV1,
    /// The console's history.
    pub(crate) console: ConsoleStateV1,
}

macro_rules! schema {
    ($($type:ty => $name:literal, $version:literal;)*) => {
        $(impl Schema for $type {
            const NAME: &'static str = $name;
            const VERSION: u16 = $version;
        })*

        /// Every kind of section that a state has, and its version.
        const SECTIONS: &[(&str, u16)] = &[$(($name, $version)),*];
    };
}

schema! {
    VmStateV1 => "vm", 1;
    VcpuStateV1 => "vcpu", 1;
    SerialStateV1 => "serial", 1;
    CmosStateV1 => "cmos", 1;
    EventsStateV1 => "events", 1;
    PciStateV1 => "pci", 1;
    GenerationStateV1 => "generation", 1;
    ConsoleStateV1 => "console", 1;
}

impl MachineState {
    /// The kinds of sections that a state of this executable has, with their versions: what a successor is told
    /// before anything is sent to it.
    pub fn sections() -> Vec<(String, u16)> {
        SECTIONS.iter().map(|(name, version)| ((*name).to_owned(), *version)).collect()
    }

    /// Whether a state that has these sections will be understood here.
    ///
    /// # Errors
    /// Names the section that will not, or that will be missing.
    pub(crate) fn check_sections(theirs: &[(String, u16)]) -> Result<(), StateError> {
        for (name, found) in theirs {
            let known = SECTIONS.iter().find(|(known, _)| known == name);
            let Some(&(name, known)) = known else { return Err(StateError::Unknown(name.clone())) };
            if known != *found {
                return Err(StateError::Version { name, found: *found, known });
            }
        }
        let is_missing = |(name, _): &&(&str, u16)| !theirs.iter().any(|(there, _)| there == name);
        match SECTIONS.iter().find(is_missing) {
            Some((name, _)) => Err(StateError::Missing { name, instance: 0 }),
            None => Ok(()),
        }
    }

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
        sections.put(0, &self.cmos)?;
        sections.put(0, &self.events)?;
        sections.put(0, &self.pci)?;
        sections.put(0, &self.generation)?;
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
            cmos: sections.take(0)?,
            events: sections.take(0)?,
            pci: sections.take(0)?,
            generation: sections.take(0)?,
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
            ..self.clone()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_will_not_be_understood_is_refused_by_name() {
        assert_eq!(MachineState::check_sections(&MachineState::sections()), Ok(()));
        let changed = |change: fn(&mut Vec<(String, u16)>)| {
            let mut sections = MachineState::sections();
            change(&mut sections);
            MachineState::check_sections(&sections)
        };
        let newer = StateError::Version { name: "vcpu", found: 2, known: 1 };
        assert_eq!(changed(|sections| sections[1].1 = 2), Err(newer));
        let unknown = StateError::Unknown("disk".to_owned());
        assert_eq!(changed(|sections| sections.push(("disk".to_owned(), 1))), Err(unknown));
        let missing = StateError::Missing { name: "console", instance: 0 };
        assert_eq!(changed(|sections| drop(sections.pop())), Err(missing));
    }
}
