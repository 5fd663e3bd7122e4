//! Random bytes of the kernel: ids, nonces and keys.

use std::io;

use rustix::rand::{GetRandomFlags, getrandom};

/// So many of them.
///
/// # Errors
/// When the host has no random source.
pub(crate) fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    let mut filled = 0;
    while filled < N {
        filled += getrandom(&mut bytes[filled..], GetRandomFlags::empty())?;
    }
    Ok(bytes)
}
