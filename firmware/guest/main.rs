//! The oracle guest: fills its memory with stamped pages, writes them again and again, and checks
//! every page before it writes it.
//!
//! It runs without an operating system and, after a few dozen instructions, in ring 3 (see
//! `entry.s`). It uses no interrupt, no CPUID and no device but a 16550, the i8042's reset line and
//! the local APIC's start-up messages. `README.md` has the command line and the report lines.

#![cfg_attr(not(clippy), no_std)]
#![cfg_attr(not(clippy), no_main)]

mod apic;
mod boot;
mod clock;
mod console;
mod entry;
mod exceptions;
mod intrinsics;
mod mailbox;
mod owned;
mod paging;
mod port;
mod published;
mod reset;
mod serial;
mod shared;
mod vcpu;

// The pure part, which the host has too: one source, two programs.
#[cfg(not(clippy))]
#[path = "../src/oracle/mod.rs"]
mod oracle;

// Clippy sees this file as a module of the library, which has the pure part already.
#[cfg(clippy)]
use crate::oracle;

/// A failed assertion. For clippy there is std's handler already.
#[cfg(not(clippy))]
#[panic_handler]
fn panicked(information: &core::panic::PanicInfo<'_>) -> ! {
    exceptions::panicked(information)
}
