//! `/dev/kvm`, and the question whether it can do what a machine needs.

use std::io;
use std::sync::OnceLock;

use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2};
use kvm_ioctls::{Cap, Kvm, VmFd};

use super::ring::{CAP_DIRTY_LOG_RING_ACQ_REL, CAP_DIRTY_LOG_RING_WITH_BITMAP, RingEntries};

/// The KVM API version that has not changed since Linux 2.6.22.
const API_VERSION: i32 = 12;

/// `KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2` (Documentation/virt/kvm/api.rst, 7.18).
pub(crate) const CAP_MANUAL_DIRTY_LOG_PROTECT2: u32 = 168;
/// `KVM_GET_DIRTY_LOG` copies, `KVM_CLEAR_DIRTY_LOG` destroys.
pub(crate) const DIRTY_LOG_MANUAL_PROTECT_ENABLE: u64 = 1 << 0;
/// A log that is switched on starts with every page dirty, and write-protects nothing until the
/// first clear.
pub(crate) const DIRTY_LOG_INITIALLY_SET: u64 = 1 << 1;

/// Why this host cannot run machines.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// /dev/kvm does not exist: load kvm_intel or kvm_amd, or switch virtualization on in the firmware setup
    #[error(
        "/dev/kvm does not exist; load the module kvm_intel or kvm_amd, and switch virtualization on in the firmware setup"
    )]
    NoDevice,
    /// No right to open /dev/kvm
    #[error(
        "no right to open /dev/kvm; run as root, or add this user to the device's group: sudo usermod -aG kvm $USER (then log in again)"
    )]
    NoRight,
    /// Opening /dev/kvm failed for another reason
    #[error("cannot open /dev/kvm: {0}")]
    Open(#[source] io::Error),
    /// Another API than version 12
    #[error("this kernel's KVM speaks API version {0}; version 12 is needed")]
    ApiVersion(i32),
    /// A capability is missing
    #[error(
        "this kernel's KVM lacks {0}, which a machine needs; Linux 5.7 or newer with KVM for x86-64 has it"
    )]
    MissingCapability(&'static str),
    /// No dirty ring, or none that names every page
    #[error(
        "this kernel's KVM has no dirty ring for x86-64 (KVM_CAP_DIRTY_LOG_RING_ACQ_REL, Linux 6.1 or newer); use --dirty-log bitmap"
    )]
    NoDirtyRing,
    /// A ring of more entries than this KVM takes
    #[error(
        "this kernel's KVM takes at most {most} entries in a dirty ring, not {asked}; give fewer with --dirty-log ring:N"
    )]
    DirtyRingTooLarge {
        /// Entries asked for.
        asked: u32,
        /// The most there can be.
        most: u32,
    },
    /// A VM could not be created
    #[error("KVM_CREATE_VM failed: {0}")]
    CreateVm(#[source] kvm_ioctls::Error),
    /// KVM does not tell which CPUID it supports
    #[error("KVM_GET_SUPPORTED_CPUID failed: {0}")]
    SupportedCpuid(#[source] kvm_ioctls::Error),
}

/// An open `/dev/kvm` that has every capability a machine needs.
#[derive(Debug)]
pub struct Host {
    kvm: Kvm,
    has_tsc_deadline_timer: bool,
    /// Asked for once, and not before it is needed.
    supported_cpuid: OnceLock<Vec<kvm_cpuid_entry2>>,
}

impl Host {
    /// The host of a test; or nothing, which counts as skipped.
    #[cfg(test)]
    pub(crate) fn of_test(test: &str) -> Option<Self> {
        Self::open().inspect_err(|error| eprintln!("SKIPPED {test}: {error}")).ok()
    }

    /// Opens `/dev/kvm` and checks it.
    ///
    /// # Errors
    /// Says which of device, right, version or capability is missing, and what to do.
    pub fn open() -> Result<Self, HostError> {
        let kvm = Kvm::new().map_err(|error| match error.errno() {
            libc::ENOENT | libc::ENXIO | libc::ENODEV => HostError::NoDevice,
            libc::EACCES | libc::EPERM => HostError::NoRight,
            errno => HostError::Open(io::Error::from_raw_os_error(errno)),
        })?;
        let version = kvm.get_api_version();
        if version != API_VERSION {
            return Err(HostError::ApiVersion(version));
        }
        for (capability, name) in NEEDED {
            if !kvm.check_extension(*capability) {
                return Err(HostError::MissingCapability(name));
            }
        }
        let modes = kvm.check_extension_raw(CAP_MANUAL_DIRTY_LOG_PROTECT2.into());
        let needed = DIRTY_LOG_MANUAL_PROTECT_ENABLE | DIRTY_LOG_INITIALLY_SET;
        if u64::from(modes.unsigned_abs()) & needed != needed {
            return Err(HostError::MissingCapability("KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2"));
        }
        let has_tsc_deadline_timer = kvm.check_extension(Cap::TscDeadlineTimer);
        Ok(Self { kvm, has_tsc_deadline_timer, supported_cpuid: OnceLock::new() })
    }

    /// Largest number of vCPUs that one VM may have here.
    #[must_use]
    pub fn max_vcpus(&self) -> usize {
        self.kvm.get_max_vcpus()
    }

    /// Whether a VM may have dirty rings of this size here.
    ///
    /// # Errors
    /// When KVM has none, or none so large. Also where it says that it writes guest memory outside of vCPUs
    /// (`KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP`; today arm64 alone does): such pages are in no ring.
    pub(crate) fn check_dirty_ring(&self, entries: RingEntries) -> Result<(), HostError> {
        #[cfg(feature = "fault-injection")]
        if crate::fault::lacks_dirty_ring() {
            return Err(HostError::NoDirtyRing);
        }
        let most_bytes = self.kvm.check_extension_raw(CAP_DIRTY_LOG_RING_ACQ_REL.into());
        let writes_elsewhere = self.kvm.check_extension_raw(CAP_DIRTY_LOG_RING_WITH_BITMAP.into());
        if most_bytes <= 0 || writes_elsewhere > 0 {
            return Err(HostError::NoDirtyRing);
        }
        let most_bytes = most_bytes.unsigned_abs();
        if entries.bytes() > most_bytes {
            let most = RingEntries::of_bytes(most_bytes);
            return Err(HostError::DirtyRingTooLarge { asked: entries.get(), most });
        }
        Ok(())
    }

    /// Whether a guest may be offered the LAPIC's TSC-deadline mode
    /// (`KVM_GET_SUPPORTED_CPUID` never reports that bit itself).
    pub(crate) fn has_tsc_deadline_timer(&self) -> bool {
        self.has_tsc_deadline_timer
    }

    /// What `KVM_GET_SUPPORTED_CPUID` answers.
    pub(crate) fn supported_cpuid(&self) -> Result<&[kvm_cpuid_entry2], HostError> {
        if let Some(supported) = self.supported_cpuid.get() {
            return Ok(supported);
        }
        let answer = self.kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES);
        let answer = answer.map_err(HostError::SupportedCpuid)?;
        Ok(self.supported_cpuid.get_or_init(|| answer.as_slice().to_vec()))
    }

    pub(crate) fn kvm(&self) -> &Kvm {
        &self.kvm
    }

    pub(crate) fn create_vm(&self) -> Result<VmFd, HostError> {
        // KVM_CREATE_VM is interrupted by any signal while it starts its worker thread.
        for _ in 0..16 {
            match self.kvm.create_vm() {
                Err(error) if error.errno() == libc::EINTR => {}
                outcome => return outcome.map_err(HostError::CreateVm),
            }
        }
        Err(HostError::CreateVm(kvm_ioctls::Error::new(libc::EINTR)))
    }
}

/// What every machine uses. Xsave2 and the like are used where they exist and are not listed.
const NEEDED: &[(Cap, &str)] = &[
    (Cap::Irqchip, "KVM_CAP_IRQCHIP"),
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::SetTssAddr, "KVM_CAP_SET_TSS_ADDR"),
    (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID"),
    (Cap::MpState, "KVM_CAP_MP_STATE"),
    (Cap::GetTscKhz, "KVM_CAP_GET_TSC_KHZ"),
    (Cap::VcpuEvents, "KVM_CAP_VCPU_EVENTS"),
    (Cap::Debugregs, "KVM_CAP_DEBUGREGS"),
    (Cap::Xsave, "KVM_CAP_XSAVE"),
    (Cap::Xcrs, "KVM_CAP_XCRS"),
    (Cap::AdjustClock, "KVM_CAP_ADJUST_CLOCK"),
];
