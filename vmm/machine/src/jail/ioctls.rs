//! Numbers of ioctls, made as `linux/kvm.h` and `linux/userfaultfd.h` make them: of a letter, a number, and the size and
//! direction of what is passed.

use kvm_bindings::{
    KVMIO, kvm_clear_dirty_log, kvm_clock_data, kvm_cpuid2, kvm_debugregs, kvm_device_attr,
    kvm_dirty_log, kvm_enable_cap, kvm_irq_level, kvm_irqchip, kvm_lapic_state, kvm_mp_state,
    kvm_msr_list, kvm_msrs, kvm_regs, kvm_sregs, kvm_userspace_memory_region, kvm_vcpu_events,
    kvm_xcrs, kvm_xsave,
};
use linux_raw_sys::general::{
    UFFD_API, uffdio_api, uffdio_copy, uffdio_range, uffdio_register, uffdio_zeropage,
};

const NONE: u32 = 0;
const WRITE: u32 = 1;
const READ: u32 = 2;

#[allow(clippy::cast_possible_truncation, reason = "a size has 14 bits, which is asserted")]
const fn number<T>(direction: u32, letter: u32, number: u32) -> u32 {
    let size = if direction == NONE { 0 } else { size_of::<T>() };
    assert!(size < 1 << 14, "of such a size there is no ioctl");
    direction << 30 | (size as u32) << 16 | letter << 8 | number
}

const fn kvm<T>(direction: u32, of: u32) -> u32 {
    number::<T>(direction, KVMIO, of)
}

const fn uffd<T>(direction: u32, of: u32) -> u32 {
    number::<T>(direction, UFFD_API, of)
}

/// `struct kvm_signal_mask` up to its flexible array.
type SignalMask = u32;

pub(super) const KVM_CREATE_VM: u32 = kvm::<()>(NONE, 0x01);
pub(super) const KVM_GET_MSR_INDEX_LIST: u32 = kvm::<kvm_msr_list>(READ | WRITE, 0x02);
pub(super) const KVM_CHECK_EXTENSION: u32 = kvm::<()>(NONE, 0x03);
pub(super) const KVM_GET_VCPU_MMAP_SIZE: u32 = kvm::<()>(NONE, 0x04);
pub(super) const KVM_GET_SUPPORTED_CPUID: u32 = kvm::<kvm_cpuid2>(READ | WRITE, 0x05);
pub(super) const KVM_CREATE_VCPU: u32 = kvm::<()>(NONE, 0x41);
pub(super) const KVM_GET_DIRTY_LOG: u32 = kvm::<kvm_dirty_log>(WRITE, 0x42);
pub(super) const KVM_SET_USER_MEMORY_REGION: u32 = kvm::<kvm_userspace_memory_region>(WRITE, 0x46);
pub(super) const KVM_SET_TSS_ADDR: u32 = kvm::<()>(NONE, 0x47);
pub(super) const KVM_SET_IDENTITY_MAP_ADDR: u32 = kvm::<u64>(WRITE, 0x48);
pub(super) const KVM_CREATE_IRQCHIP: u32 = kvm::<()>(NONE, 0x60);
pub(super) const KVM_IRQ_LINE: u32 = kvm::<kvm_irq_level>(WRITE, 0x61);
pub(super) const KVM_GET_IRQCHIP: u32 = kvm::<kvm_irqchip>(READ | WRITE, 0x62);
pub(super) const KVM_SET_IRQCHIP: u32 = kvm::<kvm_irqchip>(READ, 0x63);
pub(super) const KVM_SET_CLOCK: u32 = kvm::<kvm_clock_data>(WRITE, 0x7b);
pub(super) const KVM_GET_CLOCK: u32 = kvm::<kvm_clock_data>(READ, 0x7c);
pub(super) const KVM_RUN: u32 = kvm::<()>(NONE, 0x80);
pub(super) const KVM_GET_REGS: u32 = kvm::<kvm_regs>(READ, 0x81);
pub(super) const KVM_SET_REGS: u32 = kvm::<kvm_regs>(WRITE, 0x82);
pub(super) const KVM_GET_SREGS: u32 = kvm::<kvm_sregs>(READ, 0x83);
pub(super) const KVM_SET_SREGS: u32 = kvm::<kvm_sregs>(WRITE, 0x84);
pub(super) const KVM_GET_MSRS: u32 = kvm::<kvm_msrs>(READ | WRITE, 0x88);
pub(super) const KVM_SET_MSRS: u32 = kvm::<kvm_msrs>(WRITE, 0x89);
pub(super) const KVM_SET_SIGNAL_MASK: u32 = kvm::<SignalMask>(WRITE, 0x8b);
pub(super) const KVM_GET_LAPIC: u32 = kvm::<kvm_lapic_state>(READ, 0x8e);
pub(super) const KVM_SET_LAPIC: u32 = kvm::<kvm_lapic_state>(WRITE, 0x8f);
pub(super) const KVM_SET_CPUID2: u32 = kvm::<kvm_cpuid2>(WRITE, 0x90);
pub(super) const KVM_GET_MP_STATE: u32 = kvm::<kvm_mp_state>(READ, 0x98);
pub(super) const KVM_SET_MP_STATE: u32 = kvm::<kvm_mp_state>(WRITE, 0x99);
pub(super) const KVM_GET_VCPU_EVENTS: u32 = kvm::<kvm_vcpu_events>(READ, 0x9f);
pub(super) const KVM_SET_VCPU_EVENTS: u32 = kvm::<kvm_vcpu_events>(WRITE, 0xa0);
pub(super) const KVM_GET_DEBUGREGS: u32 = kvm::<kvm_debugregs>(READ, 0xa1);
pub(super) const KVM_SET_DEBUGREGS: u32 = kvm::<kvm_debugregs>(WRITE, 0xa2);
pub(super) const KVM_SET_TSC_KHZ: u32 = kvm::<()>(NONE, 0xa2);
pub(super) const KVM_GET_TSC_KHZ: u32 = kvm::<()>(NONE, 0xa3);
pub(super) const KVM_ENABLE_CAP: u32 = kvm::<kvm_enable_cap>(WRITE, 0xa3);
pub(super) const KVM_GET_XSAVE: u32 = kvm::<kvm_xsave>(READ, 0xa4);
pub(super) const KVM_SET_XSAVE: u32 = kvm::<kvm_xsave>(WRITE, 0xa5);
pub(super) const KVM_GET_XCRS: u32 = kvm::<kvm_xcrs>(READ, 0xa6);
pub(super) const KVM_SET_XCRS: u32 = kvm::<kvm_xcrs>(WRITE, 0xa7);
pub(super) const KVM_KVMCLOCK_CTRL: u32 = kvm::<()>(NONE, 0xad);
pub(super) const KVM_CLEAR_DIRTY_LOG: u32 = kvm::<kvm_clear_dirty_log>(READ | WRITE, 0xc0);
pub(super) const KVM_RESET_DIRTY_RINGS: u32 = kvm::<()>(NONE, 0xc7);
pub(super) const KVM_GET_XSAVE2: u32 = kvm::<kvm_xsave>(READ, 0xcf);
pub(super) const KVM_SET_DEVICE_ATTR: u32 = kvm::<kvm_device_attr>(WRITE, 0xe1);
pub(super) const KVM_GET_DEVICE_ATTR: u32 = kvm::<kvm_device_attr>(WRITE, 0xe2);

pub(super) const UFFDIO_API: u32 = uffd::<uffdio_api>(READ | WRITE, 0x3f);
pub(super) const UFFDIO_REGISTER: u32 = uffd::<uffdio_register>(READ | WRITE, 0x00);
pub(super) const UFFDIO_UNREGISTER: u32 = uffd::<uffdio_range>(READ, 0x01);
pub(super) const UFFDIO_WAKE: u32 = uffd::<uffdio_range>(READ, 0x02);
pub(super) const UFFDIO_COPY: u32 = uffd::<uffdio_copy>(READ | WRITE, 0x03);
pub(super) const UFFDIO_ZEROPAGE: u32 = uffd::<uffdio_zeropage>(READ | WRITE, 0x04);
