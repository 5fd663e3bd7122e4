//! A CPUID reduced to what decides whether a guest that has it can run somewhere.

use std::fmt;

use kvm_bindings::kvm_cpuid_entry2;
use serde::{Deserialize, Serialize};

use super::features::Features;
use super::leaf::{CpuidLeaf, register};
use super::words::{Register, WORDS};

/// Leaves that describe and promise nothing that a guest's life hangs on: names, caches, TLBs, topology,
/// frequencies. All others whose bits have no place in the table of words must be the same on both
/// hosts: performance counters, tiles, enclaves, and whatever is yet to come.
const DESCRIPTIVE: [u32; 24] = [
    0x0,
    0x1,
    0x2,
    0x3,
    0x4,
    0x5,
    0x6,
    0xb,
    0x15,
    0x16,
    0x18,
    0x1f,
    0x4000_0000,
    0x8000_0000,
    0x8000_0002,
    0x8000_0003,
    0x8000_0004,
    0x8000_0005,
    0x8000_0006,
    0x8000_0008,
    0x8000_0019,
    0x8000_001a,
    0x8000_001d,
    0x8000_001e,
];
/// The leaf of XSAVE, whose areas are compared one by one.
const XSAVE: u32 = 0xd;

/// What a guest's CPU has, or a host's KVM can give, as far as the two must fit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuProfile {
    /// The vendor's twelve letters.
    pub vendor: String,
    /// Every bit that says that something can be done.
    pub features: Features,
    /// Bits of a guest physical address.
    pub physical_address_bits: u32,
    /// Where XSAVE puts what, without the legacy area.
    pub xsave: Vec<XsaveArea>,
    /// Leaves whose numbers a guest relies on.
    pub exact: Vec<CpuidLeaf>,
}

/// A component of the processor's state, and its place in an XSAVE area of the standard form (SDM volume 1,
/// 13.4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct XsaveArea {
    /// Number of the component: a bit of XCR0 or `IA32_XSS`.
    pub component: u32,
    /// Bytes.
    pub size: u32,
    /// Bytes from the start.
    pub offset: u32,
    /// Whether it is a supervisor's, and how it is aligned.
    pub flags: u32,
}

impl CpuProfile {
    pub(super) fn of(entries: &[kvm_cpuid_entry2]) -> Self {
        let get = |leaf, subleaf, which| register(entries, leaf, subleaf, which);
        let vendor = [Register::Ebx, Register::Edx, Register::Ecx];
        let vendor = vendor.map(|which| get(0, 0, which).to_le_bytes()).concat();
        // EAX: 7-0 what the processor has; 23-16, if not zero, what of it KVM can map.
        let sizes = get(0x8000_0008, 0, Register::Eax);
        let physical_address_bits = match (sizes & 0xff, (sizes >> 16) & 0xff) {
            (bits, 0) => bits,
            (bits, mapped) => bits.min(mapped),
        };
        Self {
            vendor: String::from_utf8_lossy(&vendor).into_owned(),
            features: Features::from_registers(get),
            physical_address_bits,
            xsave: xsave_areas(entries),
            exact: exact_leaves(entries),
        }
    }

    /// The vendor, or a word for one that is not told.
    #[must_use]
    pub fn vendor_name(&self) -> &str {
        let name = self.vendor.trim_matches('\0');
        if name.is_empty() { "unknown" } else { name }
    }

    /// What a guest with the profile `needed` would miss here; the vendor counts if `same_vendor` is set.
    ///
    /// # Errors
    /// Everything that is missing.
    pub fn check(&self, needed: &Self, same_vendor: bool) -> Result<(), Box<CpuDifference>> {
        let is_other_vendor = same_vendor && needed.vendor != self.vendor;
        let has_fewer_bits = needed.physical_address_bits > self.physical_address_bits;
        let xsave = needed.xsave.iter().filter(|area| !self.xsave.contains(area));
        let leaves = needed.exact.iter().filter(|leaf| !self.exact.contains(leaf));
        let difference = CpuDifference {
            features: needed.features.without(&self.features),
            vendor: is_other_vendor.then(|| needed.vendor_name().to_owned()),
            physical_address_bits: has_fewer_bits.then_some(needed.physical_address_bits),
            xsave: xsave.copied().collect(),
            exact: leaves.copied().collect(),
        };
        if difference == CpuDifference::default() { Ok(()) } else { Err(Box::new(difference)) }
    }
}

fn xsave_areas(entries: &[kvm_cpuid_entry2]) -> Vec<XsaveArea> {
    // The first two subleaves are about the whole: their bits follow from the areas and features.
    let areas = entries.iter().filter(|e| e.function == XSAVE && e.index >= 2 && e.eax != 0);
    let areas = areas.map(|entry| XsaveArea {
        component: entry.index,
        size: entry.eax,
        offset: entry.ebx,
        flags: entry.ecx,
    });
    areas.collect()
}

/// What is left of the leaves that do not only describe, without the bits that are features.
fn exact_leaves(entries: &[kvm_cpuid_entry2]) -> Vec<CpuidLeaf> {
    let leaves = entries.iter().map(CpuidLeaf::from);
    let leaves = leaves.filter(|leaf| leaf.leaf != XSAVE && !DESCRIPTIVE.contains(&leaf.leaf));
    let leaves = leaves.map(|mut leaf| {
        let is_its =
            |word: &&super::words::Word| (word.leaf, word.subleaf) == (leaf.leaf, leaf.subleaf);
        for word in WORDS.iter().filter(is_its) {
            match word.register {
                Register::Eax => leaf.eax = 0,
                Register::Ebx => leaf.ebx = 0,
                Register::Ecx => leaf.ecx = 0,
                Register::Edx => leaf.edx = 0,
            }
        }
        // The number of subleaves, the processor's signature, and the size of a microcode patch.
        if (leaf.leaf, leaf.subleaf) == (0x7, 0) || leaf.leaf == 0x8000_0001 {
            leaf.eax = 0;
        }
        if matches!(leaf.leaf, 0x8000_0001 | 0x8000_0021) {
            leaf.ebx = 0;
        }
        leaf
    });
    leaves.filter(|leaf| (leaf.eax, leaf.ebx, leaf.ecx, leaf.edx) != (0, 0, 0, 0)).collect()
}

/// What a host lacks of a guest's CPU: never empty where it is an error.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuDifference {
    /// Features.
    pub features: Features,
    /// The vendor that is needed, where the host has another.
    pub vendor: Option<String>,
    /// The number of physical address bits that are needed, where the host has fewer.
    pub physical_address_bits: Option<u32>,
    /// Areas of XSAVE that the host does not have, or has elsewhere.
    pub xsave: Vec<XsaveArea>,
    /// Leaves that must be the same, and are not.
    pub exact: Vec<CpuidLeaf>,
}

impl fmt::Display for CpuDifference {
    /// Names with commas between them, features first.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts: Vec<String> = self.features.iter().map(|name| name.to_string()).collect();
        parts.extend(self.vendor.as_ref().map(|vendor| format!("the vendor {vendor}")));
        parts
            .extend(self.physical_address_bits.map(|bits| format!("{bits} physical address bits")));
        parts.extend(self.xsave.iter().map(|area| {
            let XsaveArea { component, size, offset, .. } = area;
            format!("XSAVE component {component} ({size} bytes at {offset})")
        }));
        parts.extend(
            self.exact
                .iter()
                .map(|leaf| format!("the same CPUID leaf {:#x}.{}", leaf.leaf, leaf.subleaf)),
        );
        f.write_str(&parts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::super::leaf::{indexed, plain};
    use super::*;

    fn profile(change: impl Fn(&mut Vec<kvm_cpuid_entry2>)) -> CpuProfile {
        let mut entries = vec![
            plain(0, [0x1f, 0x756e_6547, 0x6c65_746e, 0x4965_6e69]),
            plain(1, [0x306c3, 0x0102_0800, 0x8000_0001, 0x0700_0000]),
            indexed(0x7, 0, [1, 1 << 5, 0, 0]),
            indexed(0xa, 0, [0x0730_0403, 0, 0, 0x603]),
            indexed(0xd, 0, [7, 576, 832, 0]),
            indexed(0xd, 2, [256, 576, 0, 0]),
            plain(0x8000_0001, [0x306c3, 5, 1, 1 << 29]),
            plain(0x8000_0008, [0x3027, 0, 0, 0]),
            plain(0x8000_001d, [0x121, 3, 0, 0]),
        ];
        change(&mut entries);
        CpuProfile::of(&entries)
    }

    fn at(entries: &mut [kvm_cpuid_entry2], leaf: u32) -> &mut kvm_cpuid_entry2 {
        entries.iter_mut().rfind(|entry| entry.function == leaf).unwrap()
    }

    /// What a guest of the unchanged profile misses on a host with the change.
    fn lacks(change: impl Fn(&mut Vec<kvm_cpuid_entry2>)) -> String {
        let missing = profile(change).check(&profile(|_| ()), true);
        missing.err().map(|difference| difference.to_string()).unwrap_or_default()
    }

    #[test]
    fn whatever_a_guest_would_miss_is_named() {
        assert_eq!(lacks(|_| ()), "");
        assert_eq!(lacks(|cpuid| at(cpuid, 7).ebx = 0), "avx2");
        assert_eq!(lacks(|cpuid| at(cpuid, 1).ecx = 0), "pni, hypervisor");
        assert_eq!(lacks(|cpuid| at(cpuid, 0).ecx = 0x444d_4163), "the vendor GenuineIntel");
        assert_eq!(lacks(|cpuid| at(cpuid, 0x8000_0008).eax = 36), "39 physical address bits");
        assert_eq!(
            lacks(|cpuid| at(cpuid, 0x8000_0008).eax = 0x24_3027),
            "39 physical address bits"
        );
        let moved = "XSAVE component 2 (256 bytes at 576)";
        assert_eq!(lacks(|cpuid| at(cpuid, 0xd).ebx = 1152), moved);
        assert_eq!(lacks(|cpuid| at(cpuid, 0xa).eax = 2), "the same CPUID leaf 0xa.0");
        assert_eq!(
            lacks(|cpuid| cpuid.retain(|entry| entry.function != 0xa)),
            "the same CPUID leaf 0xa.0"
        );
    }

    #[test]
    fn what_only_describes_may_differ_and_a_host_may_have_more() {
        for (leaf, register) in [(0x1, 0), (0x1, 1), (0x7, 0), (0x8000_0001, 1), (0x8000_001d, 1)] {
            let change = |cpuid: &mut Vec<kvm_cpuid_entry2>| {
                let entry = at(cpuid, leaf);
                let register = if register == 0 { &mut entry.eax } else { &mut entry.ebx };
                *register ^= 0xff;
            };
            assert_eq!(lacks(change), "", "{leaf:#x}");
        }
        assert_eq!(lacks(|cpuid| at(cpuid, 1).ecx = u32::MAX), "");
        assert_eq!(lacks(|cpuid| at(cpuid, 0x8000_0008).eax = 0x3030), "");
        assert_eq!(lacks(|cpuid| cpuid.push(indexed(0xd, 9, [8, 2688, 0, 0]))), "");
    }

    #[test]
    fn a_leaf_that_nobody_knows_must_be_the_same() {
        let newer =
            |value| move |cpuid: &mut Vec<_>| cpuid.push(plain(0x8000_0077, [value, 0, 0, 0]));
        let (one, other) = (profile(newer(1)), profile(newer(2)));
        assert!(one.check(&one, true).is_ok());
        let difference = other.check(&one, true).unwrap_err();
        assert_eq!(difference.to_string(), "the same CPUID leaf 0x80000077.0");
        assert!(one.check(&profile(|_| ()), true).is_ok(), "a guest without it does not mind");
    }

    #[test]
    fn the_vendor_matters_only_where_it_is_asked_for() {
        let amd =
            profile(|cpuid| *at(cpuid, 0) = plain(0, [0, 0x6874_7541, 0x444d_4163, 0x6974_6e65]));
        assert_eq!(amd.vendor_name(), "AuthenticAMD");
        assert!(amd.check(&profile(|_| ()), false).is_ok());
        assert!(amd.check(&profile(|_| ()), true).is_err());
    }
}
