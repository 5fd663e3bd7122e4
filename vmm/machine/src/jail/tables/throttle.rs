//! What the thread does that slows a guest down while it moves.

use libc::{FUTEX_WAIT_BITSET, SYS_tgkill};

use crate::jail::call::{Call, Value, call, futex};

pub(in crate::jail) const CALLS: &[Call] = &[
    // Until vCPUs are to be held, and to be let go.
    futex("futex(FUTEX_WAIT_BITSET)", FUTEX_WAIT_BITSET),
    // Taking them out of KVM_RUN.
    call("tgkill(SIGRTMIN)", SYS_tgkill)
        .where_is(0, Value::OwnProcess)
        .where_is(2, Value::FirstRealTimeSignal),
];
