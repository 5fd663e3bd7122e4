//! The saved form of a vCPU, and the order in which it is restored.
#![allow(
    unsafe_code,
    reason = "KVM_GET_XSAVE2 and KVM_SET_XSAVE write and read past a fixed structure"
)]

use std::time::Duration;

use kvm_bindings::{
    Msrs, Xsave, kvm_debugregs, kvm_lapic_state, kvm_mp_state, kvm_msr_entry, kvm_regs, kvm_sregs,
    kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};
use kvm_ioctls::VcpuFd;
use serde::{Deserialize, Serialize};

use super::exit::VcpuError;
use crate::kvm::{set_tsc_offset, tsc_offset};

const MSR_IA32_TSC: u32 = 0x10;

/// No XSAVE area that KVM reports today is larger (AMX tiles included: about 11 KiB).
const MAX_XSAVE_BYTES: usize = 64 << 10;
/// MSRs that KVM keeps for a guest and does not list: `KVM_GET_MSR_INDEX_LIST` has none of those whose number
/// depends on the vCPU (kernel, `arch/x86/kvm/x86.c` and `mtrr.c`).
pub(crate) fn unlisted_msrs() -> impl Iterator<Item = u32> {
    /// As many variable ranges and machine-check banks as KVM has; what it refuses is left out.
    const MTRR_RANGES: u32 = 8;
    const MACHINE_CHECK_BANKS: u32 = 32;
    let mtrr_fixed = [0x250, 0x258, 0x259].into_iter().chain(0x268..=0x26f);
    let mtrr_variable = 0x200..0x200 + 2 * MTRR_RANGES;
    let mtrr_default_type = 0x2ff;
    // MCG_STATUS and MCG_CTL; then control, status, address and what else of each bank.
    let machine_check = [0x17a, 0x17b].into_iter().chain(0x400..0x400 + 4 * MACHINE_CHECK_BANKS);
    mtrr_fixed.chain(mtrr_variable).chain([mtrr_default_type]).chain(machine_check)
}

/// KVM's own limit for one `KVM_SET_MSRS` is 256.
const MAX_MSRS: usize = 1024;

/// A saved vCPU state that cannot be used here.
#[derive(Debug, thiserror::Error)]
pub enum VcpuStateError {
    /// An ioctl failed
    #[error(transparent)]
    Vcpu(#[from] VcpuError),
    /// The saved XSAVE area is not of this host's size
    #[error("the saved XSAVE area has {found} bytes, this host's has {expected}")]
    XsaveSize {
        /// Bytes saved.
        found: usize,
        /// Bytes here.
        expected: usize,
    },
    /// KVM would not set an MSR to the value it had
    #[error("KVM refused to set MSR {index:#x} to {saved:#x}; it is {here:#x} here")]
    RefusedMsr {
        /// Its index.
        index: u32,
        /// The value saved.
        saved: u64,
        /// The value it has.
        here: u64,
    },
    /// The saved list is longer than any host's
    #[error("the saved state lists {0} MSRs; no host has so many")]
    TooManyMsrs(usize),
}

/// A paused vCPU. The fields are KVM's own structures: a kernel ABI that does not change.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct VcpuStateV1 {
    mp_state: kvm_mp_state,
    regs: kvm_regs,
    sregs: kvm_sregs,
    /// Words of the XSAVE area, `KVM_CAP_XSAVE2` long.
    xsave: Vec<u32>,
    xcrs: kvm_xcrs,
    debug_regs: kvm_debugregs,
    lapic: kvm_lapic_state,
    events: kvm_vcpu_events,
    /// (index, value), in the order of `KVM_GET_MSR_INDEX_LIST`, and then of `unlisted_msrs`.
    msrs: Vec<(u32, u64)>,
    /// kHz of the guest's TSC.
    tsc_khz: u32,
    /// Guest TSC less host TSC, where KVM tells; of use on the same host only.
    tsc_offset: Option<u64>,
}

impl std::fmt::Debug for VcpuStateV1 {
    /// Where the vCPU was, and whether it would have been interrupted there: of a guest that has fallen silent, one
    /// that waits for an interrupt is told from one that spins. The whole would fill screens, and holds the guest's
    /// secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const RFLAGS_IF: u64 = 1 << 9;
        f.debug_struct("VcpuStateV1")
            .field("rip", &format_args!("{:#x}", self.regs.rip))
            .field("takes_interrupts", &(self.regs.rflags & RFLAGS_IF != 0))
            .field("msrs", &self.msrs.len())
            .finish_non_exhaustive()
    }
}

/// How the guest's clocks go on after a restore.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TimeBase {
    /// At once, on the same host: the TSC goes on as if nothing had happened.
    SameHost,
    /// From a snapshot.
    Later {
        /// Real time since the state was saved.
        elapsed: Duration,
        /// Whether this host saved it and has not been booted since: its TSC has gone on meanwhile.
        is_same_boot: bool,
    },
}

impl TimeBase {
    /// Whether the guest's TSC has the same distance to the host's as before.
    fn keeps_tsc_offset(self) -> bool {
        matches!(self, Self::SameHost | Self::Later { is_same_boot: true, .. })
    }

    /// Real time that has gone by.
    pub(crate) fn elapsed(self) -> Duration {
        match self {
            // KVM knows it, where the host's clock allows; else it is the length of a blackout.
            Self::SameHost => Duration::ZERO,
            Self::Later { elapsed, .. } => elapsed,
        }
    }
}

impl VcpuStateV1 {
    /// Reads everything KVM knows of a paused vCPU. `msr_indices` is KVM's list; `xsave_bytes` is
    /// `KVM_CHECK_EXTENSION(KVM_CAP_XSAVE2)` of the VM, or 0 where that is missing.
    pub(crate) fn of(
        vcpu: &VcpuFd,
        msr_indices: &[u32],
        xsave_bytes: usize,
    ) -> Result<Self, VcpuError> {
        // KVM_GET_MP_STATE first: it makes KVM take in a pending INIT or SIPI, which changes the
        // registers (api.rst, KVM_GET_MP_STATE).
        let mp_state = vcpu.get_mp_state().map_err(VcpuError::ioctl("KVM_GET_MP_STATE"))?;
        Ok(Self {
            mp_state,
            regs: vcpu.get_regs().map_err(VcpuError::ioctl("KVM_GET_REGS"))?,
            sregs: vcpu.get_sregs().map_err(VcpuError::ioctl("KVM_GET_SREGS"))?,
            xsave: read_xsave(vcpu, xsave_bytes)?,
            xcrs: vcpu.get_xcrs().map_err(VcpuError::ioctl("KVM_GET_XCRS"))?,
            debug_regs: vcpu.get_debug_regs().map_err(VcpuError::ioctl("KVM_GET_DEBUGREGS"))?,
            lapic: vcpu.get_lapic().map_err(VcpuError::ioctl("KVM_GET_LAPIC"))?,
            events: vcpu.get_vcpu_events().map_err(VcpuError::ioctl("KVM_GET_VCPU_EVENTS"))?,
            msrs: read_msrs(vcpu, msr_indices)?,
            tsc_khz: vcpu.get_tsc_khz().map_err(VcpuError::ioctl("KVM_GET_TSC_KHZ"))?,
            tsc_offset: tsc_offset(vcpu).ok(),
        })
    }

    /// Writes everything back, in the one order that works:
    ///
    /// | step | why there |
    /// |---|---|
    /// | (CPUID) | set when the vCPU was made: `KVM_SET_SREGS` checks CR4 and EFER against it |
    /// | special registers | the mode decides what the rest means |
    /// | XCR0, XSAVE | CR4.OSXSAVE is set by now |
    /// | general and debug registers | any time after the mode; `KVM_SET_REGS` drops pending exceptions |
    /// | TSC offset | before a TSC-deadline is armed against it |
    /// | LAPIC | before its MSRs: the TSC-deadline is dropped unless the timer is in that mode |
    /// | MSRs | after the LAPIC |
    /// | mp_state | after the LAPIC, which an INIT would reset |
    /// | events | last: pending exceptions and interrupts, which earlier steps would drop |
    pub(crate) fn restore(
        &self,
        vcpu: &VcpuFd,
        xsave_bytes: usize,
        time: TimeBase,
    ) -> Result<(), VcpuStateError> {
        vcpu.set_sregs(&self.sregs).map_err(VcpuError::ioctl("KVM_SET_SREGS"))?;
        vcpu.set_xcrs(&self.xcrs).map_err(VcpuError::ioctl("KVM_SET_XCRS"))?;
        write_xsave(vcpu, &self.xsave, xsave_bytes)?;
        #[cfg(feature = "fault-injection")]
        if crate::fault::drops_field() {
            return Ok(());
        }
        vcpu.set_regs(&self.regs).map_err(VcpuError::ioctl("KVM_SET_REGS"))?;
        vcpu.set_debug_regs(&self.debug_regs).map_err(VcpuError::ioctl("KVM_SET_DEBUGREGS"))?;
        let keeps_offset = match self.tsc_offset.filter(|_| time.keeps_tsc_offset()) {
            Some(offset) => set_tsc_offset(vcpu, offset).is_ok(),
            None => false,
        };
        vcpu.set_lapic(&self.lapic).map_err(VcpuError::ioctl("KVM_SET_LAPIC"))?;
        // Writing the TSC's value would undo the offset.
        let skipped = keeps_offset.then_some(MSR_IA32_TSC);
        let mut msrs = self.msrs.clone();
        // A guest that keeps time by its TSC shall not find that it stood still.
        let ticks = ticks(time.elapsed(), self.tsc_khz);
        let tsc = msrs.iter_mut().filter(|(index, _)| *index == MSR_IA32_TSC);
        tsc.for_each(|(_, value)| *value = value.wrapping_add(ticks));
        write_msrs(vcpu, &msrs, skipped)?;
        vcpu.set_mp_state(self.mp_state).map_err(VcpuError::ioctl("KVM_SET_MP_STATE"))?;
        vcpu.set_vcpu_events(&self.events).map_err(VcpuError::ioctl("KVM_SET_VCPU_EVENTS"))?;
        Ok(())
    }

    /// The guest's TSC when it was saved; 0 if KVM did not tell.
    #[cfg(test)]
    pub(crate) fn tsc(&self) -> u64 {
        let tsc = self.msrs.iter().find(|(index, _)| *index == MSR_IA32_TSC);
        tsc.map_or(0, |(_, value)| *value)
    }

    /// The parts of this state that time alone changes, set to fixed values: what a test compares
    /// by rule and not by byte. These are the TSC, its offset and deadline, and the LAPIC timer's
    /// current count.
    #[cfg(any(test, feature = "fault-injection"))]
    pub(crate) fn without_time(&self) -> Self {
        const TIMES: [u32; 2] = [MSR_IA32_TSC, 0x6e0];
        const LAPIC_CURRENT_COUNT: usize = 0x390;
        let mut still = self.clone();
        still.tsc_offset = None;
        still.msrs.iter_mut().filter(|(i, _)| TIMES.contains(i)).for_each(|(_, value)| *value = 0);
        still.lapic.regs[LAPIC_CURRENT_COUNT..LAPIC_CURRENT_COUNT + 4].fill(0);
        still
    }
}

/// How far a TSC of so many kHz goes in a time.
fn ticks(elapsed: Duration, tsc_khz: u32) -> u64 {
    let ticks = elapsed.as_nanos() * u128::from(tsc_khz) / 1_000_000;
    u64::try_from(ticks).unwrap_or(u64::MAX)
}

/// Words that an XSAVE area of `bytes` needs after the fixed `struct kvm_xsave`.
fn extra_words(bytes: usize) -> usize {
    bytes.saturating_sub(size_of::<kvm_xsave>()).div_ceil(size_of::<u32>())
}

fn read_xsave(vcpu: &VcpuFd, bytes: usize) -> Result<Vec<u32>, VcpuError> {
    if bytes == 0 {
        let area = vcpu.get_xsave().map_err(VcpuError::ioctl("KVM_GET_XSAVE"))?;
        return Ok(area.region.to_vec());
    }
    let mut area = Xsave::new(extra_words(bytes)).map_err(|_| too_long("KVM_GET_XSAVE2"))?;
    // SAFETY: get_xsave2 asks that the area be as long as KVM_CAP_XSAVE2 says: `bytes` is that
    // value, and nothing in this process enables features with arch_prctl() afterwards.
    unsafe { vcpu.get_xsave2(&mut area) }.map_err(VcpuError::ioctl("KVM_GET_XSAVE2"))?;
    let mut words = area.as_fam_struct_ref().xsave.region.to_vec();
    words.extend_from_slice(area.as_slice());
    Ok(words)
}

fn write_xsave(vcpu: &VcpuFd, words: &[u32], bytes: usize) -> Result<(), VcpuStateError> {
    let fixed = size_of::<kvm_xsave>() / size_of::<u32>();
    let expected = fixed + extra_words(bytes);
    if words.len() != expected || size_of_val(words) > MAX_XSAVE_BYTES {
        let [found, expected] = [words.len(), expected].map(|words| words * size_of::<u32>());
        return Err(VcpuStateError::XsaveSize { found, expected });
    }
    let mut area = Xsave::from_entries(&words[1024..]).map_err(|_| too_long("KVM_SET_XSAVE"))?;
    let mut region = kvm_xsave::default();
    region.region.copy_from_slice(&words[..1024]);
    // SAFETY: as_mut_fam_struct asks that the length field stay as it is; only `xsave` is written.
    unsafe { area.as_mut_fam_struct() }.xsave.region = region.region;
    // SAFETY: set_xsave2 asks for an area as long as KVM_CAP_XSAVE2 says; checked above.
    unsafe { vcpu.set_xsave2(&area) }.map_err(VcpuError::ioctl("KVM_SET_XSAVE"))?;
    Ok(())
}

fn too_long(call: &'static str) -> VcpuError {
    VcpuError::Ioctl { call, source: kvm_ioctls::Error::new(libc::E2BIG) }
}

/// Reads what can be read. An index that KVM lists and then refuses is left out: it cannot be set
/// elsewhere either.
fn read_msrs(vcpu: &VcpuFd, indices: &[u32]) -> Result<Vec<(u32, u64)>, VcpuError> {
    let mut values = Vec::with_capacity(indices.len());
    let mut rest = indices;
    while !rest.is_empty() {
        let entries: Vec<_> = rest
            .iter()
            .take(256)
            .map(|&index| kvm_msr_entry { index, ..Default::default() })
            .collect();
        let mut msrs = Msrs::from_entries(&entries).map_err(|_| too_long("KVM_GET_MSRS"))?;
        let read = vcpu.get_msrs(&mut msrs).map_err(VcpuError::ioctl("KVM_GET_MSRS"))?;
        values.extend(msrs.as_slice()[..read].iter().map(|entry| (entry.index, entry.data)));
        // KVM stops at the first that it refuses.
        let step = if read < entries.len() { read + 1 } else { read };
        rest = &rest[step..];
    }
    Ok(values)
}

/// Sets all but `skipped`. KVM lists some that it lets nobody set; those must have the saved value
/// already.
fn write_msrs(
    vcpu: &VcpuFd,
    values: &[(u32, u64)],
    skipped: Option<u32>,
) -> Result<(), VcpuStateError> {
    if values.len() > MAX_MSRS {
        return Err(VcpuStateError::TooManyMsrs(values.len()));
    }
    let entries: Vec<_> = values
        .iter()
        .filter(|(index, _)| Some(*index) != skipped)
        .map(|&(index, data)| kvm_msr_entry { index, data, ..Default::default() })
        .collect();
    let mut rest = entries.as_slice();
    while !rest.is_empty() {
        let chunk = &rest[..rest.len().min(256)];
        let msrs = Msrs::from_entries(chunk).map_err(|_| too_long("KVM_SET_MSRS"))?;
        let set = vcpu.set_msrs(&msrs).map_err(VcpuError::ioctl("KVM_SET_MSRS"))?;
        if let Some(refused) = chunk.get(set) {
            check_refused(vcpu, refused)?;
        }
        // KVM stops at the first that it refuses: go on after it.
        rest = &rest[set + usize::from(set < chunk.len())..];
    }
    Ok(())
}

fn check_refused(vcpu: &VcpuFd, wanted: &kvm_msr_entry) -> Result<(), VcpuStateError> {
    let (index, saved) = (wanted.index, wanted.data);
    let here = read_msrs(vcpu, &[index])?.first().map_or(0, |(_, value)| *value);
    if here == saved { Ok(()) } else { Err(VcpuStateError::RefusedMsr { index, saved, here }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::CpuModel;
    use crate::kvm::Host;
    use crate::memory::MemoryLayout;
    use crate::vm::{CpuCount, MachineConfig, Paused};

    /// A vCPU of its own VM, with what KVM gives it at first.
    fn vcpu(host: &Host) -> VcpuFd {
        let vm = host.kvm().create_vm().unwrap();
        vm.create_irq_chip().unwrap();
        vm.create_vcpu(0).unwrap()
    }

    #[test]
    fn a_tsc_goes_on_by_the_time_that_has_passed() {
        assert_eq!(ticks(Duration::from_millis(1), 2_000_000), 2_000_000);
        assert_eq!(ticks(Duration::from_secs(86_400 * 365), 3_000_000), 94_608_000_000_000_000);
        assert_eq!(ticks(Duration::MAX, u32::MAX), u64::MAX);
        let later =
            |is_same_boot| TimeBase::Later { elapsed: Duration::from_secs(1), is_same_boot };
        assert!(TimeBase::SameHost.keeps_tsc_offset() && later(true).keeps_tsc_offset());
        assert!(!later(false).keeps_tsc_offset());
    }

    #[test]
    fn registers_that_kvm_does_not_list_go_over_too() {
        let Some(host) = Host::of_test("registers_that_kvm_does_not_list_go_over_too") else {
            return;
        };
        let indices: Vec<u32> = unlisted_msrs().collect();
        let (from, to) = (vcpu(&host), vcpu(&host));
        // Fixed ranges at the bottom, and everything else: write-back; and one bank that reports nothing.
        let set = [(0x250, 0x0606_0606_0606_0606), (0x2ff, 0xc06), (0x400, 0)];
        write_msrs(&from, &set, None).unwrap();
        let saved = read_msrs(&from, &indices).unwrap();
        for register in set {
            assert!(saved.contains(&register), "{register:x?} is not in {saved:x?}");
        }
        assert_ne!(read_msrs(&to, &indices).unwrap(), saved);
        write_msrs(&to, &saved, None).unwrap();
        assert_eq!(read_msrs(&to, &indices).unwrap(), saved);

        let memory = MemoryLayout::new(32 << 20, 16 << 20).unwrap();
        let config =
            MachineConfig { cpus: CpuCount::try_from(1_u32).unwrap(), cpu: CpuModel::Host, memory };
        let state = Paused::new(&host, config).unwrap().save().unwrap();
        for (index, _) in set {
            let is_saved = state.vcpus[0].msrs.iter().any(|(saved, _)| *saved == index);
            assert!(is_saved, "a machine's state lacks MSR {index:#x}");
        }
    }
}
