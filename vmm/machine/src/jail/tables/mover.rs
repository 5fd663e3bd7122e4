//! What the thread does that moves the machine to another host, besides what every job does, and its streams do.

use libc::{SO_RCVTIMEO, SO_SNDTIMEO, SYS_lseek, SYS_sched_getaffinity};

use crate::jail::call::{Call, call, socket_option};

pub(in crate::jail) const CALLS: &[Call] = &[
    // The socket on which it asks for others.
    socket_option("setsockopt(SO_RCVTIMEO)", SO_RCVTIMEO),
    socket_option("setsockopt(SO_SNDTIMEO)", SO_SNDTIMEO),
    // Where the memory file has holes.
    call("lseek", SYS_lseek),
    // How many processors encode.
    call("sched_getaffinity", SYS_sched_getaffinity),
];
