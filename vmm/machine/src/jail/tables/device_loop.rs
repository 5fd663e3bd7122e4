//! What the main thread does: it obeys orders, moves the console's bytes, makes and restores machines. What it shares with
//! the threads that it starts stands in their tables, too, since its filter is theirs as well.

use libc::{
    F_ADD_SEALS, F_DUPFD_CLOEXEC, F_GET_SEALS, F_GETFL, F_SETFL, F_SETLKW, FUTEX_WAIT_BITSET,
    SO_RCVTIMEO, SO_SNDTIMEO, SYS_accept4, SYS_epoll_create1, SYS_epoll_ctl, SYS_epoll_wait,
    SYS_eventfd2, SYS_exit_group, SYS_ftruncate, SYS_getrandom, SYS_memfd_create, SYS_pread64,
    SYS_pwrite64, SYS_read, SYS_recvfrom, SYS_recvmsg, SYS_rt_sigaction, SYS_sched_getaffinity,
    SYS_sendmsg, SYS_statx, SYS_tgkill,
};

use crate::jail::call::{Call, Value, call, fcntl, futex, ioctl, socket_option};
use crate::jail::ioctls::{
    KVM_CHECK_EXTENSION, KVM_CREATE_IRQCHIP, KVM_CREATE_VCPU, KVM_CREATE_VM, KVM_ENABLE_CAP,
    KVM_GET_LAPIC, KVM_GET_MSR_INDEX_LIST, KVM_GET_SREGS, KVM_GET_SUPPORTED_CPUID, KVM_GET_TSC_KHZ,
    KVM_GET_VCPU_MMAP_SIZE, KVM_IRQ_LINE, KVM_KVMCLOCK_CTRL, KVM_SET_CLOCK, KVM_SET_CPUID2,
    KVM_SET_DEBUGREGS, KVM_SET_DEVICE_ATTR, KVM_SET_IDENTITY_MAP_ADDR, KVM_SET_IRQCHIP,
    KVM_SET_LAPIC, KVM_SET_MP_STATE, KVM_SET_MSRS, KVM_SET_REGS, KVM_SET_SIGNAL_MASK,
    KVM_SET_SREGS, KVM_SET_TSC_KHZ, KVM_SET_TSS_ADDR, KVM_SET_USER_MEMORY_REGION,
    KVM_SET_VCPU_EVENTS, KVM_SET_XCRS, KVM_SET_XSAVE, UFFDIO_API, UFFDIO_REGISTER,
};

/// With which the C library tells its threads of a new user id: installed with the first thread.
const SIGSETXID: u32 = 33;
const AT_EMPTY_PATH: u32 = libc::AT_EMPTY_PATH.cast_unsigned();

pub(in crate::jail) const CALLS: &[Call] = &[
    // Waiting for a device, for vCPUs that pause, for the end of a thread.
    futex("futex(FUTEX_WAIT_BITSET)", FUTEX_WAIT_BITSET),
    // The loop.
    call("epoll_create1", SYS_epoll_create1),
    call("epoll_ctl", SYS_epoll_ctl),
    call("epoll_wait", SYS_epoll_wait),
    call("eventfd2", SYS_eventfd2),
    call("read", SYS_read),
    call("exit_group", SYS_exit_group),
    // Orders and reports; a predecessor.
    call("recvmsg", SYS_recvmsg),
    call("recvfrom", SYS_recvfrom),
    call("sendmsg", SYS_sendmsg),
    socket_option("setsockopt(SO_RCVTIMEO)", SO_RCVTIMEO),
    socket_option("setsockopt(SO_SNDTIMEO)", SO_SNDTIMEO),
    call("accept4", SYS_accept4).unproven("a keeper connects"),
    // The console becomes non-blocking.
    fcntl("fcntl(F_GETFL)", F_GETFL),
    fcntl("fcntl(F_SETFL)", F_SETFL),
    // With the first thread.
    call("rt_sigaction(SIGSETXID)", SYS_rt_sigaction).with(0, u32::MAX, SIGSETXID),
    // Stopping vCPUs.
    call("tgkill(SIGRTMIN)", SYS_tgkill)
        .where_is(0, Value::OwnProcess)
        .where_is(2, Value::FirstRealTimeSignal),
    // How many threads decode a snapshot.
    call("sched_getaffinity", SYS_sched_getaffinity),
    // Images, snapshots, the account of memory; how long an image is. Of a descriptor, not of a name.
    call("pread64", SYS_pread64),
    call("statx", SYS_statx).with(2, AT_EMPTY_PATH, AT_EMPTY_PATH),
    fcntl("fcntl(F_DUPFD_CLOEXEC)", F_DUPFD_CLOEXEC),
    // The permit record.
    fcntl("fcntl(F_SETLKW)", F_SETLKW),
    call("pwrite64", SYS_pwrite64),
    // Guest memory, ours or a predecessor's.
    call("memfd_create", SYS_memfd_create),
    call("ftruncate", SYS_ftruncate),
    fcntl("fcntl(F_ADD_SEALS)", F_ADD_SEALS),
    fcntl("fcntl(F_GET_SEALS)", F_GET_SEALS),
    ioctl("UFFDIO_API", UFFDIO_API),
    ioctl("UFFDIO_REGISTER", UFFDIO_REGISTER),
    // Generation ids.
    call("getrandom", SYS_getrandom),
    // A machine.
    ioctl("KVM_CHECK_EXTENSION", KVM_CHECK_EXTENSION),
    ioctl("KVM_GET_SUPPORTED_CPUID", KVM_GET_SUPPORTED_CPUID),
    ioctl("KVM_GET_MSR_INDEX_LIST", KVM_GET_MSR_INDEX_LIST),
    ioctl("KVM_GET_VCPU_MMAP_SIZE", KVM_GET_VCPU_MMAP_SIZE),
    ioctl("KVM_CREATE_VM", KVM_CREATE_VM),
    ioctl("KVM_ENABLE_CAP", KVM_ENABLE_CAP),
    ioctl("KVM_SET_USER_MEMORY_REGION", KVM_SET_USER_MEMORY_REGION),
    ioctl("KVM_SET_IDENTITY_MAP_ADDR", KVM_SET_IDENTITY_MAP_ADDR),
    ioctl("KVM_SET_TSS_ADDR", KVM_SET_TSS_ADDR),
    ioctl("KVM_CREATE_IRQCHIP", KVM_CREATE_IRQCHIP),
    ioctl("KVM_SET_TSC_KHZ", KVM_SET_TSC_KHZ),
    ioctl("KVM_GET_TSC_KHZ", KVM_GET_TSC_KHZ),
    // A vCPU, up to its first instruction.
    ioctl("KVM_CREATE_VCPU", KVM_CREATE_VCPU),
    ioctl("KVM_SET_SIGNAL_MASK", KVM_SET_SIGNAL_MASK),
    ioctl("KVM_SET_CPUID2", KVM_SET_CPUID2),
    ioctl("KVM_GET_SREGS", KVM_GET_SREGS),
    ioctl("KVM_SET_SREGS", KVM_SET_SREGS),
    ioctl("KVM_SET_REGS", KVM_SET_REGS),
    ioctl("KVM_GET_LAPIC", KVM_GET_LAPIC),
    ioctl("KVM_SET_LAPIC", KVM_SET_LAPIC),
    ioctl("KVM_SET_MSRS", KVM_SET_MSRS),
    // The rest of what a saved machine has.
    ioctl("KVM_SET_XCRS", KVM_SET_XCRS),
    ioctl("KVM_SET_XSAVE", KVM_SET_XSAVE),
    ioctl("KVM_SET_DEBUGREGS", KVM_SET_DEBUGREGS),
    ioctl("KVM_SET_MP_STATE", KVM_SET_MP_STATE),
    ioctl("KVM_SET_VCPU_EVENTS", KVM_SET_VCPU_EVENTS),
    ioctl("KVM_SET_DEVICE_ATTR", KVM_SET_DEVICE_ATTR),
    ioctl("KVM_SET_IRQCHIP", KVM_SET_IRQCHIP),
    ioctl("KVM_SET_CLOCK", KVM_SET_CLOCK),
    // While there is one: the power button, input of the console, a pause.
    ioctl("KVM_IRQ_LINE", KVM_IRQ_LINE),
    ioctl("KVM_KVMCLOCK_CTRL", KVM_KVMCLOCK_CTRL),
];
