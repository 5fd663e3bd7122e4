//! The floor under a machine's start: the ioctls that no VMM can leave out, one after the other in
//! this process, until the same guest writes its first byte.
//!
//! The order is that of a machine process (slots before the irqchip and the vCPU: elsewhere it costs
//! milliseconds), and the memory is a memory file as there. There is no permit record, no ACPI, no
//! serial port, no thread, no console, and no saved form.
#![allow(unsafe_code, reason = "KVM_SET_USER_MEMORY_REGION takes the address of a mapping of ours")]

use std::fs::File;
use std::io::Cursor;
use std::time::Instant;

use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, kvm_regs, kvm_segment, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use linux_loader::configurator::pvh::PvhBootConfigurator;
use linux_loader::configurator::{BootConfigurator, BootParams};
use linux_loader::loader::elf::PvhBootCapability;
use linux_loader::loader::elf::start_info::{hvm_memmap_table_entry, hvm_start_info};
use linux_loader::loader::{Elf, KernelLoader};
use vm_memory::{
    Bytes, FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion,
};

use crate::stop::Stop;

type Memory = GuestMemoryMmap<()>;

const START_INFO: GuestAddress = GuestAddress(0x6000);
const MEMORY_MAP: GuestAddress = GuestAddress(0x7000);
const COMMAND_LINE: GuestAddress = GuestAddress(0x2_0000);
const START_INFO_MAGIC: u32 = 0x336e_c578;
const RAM: u32 = 1;
/// The legacy video memory and option ROMs: not in the guest's memory map.
const LOW_RAM_END: u64 = 0xa_0000;
const HIGH_RAM_START: u64 = 0x10_0000;

const COM1_DATA: u16 = 0x3f8;
const COM1_LINE_STATUS: u16 = 0x3fd;
const TRANSMITTER_EMPTY: u8 = 0x60;
/// The guest looks at the line status once, and then writes.
const MAX_EXITS: usize = 1000;

/// How long each part took, in nanoseconds.
#[derive(Clone, Debug)]
pub struct BareStart {
    /// The parts in the order of time.
    pub parts: Vec<(&'static str, u64)>,
}

impl BareStart {
    /// The whole.
    #[must_use]
    pub fn total_ns(&self) -> u64 {
        self.parts.iter().map(|(_, ns)| ns).sum()
    }
}

/// Runs a guest of one vCPU and `memory_bytes` (less than 3 GiB) until its first byte.
///
/// # Errors
/// When KVM refuses a part, or the guest does something else first.
pub fn start_bare(kernel: &[u8], memory_bytes: u64) -> Result<BareStart, Stop> {
    let mut clock = Clock { last: Instant::now(), parts: Vec::new() };
    let kvm = Kvm::new().map_err(|error| Stop::Skipped(format!("/dev/kvm: {error}")))?;
    clock.mark("open /dev/kvm");
    let vm = kvm.create_vm().map_err(Stop::failed("KVM_CREATE_VM"))?;
    clock.mark("KVM_CREATE_VM");
    let memory = map(memory_bytes)?;
    clock.mark("memory file, mmap");
    set_slot(&vm, &memory)?;
    clock.mark("KVM_SET_USER_MEMORY_REGION");
    vm.create_irq_chip().map_err(Stop::failed("KVM_CREATE_IRQCHIP"))?;
    clock.mark("KVM_CREATE_IRQCHIP");
    let mut vcpu = vm.create_vcpu(0).map_err(Stop::failed("KVM_CREATE_VCPU"))?;
    clock.mark("KVM_CREATE_VCPU");
    let cpuid = kvm
        .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
        .map_err(Stop::failed("KVM_GET_SUPPORTED_CPUID"))?;
    vcpu.set_cpuid2(&cpuid).map_err(Stop::failed("KVM_SET_CPUID2"))?;
    clock.mark("CPUID");
    let entry = load(&memory, kernel, memory_bytes)?;
    clock.mark("load the kernel");
    enter(&vcpu, entry)?;
    clock.mark("registers");
    run_until_first_byte(&mut vcpu)?;
    clock.mark("run to the first byte");
    Ok(BareStart { parts: clock.parts })
}

struct Clock {
    last: Instant,
    parts: Vec<(&'static str, u64)>,
}

impl Clock {
    /// Everything since the last mark was for `part`.
    fn mark(&mut self, part: &'static str) {
        let now = Instant::now();
        let ns = u64::try_from((now - self.last).as_nanos()).unwrap_or(u64::MAX);
        self.parts.push((part, ns));
        self.last = now;
    }
}

fn map(bytes: u64) -> Result<Memory, Stop> {
    let file = rustix::fs::memfd_create("bare-guest-ram", rustix::fs::MemfdFlags::CLOEXEC)
        .map_err(Stop::failed("the memory file"))?;
    rustix::fs::ftruncate(&file, bytes).map_err(Stop::failed("the memory file"))?;
    let size = usize::try_from(bytes).map_err(Stop::failed("the memory's size"))?;
    let range = (GuestAddress(0), size, Some(FileOffset::new(File::from(file), 0)));
    Memory::from_ranges_with_files([range]).map_err(Stop::failed("mapping guest memory"))
}

fn set_slot(vm: &VmFd, memory: &Memory) -> Result<(), Stop> {
    let region = memory.iter().next().expect("mapped with one range");
    let host_address = memory
        .get_host_address(GuestAddress(0))
        .map_err(Stop::failed("the address of guest memory"))?;
    let slot = kvm_userspace_memory_region {
        slot: 0,
        flags: 0,
        guest_phys_addr: 0,
        memory_size: region.len(),
        userspace_addr: host_address as u64,
    };
    // SAFETY: set_user_memory_region asks that the range be a mapping that outlives the slot. It is
    // the whole of `memory`'s one mapping; `start_bare` made the VM before `memory` and so drops it
    // after, but the only vCPU is made later, dropped earlier, and runs on this thread alone: nobody
    // reaches the slot once `memory` is gone.
    unsafe { vm.set_user_memory_region(slot) }.map_err(Stop::failed("KVM_SET_USER_MEMORY_REGION"))
}

/// The kernel, a memory map, an empty command line; returns the address of the first instruction.
fn load(memory: &Memory, kernel: &[u8], memory_bytes: u64) -> Result<u64, Stop> {
    let loaded = Elf::load(memory, None, &mut Cursor::new(kernel), None)
        .map_err(Stop::failed("the kernel"))?;
    let PvhBootCapability::PvhEntryPresent(entry) = loaded.pvh_boot_cap else {
        return Err(Stop::Failed("the kernel has no PVH entry".into()));
    };
    memory.write_slice(&[0], COMMAND_LINE).map_err(Stop::failed("the command line"))?;
    let ram = |addr, end| hvm_memmap_table_entry {
        addr,
        size: end - addr,
        type_: RAM,
        ..Default::default()
    };
    let map = [ram(0, LOW_RAM_END), ram(HIGH_RAM_START, memory_bytes)];
    let start_info = hvm_start_info {
        magic: START_INFO_MAGIC,
        version: 1,
        cmdline_paddr: COMMAND_LINE.0,
        memmap_paddr: MEMORY_MAP.0,
        memmap_entries: 2,
        ..Default::default()
    };
    let mut params = BootParams::new(&start_info, START_INFO);
    params.set_sections(&map, MEMORY_MAP);
    PvhBootConfigurator::write_bootparams(&params, memory)
        .map_err(Stop::failed("the start info"))?;
    Ok(entry.0)
}

/// 32-bit protected mode without paging, EBX at the start info (xen: docs/misc/pvh.pandoc).
fn enter(vcpu: &VcpuFd, entry: u64) -> Result<(), Stop> {
    let segment = |selector, kind| kvm_segment {
        limit: 0xffff_ffff,
        selector,
        type_: kind,
        present: 1,
        db: 1,
        s: 1,
        g: 1,
        ..Default::default()
    };
    let mut sregs = vcpu.get_sregs().map_err(Stop::failed("KVM_GET_SREGS"))?;
    sregs.cs = segment(0x10, 0xb);
    let data = segment(0x18, 0x3);
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    sregs.tr =
        kvm_segment { limit: 0x67, selector: 0x20, type_: 0xb, present: 1, ..Default::default() };
    // Protection enabled; the bit of the 387 is always one.
    sregs.cr0 = 1 << 0 | 1 << 4;
    sregs.cr4 = 0;
    sregs.efer = 0;
    vcpu.set_sregs(&sregs).map_err(Stop::failed("KVM_SET_SREGS"))?;
    let regs = kvm_regs { rip: entry, rbx: START_INFO.0, rflags: 1 << 1, ..Default::default() };
    vcpu.set_regs(&regs).map_err(Stop::failed("KVM_SET_REGS"))
}

fn run_until_first_byte(vcpu: &mut VcpuFd) -> Result<(), Stop> {
    for _ in 0..MAX_EXITS {
        match vcpu.run().map_err(Stop::failed("KVM_RUN"))? {
            VcpuExit::IoOut(COM1_DATA, b"o") => return Ok(()),
            VcpuExit::IoIn(COM1_LINE_STATUS, data) => data.fill(TRANSMITTER_EMPTY),
            other => return Err(Stop::Failed(format!("the bare guest exits with {other:?}"))),
        }
    }
    Err(Stop::Failed("the bare guest polls its serial port for ever".into()))
}
