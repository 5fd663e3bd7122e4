//! Where CPUID has feature bits, and what the bits are called.
//!
//! Names are those of `/proc/cpuinfo`, and where the kernel shows none, those of its source in small letters
//! (Linux: arch/x86/include/asm/cpufeatures.h; for leaf 0x40000001 Documentation/virt/kvm/x86/cpuid.rst).

use serde::{Deserialize, Serialize};

/// A register that CPUID answers in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Register {
    /// EAX.
    Eax,
    /// EBX.
    Ebx,
    /// ECX.
    Ecx,
    /// EDX.
    Edx,
}

impl Register {
    /// Its name in small letters.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Eax => "eax",
            Self::Ebx => "ebx",
            Self::Ecx => "ecx",
            Self::Edx => "edx",
        }
    }
}

/// A register of a leaf whose bits are features.
pub(super) struct Word {
    pub(super) leaf: u32,
    pub(super) subleaf: u32,
    pub(super) register: Register,
    /// (bit, name), in the order of bits.
    pub(super) names: &'static [(u8, &'static str)],
}

const fn word(
    leaf: u32,
    subleaf: u32,
    register: Register,
    names: &'static [(u8, &'static str)],
) -> Word {
    Word { leaf, subleaf, register, names }
}

/// AMD repeats bits of leaf 1 in EDX of leaf 0x80000001 (APM volume 3, E.4.2); Intel does not. The bits of leaf 1
/// speak for both.
pub(super) const REPEATED: u32 = 0x0183_f3ff;

/// Every word, in the order of CPUID.
pub(super) const WORDS: [Word; 19] = [
    word(
        0x1,
        0,
        Register::Ecx,
        &[
            (0, "pni"),
            (1, "pclmulqdq"),
            (2, "dtes64"),
            (3, "monitor"),
            (4, "ds_cpl"),
            (5, "vmx"),
            (6, "smx"),
            (7, "est"),
            (8, "tm2"),
            (9, "ssse3"),
            (10, "cid"),
            (11, "sdbg"),
            (12, "fma"),
            (13, "cx16"),
            (14, "xtpr"),
            (15, "pdcm"),
            (17, "pcid"),
            (18, "dca"),
            (19, "sse4_1"),
            (20, "sse4_2"),
            (21, "x2apic"),
            (22, "movbe"),
            (23, "popcnt"),
            (24, "tsc_deadline_timer"),
            (25, "aes"),
            (26, "xsave"),
            (27, "osxsave"),
            (28, "avx"),
            (29, "f16c"),
            (30, "rdrand"),
            (31, "hypervisor"),
        ],
    ),
    word(
        0x1,
        0,
        Register::Edx,
        &[
            (0, "fpu"),
            (1, "vme"),
            (2, "de"),
            (3, "pse"),
            (4, "tsc"),
            (5, "msr"),
            (6, "pae"),
            (7, "mce"),
            (8, "cx8"),
            (9, "apic"),
            (11, "sep"),
            (12, "mtrr"),
            (13, "pge"),
            (14, "mca"),
            (15, "cmov"),
            (16, "pat"),
            (17, "pse36"),
            (18, "pn"),
            (19, "clflush"),
            (21, "dts"),
            (22, "acpi"),
            (23, "mmx"),
            (24, "fxsr"),
            (25, "sse"),
            (26, "sse2"),
            (27, "ss"),
            (28, "ht"),
            (29, "tm"),
            (30, "ia64"),
            (31, "pbe"),
        ],
    ),
    word(
        0x6,
        0,
        Register::Eax,
        &[
            (0, "dtherm"),
            (1, "ida"),
            (2, "arat"),
            (4, "pln"),
            (6, "pts"),
            (7, "hwp"),
            (8, "hwp_notify"),
            (9, "hwp_act_window"),
            (10, "hwp_epp"),
            (11, "hwp_pkg_req"),
            (15, "hwp_highest_perf_change"),
            (19, "hfi"),
        ],
    ),
    word(
        0x7,
        0,
        Register::Ebx,
        &[
            (0, "fsgsbase"),
            (1, "tsc_adjust"),
            (2, "sgx"),
            (3, "bmi1"),
            (4, "hle"),
            (5, "avx2"),
            (6, "fdp_excptn_only"),
            (7, "smep"),
            (8, "bmi2"),
            (9, "erms"),
            (10, "invpcid"),
            (11, "rtm"),
            (12, "cqm"),
            (13, "zero_fcs_fds"),
            (14, "mpx"),
            (15, "rdt_a"),
            (16, "avx512f"),
            (17, "avx512dq"),
            (18, "rdseed"),
            (19, "adx"),
            (20, "smap"),
            (21, "avx512ifma"),
            (23, "clflushopt"),
            (24, "clwb"),
            (25, "intel_pt"),
            (26, "avx512pf"),
            (27, "avx512er"),
            (28, "avx512cd"),
            (29, "sha_ni"),
            (30, "avx512bw"),
            (31, "avx512vl"),
        ],
    ),
    word(
        0x7,
        0,
        Register::Ecx,
        &[
            (1, "avx512vbmi"),
            (2, "umip"),
            (3, "pku"),
            (4, "ospke"),
            (5, "waitpkg"),
            (6, "avx512_vbmi2"),
            (7, "shstk"),
            (8, "gfni"),
            (9, "vaes"),
            (10, "vpclmulqdq"),
            (11, "avx512_vnni"),
            (12, "avx512_bitalg"),
            (13, "tme"),
            (14, "avx512_vpopcntdq"),
            (16, "la57"),
            (22, "rdpid"),
            (24, "bus_lock_detect"),
            (25, "cldemote"),
            (27, "movdiri"),
            (28, "movdir64b"),
            (29, "enqcmd"),
            (30, "sgx_lc"),
        ],
    ),
    word(
        0x7,
        0,
        Register::Edx,
        &[
            (2, "avx512_4vnniw"),
            (3, "avx512_4fmaps"),
            (4, "fsrm"),
            (8, "avx512_vp2intersect"),
            (9, "srbds_ctrl"),
            (10, "md_clear"),
            (11, "rtm_always_abort"),
            (13, "tsx_force_abort"),
            (14, "serialize"),
            (15, "hybrid_cpu"),
            (16, "tsxldtrk"),
            (18, "pconfig"),
            (19, "arch_lbr"),
            (20, "ibt"),
            (22, "amx_bf16"),
            (23, "avx512_fp16"),
            (24, "amx_tile"),
            (25, "amx_int8"),
            (26, "spec_ctrl"),
            (27, "intel_stibp"),
            (28, "flush_l1d"),
            (29, "arch_capabilities"),
            (30, "core_capabilities"),
            (31, "spec_ctrl_ssbd"),
        ],
    ),
    word(
        0x7,
        1,
        Register::Eax,
        &[
            (4, "avx_vnni"),
            (5, "avx512_bf16"),
            (7, "cmpccxadd"),
            (8, "arch_perfmon_ext"),
            (10, "fzrm"),
            (11, "fsrs"),
            (12, "fsrc"),
            (17, "fred"),
            (18, "lkgs"),
            (19, "wrmsrns"),
            (21, "amx_fp16"),
            (23, "avx_ifma"),
            (26, "lam"),
        ],
    ),
    word(0x7, 1, Register::Ebx, &[]),
    word(0x7, 1, Register::Ecx, &[]),
    word(
        0x7,
        1,
        Register::Edx,
        &[
            (4, "avx_vnni_int8"),
            (5, "avx_ne_convert"),
            (8, "amx_complex"),
            (14, "prefetchiti"),
            (19, "avx10"),
        ],
    ),
    word(
        0x7,
        2,
        Register::Edx,
        &[
            (0, "intel_psfd"),
            (1, "ipred_ctrl"),
            (2, "rrsba_ctrl"),
            (3, "ddpd_u"),
            (4, "bhi_ctrl"),
            (5, "mcdt_no"),
        ],
    ),
    word(
        0xd,
        1,
        Register::Eax,
        &[(0, "xsaveopt"), (1, "xsavec"), (2, "xgetbv1"), (3, "xsaves"), (4, "xfd")],
    ),
    word(
        0x40000001,
        0,
        Register::Eax,
        &[
            (0, "kvm_clocksource"),
            (1, "kvm_nop_io_delay"),
            (2, "kvm_mmu_op"),
            (3, "kvm_clocksource2"),
            (4, "kvm_async_pf"),
            (5, "kvm_steal_time"),
            (6, "kvm_pv_eoi"),
            (7, "kvm_pv_unhalt"),
            (9, "kvm_pv_tlb_flush"),
            (10, "kvm_async_pf_vmexit"),
            (11, "kvm_pv_send_ipi"),
            (12, "kvm_poll_control"),
            (13, "kvm_pv_sched_yield"),
            (14, "kvm_async_pf_int"),
            (15, "kvm_msi_ext_dest_id"),
            (16, "kvm_hc_map_gpa_range"),
            (17, "kvm_migration_control"),
            (24, "kvm_clocksource_stable"),
        ],
    ),
    word(
        0x80000001,
        0,
        Register::Ecx,
        &[
            (0, "lahf_lm"),
            (1, "cmp_legacy"),
            (2, "svm"),
            (3, "extapic"),
            (4, "cr8_legacy"),
            (5, "abm"),
            (6, "sse4a"),
            (7, "misalignsse"),
            (8, "3dnowprefetch"),
            (9, "osvw"),
            (10, "ibs"),
            (11, "xop"),
            (12, "skinit"),
            (13, "wdt"),
            (15, "lwp"),
            (16, "fma4"),
            (17, "tce"),
            (19, "nodeid_msr"),
            (21, "tbm"),
            (22, "topoext"),
            (23, "perfctr_core"),
            (24, "perfctr_nb"),
            (26, "bpext"),
            (27, "ptsc"),
            (28, "perfctr_llc"),
            (29, "mwaitx"),
        ],
    ),
    word(
        0x80000001,
        0,
        Register::Edx,
        &[
            (11, "syscall"),
            (19, "mp"),
            (20, "nx"),
            (22, "mmxext"),
            (25, "fxsr_opt"),
            (26, "pdpe1gb"),
            (27, "rdtscp"),
            (29, "lm"),
            (30, "3dnowext"),
            (31, "3dnow"),
        ],
    ),
    word(0x80000007, 0, Register::Edx, &[(8, "invariant_tsc")]),
    word(
        0x80000008,
        0,
        Register::Ebx,
        &[
            (0, "clzero"),
            (1, "irperf"),
            (2, "xsaveerptr"),
            (4, "rdpru"),
            (9, "wbnoinvd"),
            (12, "amd_ibpb"),
            (14, "amd_ibrs"),
            (15, "amd_stibp"),
            (17, "amd_stibp_always_on"),
            (23, "amd_ppin"),
            (24, "amd_ssbd"),
            (25, "virt_ssbd"),
            (26, "amd_ssb_no"),
            (27, "cppc"),
            (28, "amd_psfd"),
            (29, "btc_no"),
            (30, "amd_ibpb_ret"),
            (31, "brs"),
        ],
    ),
    word(
        0x80000021,
        0,
        Register::Eax,
        &[
            (0, "no_nested_data_bp"),
            (1, "wrmsr_xx_base_ns"),
            (2, "lfence_rdtsc"),
            (5, "verw_clear"),
            (6, "null_sel_clr_base"),
            (8, "autoibrs"),
            (9, "no_smm_ctl_msr"),
            (27, "sbpb"),
            (28, "ibpb_brtype"),
            (29, "srso_no"),
            (30, "srso_user_kernel_no"),
            (31, "srso_bp_spec_reduce"),
        ],
    ),
    word(0x80000021, 0, Register::Ecx, &[(1, "tsa_sq_no"), (2, "tsa_l1_no")]),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_word_and_every_bit_and_every_name_stands_there_once() {
        let place = |word: &Word| (word.leaf, word.subleaf, word.register);
        assert!(WORDS.is_sorted_by(|a, b| place(a) < place(b)));
        let mut names = BTreeSet::new();
        for word in &WORDS {
            assert!(word.names.is_sorted_by(|a, b| a.0 < b.0), "{:#x}", word.leaf);
            for (bit, name) in word.names {
                assert!(*bit < 32 && names.insert(*name), "{name}");
                assert!(!name.contains(['.', '[']), "{name} looks like a place");
            }
        }
    }

    #[test]
    fn no_bit_that_amd_repeats_has_a_name_of_its_own() {
        let is_it = |word: &&Word| word.leaf == 0x8000_0001 && word.register == Register::Edx;
        let word = WORDS.iter().find(is_it).unwrap();
        assert!(word.names.iter().all(|(bit, _)| REPEATED & (1 << bit) == 0));
    }
}
