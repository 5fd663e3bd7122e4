//! The CPUID of the baseline models, to the last bit.
//!
//! A released table never changes: it would change under a running guest, or refuse one. What has to be different
//! is a new [`VERSION`].

use kvm_bindings::kvm_cpuid_entry2;

use super::features::Features;
use super::leaf::{indexed, plain};
use super::model::CpuModel;
use super::words::Register::{Eax, Ebx, Ecx, Edx};

/// Of all the tables here.
pub(super) const VERSION: u16 = 1;

/// Level 1 of the psABI, with what kernels expect of every 64-bit processor; what KVM emulates anywhere; the clock that
/// survives a move. ARAT says that the LAPIC timer never stops: without it Linux gives up fine timers.
const LEVEL_1: [&str; 34] = [
    "fpu",
    "de",
    "pse",
    "tsc",
    "msr",
    "pae",
    "mce",
    "cx8",
    "apic",
    "sep",
    "mtrr",
    "pge",
    "mca",
    "cmov",
    "pat",
    "pse36",
    "clflush",
    "mmx",
    "fxsr",
    "sse",
    "sse2",
    "syscall",
    "nx",
    "lm",
    "x2apic",
    "tsc_deadline_timer",
    "hypervisor",
    "arat",
    "kvm_clocksource",
    "kvm_nop_io_delay",
    "kvm_clocksource2",
    "kvm_pv_eoi",
    "kvm_pv_unhalt",
    "kvm_clocksource_stable",
];
/// What level 2 adds, and RDTSCP, which every such processor has.
const LEVEL_2: [&str; 8] =
    ["pni", "ssse3", "cx16", "sse4_1", "sse4_2", "popcnt", "lahf_lm", "rdtscp"];
/// What level 3 adds, and three that every such processor has: two keep a kernel safe or fast, one makes a
/// switch between tasks cheap.
const LEVEL_3: [&str; 12] = [
    "fma", "movbe", "xsave", "avx", "f16c", "bmi1", "avx2", "bmi2", "abm", "fsgsbase", "smep",
    "xsaveopt",
];

/// GenuineIntel, as leaf 0 has it in EBX, EDX, ECX.
const VENDOR: [u32; 3] = [0x756e_6547, 0x4965_6e69, 0x6c65_746e];
/// Bits of physical and linear addresses.
const ADDRESS_BITS: u32 = 39 | 48 << 8;
/// Leaf 1, EBX: CLFLUSH works on lines of 8 times 8 bytes.
const CLFLUSH_LINE: u32 = 8 << 8;
/// `KVMKVMKVM`, as leaf 0x40000000 has it.
const KVM_SIGNATURE: [u32; 3] = [0x4b4d_564b, 0x564b_4d56, 0x4d];
/// XCR0: x87, SSE, AVX.
const AVX_STATE: u32 = 0b111;
/// Bytes of an XSAVE area: the legacy part with its header, and the upper halves of the YMM registers.
const LEGACY_BYTES: u32 = 576;
const YMM_BYTES: u32 = 256;

/// What differs between the levels besides features.
struct Level {
    /// Leaf 1, EAX: family 6, with the model and stepping of a processor whose level this is.
    signature: u32,
    brand: &'static str,
    features: Features,
    last_basic_leaf: u32,
}

/// The entries of a baseline, as of a machine with one vCPU, without the topology leaf; none for `host`.
pub(super) fn entries(model: CpuModel) -> Option<Vec<kvm_cpuid_entry2>> {
    let of = |lists: &[&[&str]]| {
        Features::named(&lists.concat()).expect("the lists hold names of the table of words")
    };
    Some(match model {
        CpuModel::Host => return None,
        CpuModel::X86V1 => table(&Level {
            signature: 0x6fb,
            brand: "x86-64-v1 processor, table 1",
            features: of(&[&LEVEL_1]),
            last_basic_leaf: 0xb,
        }),
        CpuModel::X86V2 => table(&Level {
            signature: 0x206c2,
            brand: "x86-64-v2 processor, table 1",
            features: of(&[&LEVEL_1, &LEVEL_2]),
            last_basic_leaf: 0xb,
        }),
        CpuModel::X86V3 => table(&Level {
            signature: 0x306c3,
            brand: "x86-64-v3 processor, table 1",
            features: of(&[&LEVEL_1, &LEVEL_2, &LEVEL_3]),
            last_basic_leaf: 0xd,
        }),
    })
}

fn table(level: &Level) -> Vec<kvm_cpuid_entry2> {
    let bits = |leaf, subleaf, register| level.features.register(leaf, subleaf, register);
    let [ebx, edx, ecx] = VENDOR;
    let mut table = vec![
        plain(0x0, [level.last_basic_leaf, ebx, ecx, edx]),
        plain(0x1, [level.signature, CLFLUSH_LINE, bits(0x1, 0, Ecx), bits(0x1, 0, Edx)]),
        // One descriptor: leaf 4 describes the caches (SDM volume 2A, CPUID, table 3-12).
        plain(0x2, [0xff01, 0, 0, 0]),
    ];
    table.extend(caches());
    table.push(plain(0x6, [bits(0x6, 0, Eax), 0, 0, 0]));
    table.push(indexed(0x7, 0, [0, bits(0x7, 0, Ebx), bits(0x7, 0, Ecx), bits(0x7, 0, Edx)]));
    if level.last_basic_leaf >= 0xd {
        let bytes = LEGACY_BYTES + YMM_BYTES;
        table.push(indexed(0xd, 0, [AVX_STATE, bytes, bytes, 0]));
        table.push(indexed(0xd, 1, [bits(0xd, 1, Eax), 0, 0, 0]));
        table.push(indexed(0xd, 2, [YMM_BYTES, LEGACY_BYTES, 0, 0]));
    }
    let [ebx, ecx, edx] = KVM_SIGNATURE;
    table.extend([
        plain(0x4000_0000, [0x4000_0001, ebx, ecx, edx]),
        plain(0x4000_0001, [bits(0x4000_0001, 0, Eax), 0, 0, 0]),
        plain(0x8000_0000, [0x8000_0008, 0, 0, 0]),
        plain(0x8000_0001, [0, 0, bits(0x8000_0001, 0, Ecx), bits(0x8000_0001, 0, Edx)]),
    ]);
    table.extend(brand(level.brand));
    // The second-level cache once more: 256 KiB in 8 ways (6) of 64-byte lines.
    table.push(plain(0x8000_0006, [0, 0, 256 << 16 | 6 << 12 | 64, 0]));
    table.push(plain(0x8000_0007, [0; 4]));
    table.push(plain(0x8000_0008, [ADDRESS_BITS, 0, 0, 0]));
    table
}

/// Leaf 4 (SDM volume 2A, CPUID, "Deterministic Cache Parameters"); who shares them is filled in for each machine.
fn caches() -> [kvm_cpuid_entry2; 4] {
    const DATA: u32 = 1;
    const CODE: u32 = 2;
    const UNIFIED: u32 = 3;
    const SELF_INITIALIZING: u32 = 1 << 8;
    let cache = |index, kind: u32, level: u32, ways: u32, sets: u32| {
        let lines_of_64_bytes = 63;
        let eax = kind | level << 5 | SELF_INITIALIZING;
        indexed(0x4, index, [eax, (ways - 1) << 22 | lines_of_64_bytes, sets - 1, 0])
    };
    [
        // 32 KiB, 32 KiB, 256 KiB, and 16 MiB for all.
        cache(0, DATA, 1, 8, 64),
        cache(1, CODE, 1, 8, 64),
        cache(2, UNIFIED, 2, 8, 512),
        cache(3, UNIFIED, 3, 16, 16_384),
    ]
}

/// Leaves 0x80000002 to 0x80000004: 48 letters.
fn brand(text: &str) -> impl Iterator<Item = kvm_cpuid_entry2> {
    let mut letters = [0; 48];
    letters[..text.len()].copy_from_slice(text.as_bytes());
    (0..3_u32).map(move |nth| {
        let first = 16 * nth as usize;
        let word = |at: usize| {
            let at = first + 4 * at;
            u32::from_le_bytes(letters[at..at + 4].try_into().expect("four of 48"))
        };
        plain(0x8000_0002 + nth, [word(0), word(1), word(2), word(3)])
    })
}

#[cfg(test)]
mod tests {
    use super::super::leaf::register;
    use super::*;

    /// Of everything that a guest can read, so that a table cannot change unnoticed.
    fn digest(model: CpuModel) -> String {
        let cpuid = model.cpuid(4).unwrap();
        blake3::hash(&postcard::to_stdvec(&cpuid).unwrap()).to_hex()[..16].to_owned()
    }

    #[test]
    fn a_released_table_does_not_change() {
        // Whoever changes a table raises its version; then, and only then, these change.
        let digests = CpuModel::ALL.into_iter().skip(1).map(digest).collect::<Vec<_>>();
        assert_eq!(VERSION, 1);
        assert_eq!(digests, ["fb6fef449a5e6eaf", "91411359617f6646", "e9f30aeab7e13612"]);
    }

    #[test]
    fn a_brand_says_its_level_and_its_version() {
        for model in CpuModel::ALL.into_iter().skip(1) {
            let entries = entries(model).unwrap();
            let letters: Vec<u8> = (0x8000_0002..=0x8000_0004_u32)
                .flat_map(|leaf| {
                    [Eax, Ebx, Ecx, Edx].map(|which| register(&entries, leaf, 0, which))
                })
                .flat_map(u32::to_le_bytes)
                .collect();
            let expected = format!("{model} processor, table {VERSION}");
            assert_eq!(String::from_utf8(letters).unwrap().trim_end_matches('\0'), expected);
        }
    }

    #[test]
    fn what_a_moving_guest_must_not_hold_on_to_is_hidden() {
        let hidden = Features::named(&[
            "invariant_tsc",
            "vmx",
            "svm",
            "osxsave",
            "pdcm",
            "arch_capabilities",
            "core_capabilities",
            "pcid",
        ]);
        for model in CpuModel::ALL.into_iter().skip(1) {
            let profile = model.profile().unwrap();
            assert!(profile.features.intersection(hidden.as_ref().unwrap()).is_empty(), "{model}");
            assert!(profile.exact.is_empty(), "{model}: {:?}", profile.exact);
            // No counters, no frequencies.
            for leaf in [0xa, 0x15, 0x16, 0x4000_0010] {
                assert!(entries(model).unwrap().iter().all(|entry| entry.function != leaf));
            }
            assert_eq!(profile.physical_address_bits, 39);
        }
    }

    #[test]
    fn every_leaf_lies_within_the_range_that_its_class_states() {
        for model in CpuModel::ALL.into_iter().skip(1) {
            let entries = entries(model).unwrap();
            for entry in &entries {
                let last = register(&entries, entry.function & 0xf000_0000, 0, Eax);
                assert!(entry.function <= last, "{model}: {:#x} > {last:#x}", entry.function);
            }
        }
    }

    #[test]
    fn xsave_sizes_are_those_of_the_areas_that_xcr0_can_switch_on() {
        let entries = entries(CpuModel::X86V3).unwrap();
        let [mask, size] = [Eax, Ecx].map(|which| register(&entries, 0xd, 0, which));
        let areas = CpuModel::X86V3.profile().unwrap().xsave;
        let end = areas.iter().map(|area| area.offset + area.size).max().unwrap();
        let components = areas.iter().fold(0b11, |mask, area| mask | 1 << area.component);
        assert_eq!((mask, size), (components, end));
        assert!(CpuModel::X86V2.profile().unwrap().xsave.is_empty(), "no XSAVE, no areas");
    }
}
