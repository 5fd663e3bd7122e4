//! CPUID leaves as values: what KVM takes and gives, without its flags.

use kvm_bindings::kvm_cpuid_entry2;
use serde::{Deserialize, Serialize};

use super::words::Register;

/// `KVM_CPUID_FLAG_SIGNIFCANT_INDEX`: the leaf has subleaves.
const SIGNIFICANT_INDEX: u32 = 1;

/// What CPUID answers to one leaf and subleaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct CpuidLeaf {
    /// EAX when CPUID is executed.
    pub leaf: u32,
    /// ECX when CPUID is executed.
    pub subleaf: u32,
    /// The answer in EAX.
    pub eax: u32,
    /// The answer in EBX.
    pub ebx: u32,
    /// The answer in ECX.
    pub ecx: u32,
    /// The answer in EDX.
    pub edx: u32,
}

impl From<&kvm_cpuid_entry2> for CpuidLeaf {
    fn from(entry: &kvm_cpuid_entry2) -> Self {
        let kvm_cpuid_entry2 { function, index, eax, ebx, ecx, edx, .. } = *entry;
        Self { leaf: function, subleaf: index, eax, ebx, ecx, edx }
    }
}

/// An entry for a leaf without subleaves.
pub(super) fn plain(leaf: u32, [eax, ebx, ecx, edx]: [u32; 4]) -> kvm_cpuid_entry2 {
    kvm_cpuid_entry2 { function: leaf, eax, ebx, ecx, edx, ..Default::default() }
}

/// An entry for a subleaf.
pub(super) fn indexed(leaf: u32, subleaf: u32, registers: [u32; 4]) -> kvm_cpuid_entry2 {
    kvm_cpuid_entry2 { index: subleaf, flags: SIGNIFICANT_INDEX, ..plain(leaf, registers) }
}

/// A register of a leaf, found as KVM finds it (kernel: arch/x86/kvm/cpuid.c, `cpuid_entry2_find`); 0 where the CPUID has
/// no such leaf.
pub(super) fn register(
    entries: &[kvm_cpuid_entry2],
    leaf: u32,
    subleaf: u32,
    register: Register,
) -> u32 {
    let has_subleaves = |e: &kvm_cpuid_entry2| e.flags & SIGNIFICANT_INDEX != 0;
    let is_it =
        |e: &&kvm_cpuid_entry2| e.function == leaf && (e.index == subleaf || !has_subleaves(e));
    entries.iter().find(is_it).map_or(0, |entry| match register {
        Register::Eax => entry.eax,
        Register::Ebx => entry.ebx,
        Register::Ecx => entry.ecx,
        Register::Edx => entry.edx,
    })
}
