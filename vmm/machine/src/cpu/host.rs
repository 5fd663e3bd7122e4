//! What the host's KVM can give to a guest.

use kvm_bindings::kvm_cpuid_entry2;
use serde::{Deserialize, Serialize};

use super::leaf::register;
use super::profile::CpuProfile;
use super::words::Register;
use crate::kvm::{Host, HostError};

/// Leaf 1: ECX bits that depend on more than the processor.
const X2APIC: u32 = 1 << 21;
const TSC_DEADLINE: u32 = 1 << 24;
const HYPERVISOR: u32 = 1 << 31;
/// Leaf 1: EDX; a machine with more than one vCPU has it, whatever the host.
const HTT: u32 = 1 << 28;
/// Leaf 1: ECX; nested virtualization on Intel.
const VMX: u32 = 1 << 5;
/// Leaf 0x80000001: ECX; nested virtualization on AMD.
const SVM: u32 = 1 << 2;
/// Leaf 0x80000001: ECX; AMD's own topology leaves, which we do not fill.
const TOPOEXT: u32 = 1 << 22;
/// The leaf that says more of SVM.
const SVM_FEATURES: u32 = 0x8000_000a;

/// A host's CPU, seen by the machines on it: what one host tells another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostCpu {
    /// The processor's family, as its vendor counts.
    pub family: u32,
    /// Its model in the family.
    pub model: u32,
    /// Its stepping.
    pub stepping: u32,
    /// What guests can have of it.
    pub profile: CpuProfile,
}

impl HostCpu {
    /// What this host's KVM supports.
    ///
    /// # Errors
    /// When KVM does not tell.
    pub fn of(host: &Host) -> Result<Self, HostError> {
        let entries = Self::entries(host)?;
        let signature = register(&entries, 1, 0, Register::Eax);
        // SDM volume 2A, CPUID, figure 3-6: the extended parts count with families 6 and 15.
        let base_family = (signature >> 8) & 0xf;
        let family =
            if base_family == 0xf { base_family + ((signature >> 20) & 0xff) } else { base_family };
        let extended = if matches!(base_family, 6 | 0xf) { (signature >> 12) & 0xf0 } else { 0 };
        let model = extended | ((signature >> 4) & 0xf);
        Ok(Self { family, model, stepping: signature & 0xf, profile: CpuProfile::of(&entries) })
    }

    /// KVM's answer, with what it leaves to us to say, and without what no guest gets.
    pub(super) fn entries(host: &Host) -> Result<Vec<kvm_cpuid_entry2>, HostError> {
        let has_deadline_timer = host.has_tsc_deadline_timer();
        let entries = complete(host.supported_cpuid()?.to_vec(), has_deadline_timer);
        #[cfg(feature = "fault-injection")]
        let entries = crate::fault::without_features(entries);
        Ok(entries)
    }
}

/// `KVM_GET_SUPPORTED_CPUID` says nothing of what depends on how the VM is made: the LAPIC is KVM's. Nested
/// virtualization is hidden, as its state is not among what is saved.
fn complete(
    mut supported: Vec<kvm_cpuid_entry2>,
    has_deadline_timer: bool,
) -> Vec<kvm_cpuid_entry2> {
    supported.retain(|entry| entry.function != SVM_FEATURES);
    for entry in &mut supported {
        match entry.function {
            0x1 => {
                entry.ecx = (entry.ecx & !VMX) | HYPERVISOR | X2APIC;
                if has_deadline_timer {
                    entry.ecx |= TSC_DEADLINE;
                }
                entry.edx |= HTT;
            }
            0x8000_0001 => entry.ecx &= !(TOPOEXT | SVM),
            _ => {}
        }
    }
    supported
}

#[cfg(test)]
mod tests {
    use super::super::leaf::plain;
    use super::*;

    #[test]
    fn the_deadline_timer_is_offered_only_where_kvm_has_it() {
        for has in [false, true] {
            let entries = complete(vec![plain(1, [0; 4])], has);
            assert_eq!(entries[0].ecx & TSC_DEADLINE != 0, has);
        }
    }

    #[test]
    fn nested_virtualization_is_hidden_as_its_state_is_not_saved() {
        let all = [0, 0, u32::MAX, 0];
        let supported = vec![plain(1, all), plain(0x8000_0001, all), plain(SVM_FEATURES, all)];
        let entries = complete(supported, true);
        assert_eq!(entries[0].ecx & VMX, 0);
        assert_eq!(entries[1].ecx & SVM, 0);
        assert_eq!(entries.len(), 2);
    }

    #[test]
    fn whatever_host_runs_machines_offers_the_first_level() {
        let Some(host) = Host::of_test("whatever_host_runs_machines_offers_the_first_level") else {
            return;
        };
        let cpu = HostCpu::of(&host).unwrap();
        let missing = crate::cpu::CpuModel::X86V1.check(&cpu.profile);
        assert_eq!(missing, Ok(()), "{cpu:?}");
        assert!(cpu.family >= 6 && cpu.profile.vendor_name() != "unknown", "{cpu:?}");
    }
}
