//! The way from the loader to Rust, and the addresses that it defines.
#![allow(unsafe_code, reason = "symbols of the link script and of assembly")]

use core::arch::global_asm;
use core::sync::atomic::AtomicU64;

use super::oracle::MAX_CPUS;
use super::{apic, boot, exceptions};

/// Bytes of the stack that a vCPU has in ring 3.
const STACK_BYTES: usize = 16 << 10;

/// Gigabytes that the identity map can cover.
pub(super) const GIGABYTES: usize = 64;

/// A page table.
pub(super) type Table = [AtomicU64; 512];

global_asm!(
    include_str!("entry.s"),
    max_cpus = const MAX_CPUS,
    gigabytes = const GIGABYTES,
    stack_bytes = const STACK_BYTES,
    exceptions = const exceptions::VECTORS,
    idt = sym exceptions::IDT,
    exception_raised = sym exceptions::raised,
    trampoline_page = const apic::TRAMPOLINE,
    starting_vcpu = sym apic::STARTING,
    first_vcpu = sym boot::first_vcpu,
    other_vcpu = sym boot::other_vcpu,
    options(att_syntax),
);

// All of these lie in the image, for ever. Tables are only ever accessed as atomics: the processor
// reads them too.
unsafe extern "C" {
    static image_start: u8;
    static image_end: u8;
    static exception_stubs: u8;
    static trampoline_start: u8;
    static trampoline_end: u8;
    static stacks: u8;
    safe static page_directory_pointers: Table;
    safe static fourth_gigabyte: Table;
    safe static page_directories: [Table; GIGABYTES];
}

/// (first address, bytes) of everything that the link script places.
pub(super) fn image() -> (u64, u64) {
    let start = (&raw const image_start).addr() as u64;
    (start, (&raw const image_end).addr() as u64 - start)
}

/// Address of the code for exception 0; the next follow at distances of 16 bytes.
pub(super) fn first_exception_stub() -> u64 {
    (&raw const exception_stubs).addr() as u64
}

/// The real-mode code for application processors, position-dependent on [`apic::TRAMPOLINE`].
pub(super) fn trampoline() -> &'static [u8] {
    let start = &raw const trampoline_start;
    let bytes = (&raw const trampoline_end).addr() - start.addr();
    // SAFETY: the two symbols bound one read-only section of the image, which is never written.
    unsafe { core::slice::from_raw_parts(start, bytes) }
}

/// Number of the vCPU that runs this, which its stack tells.
pub(super) fn this_cpu() -> u32 {
    let local = 0u8;
    let depth = (&raw const local).addr() - (&raw const stacks).addr();
    u32::try_from(depth / STACK_BYTES).unwrap_or(u32::MAX)
}

/// The table of page directories.
pub(super) fn directory_pointers() -> &'static Table {
    &page_directory_pointers
}

/// The page directory for a gigabyte, and whether the tables name it already.
pub(super) fn directory(gigabyte: usize) -> (&'static Table, bool) {
    match gigabyte {
        3 => (&fourth_gigabyte, true),
        _ => (&page_directories[gigabyte], false),
    }
}
