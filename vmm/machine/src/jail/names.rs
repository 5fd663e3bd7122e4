//! Landlock: nothing is opened by name, no TCP port is used, and nobody outside gets a signal or is found in the
//! abstract socket namespace.

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, LandlockStatus, Ruleset,
    RulesetAttr, RulesetError, Scope,
};

/// The newest that the crate knows. All that it can deny is denied, with no exception; a kernel that knows less
/// denies less.
const NEWEST: ABI = ABI::V10;

/// Denies this process, and whatever it starts, every access that Landlock knows. Returns whether the kernel has Landlock.
///
/// # Errors
/// When it has, and refuses.
pub(super) fn deny_all() -> Result<bool, RulesetError> {
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()?
        .restrict_self()?;
    tracing::debug!(?status, "Landlock");
    Ok(matches!(status.landlock, LandlockStatus::Available { .. }))
}
