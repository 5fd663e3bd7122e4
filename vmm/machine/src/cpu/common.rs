//! What two hosts have in common.

use serde::{Deserialize, Serialize};

use super::features::Features;
use super::model::CpuModel;
use super::profile::{CpuDifference, CpuProfile};

/// Two hosts compared: what guests can count on that shall move between them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommonCpu {
    /// Features of both.
    pub both: Features,
    /// Features of this host alone.
    pub only_here: Features,
    /// Features of the other host alone.
    pub only_there: Features,
    /// The highest baseline model that both offer.
    pub best: Option<CpuModel>,
    /// What the other host lacks to take a guest of this host's model `host`.
    pub host_to_there: Option<CpuDifference>,
    /// What this host lacks to take a guest of the other host's model `host`.
    pub host_to_here: Option<CpuDifference>,
}

impl CommonCpu {
    /// Compares this host and another one.
    #[must_use]
    pub fn of(here: &CpuProfile, there: &CpuProfile) -> Self {
        let is_offered = |model: &CpuModel| model.check(here).is_ok() && model.check(there).is_ok();
        let baselines = CpuModel::ALL.into_iter().filter(|model| *model != CpuModel::Host);
        Self {
            both: here.features.intersection(&there.features),
            only_here: here.features.without(&there.features),
            only_there: there.features.without(&here.features),
            best: baselines.filter(is_offered).max(),
            host_to_there: there.check(here, true).err().map(|lacks| *lacks),
            host_to_here: here.check(there, true).err().map(|lacks| *lacks),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A host of the third level that lacks some features, and has another vendor if asked.
    fn host(lacks: &[&str], vendor: &str) -> CpuProfile {
        let whole = CpuModel::X86V3.profile().unwrap();
        let features = whole.features.without(&Features::named(lacks).unwrap());
        CpuProfile { features, vendor: vendor.to_owned(), ..whole }
    }

    #[test]
    fn two_vendors_meet_at_the_best_level_of_both() {
        let here = host(&[], "GenuineIntel");
        let there = host(&["avx2", "bmi2"], "AuthenticAMD");
        let common = CommonCpu::of(&here, &there);
        assert_eq!(common.best, Some(CpuModel::X86V2));
        assert_eq!(common.only_here.to_string(), "avx2, bmi2");
        assert!(common.only_there.is_empty());
        assert_eq!(common.both, there.features);
        let to_there = common.host_to_there.unwrap().to_string();
        assert_eq!(to_there, "avx2, bmi2, the vendor GenuineIntel");
        assert_eq!(common.host_to_here.unwrap().to_string(), "the vendor AuthenticAMD");
    }

    #[test]
    fn equal_hosts_exchange_guests_of_the_model_host() {
        let here = host(&["bmi1"], "AuthenticAMD");
        let common = CommonCpu::of(&here, &here);
        assert_eq!((common.host_to_there, common.host_to_here), (None, None));
        assert_eq!((common.both, common.best), (here.features, Some(CpuModel::X86V2)));
    }

    proptest! {
        #[test]
        fn a_comparison_is_the_same_from_either_side(
            one in prop::collection::vec(0_usize..54, 0..4),
            two in prop::collection::vec(0_usize..54, 0..4),
        ) {
            let all: Vec<_> = CpuModel::X86V3.profile().unwrap().features.iter().collect();
            let without = |lost: &[usize]| {
                let lost: Vec<String> = lost.iter().map(|at| all[*at].to_string()).collect();
                host(&lost.iter().map(String::as_str).collect::<Vec<_>>(), "GenuineIntel")
            };
            let (here, there) = (without(&one), without(&two));
            let (from_here, from_there) = (CommonCpu::of(&here, &there), CommonCpu::of(&there, &here));
            prop_assert_eq!(from_here.best, from_there.best);
            prop_assert_eq!(from_here.both, from_there.both);
            prop_assert_eq!(from_here.only_here, from_there.only_there);
            prop_assert_eq!(&from_here.host_to_there, &from_there.host_to_here);
            // The best model of both is the lesser of each one's best.
            let lesser = CpuModel::best_for(&here).min(CpuModel::best_for(&there));
            prop_assert_eq!(from_here.best, lesser);
            // A guest moves as it is only to where nothing is missing.
            prop_assert_eq!(from_here.host_to_there.is_none(), from_here.only_here.is_empty());
        }
    }
}
