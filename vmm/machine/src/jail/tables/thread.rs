//! What every thread does.

use libc::{
    CLONE_CHILD_CLEARTID, CLONE_FILES, CLONE_FS, CLONE_PARENT_SETTID, CLONE_SETTLS, CLONE_SIGHAND,
    CLONE_SYSVSEM, CLONE_THREAD, CLONE_VM, F_GETFD, FUTEX_WAIT, FUTEX_WAKE, PR_SET_NAME,
    PR_SET_NO_NEW_PRIVS, PROT_EXEC, SECCOMP_SET_MODE_FILTER, SIGABRT, SYS_brk, SYS_clock_gettime,
    SYS_clone, SYS_clone3, SYS_close, SYS_exit, SYS_getpid, SYS_gettid, SYS_madvise, SYS_mmap,
    SYS_mprotect, SYS_mremap, SYS_munmap, SYS_restart_syscall, SYS_rseq, SYS_rt_sigprocmask,
    SYS_sched_getaffinity, SYS_sched_yield, SYS_seccomp, SYS_set_robust_list, SYS_sigaltstack,
    SYS_tgkill, SYS_write,
};

use crate::jail::call::{Call, Value, call, fcntl, futex, prctl};

/// A thread of this process, as the C library makes one, and nothing else that clone(2) can make.
const THREAD: u32 = (CLONE_VM
    | CLONE_FS
    | CLONE_FILES
    | CLONE_SIGHAND
    | CLONE_THREAD
    | CLONE_SYSVSEM
    | CLONE_SETTLS
    | CLONE_PARENT_SETTID
    | CLONE_CHILD_CLEARTID)
    .cast_unsigned();
const NO_SUCH_CALL: u16 = 38;
const _: () = assert!(libc::ENOSYS == NO_SUCH_CALL as i32);
const EXECUTABLE: u32 = PROT_EXEC.cast_unsigned();

/// Until it has narrowed itself.
pub(in crate::jail) const START: &[Call] = &[
    // What the C library registers for a new thread.
    call("rseq", SYS_rseq),
    call("set_robust_list", SYS_set_robust_list),
    // The guard below the stack for signals.
    call("mprotect", SYS_mprotect).with(2, EXECUTABLE, 0),
    // Where its own stack lies: asked for with the processors that it may run on.
    call("sched_getaffinity", SYS_sched_getaffinity),
    prctl("prctl(PR_SET_NAME)", PR_SET_NAME),
    // Narrowing itself.
    prctl("prctl(PR_SET_NO_NEW_PRIVS)", PR_SET_NO_NEW_PRIVS),
    call("seccomp(SECCOMP_SET_MODE_FILTER)", SYS_seccomp)
        .with(0, u32::MAX, SECCOMP_SET_MODE_FILTER)
        .with(1, u32::MAX, 0),
];

/// Always, to its end.
pub(in crate::jail) const CALLS: &[Call] = &[
    // Locks and channels.
    futex("futex(FUTEX_WAKE)", FUTEX_WAKE),
    futex("futex(FUTEX_WAIT)", FUTEX_WAIT)
        .unproven("the C library's own locks, when two threads want memory at the same moment"),
    call("sched_yield", SYS_sched_yield)
        .unproven("a channel's receiver that finds its sender half way"),
    // Memory. None is executable that was not when the process started.
    call("brk", SYS_brk).unproven("whether the heap must grow just then is chance"),
    call("mmap", SYS_mmap)
        .with(2, EXECUTABLE, 0)
        .unproven("a large buffer, and any where the heap cannot grow"),
    call("mremap", SYS_mremap).unproven("a large buffer that grows"),
    call("munmap", SYS_munmap),
    // The stack of a thread that ends.
    call("madvise", SYS_madvise),
    call("sigaltstack", SYS_sigaltstack),
    call("rt_sigprocmask", SYS_rt_sigprocmask),
    call("exit", SYS_exit),
    // By this the kernel has a thread wait on that it found waiting when it stopped the process: for a debugger, a freezer, a
    // shell's job control, or because the host sleeps. Nothing that waits with a limit would survive that.
    call("restart_syscall", SYS_restart_syscall).unproven(
        "who waits with a limit at the moment at which the process is stopped is chance; moves \
                   that are cut at each step (`harms.rs`) fail without it",
    ),
    // Events; the log; the last words of a panic.
    call("write", SYS_write),
    call("close", SYS_close),
    // A panic ends the process by SIGABRT, and it can send no other process anything.
    call("getpid", SYS_getpid),
    call("gettid", SYS_gettid),
    call("tgkill(SIGABRT)", SYS_tgkill).where_is(0, Value::OwnProcess).with(
        2,
        u32::MAX,
        SIGABRT.cast_unsigned(),
    ),
    fcntl("fcntl(F_GETFD)", F_GETFD)
        .unproven("a build with debug assertions looks whether what it closes is open"),
    call("clock_gettime", SYS_clock_gettime)
        .unproven("a kernel whose clock source cannot be read without it"),
];

/// What it takes to start another one.
pub(in crate::jail) const SPAWN: &[Call] = &[
    // Threads. The flags of clone3(2) are out of a filter's sight: told that there is none, as by an older kernel, the C
    // library turns to clone(2).
    call("clone3", SYS_clone3).answered(NO_SUCH_CALL),
    call("clone", SYS_clone).with(0, u32::MAX, THREAD),
];
