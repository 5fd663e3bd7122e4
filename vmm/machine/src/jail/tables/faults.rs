//! What a thread does when a test has it do something wrong (`fault/injected.rs`).

use libc::{
    F_ADD_SEALS, F_DUPFD_CLOEXEC, SIGSTOP, SYS_clock_nanosleep, SYS_ftruncate, SYS_kill,
    SYS_memfd_create, SYS_tgkill,
};

use crate::jail::call::{Call, Value, call, fcntl};

pub(in crate::jail) const CALLS: &[Call] = &[
    // `kill:STEP`.
    call("kill", SYS_kill).where_is(0, Value::OwnProcess),
    call("tgkill(SIGSTOP)", SYS_tgkill).where_is(0, Value::OwnProcess).with(
        2,
        u32::MAX,
        SIGSTOP.cast_unsigned(),
    ),
    // `slow-take`.
    call("clock_nanosleep", SYS_clock_nanosleep),
    // `reference`: a copy of memory. What comes of it is looked at by the device loop, whose filter has all of it.
    call("memfd_create", SYS_memfd_create),
    call("ftruncate", SYS_ftruncate),
    fcntl("fcntl(F_ADD_SEALS)", F_ADD_SEALS),
    fcntl("fcntl(F_DUPFD_CLOEXEC)", F_DUPFD_CLOEXEC),
];
