//! CPU models: what CPUID tells a guest, and whether a host can give it.
//!
//! Everything here but the question what this host supports is a pure function over CPUID tables. Nothing here is
//! ever guessed: a bit that has no name is compared like any other.

mod baseline;
mod common;
mod error;
mod features;
mod host;
mod leaf;
mod model;
mod msr;
mod profile;
mod template;
mod words;

pub use common::CommonCpu;
pub use error::CpuError;
pub use features::{Feature, FeatureError, Features};
pub use host::HostCpu;
pub use leaf::CpuidLeaf;
pub use model::{CpuModel, UnknownModel};
pub use profile::{CpuDifference, CpuProfile, XsaveArea};
pub(crate) use template::{CpuidTemplate, SavedCpuid};
pub use words::Register;
