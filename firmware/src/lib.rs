//! The oracle guest, and what the host shares with it.
//!
//! [`ORACLE`] is a bootable ELF image that fills its memory with stamped pages and checks every one
//! before it writes it again. [`oracle`] is the part that guest and host have in common: what a page
//! holds, which page is written when, the command line, the lines on the serial port.
//!
//! This crate depends on no other crate of the workspace, and the guest on nothing but `core`.

pub mod oracle;

/// The oracle guest: a static x86-64 ELF image with a PVH note, at most 64 KiB.
pub static ORACLE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/oracle.elf"));

// The guest is compiled by the build script, where clippy cannot see it. So clippy, and only
// clippy, finds it here as a module; rustfmt finds it in any case.
#[cfg(clippy)]
#[path = "../guest/main.rs"]
mod guest;

#[cfg(test)]
mod tests {
    use super::ORACLE;

    /// Little-endian word of `bytes` bytes at `offset` of the image.
    fn field(offset: usize, bytes: usize) -> u64 {
        ORACLE[offset..offset + bytes].iter().rev().fold(0, |value, byte| value << 8 | *byte as u64)
    }

    /// (type, physical address, bytes in the file, bytes in memory) of each program header.
    fn program_headers() -> Vec<(u64, u64, u64, u64)> {
        let (table, size, count) = (field(32, 8), field(54, 2), field(56, 2));
        (0..count)
            .map(|i| usize::try_from(table + i * size).unwrap())
            .map(|at| (field(at, 4), field(at + 24, 8), field(at + 32, 8), field(at + 40, 8)))
            .collect()
    }

    #[test]
    fn the_image_is_small_enough_to_be_embedded_everywhere() {
        assert!(ORACLE.len() <= 64 << 10, "{} bytes", ORACLE.len());
    }

    #[test]
    fn the_image_is_a_static_x86_64_executable_with_a_pvh_note() {
        assert_eq!(&ORACLE[..6], b"\x7fELF\x02\x01");
        assert_eq!((field(16, 2), field(18, 2)), (2, 62), "ET_EXEC for EM_X86_64");
        const NOTE: u64 = 4;
        let notes = program_headers().iter().filter(|header| header.0 == NOTE).count();
        assert_eq!(notes, 1);
        let note = [4, 0, 0, 0, 8, 0, 0, 0, 18, 0, 0, 0, b'X', b'e', b'n', 0];
        assert_eq!(ORACLE.windows(note.len()).filter(|window| *window == note).count(), 1);
    }

    #[test]
    fn the_image_fits_between_2_mib_and_the_end_of_the_smallest_guest() {
        const LOAD: u64 = 1;
        for (_, start, _, bytes) in program_headers().into_iter().filter(|header| header.0 == LOAD)
        {
            assert!(start >= 2 << 20 && start + bytes <= 8 << 20, "{start:#x} + {bytes:#x}");
        }
    }

    #[test]
    fn the_image_names_no_directory_of_the_machine_that_built_it() {
        let directory = env!("CARGO_MANIFEST_DIR").as_bytes();
        assert!(!ORACLE.windows(directory.len()).any(|window| window == directory));
    }
}
