//! [`Kernel`]: which kernels there are. This is the one place that says so.

use clap::ValueEnum;
use thiserror::Error;

use crate::fragment::{Fragment, FragmentError};
use crate::options::{Conflict, Options};

/// A fragment's name and text.
type File = (&'static str, &'static str);

const BASE: File = ("base.config", include_str!("../base.config"));
const HOST: File = ("host.config", include_str!("../host.config"));
const GUEST: File = ("guest.config", include_str!("../guest.config"));
const TEST: File = ("test.config", include_str!("../test.config"));
const TEST_HOST: File = ("test-host.config", include_str!("../test-host.config"));

/// A kernel that we build.
///
/// A host's and a guest's share nothing but the base: what runs machines is hardened and drives no virtio
/// device, what runs in them has no KVM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kernel {
    /// What a host runs
    Host,
    /// The same in a test, where the host is a QEMU machine
    TestHost,
    /// What the tests' Linux guests run
    Guest,
}

/// The fragments of a kernel are ours: whatever is wrong with them is a mistake in this tree.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum OptionsError {
    /// One cannot be read.
    #[error(transparent)]
    Fragment(#[from] FragmentError),
    /// Two contradict each other.
    #[error(transparent)]
    Conflict(#[from] Conflict),
}

impl Kernel {
    /// Every kernel.
    pub const ALL: [Self; 3] = [Self::Host, Self::TestHost, Self::Guest];

    /// Its name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::TestHost => "test-host",
            Self::Guest => "guest",
        }
    }

    fn fragments(self) -> &'static [File] {
        match self {
            Self::Host => &[BASE, HOST],
            Self::TestHost => &[BASE, HOST, TEST, TEST_HOST],
            Self::Guest => &[BASE, GUEST, TEST],
        }
    }

    /// What its fragments ask for.
    ///
    /// # Errors
    /// A fragment is malformed, or contradicts another.
    pub fn options(self) -> Result<Options, OptionsError> {
        let fragments: Result<Vec<_>, _> =
            self.fragments().iter().map(|(name, text)| Fragment::parse(name, text)).collect();
        Ok(Options::merge(&fragments?)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asks(kernel: Kernel, option: &str) -> bool {
        let text = kernel.options().unwrap().text();
        text.lines().any(|line| line == format!("{option}=y"))
    }

    #[test]
    fn each_kernel_can_do_what_it_is_for_and_no_more() {
        for (option, host, test_host, guest) in [
            ("CONFIG_SMP", true, true, true),
            ("CONFIG_KVM_AMD", true, true, false),
            ("CONFIG_IO_URING", true, true, false),
            ("CONFIG_INIT_ON_ALLOC_DEFAULT_ON", true, true, false),
            ("CONFIG_VIRTIO_CONSOLE", false, true, true),
            ("CONFIG_SOFTLOCKUP_DETECTOR", false, true, true),
            ("CONFIG_TCP_CONG_BBR", true, true, false),
            ("CONFIG_NET_SCH_NETEM", false, true, false),
            ("CONFIG_KVM_GUEST", false, false, true),
            ("CONFIG_PVH", false, false, true),
            ("CONFIG_MODULES", false, false, false),
        ] {
            let asked = Kernel::ALL.map(|kernel| asks(kernel, option));
            assert_eq!(asked, [host, test_host, guest], "{option}");
        }
    }

    #[test]
    fn a_kernel_has_one_name_on_the_command_line_and_in_messages() {
        for kernel in Kernel::ALL {
            assert_eq!(Kernel::from_str(kernel.name(), false), Ok(kernel));
        }
        assert_eq!(Kernel::ALL, Kernel::value_variants());
    }
}
