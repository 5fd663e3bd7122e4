//! What a thread does that puts pages of a snapshot into memory.

use libc::{SYS_pread64, SYS_read};

use crate::jail::call::{Call, call, ioctl};
use crate::jail::ioctls::{UFFDIO_COPY, UFFDIO_UNREGISTER, UFFDIO_WAKE, UFFDIO_ZEROPAGE};

pub(in crate::jail) const CALLS: &[Call] = &[
    // The files.
    call("pread64", SYS_pread64),
    // Faults, and whether to stop.
    call("read", SYS_read),
    // Pages.
    ioctl("UFFDIO_COPY", UFFDIO_COPY),
    ioctl("UFFDIO_ZEROPAGE", UFFDIO_ZEROPAGE),
    ioctl("UFFDIO_WAKE", UFFDIO_WAKE)
        .unproven("a fault that is read when its page has come already"),
    // All are there.
    ioctl("UFFDIO_UNREGISTER", UFFDIO_UNREGISTER),
];
