//! Machines on this host's KVM, with the oracle guest in them; and verbs that need no machine.
//!
//! The executable is built with `fault-injection`: its processes kill themselves, lose pages, or are
//! compared byte for byte, when their environment asks for it.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests, too")]

mod adoption;
mod api;
mod audit;
mod census;
mod config;
mod convergence;
mod cpu;
mod daemon;
mod demo;
mod dirty_ring;
mod errors;
mod guests;
mod handover;
mod harms;
mod harness;
mod hosts;
mod jail;
mod kept;
mod killed;
mod log;
mod migrate;
mod minimal;
mod moments;
mod planted;
mod power_button;
mod pseudo_terminal;
mod returns;
mod session;
mod snapshots;
mod top;
mod two_hosts;
