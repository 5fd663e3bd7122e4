//! No capability, and no way to one.

use rustix::io::Errno;
use rustix::thread::{
    CapabilitiesSecureBits, CapabilitySet, CapabilitySets, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_capabilities_secure_bits,
    set_no_new_privs,
};

/// Capabilities are bits of 64; the kernel says where its own end.
const MOST: u32 = 64;

/// Gives up every capability, in every set, and whatever an executable could give of them.
///
/// # Errors
/// When the kernel refuses what it refuses nobody.
pub(super) fn give_up() -> rustix::io::Result<()> {
    set_no_new_privs(true)?;
    if let Err(error) = lock() {
        // Both want CAP_SETPCAP. Who has no capability to begin with loses nothing: no_new_privs holds already.
        tracing::debug!(%error, "bounding set and securebits stay as they are");
    }
    clear_ambient_capability_set()?;
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })
}

/// Empties the bounding set, and fixes that user id 0 is a user id like others.
fn lock() -> rustix::io::Result<()> {
    for capability in 0..MOST {
        match remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << capability))
        {
            Ok(()) => {}
            Err(Errno::INVAL) => break,
            Err(error) => return Err(error),
        }
    }
    // KEEP_CAPS is locked as off.
    set_capabilities_secure_bits(
        CapabilitiesSecureBits::NO_ROOT
            | CapabilitiesSecureBits::NO_ROOT_LOCKED
            | CapabilitiesSecureBits::NO_SETUID_FIXUP
            | CapabilitiesSecureBits::NO_SETUID_FIXUP_LOCKED
            | CapabilitiesSecureBits::KEEP_CAPS_LOCKED
            | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE
            | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE_LOCKED,
    )
}
