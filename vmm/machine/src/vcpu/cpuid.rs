//! What `CPUID` tells the guest: what KVM supports, less what a machine does not have, plus the
//! topology of this machine.

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2};

use serde::{Deserialize, Serialize};

use crate::kvm::Host;

const KVM_CPUID_FLAG_SIGNIFICANT_INDEX: u32 = 1;

/// Leaf 1: ECX bits that depend on more than the processor.
const VMX: u32 = 1 << 5;
const X2APIC: u32 = 1 << 21;
const TSC_DEADLINE: u32 = 1 << 24;
const HYPERVISOR: u32 = 1 << 31;
/// Leaf 1: EDX says that the "logical processors" byte of EBX is valid.
const HTT: u32 = 1 << 28;
/// Leaf 0x80000001: ECX; nested virtualization on AMD.
const SVM: u32 = 1 << 2;
/// Leaf 0x80000001: ECX; AMD's own topology leaves, which we do not fill.
const TOPOEXT: u32 = 1 << 22;

/// The CPUID of a machine, to be completed for each vCPU.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct CpuidTemplate {
    entries: Vec<kvm_cpuid_entry2>,
    cpus: u8,
}

impl CpuidTemplate {
    /// All that the host's KVM supports, for a machine of `cpus` vCPUs in one package, one thread a core.
    pub(crate) fn of_host(host: &Host, cpus: u8) -> Result<Self, kvm_ioctls::Error> {
        let supported = host.kvm().get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)?;
        Ok(Self::new(supported.as_slice(), cpus, host.has_tsc_deadline_timer()))
    }

    fn new(supported: &[kvm_cpuid_entry2], cpus: u8, has_tsc_deadline: bool) -> Self {
        // The topology leaves of KVM's answer describe the host; ours come per vCPU.
        let mut entries: Vec<_> =
            supported.iter().copied().filter(|e| !matches!(e.function, 0xb | 0x1f)).collect();
        let last_core = u32::from(cpus) - 1;
        for entry in &mut entries {
            match entry.function {
                0x1 => {
                    // No nested virtualization: its state is not among what is saved.
                    entry.ecx = (entry.ecx & !VMX) | HYPERVISOR | X2APIC;
                    if has_tsc_deadline {
                        entry.ecx |= TSC_DEADLINE;
                    }
                    entry.edx = if cpus > 1 { entry.edx | HTT } else { entry.edx & !HTT };
                }
                0x4 => describe_cache(entry, last_core),
                0x8000_0001 => entry.ecx &= !(TOPOEXT | SVM),
                0x8000_0008 => entry.ecx = (entry.ecx & !0xf0ff) | last_core,
                _ => {}
            }
        }
        Self { entries, cpus }
    }

    /// The CPUID of the vCPU with this APIC id.
    pub(crate) fn for_vcpu(&self, apic_id: u8) -> Result<CpuId, vmm_sys_util::fam::Error> {
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
        CpuId::from_entries(&entries)
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
    let level = |index: u32, shift: u32, processors: u32, kind: u32| kvm_cpuid_entry2 {
        function: 0xb,
        index,
        flags: KVM_CPUID_FLAG_SIGNIFICANT_INDEX,
        eax: shift,
        ebx: processors,
        ecx: (kind << 8) | index,
        edx: u32::from(apic_id),
        ..Default::default()
    };
    [level(0, 0, 1, 1), level(1, core_shift, u32::from(cpus), 2), level(2, 0, 0, 0)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(cpus: u8) -> CpuidTemplate {
        let entry = |function, index| kvm_cpuid_entry2 { function, index, ..Default::default() };
        let mut cache = entry(0x4, 3);
        cache.eax = 0xffff_c063;
        let supported = [entry(0x1, 0), cache, entry(0xb, 0), entry(0xb, 1), entry(0x1f, 0)];
        CpuidTemplate::new(&supported, cpus, true)
    }

    fn find(cpuid: &CpuId, function: u32, index: u32) -> kvm_cpuid_entry2 {
        let is_it = |e: &&kvm_cpuid_entry2| e.function == function && e.index == index;
        *cpuid.as_slice().iter().find(is_it).unwrap()
    }

    #[test]
    fn every_vcpu_sees_its_own_apic_id_and_the_same_topology() {
        for (cpus, shift) in [(1, 0), (2, 1), (3, 2), (64, 6)] {
            for id in 0..cpus {
                let cpuid = template(cpus).for_vcpu(id).unwrap();
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

    #[test]
    fn nested_virtualization_is_hidden_as_its_state_is_not_saved() {
        let entry = |function| kvm_cpuid_entry2 { function, ecx: u32::MAX, ..Default::default() };
        let cpuid = CpuidTemplate::new(&[entry(1), entry(0x8000_0001)], 1, true);
        let cpuid = cpuid.for_vcpu(0).unwrap();
        assert_eq!(find(&cpuid, 1, 0).ecx & VMX, 0);
        assert_eq!(find(&cpuid, 0x8000_0001, 0).ecx & SVM, 0);
    }

    #[test]
    fn the_deadline_timer_is_offered_only_where_kvm_has_it() {
        let entry = kvm_cpuid_entry2 { function: 1, ..Default::default() };
        for has in [false, true] {
            let cpuid = CpuidTemplate::new(&[entry], 1, has).for_vcpu(0).unwrap();
            assert_eq!(find(&cpuid, 1, 0).ecx & TSC_DEADLINE != 0, has);
        }
    }
}
