//! The end.

use core::hint::spin_loop;

use super::{clock, exceptions, port};

const I8042_COMMAND: u16 = 0x64;
const PULSE_RESET: u8 = 0xfe;

/// TSC ticks that a reset may take: half a second or so.
const PATIENCE: u64 = 1_000_000_000;

/// Resets the machine: through the i8042, or, where there is none, by a triple fault.
pub(super) fn reset() -> ! {
    port::write(I8042_COMMAND, PULSE_RESET);
    let start = clock::now();
    while clock::now().saturating_sub(start) < PATIENCE {
        spin_loop();
    }
    exceptions::triple_fault()
}
