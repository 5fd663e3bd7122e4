//! What CPUID tells this program.

use std::arch::x86_64::__cpuid_count;
use std::io;

use rustix::thread::{CpuSet, sched_setaffinity};

/// Where each class of leaves begins (SDM volume 2A, CPUID; Linux: Documentation/virt/kvm/x86/cpuid.rst).
const CLASSES: [u32; 3] = [0, 0x4000_0000, 0x8000_0000];

/// On the first processor: each leaf of each class, with subleaves where it has some: `leaf subleaf eax ebx ecx edx`, in hexadecimal.
pub(crate) fn lines() -> io::Result<Vec<String>> {
    let mut first = CpuSet::new();
    first.set(0);
    sched_setaffinity(None, &first)?;
    let mut lines = Vec::new();
    for first in CLASSES {
        let last = __cpuid_count(first, 0).eax;
        // A class that is not there answers anything.
        for leaf in first..=last.min(first + 0x40) {
            for subleaf in 0..=last_subleaf(leaf) {
                let told = __cpuid_count(leaf, subleaf);
                lines.push(format!(
                    "{leaf:08x} {subleaf} {:08x} {:08x} {:08x} {:08x}",
                    told.eax, told.ebx, told.ecx, told.edx
                ));
            }
        }
    }
    Ok(lines)
}

/// One more than any baseline model has, so that what should not be there is looked for.
fn last_subleaf(leaf: u32) -> u32 {
    match leaf {
        0x4 | 0xd => 4,
        0x7 | 0xb => 2,
        _ => 0,
    }
}
