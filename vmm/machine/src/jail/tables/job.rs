//! What a thread does that hands the machine over, or saves it.

use libc::{
    F_SETLKW, FUTEX_WAIT_BITSET, SO_RCVTIMEO, SO_SNDTIMEO, SYS_fadvise64, SYS_fsync, SYS_lseek,
    SYS_ppoll, SYS_pread64, SYS_pwrite64, SYS_read, SYS_recvfrom, SYS_recvmsg, SYS_sendmsg,
    SYS_sendto, SYS_tgkill,
};

use crate::jail::call::{Call, Value, call, fcntl, futex, ioctl, socket_option};
use crate::jail::ioctls::{
    KVM_CLEAR_DIRTY_LOG, KVM_GET_CLOCK, KVM_GET_DEBUGREGS, KVM_GET_DEVICE_ATTR, KVM_GET_DIRTY_LOG,
    KVM_GET_IRQCHIP, KVM_GET_LAPIC, KVM_GET_MP_STATE, KVM_GET_MSRS, KVM_GET_REGS, KVM_GET_SREGS,
    KVM_GET_TSC_KHZ, KVM_GET_VCPU_EVENTS, KVM_GET_XCRS, KVM_GET_XSAVE, KVM_GET_XSAVE2,
    KVM_KVMCLOCK_CTRL, KVM_RESET_DIRTY_RINGS, KVM_SET_USER_MEMORY_REGION,
};

/// The machine, its log and its record: of every job.
pub(in crate::jail) const MACHINE: &[Call] = &[
    // Waiting for the machine, for its vCPUs, for memory that is still being loaded.
    futex("futex(FUTEX_WAIT_BITSET)", FUTEX_WAIT_BITSET),
    // The permit record: its lock, its two slots.
    fcntl("fcntl(F_SETLKW)", F_SETLKW),
    call("pread64", SYS_pread64),
    call("pwrite64", SYS_pwrite64),
    // Stopping vCPUs: the kick, and that one had stopped before.
    call("tgkill(SIGRTMIN)", SYS_tgkill)
        .where_is(0, Value::OwnProcess)
        .where_is(2, Value::FirstRealTimeSignal),
    call("read", SYS_read),
    ioctl("KVM_KVMCLOCK_CTRL", KVM_KVMCLOCK_CTRL),
    // The dirty log, of either kind.
    ioctl("KVM_SET_USER_MEMORY_REGION", KVM_SET_USER_MEMORY_REGION),
    ioctl("KVM_GET_DIRTY_LOG", KVM_GET_DIRTY_LOG),
    ioctl("KVM_CLEAR_DIRTY_LOG", KVM_CLEAR_DIRTY_LOG),
    ioctl("KVM_RESET_DIRTY_RINGS", KVM_RESET_DIRTY_RINGS),
    // The machine's state.
    ioctl("KVM_GET_MP_STATE", KVM_GET_MP_STATE),
    ioctl("KVM_GET_REGS", KVM_GET_REGS),
    ioctl("KVM_GET_SREGS", KVM_GET_SREGS),
    ioctl("KVM_GET_XSAVE2", KVM_GET_XSAVE2),
    ioctl("KVM_GET_XSAVE", KVM_GET_XSAVE).unproven("kernels before Linux 5.17"),
    ioctl("KVM_GET_XCRS", KVM_GET_XCRS),
    ioctl("KVM_GET_DEBUGREGS", KVM_GET_DEBUGREGS),
    ioctl("KVM_GET_LAPIC", KVM_GET_LAPIC),
    ioctl("KVM_GET_VCPU_EVENTS", KVM_GET_VCPU_EVENTS),
    ioctl("KVM_GET_MSRS", KVM_GET_MSRS),
    ioctl("KVM_GET_TSC_KHZ", KVM_GET_TSC_KHZ),
    ioctl("KVM_GET_DEVICE_ATTR", KVM_GET_DEVICE_ATTR),
    ioctl("KVM_GET_IRQCHIP", KVM_GET_IRQCHIP),
    ioctl("KVM_GET_CLOCK", KVM_GET_CLOCK),
];

/// A hand-over to another process, and a snapshot.
pub(in crate::jail) const CALLS: &[Call] = &[
    // The other process.
    call("sendmsg", SYS_sendmsg),
    call("recvmsg", SYS_recvmsg),
    call("sendto", SYS_sendto),
    call("recvfrom", SYS_recvfrom),
    call("ppoll", SYS_ppoll),
    socket_option("setsockopt(SO_RCVTIMEO)", SO_RCVTIMEO),
    socket_option("setsockopt(SO_SNDTIMEO)", SO_SNDTIMEO),
    // The snapshot's file, once it is written.
    call("fsync", SYS_fsync),
    call("fadvise64", SYS_fadvise64),
    // Holes of the memory file.
    call("lseek", SYS_lseek),
];
