//! What a machine process opens by name.

use std::io;

use crate::clock::{boot_id, monotonic_ns};
use crate::kvm::{Host, HostError};
use crate::memory::{UserfaultFd, open_memory_info};

/// Everything that a machine process has by name and not by descriptor passed to it, whatever it will be told to do:
/// opened before its jail closes, since nothing can be afterwards. What is missing is an error of the order that needs it.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) host: Result<Host, HostError>,
    pub(super) userfault: io::Result<UserfaultFd>,
}

impl Opened {
    pub(super) fn by_name() -> Self {
        // These keep to themselves what they have read or opened; the clock, how it is read without the kernel.
        monotonic_ns();
        boot_id();
        open_memory_info();
        Self { host: Host::open(), userfault: UserfaultFd::open() }
    }
}
