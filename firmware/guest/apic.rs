//! Starts the other vCPUs, through the local APIC's registers in memory (xAPIC mode).
#![allow(unsafe_code, reason = "device registers, and the one page below 1 MiB")]

use core::hint::spin_loop;
use core::sync::atomic::AtomicU32;
use core::sync::atomic::Ordering::Release;

use super::oracle::tempo::Frequency;
use super::{clock, entry};

/// Page of the real-mode code: its number is the vector of the start-up message. What the loader
/// put into low memory has been read when the first vCPU is started.
pub(super) const TRAMPOLINE: u32 = 0x8000;

/// Number of the vCPU being started, which it takes from here.
pub(super) static STARTING: AtomicU32 = AtomicU32::new(0);

const SPURIOUS_VECTOR: usize = 0xfee0_00f0;
const COMMAND_LOW: usize = 0xfee0_0300;
const COMMAND_HIGH: usize = 0xfee0_0310;

const ENABLE: u32 = 0x1ff;
const INIT: u32 = 0x4500;
const START_UP: u32 = 0x4600;

/// How long a vCPU may take from the start-up message to its first instruction in ring 3.
const PATIENCE_MS: u64 = 5_000;

/// After how long a vCPU that did not come gets a second start-up message, as the MultiProcessor
/// Specification (B.4) has it.
const SECOND_TRY_MS: u64 = 20;

/// Puts the real-mode code in its place and turns the local APIC on.
pub(super) fn prepare() {
    let code = entry::trampoline();
    let page = core::ptr::without_provenance_mut::<u8>(TRAMPOLINE as usize);
    // SAFETY: the page is RAM on every PC, mapped, and owned by nobody (`start_info::usable` leaves
    // out all low memory); the code is shorter than a page.
    unsafe { page.copy_from_nonoverlapping(code.as_ptr(), code.len()) };
    write(SPURIOUS_VECTOR, ENABLE);
}

/// Starts the vCPU whose APIC id is `cpu`, and waits until `up` says that it runs.
pub(super) fn start(cpu: u32, frequency: Frequency, up: impl Fn() -> bool) -> bool {
    STARTING.store(cpu, Release);
    send(cpu, INIT);
    let vector = START_UP | (TRAMPOLINE >> 12);
    send(cpu, vector);
    let start = clock::now();
    let mut tries = 1;
    while !up() {
        let waited = clock::now().saturating_sub(start);
        if waited > frequency.ticks(PATIENCE_MS) {
            return false;
        }
        if tries == 1 && waited > frequency.ticks(SECOND_TRY_MS) {
            send(cpu, vector);
            tries = 2;
        }
        spin_loop();
    }
    true
}

fn send(cpu: u32, message: u32) {
    write(COMMAND_HIGH, cpu << 24);
    write(COMMAND_LOW, message);
}

fn write(register: usize, value: u32) {
    let register = core::ptr::without_provenance_mut::<u32>(register);
    // SAFETY: callers name registers of the local APIC, which entry.s maps uncached and writable in
    // ring 3. None of the values written lets the APIC interrupt this vCPU.
    unsafe { register.write_volatile(value) };
}
