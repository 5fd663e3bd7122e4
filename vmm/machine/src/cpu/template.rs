//! The CPUID of a machine: what its model says, plus the topology of this machine.

use kvm_bindings::{CpuId, kvm_cpuid_entry2};
use serde::{Deserialize, Serialize};

use super::baseline;
use super::error::CpuError;
use super::host::HostCpu;
use super::leaf::indexed;
use super::model::CpuModel;
use super::msr;
use super::profile::CpuProfile;
use crate::kvm::Host;

/// Leaf 1: EDX says that the "logical processors" byte of EBX is valid.
const HTT: u32 = 1 << 28;

/// The CPUID of a machine, to be completed for each vCPU. This host can give it: there is no way to have one that
/// was not checked.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct CpuidTemplate {
    model: CpuModel,
    entries: Vec<kvm_cpuid_entry2>,
    cpus: u8,
}

/// The same as it travels, not checked yet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct SavedCpuid {
    entries: Vec<kvm_cpuid_entry2>,
    cpus: u8,
}

impl CpuidTemplate {
    /// The CPUID of a machine of `cpus` vCPUs in one package, one thread a core.
    ///
    /// # Errors
    /// When the host does not offer the model: names what is missing.
    pub(crate) fn new(host: &Host, model: CpuModel, cpus: u8) -> Result<Self, CpuError> {
        let offered = HostCpu::entries(host)?;
        let Some(template) = Self::baseline(model, cpus) else {
            return Ok(Self::of_entries(model, offered, cpus));
        };
        let profile = CpuProfile::of(&offered);
        match profile.check(&template.profile(), false) {
            Ok(()) => Ok(template),
            Err(lacks) => {
                let instead = CpuModel::best_for(&profile);
                Err(CpuError::NotOffered { model, lacks, instead })
            }
        }
    }

    /// The CPUID of a baseline model, whatever the host; none for `host`.
    pub(super) fn baseline(model: CpuModel, cpus: u8) -> Option<Self> {
        baseline::entries(model).map(|entries| Self::of_entries(model, entries, cpus))
    }

    fn of_entries(model: CpuModel, mut entries: Vec<kvm_cpuid_entry2>, cpus: u8) -> Self {
        // The topology leaves of KVM's answer describe the host; ours come per vCPU.
        entries.retain(|entry| !matches!(entry.function, 0xb | 0x1f));
        let last_core = u32::from(cpus) - 1;
        for entry in &mut entries {
            match entry.function {
                0x1 => {
                    entry.edx = if cpus > 1 { entry.edx | HTT } else { entry.edx & !HTT };
                }
                0x4 => describe_cache(entry, last_core),
                // Intel reserves ECX.
                0x8000_0008 if model == CpuModel::Host => {
                    entry.ecx = (entry.ecx & !0xf0ff) | last_core;
                }
                _ => {}
            }
        }
        Self { model, entries, cpus }
    }

    /// The CPUID of the vCPU with this APIC id.
    ///
    /// # Errors
    /// When there are more entries than KVM takes.
    pub(crate) fn for_vcpu(&self, apic_id: u8) -> Result<CpuId, vmm_sys_util::fam::Error> {
        CpuId::from_entries(&self.entries_of(apic_id))
    }

    pub(super) fn entries_of(&self, apic_id: u8) -> Vec<kvm_cpuid_entry2> {
        let mut entries = self.entries.clone();
        for entry in &mut entries {
            if entry.function == 0x1 {
                // EBX: APIC id in 31-24, logical processors in 23-16; 15-0 are KVM's.
                entry.ebx = (entry.ebx & 0xffff)
                    | (u32::from(apic_id) << 24)
                    | (u32::from(self.cpus) << 16);
            }
        }
        entries.extend(topology(apic_id, self.cpus));
        entries
    }

    /// What of it a host must have.
    pub(crate) fn profile(&self) -> CpuProfile {
        CpuProfile::of(&self.entries)
    }

    /// What is told to another process.
    pub(crate) fn saved(&self) -> SavedCpuid {
        SavedCpuid { entries: self.entries.clone(), cpus: self.cpus }
    }

    /// Which of these MSRs the guest can have a value in: what its CPUID hides is the host's own business.
    pub(crate) fn visible_msrs(&self, mut indices: Vec<u32>) -> Vec<u32> {
        let features = self.profile().features;
        indices.retain(|index| !msr::is_hidden(*index, &features));
        indices
    }

    /// What `IA32_MISC_ENABLE` says of the model.
    pub(crate) fn misc_enable(&self) -> u64 {
        msr::misc_enable(self.model)
    }
}

impl SavedCpuid {
    /// Checks that this host can give a guest this CPUID, to its last bit.
    ///
    /// # Errors
    /// Names what this host lacks.
    pub(crate) fn accept(
        self,
        host: &Host,
        model: CpuModel,
        cpus: u8,
    ) -> Result<CpuidTemplate, CpuError> {
        let Self { entries, cpus: found } = self;
        if found != cpus {
            return Err(CpuError::Vcpus { found, expected: cpus });
        }
        let offered = CpuProfile::of(&HostCpu::entries(host)?);
        let template = CpuidTemplate { model, entries, cpus };
        match offered.check(&template.profile(), model == CpuModel::Host) {
            Ok(()) => Ok(template),
            Err(lacks) => {
                let instead = CpuModel::best_for(&offered);
                Err(CpuError::GuestHasMore { model, lacks, instead })
            }
        }
    }
}

/// Leaf 4 EAX: bits 31-26 cores in the package less one, 25-14 logical processors that share this
/// cache less one. The last-level cache is shared by all, the inner ones by none.
fn describe_cache(entry: &mut kvm_cpuid_entry2, last_core: u32) {
    let kind = entry.eax & 0x1f;
    if kind == 0 {
        return;
    }
    let level = (entry.eax >> 5) & 0x7;
    let sharing = if level >= 3 { last_core } else { 0 };
    entry.eax = (entry.eax & 0x3fff) | (last_core.min(63) << 26) | (sharing << 14);
}

/// Leaf 0xb (extended topology enumeration, SDM volume 2A): a thread level of one, a core level of
/// all, then an invalid level that ends the list.
fn topology(apic_id: u8, cpus: u8) -> [kvm_cpuid_entry2; 3] {
    let core_shift = u32::from(cpus).next_power_of_two().trailing_zeros();
    let level = |index: u32, shift: u32, processors: u32, kind: u32| {
        indexed(0xb, index, [shift, processors, (kind << 8) | index, u32::from(apic_id)])
    };
    [level(0, 0, 1, 1), level(1, core_shift, u32::from(cpus), 2), level(2, 0, 0, 0)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(cpus: u8) -> CpuidTemplate {
        let entry = |leaf, subleaf| indexed(leaf, subleaf, [0; 4]);
        let cache = indexed(0x4, 3, [0xffff_c063, 0, 0, 0]);
        let supported = vec![entry(0x1, 0), cache, entry(0xb, 0), entry(0xb, 1), entry(0x1f, 0)];
        CpuidTemplate::of_entries(CpuModel::Host, supported, cpus)
    }

    fn find(cpuid: &CpuId, function: u32, index: u32) -> kvm_cpuid_entry2 {
        let is_it = |e: &&kvm_cpuid_entry2| e.function == function && e.index == index;
        *cpuid.as_slice().iter().find(is_it).unwrap()
    }

    #[test]
    fn every_vcpu_sees_its_own_apic_id_and_the_same_topology() {
        for (cpus, shift) in [(1, 0), (2, 1), (3, 2), (64, 6)] {
            let baseline = CpuidTemplate::baseline(CpuModel::X86V3, cpus).unwrap();
            for (template, id) in
                [template(cpus), baseline].iter().flat_map(|t| (0..cpus).map(move |id| (t, id)))
            {
                let cpuid = template.for_vcpu(id).unwrap();
                let features = find(&cpuid, 1, 0);
                assert_eq!(features.ebx >> 24, u32::from(id));
                assert_eq!((features.ebx >> 16) & 0xff, u32::from(cpus));
                assert_eq!(features.edx & HTT != 0, cpus > 1);
                let cores = find(&cpuid, 0xb, 1);
                assert_eq!((cores.eax, cores.ebx, cores.edx), (shift, cpus.into(), id.into()));
            }
        }
    }

    #[test]
    fn the_hosts_topology_does_not_shine_through() {
        let cpuid = template(2).for_vcpu(0).unwrap();
        assert_eq!(cpuid.as_slice().iter().filter(|e| e.function == 0xb).count(), 3);
        assert!(cpuid.as_slice().iter().all(|e| e.function != 0x1f));
        assert_eq!(find(&cpuid, 0x4, 3).eax, (1 << 26) | (1 << 14) | 0x63);
    }
}
