//! What a thread does that puts pages of a snapshot into memory.

use libc::{FUTEX_WAIT_BITSET, SYS_pread64, SYS_pwrite64, SYS_read};

use crate::jail::call::{Call, call, futex, ioctl};
use crate::jail::ioctls::{UFFDIO_COPY, UFFDIO_UNREGISTER, UFFDIO_WAKE, UFFDIO_ZEROPAGE};

pub(in crate::jail) const CALLS: &[Call] = &[
    futex("futex(FUTEX_WAIT_BITSET)", FUTEX_WAIT_BITSET)
        .unproven("a lock that another thread has: of the log, of how far loading is"),
    // The files.
    call("pread64", SYS_pread64),
    // Faults, and whether to stop.
    call("read", SYS_read),
    // Memory that nobody runs in yet.
    call("pwrite64", SYS_pwrite64),
    // Pages of a guest that runs.
    ioctl("UFFDIO_COPY", UFFDIO_COPY),
    ioctl("UFFDIO_ZEROPAGE", UFFDIO_ZEROPAGE)
        .unproven("a guest that touches a page of zeros while others are still fetched"),
    ioctl("UFFDIO_WAKE", UFFDIO_WAKE)
        .unproven("a fault that is read when its page has come already"),
    // All are there.
    ioctl("UFFDIO_UNREGISTER", UFFDIO_UNREGISTER),
];
