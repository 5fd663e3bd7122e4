//! Any bytes as a kernel: they are refused, or loaded where a kernel may be.
//!
//! Checked: nothing is written where a PC has its video memory and firmware, nor above the hole;
//! and a kernel that is taken starts in RAM above the first MiB.

use std::process::ExitCode;
use std::sync::LazyLock;

use machine::{BootError, BootSource, GuestRam, MemoryLayout, load_guest};

const MIB: u64 = 1 << 20;
/// Two regions, so that there is something above the hole; 16 MiB is the lowest start of one.
const SIZE: u64 = 20 * MIB;
const HOLE_START: u64 = 16 * MIB;

/// Guest RAM, emptied for each input: mapping it anew takes longer than all else.
static RAM: LazyLock<GuestRam> = LazyLock::new(|| {
    let layout = MemoryLayout::new(SIZE, HOLE_START).expect("a layout that is allowed");
    GuestRam::new(layout).expect("20 MiB of memory")
});

fn main() -> ExitCode {
    fuzzing::main(|input| {
        let _ = load(input);
    })
}

/// Loads the input with an initrd of a page, which must find a place beside it.
fn load(kernel: &[u8]) -> Result<u64, BootError> {
    let ram = &*RAM;
    machine_fuzz::empty(ram).expect("a hole can be punched");
    let source = BootSource { kernel, initrd: Some(&[0xa5; 4096]), command_line: "a=b" };
    let outcome = load_guest(ram, 2, &source);
    for (start, end) in [(0xa_0000, 0xe_0000), (HOLE_START, SIZE)] {
        let is_untouched = machine_fuzz::is_untouched(ram, start, end).expect("holes can be found");
        assert!(is_untouched, "something was written between {start:#x} and {end:#x}");
    }
    if let Ok(entry) = outcome {
        assert!((MIB..HOLE_START).contains(&entry), "the first instruction is at {entry:#x}");
    }
    outcome
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// The RAM is one.
    static TURN: Mutex<Vec<u64>> = Mutex::new(Vec::new());

    fn remember(input: &[u8]) {
        let mut entries = TURN.lock().unwrap();
        entries.extend(load(input));
    }

    #[test]
    fn no_kernel_of_the_corpus_breaks_anything_and_the_sound_ones_are_loaded() {
        let count = fuzzing::replay(&machine_fuzz::corpus("kernel-image"), remember).unwrap();
        let entries = TURN.lock().unwrap();
        assert!(entries.len() < count, "something was refused");
        // The seeds: a bzImage, and ELF files with a PVH entry and without.
        for entry in [0x10_0200, 0x10_0010, 0x10_0020] {
            assert!(entries.contains(&entry), "nothing starts at {entry:#x}: {entries:x?}");
        }
    }
}
