//! Creating a VM: the order is the fast one.
#![allow(unsafe_code, reason = "KVM_SET_USER_MEMORY_REGION takes the address of a mapping of ours")]

use std::sync::Arc;

use kvm_bindings::{KVM_MEM_LOG_DIRTY_PAGES, kvm_enable_cap, kvm_userspace_memory_region};
use kvm_ioctls::{Cap, VcpuFd, VmFd};
use vmm_sys_util::eventfd::EventFd;

use super::config::MachineConfig;
use crate::cpu::{CpuError, CpuModel, CpuidTemplate};
use crate::devices::ports::EVENTS_GSI;
use crate::devices::{Bus, Console, Event, Events, GenerationId, IrqLine, SerialPort};
use crate::dirty::{DirtyLog, DirtyLogError, DirtyLogKind, DirtyRings, KvmBitmapLog, KvmRingLog};
use crate::kvm::{
    CAP_MANUAL_DIRTY_LOG_PROTECT2, DIRTY_LOG_INITIALLY_SET, DIRTY_LOG_MANUAL_PROTECT_ENABLE, Host,
    HostError, enable_dirty_rings, use_tsc_khz_of_host,
};
use crate::memory::{GuestRam, RamError};
use crate::state::StateError;
use crate::vcpu::{Gate, Registers, Vcpu, VcpuError, VcpuStateError, VcpuThread, unlisted_msrs};

/// Where KVM may put a task state segment and an identity-mapped page table for real mode on Intel:
/// four pages below the local APIC's end of the hole, which no layout of ours uses.
const IDENTITY_MAP_ADDRESS: u64 = 0xfffb_c000;
const TSS_ADDRESS: usize = 0xfffb_d000;

/// A machine could not be created, saved or restored.
#[derive(Debug, thiserror::Error)]
pub enum VmError {
    /// KVM is missing or too old
    #[error(transparent)]
    Host(#[from] HostError),
    /// The guest's CPU
    #[error(transparent)]
    Cpu(#[from] CpuError),
    /// More memory than the CPU model can address
    #[error(
        "a guest of CPU model {model} addresses {bits} bits, and this memory ends at {end:#x}; give it less with --memory, or use --cpu host"
    )]
    AddressBits {
        /// The model.
        model: CpuModel,
        /// Bits of its physical addresses.
        bits: u32,
        /// One past the last guest physical address of RAM.
        end: u64,
    },
    /// Guest memory
    #[error(transparent)]
    Ram(#[from] RamError),
    /// A vCPU
    #[error(transparent)]
    Vcpu(#[from] VcpuError),
    /// A vCPU's saved state
    #[error("vCPU {index}: {source}")]
    VcpuState {
        /// Which vCPU.
        index: u8,
        /// What is wrong with it.
        source: VcpuStateError,
    },
    /// A saved state
    #[error(transparent)]
    State(#[from] StateError),
    /// The dirty log
    #[error(transparent)]
    DirtyLog(#[from] DirtyLogError),
    /// An ioctl on the VM failed
    #[error("{call} failed: {source}")]
    Ioctl {
        /// The ioctl's name.
        call: &'static str,
        /// What KVM said.
        source: kvm_ioctls::Error,
    },
    /// More vCPUs than this host's KVM takes
    #[error("this host's KVM runs at most {0} vCPUs in one VM; give the machine fewer with --cpus")]
    TooManyCpus(usize),
    /// The process ran out of descriptors or the like
    #[error("cannot set up a device: {0}")]
    Device(#[from] std::io::Error),
    /// A saved device state that the device refuses
    #[error("the saved state of the {device} is refused: {why}")]
    DeviceState {
        /// Which device.
        device: &'static str,
        /// What it said.
        why: String,
    },
}

impl VmError {
    /// Names the ioctl whose error is being mapped.
    pub(crate) fn ioctl(call: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> Self {
        move |source| Self::Ioctl { call, source }
    }
}

/// Everything of a VM but its vCPUs, which run, or lie in a `Paused`.
#[derive(Debug)]
pub(crate) struct VmParts {
    /// Shared with whoever throttles them.
    pub(crate) threads: Arc<[VcpuThread]>,
    /// Where they wait while they are throttled.
    pub(crate) gate: Arc<Gate>,
    pub(crate) config: MachineConfig,
    pub(crate) vm: Arc<VmFd>,
    pub(crate) ram: Arc<GuestRam>,
    /// Where the VM has them instead of a dirty bitmap.
    rings: Option<Arc<DirtyRings>>,
    pub(crate) bus: Arc<Bus>,
    pub(crate) console: Arc<Console>,
    /// All zeros until a guest is booted or restored.
    pub(crate) generation: GenerationId,
    pub(crate) cpuid: CpuidTemplate,
    /// Readable when a vCPU stopped by itself.
    pub(crate) stopped: EventFd,
    pub(crate) msr_indices: Vec<u32>,
    pub(crate) xsave_bytes: usize,
    /// kHz of the guest's TSC.
    pub(crate) tsc_khz: u32,
}

impl VmParts {
    /// Creates the VM around `ram`, with vCPUs as KVM makes them.
    ///
    /// Slots before the irqchip and the vCPUs: KVM then has no one to synchronise with, and the
    /// whole takes about 1 ms where it else takes 6.
    ///
    /// Which dirty log it has is decided here, too: KVM wants to know before the first vCPU.
    pub(crate) fn create(
        host: &Host,
        config: MachineConfig,
        ram: Arc<GuestRam>,
        cpuid: CpuidTemplate,
        dirty_log: DirtyLogKind,
    ) -> Result<(Self, Vec<Vcpu>), VmError> {
        let cpus = config.cpus.get();
        if usize::from(cpus) > host.max_vcpus() {
            return Err(VmError::TooManyCpus(host.max_vcpus()));
        }
        dirty_log.check(host)?;
        let vm = Arc::new(host.create_vm()?);
        let rings = enable_dirty_log(&vm, dirty_log, config)?;
        set_slots(&vm, &ram, false)?;
        vm.set_identity_map_address(IDENTITY_MAP_ADDRESS)
            .map_err(VmError::ioctl("KVM_SET_IDENTITY_MAP_ADDR"))?;
        vm.set_tss_address(TSS_ADDRESS).map_err(VmError::ioctl("KVM_SET_TSS_ADDR"))?;
        vm.create_irq_chip().map_err(VmError::ioctl("KVM_CREATE_IRQCHIP"))?;

        if let Err(error) = use_tsc_khz_of_host(&vm) {
            // Before Linux 5.16: then its default has to do.
            tracing::debug!(%error, "KVM_SET_TSC_KHZ");
        }

        let console = Console::new()?;
        let serial = SerialPort::new(Arc::clone(&vm), Arc::clone(&console))?;
        let events = Events::new(IrqLine::new(Arc::clone(&vm), EVENTS_GSI));
        let bus = Arc::new(Bus::new(serial, events));
        let stopped = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?;
        let mut vcpus = Vec::new();
        let (mut threads, gate) = (Vec::new(), Arc::default());
        for id in 0..cpus {
            let fd = create_vcpu(&vm, id, &cpuid)?;
            rings.as_ref().map_or(Ok(()), |rings| rings.add(&fd))?;
            vcpus.push(Vcpu::new(fd, id, Arc::clone(&bus), Arc::clone(&ram), rings.clone())?);
            threads.push(VcpuThread::start(id, &gate, stopped.try_clone()?)?);
        }
        let mut msr_indices = host
            .kvm()
            .get_msr_index_list()
            .map_err(VmError::ioctl("KVM_GET_MSR_INDEX_LIST"))?
            .as_slice()
            .to_vec();
        // A kernel that lists one of these must not have it set twice.
        let unlisted: Vec<u32> =
            unlisted_msrs().filter(|index| !msr_indices.contains(index)).collect();
        msr_indices.extend(unlisted);
        let msr_indices = cpuid.visible_msrs(msr_indices);
        let xsave_bytes = usize::try_from(vm.check_extension_int(Cap::Xsave2)).unwrap_or(0);
        let tsc_khz = vcpus[0].fd.get_tsc_khz().map_err(VmError::ioctl("KVM_GET_TSC_KHZ"))?;
        let parts = Self {
            threads: threads.into(),
            gate,
            config,
            vm,
            ram,
            rings,
            bus,
            console,
            generation: GenerationId::default(),
            cpuid,
            stopped,
            msr_indices,
            xsave_bytes,
            tsc_khz,
        };
        Ok((parts, vcpus))
    }

    /// Raises an event in the guest.
    pub(crate) fn raise(&self, event: Event) -> Result<(), VmError> {
        self.bus.events().raise(event).map_err(VmError::ioctl("KVM_IRQ_LINE"))
    }

    /// Makes KVM log what is written from now on; returns the log. Whether what was written before is in it, too, is
    /// the log's own affair (a bitmap has every page at first, a ring none): whoever copies owes every page first.
    ///
    /// Takes milliseconds, and with rings longer for more memory, all of which KVM then write-protects at once: never
    /// inside a blackout.
    pub(crate) fn start_dirty_log(&self) -> Result<Box<dyn DirtyLog + Send>, VmError> {
        set_slots(&self.vm, &self.ram, true)?;
        let ram = Arc::clone(&self.ram);
        Ok(match &self.rings {
            None => Box::new(KvmBitmapLog::new(Arc::clone(&self.vm), ram)),
            Some(rings) => Box::new(KvmRingLog::new(Arc::clone(rings), ram)),
        })
    }

    /// Ends the logging: writes run at full speed again.
    pub(crate) fn stop_dirty_log(&self) -> Result<(), VmError> {
        set_slots(&self.vm, &self.ram, false)?;
        self.rings.as_ref().map_or(Ok(()), |rings| rings.empty())?;
        Ok(())
    }

    /// Its dirty rings, where it has them.
    #[cfg(test)]
    pub(crate) fn rings(&self) -> Option<&Arc<DirtyRings>> {
        self.rings.as_ref()
    }
}

/// A guest that cannot address its memory would not find it out before it uses it.
pub(super) fn check_address_bits(
    config: MachineConfig,
    cpuid: &CpuidTemplate,
) -> Result<(), VmError> {
    let end = config.memory.regions().map(|region| region.end()).max().unwrap_or(0);
    let bits = cpuid.profile().physical_address_bits;
    if 1_u64.checked_shl(bits).is_some_and(|limit| end > limit) {
        return Err(VmError::AddressBits { model: config.cpu, bits, end });
    }
    Ok(())
}

fn set_slots(vm: &VmFd, ram: &GuestRam, logs_dirty_pages: bool) -> Result<(), VmError> {
    for (region, host_address) in ram.host_regions() {
        let slot = kvm_userspace_memory_region {
            slot: region.slot,
            flags: if logs_dirty_pages { KVM_MEM_LOG_DIRTY_PAGES } else { 0 },
            guest_phys_addr: region.start,
            memory_size: region.size,
            userspace_addr: host_address,
        };
        // SAFETY: set_user_memory_region asks that the range be a mapping that outlives the slot.
        // `host_regions` gives exactly the mappings of `ram`, and no slot is ever changed to another
        // range. Each vCPU of the VM holds that `ram`: when memory is unmapped no vCPU is left that could
        // run, and what others still do with the VM (interrupt lines) touches no memory.
        unsafe { vm.set_user_memory_region(slot) }
            .map_err(VmError::ioctl("KVM_SET_USER_MEMORY_REGION"))?;
    }
    Ok(())
}

/// Tells KVM which dirty log it is to keep.
///
/// Never both: with `DIRTY_LOG_INITIALLY_SET` KVM write-protects nothing when a log starts, since its bitmap has every
/// page. A ring would not hear of any page that was mapped before.
fn enable_dirty_log(
    vm: &Arc<VmFd>,
    kind: DirtyLogKind,
    config: MachineConfig,
) -> Result<Option<Arc<DirtyRings>>, VmError> {
    match kind {
        DirtyLogKind::Bitmap => {
            enable_manual_protect(vm)?;
            Ok(None)
        }
        DirtyLogKind::Ring(entries) => {
            enable_dirty_rings(vm, entries)
                .map_err(VmError::ioctl("KVM_ENABLE_CAP(DIRTY_LOG_RING_ACQ_REL)"))?;
            Ok(Some(Arc::new(DirtyRings::new(Arc::clone(vm), entries, config.memory))))
        }
    }
}

fn enable_manual_protect(vm: &VmFd) -> Result<(), VmError> {
    let mut cap = kvm_enable_cap { cap: CAP_MANUAL_DIRTY_LOG_PROTECT2, ..Default::default() };
    cap.args[0] = DIRTY_LOG_MANUAL_PROTECT_ENABLE | DIRTY_LOG_INITIALLY_SET;
    vm.enable_cap(&cap).map_err(VmError::ioctl("KVM_ENABLE_CAP(MANUAL_DIRTY_LOG_PROTECT2)"))
}

fn create_vcpu(vm: &VmFd, id: u8, cpuid: &CpuidTemplate) -> Result<VcpuFd, VmError> {
    let fd = vm.create_vcpu(id.into()).map_err(VmError::ioctl("KVM_CREATE_VCPU"))?;
    let entries = cpuid.for_vcpu(id).map_err(|_| VcpuError::CpuidTooLong)?;
    // Before any register: KVM_SET_SREGS checks CR4 and EFER against the CPUID.
    fd.set_cpuid2(&entries).map_err(VmError::ioctl("KVM_SET_CPUID2"))?;
    Registers::after_firmware(&fd, cpuid.misc_enable())?;
    Ok(fd)
}
