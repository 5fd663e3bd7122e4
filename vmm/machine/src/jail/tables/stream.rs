//! What a thread does that carries a stream of a move between hosts.

use libc::{
    FIONBIO, FUTEX_WAIT_BITSET, SYS_eventfd2, SYS_getrandom, SYS_ppoll, SYS_pread64, SYS_pwrite64,
    SYS_read, SYS_recvfrom, SYS_recvmsg, SYS_sendmsg, SYS_shutdown, SYS_writev, TCP_CONGESTION,
    TCP_NODELAY, TCP_NOTSENT_LOWAT, TCP_USER_TIMEOUT,
};

use crate::jail::call::{Call, call, futex, ioctl, tcp_option};

const NON_BLOCKING: u32 = 0x5421;
const _: () = assert!(FIONBIO == NON_BLOCKING as libc::c_ulong);

pub(in crate::jail) const CALLS: &[Call] = &[
    // The session's lock, and its time.
    futex("futex(FUTEX_WAIT_BITSET)", FUTEX_WAIT_BITSET),
    // The socket, and what wakes this thread.
    call("ppoll", SYS_ppoll),
    call("eventfd2", SYS_eventfd2),
    call("read", SYS_read),
    call("recvfrom", SYS_recvfrom),
    call("writev", SYS_writev),
    call("shutdown", SYS_shutdown),
    // The guest's memory, where it arrives.
    call("pwrite64", SYS_pwrite64),
    // What was kept of a machine that comes back.
    call("pread64", SYS_pread64)
        .unproven("a machine that comes back to a host that has kept what it left there"),
    // Another socket, from whoever keeps this process.
    call("sendmsg", SYS_sendmsg),
    call("recvmsg", SYS_recvmsg),
    ioctl("FIONBIO", NON_BLOCKING),
    tcp_option("setsockopt(TCP_NODELAY)", TCP_NODELAY),
    tcp_option("setsockopt(TCP_NOTSENT_LOWAT)", TCP_NOTSENT_LOWAT),
    tcp_option("setsockopt(TCP_USER_TIMEOUT)", TCP_USER_TIMEOUT),
    tcp_option("setsockopt(TCP_CONGESTION)", TCP_CONGESTION),
    // The keys of a TLS connection.
    call("getrandom", SYS_getrandom),
];
