//! What a vCPU's thread does.

use libc::{FUTEX_WAIT_BITSET, SYS_rt_sigpending, SYS_rt_sigtimedwait};

use crate::jail::call::{Call, call, futex, ioctl};
use crate::jail::ioctls::{KVM_GET_REGS, KVM_IRQ_LINE, KVM_RESET_DIRTY_RINGS, KVM_RUN};

pub(in crate::jail) const CALLS: &[Call] = &[
    // Waiting for the vCPU, and for whoever uses a device.
    futex("futex(FUTEX_WAIT_BITSET)", FUTEX_WAIT_BITSET),
    // The guest.
    ioctl("KVM_RUN", KVM_RUN),
    // Interrupts that follow from what the guest tells a device.
    ioctl("KVM_IRQ_LINE", KVM_IRQ_LINE),
    // Its dirty ring is full.
    ioctl("KVM_RESET_DIRTY_RINGS", KVM_RESET_DIRTY_RINGS),
    // Where KVM has given up.
    ioctl("KVM_GET_REGS", KVM_GET_REGS),
    // The kick that stopped it is taken.
    call("rt_sigpending", SYS_rt_sigpending),
    call("rt_sigtimedwait", SYS_rt_sigtimedwait),
];
