//! The CPU models by name.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::baseline;
use super::leaf::CpuidLeaf;
use super::profile::{CpuDifference, CpuProfile};
use super::template::CpuidTemplate;

/// No CPU model has that name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no CPU model; choose one of host, x86-64-v1, x86-64-v2, x86-64-v3 (`novacron cpu` says which this host offers)"
)]
pub struct UnknownModel(String);

/// What a guest's CPU shall be.
///
/// The baselines are the micro-architecture levels of the x86-64 psABI (version 1.0, 3.1.1), each with what a
/// kernel needs beside them. A host that offers one gives a guest exactly the CPUID that any other
/// host does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum CpuModel {
    /// All that the host's KVM supports.
    #[default]
    #[serde(rename = "host")]
    Host,
    /// Every x86-64 processor: SSE2.
    #[serde(rename = "x86-64-v1")]
    X86V1,
    /// From about 2009 on: SSE4.2, POPCNT.
    #[serde(rename = "x86-64-v2")]
    X86V2,
    /// From about 2013 on: AVX2, BMI2, FMA.
    #[serde(rename = "x86-64-v3")]
    X86V3,
}

impl CpuModel {
    /// Every model.
    pub const ALL: [Self; 4] = [Self::Host, Self::X86V1, Self::X86V2, Self::X86V3];

    /// The name by which `--cpu` takes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::X86V1 => "x86-64-v1",
            Self::X86V2 => "x86-64-v2",
            Self::X86V3 => "x86-64-v3",
        }
    }

    /// The version of its table, if it has one: `host` is different on each host.
    #[must_use]
    pub fn version(self) -> Option<u16> {
        (self != Self::Host).then_some(baseline::VERSION)
    }

    /// What a guest of this model has; nothing for `host`, which differs from host to host.
    #[must_use]
    pub fn profile(self) -> Option<CpuProfile> {
        baseline::entries(self).map(|entries| CpuProfile::of(&entries))
    }

    /// The whole CPUID that the first vCPU of a machine with `cpus` vCPUs sees; nothing for `host`.
    ///
    /// KVM itself changes some of it as the guest runs: OSXSAVE (leaf 1, ECX bit 27), APIC (leaf 1, EDX bit 9) and
    /// the size of what XCR0 switches on (leaf 0xd.0, EBX).
    #[must_use]
    pub fn cpuid(self, cpus: u8) -> Option<Vec<CpuidLeaf>> {
        let entries = CpuidTemplate::baseline(self, cpus)?.entries_of(0);
        Some(entries.iter().map(CpuidLeaf::from).collect())
    }

    /// What a host of the profile `host` lacks to offer this model.
    ///
    /// # Errors
    /// Everything that is missing.
    pub fn check(self, host: &CpuProfile) -> Result<(), Box<CpuDifference>> {
        self.profile().map_or(Ok(()), |needed| host.check(&needed, false))
    }

    /// The highest baseline that a host of this profile offers.
    #[must_use]
    pub fn best_for(host: &CpuProfile) -> Option<Self> {
        Self::ALL.into_iter().rev().find(|model| *model != Self::Host && model.check(host).is_ok())
    }
}

impl fmt::Display for CpuModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for CpuModel {
    type Err = UnknownModel;

    fn from_str(name: &str) -> Result<Self, UnknownModel> {
        let found = Self::ALL.into_iter().find(|model| model.name() == name);
        found.ok_or_else(|| UnknownModel(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::features::Features;
    use super::*;

    fn features(model: CpuModel) -> Features {
        model.profile().unwrap().features
    }

    #[test]
    fn models_are_known_by_their_names() {
        for model in CpuModel::ALL {
            assert_eq!(model.to_string().parse(), Ok(model));
        }
        let unknown = "pentium".parse::<CpuModel>().unwrap_err().to_string();
        assert!(CpuModel::ALL.iter().all(|model| unknown.contains(model.name())), "{unknown}");
    }

    #[test]
    fn each_level_has_all_of_the_level_below() {
        let levels = &CpuModel::ALL[1..];
        for pair in levels.windows(2) {
            let (lower, higher) = (features(pair[0]), features(pair[1]));
            assert!(lower.without(&higher).is_empty(), "{}", lower.without(&higher));
            assert!(higher.len() > lower.len());
        }
    }

    #[test]
    fn each_level_has_what_the_psabi_lists() {
        let listed = |names: &[&str]| Features::named(names).unwrap();
        let v1 = ["cmov", "cx8", "fpu", "fxsr", "mmx", "syscall", "sse", "sse2", "lm"];
        let v2 = ["cx16", "lahf_lm", "popcnt", "pni", "sse4_1", "sse4_2", "ssse3"];
        // LZCNT is what the kernel calls abm; OSXSAVE is the guest's to switch on where there is XSAVE.
        let v3 = ["avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"];
        for (model, names) in
            [(CpuModel::X86V1, &v1[..]), (CpuModel::X86V2, &v2), (CpuModel::X86V3, &v3)]
        {
            let missing = listed(names).without(&features(model));
            assert!(missing.is_empty(), "{model} lacks {missing}");
        }
        assert!(listed(&v2).intersection(&features(CpuModel::X86V1)).is_empty());
        assert!(listed(&v3).intersection(&features(CpuModel::X86V2)).is_empty());
    }

    #[test]
    fn a_host_offers_a_model_and_all_below_or_says_what_it_lacks() {
        let of_v3 = CpuModel::X86V3.profile().unwrap();
        assert_eq!(CpuModel::best_for(&of_v3), Some(CpuModel::X86V3));
        let lost = Features::named(&["avx2", "bmi2"]).unwrap();
        let less = CpuProfile { features: of_v3.features.without(&lost), ..of_v3.clone() };
        assert_eq!(CpuModel::best_for(&less), Some(CpuModel::X86V2));
        let difference = CpuModel::X86V3.check(&less).unwrap_err();
        assert_eq!(difference.to_string(), "avx2, bmi2");
        assert!(CpuModel::Host.check(&less).is_ok());
        let nothing = CpuProfile { features: Features::NONE, ..of_v3 };
        assert_eq!(CpuModel::best_for(&nothing), None);
    }
}
