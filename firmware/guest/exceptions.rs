//! What must not happen, and is not silent when it does.

use core::panic::PanicInfo;
use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use core::sync::atomic::{AtomicBool, AtomicU64, fence};

use super::oracle::report::{Exception, Location, Report};
use super::{clock, entry, reset, serial};

/// Exceptions that the architecture defines.
pub(super) const VECTORS: usize = 32;

/// The interrupt descriptor table: two words a gate. `entry.s` loads its address before Rust runs,
/// [`prepare`] fills it.
pub(super) static IDT: [AtomicU64; 2 * VECTORS] = [const { AtomicU64::new(0) }; 2 * VECTORS];

/// Someone has begun to report the guest's end.
static ENDING: AtomicBool = AtomicBool::new(false);

/// vCPU 0 will not print any more.
static PORT_FREE: AtomicBool = AtomicBool::new(false);

/// TSC ticks that vCPU 0 gets to leave the serial port: half a second or so.
const PATIENCE: u64 = 1_000_000_000;

/// Fills the interrupt descriptor table.
pub(super) fn prepare() {
    const RING_0_CODE: u64 = 0x10;
    const INTERRUPT_GATE: u64 = 0x8e00;
    for (vector, gate) in IDT.as_chunks::<2>().0.iter().enumerate() {
        let stub = entry::first_exception_stub() + 16 * vector as u64;
        // The image lies below 4 GiB: the second word, bits 63:32 of the address, stays 0.
        let attributes = (stub >> 16) << 48 | INTERRUPT_GATE << 32 | RING_0_CODE << 16;
        gate[0].store(attributes | stub & 0xffff, Relaxed);
    }
    fence(Release);
}

/// Continues an exception in ring 3, on the failed vCPU's own stack from its top.
pub(super) extern "C" fn raised(vector: u64, error: u64, rip: u64, address: u64) -> ! {
    let cpu = entry::this_cpu();
    end(&Report::Exception(Exception { vector, rip, error, address, cpu }))
}

/// Reports a failed assertion.
#[cfg_attr(clippy, expect(dead_code, reason = "the panic handler is not in clippy's view"))]
pub(super) fn panicked(information: &PanicInfo<'_>) -> ! {
    let (file, line) = information.location().map_or(("", 0), |at| (at.file(), at.line()));
    end(&Report::Panic { at: Location { file, line }, cpu: entry::this_cpu() })
}

/// Leaves the serial port to a vCPU that has something to say before the end. vCPU 0 calls this
/// between lines.
pub(super) fn step_aside() {
    if ENDING.load(Relaxed) {
        PORT_FREE.store(true, Release);
        stop();
    }
}

/// Faults without a handler, and without a handler for that.
pub(super) fn triple_fault() -> ! {
    IDT.iter().for_each(|word| word.store(0, Relaxed));
    fence(Release);
    #[expect(unsafe_code, reason = "an undefined instruction exists only in assembly")]
    // SAFETY: nothing runs after it: the table that names its handler is empty.
    unsafe {
        core::arch::asm!("ud2", options(noreturn));
    }
}

/// Prints the last line and resets. Only the first vCPU that comes here does.
fn end(report: &Report<'_>) -> ! {
    if ENDING.swap(true, AcqRel) {
        stop();
    }
    if entry::this_cpu() != 0 {
        let start = clock::now();
        while !PORT_FREE.load(Acquire) && clock::now().saturating_sub(start) < PATIENCE {
            core::hint::spin_loop();
        }
    }
    serial::end_line();
    serial::print(report);
    reset::reset()
}

fn stop() -> ! {
    loop {
        core::hint::spin_loop();
    }
}
