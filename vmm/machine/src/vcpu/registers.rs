//! The registers with which a vCPU enters a freshly loaded guest.

use kvm_bindings::{Msrs, kvm_msr_entry, kvm_regs, kvm_segment, kvm_sregs};
use kvm_ioctls::VcpuFd;

use super::exit::VcpuError;

/// Where and in which mode the first instruction runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EntryPoint {
    /// 32-bit protected mode, paging off, EBX at the start info
    /// (xen: docs/misc/pvh.pandoc, "PVH guests").
    Pvh {
        /// Physical address of the first instruction.
        entry: u64,
        /// Physical address of `hvm_start_info`.
        start_info: u64,
    },
    /// 64-bit mode over an identity map, RSI at the zero page
    /// (Linux: Documentation/arch/x86/boot.rst, "64-bit Boot Protocol").
    Linux64 {
        /// Physical address of the first instruction.
        entry: u64,
        /// Physical address of `boot_params`.
        boot_params: u64,
        /// Physical address of the first-level page table.
        page_table: u64,
        /// Physical address of a descriptor table with the selectors the protocol names.
        gdt: u64,
        /// Initial stack pointer.
        stack: u64,
    },
}

impl EntryPoint {
    /// Guest physical address of the first instruction.
    pub(crate) fn first_instruction(self) -> u64 {
        match self {
            Self::Pvh { entry, .. } | Self::Linux64 { entry, .. } => entry,
        }
    }
}

/// Writes what differs from the state in which `KVM_CREATE_VCPU` leaves a vCPU.
pub(crate) struct Registers;

const CR0_PE: u64 = 1 << 0;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
const RFLAGS_ALWAYS_ONE: u64 = 1 << 1;

const MSR_IA32_MISC_ENABLE: u32 = 0x1a0;
const MSR_MTRR_DEF_TYPE: u32 = 0x2ff;
/// MTRRs enabled, memory without a range register is write-back.
const MTRR_ENABLED_WRITE_BACK: u64 = (1 << 11) | 6;

impl Registers {
    /// Puts the boot vCPU at the guest's first instruction.
    pub(crate) fn enter(vcpu: &VcpuFd, entry: EntryPoint) -> Result<(), VcpuError> {
        let mut sregs = vcpu.get_sregs().map_err(VcpuError::ioctl("KVM_GET_SREGS"))?;
        let mut regs = kvm_regs { rflags: RFLAGS_ALWAYS_ONE, ..Default::default() };
        match entry {
            EntryPoint::Pvh { entry, start_info } => {
                regs.rip = entry;
                regs.rbx = start_info;
                flat_segments(&mut sregs, false);
                sregs.cr0 = CR0_PE | CR0_ET;
                sregs.cr4 = 0;
                sregs.efer = 0;
            }
            EntryPoint::Linux64 { entry, boot_params, page_table, gdt, stack } => {
                regs.rip = entry;
                regs.rsi = boot_params;
                regs.rsp = stack;
                regs.rbp = stack;
                flat_segments(&mut sregs, true);
                sregs.gdt.base = gdt;
                sregs.gdt.limit = 31;
                sregs.cr3 = page_table;
                sregs.cr4 = CR4_PAE;
                sregs.cr0 = CR0_PE | CR0_ET | CR0_PG;
                sregs.efer = EFER_LME | EFER_LMA;
            }
        }
        vcpu.set_sregs(&sregs).map_err(VcpuError::ioctl("KVM_SET_SREGS"))?;
        vcpu.set_regs(&regs).map_err(VcpuError::ioctl("KVM_SET_REGS"))
    }

    /// What firmware would have set on every processor. `misc_enable` is the CPU model's.
    pub(crate) fn after_firmware(vcpu: &VcpuFd, misc_enable: u64) -> Result<(), VcpuError> {
        let entry = |index, data| kvm_msr_entry { index, data, ..Default::default() };
        let wanted = [
            entry(MSR_IA32_MISC_ENABLE, misc_enable),
            entry(MSR_MTRR_DEF_TYPE, MTRR_ENABLED_WRITE_BACK),
        ];
        for msr in wanted {
            let msrs = Msrs::from_entries(&[msr]).expect("one entry is within KVM's limit");
            // A KVM that does not let us set one of these gives the guest its own value.
            if vcpu.set_msrs(&msrs).map_err(VcpuError::ioctl("KVM_SET_MSRS"))? == 0 {
                tracing::debug!(index = format_args!("{:#x}", msr.index), "KVM refused an MSR");
            }
        }
        let mut lapic = vcpu.get_lapic().map_err(VcpuError::ioctl("KVM_GET_LAPIC"))?;
        // LINT0 takes the 8259's interrupts, LINT1 the NMI: virtual wire mode.
        set_lapic_register(&mut lapic, LAPIC_LVT_LINT0, LVT_EXTINT);
        set_lapic_register(&mut lapic, LAPIC_LVT_LINT1, LVT_NMI);
        vcpu.set_lapic(&lapic).map_err(VcpuError::ioctl("KVM_SET_LAPIC"))
    }
}

const LAPIC_LVT_LINT0: usize = 0x350;
const LAPIC_LVT_LINT1: usize = 0x360;
const LVT_EXTINT: u32 = 0b111 << 8;
const LVT_NMI: u32 = 0b100 << 8;

fn set_lapic_register(lapic: &mut kvm_bindings::kvm_lapic_state, offset: usize, value: u32) {
    for (register, byte) in lapic.regs[offset..offset + 4].iter_mut().zip(value.to_le_bytes()) {
        *register = i8::from_ne_bytes([byte]);
    }
}

/// Flat 4 GiB segments: code at selector 0x10 and data at 0x18, as the boot protocols have them.
fn flat_segments(sregs: &mut kvm_sregs, is_64_bit: bool) {
    let segment = |selector: u16, kind: u8| kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector,
        type_: kind,
        present: 1,
        s: 1,
        g: 1,
        ..Default::default()
    };
    let mut code = segment(0x10, 0xb);
    code.l = u8::from(is_64_bit);
    code.db = u8::from(!is_64_bit);
    let mut data = segment(0x18, 0x3);
    data.db = 1;
    sregs.cs = code;
    sregs.ds = data;
    sregs.es = data;
    sregs.fs = data;
    sregs.gs = data;
    sregs.ss = data;
    sregs.tr =
        kvm_segment { limit: 0x67, selector: 0x20, type_: 0xb, present: 1, ..Default::default() };
}
