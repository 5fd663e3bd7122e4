//! Why a guest cannot have its CPU here.

use super::model::CpuModel;
use super::profile::CpuDifference;
use crate::kvm::HostError;

/// A guest cannot have its CPU on this host.
#[derive(Debug, thiserror::Error)]
pub enum CpuError {
    /// KVM does not tell what it supports
    #[error(transparent)]
    Host(#[from] HostError),
    /// The host lacks a part of the model that was asked for
    #[error("this host lacks {lacks} of CPU model {model}; {}", at_the_start(*.instead))]
    NotOffered {
        /// The model.
        model: CpuModel,
        /// What is missing.
        lacks: Box<CpuDifference>,
        /// The best model that the host does offer.
        instead: Option<CpuModel>,
    },
    /// A guest that was started elsewhere has what this host lacks
    #[error(
        "this host lacks {lacks}, which the guest has had since its start (CPU model {model}); {}", on_arrival(*.instead)
    )]
    GuestHasMore {
        /// The guest's model.
        model: CpuModel,
        /// What is missing.
        lacks: Box<CpuDifference>,
        /// The best model that the host does offer.
        instead: Option<CpuModel>,
    },
    /// A CPUID that is not of this machine
    #[error("the guest's CPUID is that of {found} vCPUs, and its machine has {expected}")]
    Vcpus {
        /// vCPUs of the CPUID.
        found: u8,
        /// vCPUs of the machine.
        expected: u8,
    },
}

fn at_the_start(instead: Option<CpuModel>) -> String {
    match instead {
        Some(model) => format!("choose --cpu {model}, or `novacron cpu` to see all that it offers"),
        None => "choose --cpu host".to_owned(),
    }
}

fn on_arrival(instead: Option<CpuModel>) -> String {
    match instead {
        Some(model) => format!(
            "it stays where it is: choose a host that has them, or start guests that shall come here with --cpu {model}"
        ),
        None => "it stays where it is: choose a host that has them".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::features::Features;
    use super::*;

    fn lacks(names: &[&str]) -> Box<CpuDifference> {
        let features = Features::named(names).unwrap();
        Box::new(CpuDifference { features, ..CpuDifference::default() })
    }

    #[test]
    fn a_refusal_names_what_is_missing_and_what_to_do() {
        let (model, instead) = (CpuModel::X86V3, Some(CpuModel::X86V2));
        let error = CpuError::NotOffered { model, lacks: lacks(&["avx2", "bmi2"]), instead };
        let said = error.to_string();
        let expected = "this host lacks avx2, bmi2 of CPU model x86-64-v3; choose --cpu x86-64-v2,";
        assert!(said.starts_with(expected), "{said}");
        let error = CpuError::GuestHasMore { model, lacks: lacks(&["avx2"]), instead };
        let said = error.to_string();
        assert!(said.contains("lacks avx2, which the guest has had"), "{said}");
        assert!(said.ends_with("--cpu x86-64-v2"), "{said}");
    }
}
