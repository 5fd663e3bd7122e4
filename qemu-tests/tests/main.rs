//! Machines that run our kernel: the hosts that tests stand on, and Linux on our own VMM.

#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test, as a test itself does")]

mod busy_guest;
mod cpu_models;
mod debian_guest;
mod hand_over;
mod harness;
mod host_clock;
mod kernel;
mod kernel_warnings;
mod linux_guest;
mod matrix;
mod support;
mod two_hosts;
