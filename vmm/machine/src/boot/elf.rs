//! Checks of an ELF kernel that linux-loader leaves to its caller.

use super::HIGH_RAM_START;
use crate::memory::MemoryLayout;

const ET_EXEC: u16 = 2;
const ET_DYN: u16 = 3;
const EM_X86_64: u16 = 62;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
const HEADER_BYTES: usize = 64;
const PROGRAM_HEADER_BYTES: usize = 56;

/// What is wrong with an ELF kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ElfError {
    /// It ends early
    #[error("it is cut off: {needed} bytes are needed, {found} are there; copy the file again")]
    Truncated {
        /// Bytes that its headers refer to.
        needed: u64,
        /// Bytes that there are.
        found: u64,
    },
    /// Another machine's, or not an executable
    #[error("it is no 64-bit executable for x86-64")]
    NotExecutable,
    /// Its headers make no sense
    #[error("its program headers are inconsistent")]
    Inconsistent,
    /// Its segments repeat the file
    #[error("its program headers refer to {referred} bytes in a file of {found}: they repeat it")]
    Repeating {
        /// Bytes that its headers refer to, counting each time.
        referred: u64,
        /// Bytes that there are.
        found: u64,
    },
    /// It loads nothing
    #[error("it has no segment to load; is it an object file, or stripped of all?")]
    Empty,
    /// A segment does not lie in RAM
    #[error(
        "its segment at {start:#x}-{end:#x} does not lie in RAM ({ram_start:#x}-{ram_end:#x}); give the machine more with --memory, or another --hole-start"
    )]
    OutsideOfRam {
        /// First physical address of the segment.
        start: u64,
        /// One past its last.
        end: u64,
        /// Where RAM for kernels starts.
        ram_start: u64,
        /// One past the RAM below the hole.
        ram_end: u64,
    },
}

/// Checks that every loadable segment is in the file, and lands in RAM between 1 MiB and the hole.
/// Returns the guest physical address of the first byte behind all of them.
pub(super) fn check(image: &[u8], layout: MemoryLayout) -> Result<u64, ElfError> {
    let header = bytes(image, 0, HEADER_BYTES as u64)?;
    let is_64_bit_little_endian = header[4] == 2 && header[5] == 1;
    let is_executable = matches!(u16_at(header, 16), ET_EXEC | ET_DYN);
    if !is_64_bit_little_endian || !is_executable || u16_at(header, 18) != EM_X86_64 {
        return Err(ElfError::NotExecutable);
    }
    if usize::from(u16_at(header, 54)) != PROGRAM_HEADER_BYTES {
        return Err(ElfError::Inconsistent);
    }
    let count = u64::from(u16_at(header, 56));
    let table = bytes(image, u64_at(header, 32), count * PROGRAM_HEADER_BYTES as u64)?;
    let (mut end, mut referred) = (0, 0_u64);
    for entry in table.chunks_exact(PROGRAM_HEADER_BYTES) {
        match u32_at(entry, 0) {
            PT_LOAD => end = check_segment(image, entry, layout)?.max(end),
            PT_NOTE => {}
            _ => continue,
        }
        referred = referred.saturating_add(u64_at(entry, 32));
    }
    // A note lies inside a segment, so that a sound file is read twice at most. Thousands of headers
    // over the same bytes would keep the loader busy for minutes.
    let found = image.len() as u64;
    if referred > found.saturating_mul(2) {
        return Err(ElfError::Repeating { referred, found });
    }
    if end == 0 { Err(ElfError::Empty) } else { Ok(end) }
}

/// Returns the guest physical address of the first byte behind the segment.
fn check_segment(image: &[u8], entry: &[u8], layout: MemoryLayout) -> Result<u64, ElfError> {
    let (offset, start) = (u64_at(entry, 8), u64_at(entry, 24));
    let (file_size, memory_size) = (u64_at(entry, 32), u64_at(entry, 40));
    bytes(image, offset, file_size)?;
    if file_size > memory_size {
        return Err(ElfError::Inconsistent);
    }
    let (ram_start, ram_end) = (HIGH_RAM_START, layout.low_end());
    match start.checked_add(memory_size) {
        Some(end) if start >= ram_start && end <= ram_end => Ok(end),
        end => {
            let end = end.unwrap_or(u64::MAX);
            Err(ElfError::OutsideOfRam { start, end, ram_start, ram_end })
        }
    }
}

fn bytes(image: &[u8], offset: u64, length: u64) -> Result<&[u8], ElfError> {
    let needed = offset.saturating_add(length);
    let range = usize::try_from(offset).ok().zip(usize::try_from(needed).ok());
    range
        .and_then(|(start, end)| image.get(start..end))
        .ok_or(ElfError::Truncated { needed, found: image.len() as u64 })
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array(bytes, at))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array(bytes, at))
}

/// The callers have cut a whole header.
fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// An ELF file with one segment, and no entry.
    pub(in crate::boot) fn elf(start: u64, file_size: u64, memory_size: u64) -> Vec<u8> {
        let mut image = vec![0; HEADER_BYTES + PROGRAM_HEADER_BYTES];
        image[..6].copy_from_slice(b"\x7fELF\x02\x01");
        image[16] = 2;
        image[18] = 62;
        image[32] = 64;
        image[54] = 56;
        image[56] = 1;
        image[64] = 1;
        image[72..80].copy_from_slice(&120_u64.to_le_bytes());
        image[88..96].copy_from_slice(&start.to_le_bytes());
        image[96..104].copy_from_slice(&file_size.to_le_bytes());
        image[104..112].copy_from_slice(&memory_size.to_le_bytes());
        image.resize(120 + 4096, 1);
        image
    }

    #[test]
    fn segments_must_lie_between_one_mib_and_the_hole() {
        let layout = MemoryLayout::new(64 << 20, 32 << 20).unwrap();
        let expect = |start, memory_size, is_fine: bool| {
            let outcome = check(&elf(start, 4096, memory_size), layout);
            let expected = if is_fine {
                outcome == Ok(start + memory_size)
            } else {
                matches!(outcome, Err(ElfError::OutsideOfRam { .. }))
            };
            assert!(expected, "{start:#x} + {memory_size:#x}: {outcome:?}");
        };
        expect(1 << 20, 4096, true);
        expect((32 << 20) - 4096, 4096, true);
        expect((32 << 20) - 4096, 8192, false);
        expect(32 << 20, 4096, false);
        expect(4 << 30, 4096, false);
        expect(0x8000, 4096, false);
        expect(u64::MAX - 100, 4096, false);
    }

    #[test]
    fn what_the_headers_refer_to_must_be_in_the_file() {
        let layout = MemoryLayout::new(64 << 20, 32 << 20).unwrap();
        let whole = elf(1 << 20, 4096, 4096);
        assert_eq!(check(&whole, layout), Ok((1 << 20) + 4096));
        for length in [0, 4, 63, 119, 120, whole.len() - 1] {
            let outcome = check(&whole[..length], layout);
            assert!(matches!(outcome, Err(ElfError::Truncated { .. })), "{length}: {outcome:?}");
        }
    }

    #[test]
    fn a_segment_of_zeros_alone_counts_towards_the_end() {
        let layout = MemoryLayout::new(64 << 20, 32 << 20).unwrap();
        assert_eq!(check(&elf(2 << 20, 0, 8192), layout), Ok((2 << 20) + 8192));
    }

    #[test]
    fn headers_that_repeat_the_file_are_refused() {
        let layout = MemoryLayout::new(64 << 20, 32 << 20).unwrap();
        // Headers that all load what one loads; the file's contents do not matter.
        let repeated = |headers: u16, kind: u8| {
            let mut image = elf(1 << 20, 4096, 4096);
            let header = image[HEADER_BYTES..HEADER_BYTES + PROGRAM_HEADER_BYTES].to_vec();
            let table = image.len() as u64;
            image[32..40].copy_from_slice(&table.to_le_bytes());
            image[56..58].copy_from_slice(&headers.to_le_bytes());
            for index in 0..headers {
                image.extend_from_slice(&header);
                let at = image.len() - PROGRAM_HEADER_BYTES;
                image[at] = if index == 0 { 1 } else { kind };
            }
            check(&image, layout)
        };
        for kind in [1, 4] {
            assert_eq!(repeated(2, kind), Ok((1 << 20) + 4096), "type {kind}");
            let outcome = repeated(60, kind);
            assert!(matches!(outcome, Err(ElfError::Repeating { .. })), "{kind}: {outcome:?}");
        }
    }

    #[test]
    fn another_machines_file_is_refused() {
        let layout = MemoryLayout::new(64 << 20, 32 << 20).unwrap();
        for (at, value) in [(4, 1), (5, 2), (16, 1), (18, 183)] {
            let mut image = elf(1 << 20, 4096, 4096);
            image[at] = value;
            assert_eq!(check(&image, layout), Err(ElfError::NotExecutable), "byte {at}");
        }
    }
}
