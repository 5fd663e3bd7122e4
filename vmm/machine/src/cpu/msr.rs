//! Model-specific registers that follow from the CPU model.

use super::features::{Feature, Features};
use super::model::CpuModel;

/// Registers that exist for a guest only if its CPUID has one of these features (SDM volume 4; APM volume 2, appendix A). KVM
/// lists them for every guest, with the host's own value where they say what the host is like: such a
/// value does not belong into the saved state of a guest that cannot see it, and another host would
/// refuse it.
const DEPENDENT: [(u32, &[&str]); 9] = [
    // IA32_SPEC_CTRL
    (0x48, &["spec_ctrl", "intel_stibp", "spec_ctrl_ssbd", "amd_ibrs", "amd_stibp", "amd_ssbd"]),
    // IA32_CORE_CAPABILITIES, IA32_UMWAIT_CONTROL
    (0xcf, &["core_capabilities"]),
    (0xe1, &["waitpkg"]),
    // IA32_ARCH_CAPABILITIES, and IA32_TSX_CTRL, which one of its bits announces
    (0x10a, &["arch_capabilities"]),
    (0x122, &["arch_capabilities"]),
    // IA32_XFD, IA32_XFD_ERR
    (0x1c4, &["xfd"]),
    (0x1c5, &["xfd"]),
    // IA32_PERF_CAPABILITIES
    (0x345, &["pdcm"]),
    // IA32_XSS
    (0xda0, &["xsaves"]),
];

/// Whether a guest with these features has no such register.
pub(super) fn is_hidden(index: u32, features: &Features) -> bool {
    let row = DEPENDENT.iter().find(|(dependent, _)| *dependent == index);
    row.is_some_and(|(_, names)| {
        let mut names = names.iter().filter_map(|name| name.parse::<Feature>().ok());
        !names.any(|feature| features.contains(feature))
    })
}

/// `IA32_MISC_ENABLE`: fast strings; a baseline has neither branch trace store nor PEBS, and says so.
pub(super) fn misc_enable(model: CpuModel) -> u64 {
    const FAST_STRINGS: u64 = 1 << 0;
    const NO_BRANCH_TRACE_STORE: u64 = 1 << 11;
    const NO_PEBS: u64 = 1 << 12;
    match model {
        CpuModel::Host => FAST_STRINGS,
        _ => FAST_STRINGS | NO_BRANCH_TRACE_STORE | NO_PEBS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_register_is_hidden_with_the_feature_that_it_belongs_to() {
        const TSC: u32 = 0x10;
        for (index, names) in DEPENDENT {
            assert!(is_hidden(index, &Features::NONE), "{index:#x}");
            for name in names {
                assert!(!is_hidden(index, &Features::named(&[name]).unwrap()), "{index:#x} {name}");
            }
        }
        assert!(!is_hidden(TSC, &Features::NONE));
    }
}
