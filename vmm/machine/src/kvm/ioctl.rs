//! The ioctls that kvm-ioctls does not wrap, or wraps with other semantics.
#![allow(
    unsafe_code,
    reason = "ioctl(2) takes pointers; each call states what KVM reads and writes"
)]

use std::os::fd::AsRawFd;

use kvm_bindings::{
    KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET, KVMIO, kvm_clear_dirty_log,
    kvm_clear_dirty_log__bindgen_ty_1, kvm_device_attr, kvm_dirty_log, kvm_dirty_log__bindgen_ty_1,
};
use kvm_ioctls::{VcpuFd, VmFd};
use vmm_sys_util::errno::{Error, Result};
use vmm_sys_util::ioctl::{ioctl_with_ref, ioctl_with_val};
use vmm_sys_util::{ioctl_io_nr, ioctl_iow_nr, ioctl_iowr_nr};

ioctl_iow_nr!(KVM_GET_DIRTY_LOG, KVMIO, 0x42, kvm_dirty_log);
ioctl_iowr_nr!(KVM_CLEAR_DIRTY_LOG, KVMIO, 0xc0, kvm_clear_dirty_log);
ioctl_io_nr!(KVM_SET_TSC_KHZ, KVMIO, 0xa2);
ioctl_iow_nr!(KVM_SET_DEVICE_ATTR, KVMIO, 0xe1, kvm_device_attr);
ioctl_iow_nr!(KVM_GET_DEVICE_ATTR, KVMIO, 0xe2, kvm_device_attr);
ioctl_iow_nr!(KVM_SET_SIGNAL_MASK, KVMIO, 0x8b, SignalMaskHeader);

/// Words of 64 pages that cover a slot.
pub(crate) fn bitmap_words(pages: u64) -> usize {
    usize::try_from(pages.div_ceil(64)).expect("a slot's bitmap fits the address space")
}

/// Copies the dirty bitmap of a slot into `words`; with manual protect on, nothing is cleared.
///
/// kvm-ioctls' `get_dirty_log` allocates its answer for each call; here the caller keeps the buffer.
pub(crate) fn get_dirty_log(vm: &VmFd, slot: u32, pages: u64, words: &mut [u64]) -> Result<()> {
    assert_eq!(words.len(), bitmap_words(pages), "KVM writes one word for each 64 pages");
    let log = kvm_dirty_log {
        slot,
        padding1: 0,
        __bindgen_anon_1: kvm_dirty_log__bindgen_ty_1 { dirty_bitmap: words.as_mut_ptr().cast() },
    };
    // SAFETY: KVM_GET_DIRTY_LOG (api.rst, 4.8) reads `log` and writes ALIGN(pages, 64) bits to the
    // bitmap; `words` is that large by the assertion above, as `pages` is the slot's own size.
    match unsafe { ioctl_with_ref(vm, KVM_GET_DIRTY_LOG(), &log) } {
        0 => Ok(()),
        _ => Err(Error::last()),
    }
}

/// Clears the bits that are set in `words` and write-protects those pages.
///
/// `first_page` is a multiple of 64; so is `pages`, unless the range ends the slot.
pub(crate) fn clear_dirty_log(
    vm: &VmFd,
    slot: u32,
    first_page: u64,
    pages: u32,
    words: &[u64],
) -> Result<()> {
    assert_eq!(words.len(), bitmap_words(pages.into()), "KVM reads one word for each 64 pages");
    let log = kvm_clear_dirty_log {
        slot,
        num_pages: pages,
        first_page,
        __bindgen_anon_1: kvm_clear_dirty_log__bindgen_ty_1 {
            dirty_bitmap: words.as_ptr().cast_mut().cast(),
        },
    };
    // SAFETY: KVM_CLEAR_DIRTY_LOG (api.rst, 4.117) reads `log` and `num_pages` bits of the bitmap,
    // rounded up to a word; it writes neither. `words` is that large by the assertion above.
    match unsafe { ioctl_with_ref(vm, KVM_CLEAR_DIRTY_LOG(), &log) } {
        0 => Ok(()),
        _ => Err(Error::last()),
    }
}

/// `struct kvm_signal_mask` with the kernel's 8-byte signal set in place of its flexible array.
#[repr(C)]
struct SignalMask {
    len: u32,
    set: [u8; 8],
}

/// The fixed part of `struct kvm_signal_mask`: the ioctl's number encodes its size alone.
#[repr(C)]
#[allow(dead_code, reason = "only its size is used")]
struct SignalMaskHeader {
    len: u32,
}

/// Sets the signals that are blocked while the vCPU is inside `KVM_RUN`: bit n − 1 is signal n.
pub(crate) fn set_signal_mask(vcpu: &VcpuFd, blocked: u64) -> Result<()> {
    let mask = SignalMask { len: 8, set: blocked.to_ne_bytes() };
    // SAFETY: KVM_SET_SIGNAL_MASK (api.rst, 4.17) reads the header and then `len` = 8 bytes, the
    // size of the kernel's sigset_t, all of which `mask` holds without padding.
    let outcome =
        unsafe { libc::ioctl(vcpu.as_raw_fd(), KVM_SET_SIGNAL_MASK(), std::ptr::from_ref(&mask)) };
    if outcome == 0 { Ok(()) } else { Err(Error::last()) }
}

/// Gives the TSC of all vCPUs that will be created the rate of this host's.
///
/// KVM's own default is the rate that the kernel had measured when KVM was loaded. Where it has measured again since, and
/// the two differ by more than 250 ppm, a host without TSC scaling cannot give guests the old rate, and does worse: the
/// vCPU's scaling ratio stays 0 (`set_tsc_khz` and `kvm_arch_vcpu_create`, x86.c), KVM takes the guest's TSC to stand
/// still, and its deadline timers come late by as much as the host has been up.
pub(crate) fn use_tsc_khz_of_host(vm: &VmFd) -> Result<()> {
    // SAFETY: KVM_SET_TSC_KHZ (api.rst, 4.55) takes its argument by value; 0 is the host's rate.
    match unsafe { ioctl_with_val(vm, KVM_SET_TSC_KHZ(), 0) } {
        0 => Ok(()),
        _ => Err(Error::last()),
    }
}

/// What the guest's TSC is ahead of this host's (`KVM_VCPU_TSC_OFFSET`, vcpu.rst, 4.1), in ticks,
/// modulo 2^64. Meaningful on this host only, until it is booted again.
pub(crate) fn tsc_offset(vcpu: &VcpuFd) -> Result<u64> {
    let mut offset = 0_u64;
    let attribute = tsc_attribute(&mut offset);
    // SAFETY: KVM_GET_DEVICE_ATTR reads `attribute` and, for this attribute, writes a u64 to its
    // `addr`, which is `offset`, alive until after the call.
    match unsafe { ioctl_with_ref(vcpu, KVM_GET_DEVICE_ATTR(), &attribute) } {
        0 => Ok(offset),
        _ => Err(Error::last()),
    }
}

/// Sets what [`tsc_offset`] reads.
pub(crate) fn set_tsc_offset(vcpu: &VcpuFd, mut offset: u64) -> Result<()> {
    let attribute = tsc_attribute(&mut offset);
    // SAFETY: KVM_SET_DEVICE_ATTR reads `attribute` and, for this attribute, a u64 at its `addr`,
    // which is `offset`, alive until after the call.
    match unsafe { ioctl_with_ref(vcpu, KVM_SET_DEVICE_ATTR(), &attribute) } {
        0 => Ok(()),
        _ => Err(Error::last()),
    }
}

fn tsc_attribute(value: &mut u64) -> kvm_device_attr {
    kvm_device_attr {
        flags: 0,
        group: KVM_VCPU_TSC_CTRL,
        attr: KVM_VCPU_TSC_OFFSET.into(),
        addr: std::ptr::from_mut(value) as u64,
    }
}
