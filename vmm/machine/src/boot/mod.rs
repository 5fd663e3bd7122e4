//! Loading a guest: what goes where in its memory, and with which registers it starts.
//!
//! ```text
//! 0x0000_0500  descriptor table            (64-bit boot protocol only)
//! 0x0000_6000  hvm_start_info, module list (PVH)
//! 0x0000_7000  memory map (PVH), or boot_params (64-bit boot protocol)
//! 0x0000_9000  page tables                 (64-bit boot protocol only)
//! 0x0002_0000  command line
//! 0x000a_0000  nothing: where a PC has its video memory and firmware
//! 0x000d_f000  generation id
//! 0x000e_0000  ACPI tables
//! 0x000f_f000  reset vector: what stands where a PC's firmware begins
//! 0x0010_0000  kernel, then free memory; the initrd ends where low memory ends
//! ```

mod acpi;
mod elf;
mod linux64;
mod pvh;
mod reset_vector;

use std::io::Cursor;

use dwcp::page::PAGE_SIZE;
use linux_loader::loader::elf::PvhBootCapability;
use linux_loader::loader::{BzImage, Elf, KernelLoader, KernelLoaderResult};

use crate::devices::GENERATION_PAGE;
use crate::devices::mmio::{ECAM_BYTES, ECAM_START};
use crate::memory::{GuestRam, MemoryLayout, RamError};
use crate::vcpu::{EntryPoint, VcpuError};

pub use elf::ElfError;

const COMMAND_LINE_ADDRESS: u64 = 0x2_0000;
/// Linux reads at most `COMMAND_LINE_SIZE` = 2048 bytes on x86, its terminator included.
const MAX_COMMAND_LINE: usize = 2047;
/// One past the RAM below the hole that a PC has between 640 KiB and 1 MiB.
const LOW_RAM_END: u64 = 0xa_0000;
const ACPI_START: u64 = 0xe_0000;
/// One past what there is for ACPI tables: the page of the reset vector.
const ACPI_END: u64 = reset_vector::PAGE;
/// Where RAM goes on above the first MiB.
const HIGH_RAM_START: u64 = 0x10_0000;

/// A guest to be loaded.
#[derive(Clone, Copy, Debug)]
pub struct BootSource<'a> {
    /// The kernel: an ELF file with a PVH entry, an ELF vmlinux, or a bzImage.
    pub kernel: &'a [u8],
    /// The initial RAM disk, if any.
    pub initrd: Option<&'a [u8]>,
    /// The command line.
    pub command_line: &'a str,
}

/// Why a guest could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// Neither an ELF file nor a bzImage
    #[error(
        "the kernel is neither an ELF file nor a Linux bzImage; give a vmlinux or a bzImage for x86-64"
    )]
    UnknownFormat,
    /// An ELF file that cannot be loaded
    #[error("the kernel's ELF file cannot be loaded: {0}")]
    Elf(#[from] ElfError),
    /// linux-loader refused it
    #[error("the kernel cannot be loaded: {0}")]
    Loader(#[from] linux_loader::loader::Error),
    /// Its first instruction is not in what it loads
    #[error(
        "the kernel starts at {entry:#x}, which is not in what it loads, below {end:#x}; is the file damaged?"
    )]
    EntryOutside {
        /// Guest physical address of the first instruction.
        entry: u64,
        /// One past the kernel's last byte.
        end: u64,
    },
    /// It does not fit
    #[error(
        "{what} of {size} bytes does not fit into {low_mib} MiB of memory below the hole beside the kernel; give the machine more with --memory"
    )]
    DoesNotFit {
        /// The kernel or the initrd.
        what: &'static str,
        /// Its size in bytes.
        size: u64,
        /// MiB of RAM below the hole.
        low_mib: u64,
    },
    /// The command line is too long
    #[error("the command line has {0} bytes; Linux takes at most {MAX_COMMAND_LINE}")]
    CommandLineTooLong(usize),
    /// The command line has a byte that would end it
    #[error("the command line contains a zero byte, which would end it")]
    CommandLineZero,
    /// Guest memory
    #[error(transparent)]
    Ram(#[from] RamError),
    /// The first registers
    #[error(transparent)]
    Registers(VcpuError),
    /// The generation id is random
    #[error("this host has no random source for the guest's generation id: {0}")]
    Random(#[from] std::io::Error),
}

/// Loads a guest into fresh RAM.
pub(crate) fn load(
    ram: &GuestRam,
    cpus: u8,
    source: &BootSource<'_>,
) -> Result<EntryPoint, BootError> {
    let layout = ram.layout();
    let kernel = load_kernel(ram, source.kernel)?;
    let initrd = load_initrd(ram, source.initrd.unwrap_or_default(), kernel_end(&kernel))?;
    load_command_line(ram, source.command_line)?;
    let rsdp = acpi::write_tables(ram, cpus)?;
    reset_vector::write(ram)?;
    let entry_point = match kernel.pvh_boot_cap {
        PvhBootCapability::PvhEntryPresent(entry) => {
            let start_info = pvh::write_start_info(ram, layout, initrd, rsdp)?;
            EntryPoint::Pvh { entry: entry.0, start_info }
        }
        _ => linux64::prepare(ram, &kernel, initrd, rsdp, source.command_line.len())?,
    };
    let (entry, end) = (entry_point.first_instruction(), kernel.kernel_end);
    if !(HIGH_RAM_START..end).contains(&entry) {
        return Err(BootError::EntryOutside { entry, end });
    }
    Ok(entry_point)
}

/// Loads a guest of `cpus` vCPUs as [`crate::Paused::boot`] does, without KVM: for fuzzing. Returns
/// the guest physical address of its first instruction.
///
/// # Errors
/// Says what is wrong with the image, or that it does not fit.
pub fn load_guest(ram: &GuestRam, cpus: u8, source: &BootSource<'_>) -> Result<u64, BootError> {
    load(ram, cpus, source).map(EntryPoint::first_instruction)
}

/// Where the initrd lies in guest memory; a size of 0 when there is none.
#[derive(Clone, Copy, Debug, Default)]
struct Initrd {
    address: u64,
    size: u64,
}

fn load_kernel(ram: &GuestRam, image: &[u8]) -> Result<KernelLoaderResult, BootError> {
    let mut file = Cursor::new(image);
    if image.starts_with(b"\x7fELF") {
        // linux-loader checks what it copies, but neither a segment's zeroed part nor the hole.
        let end = elf::check(image, ram.layout())?;
        let loaded = Elf::load(ram.mapping(), None, &mut file, None)?;
        // Its own idea of the end passes over segments that are all zeros.
        return Ok(KernelLoaderResult { kernel_end: end, ..loaded });
    }
    // boot.rst: the magic "HdrS" at 0x202.
    if image.get(0x202..0x206) == Some(b"HdrS") {
        let start = vm_memory::GuestAddress(HIGH_RAM_START);
        return Ok(BzImage::load(ram.mapping(), None, &mut file, Some(start))?);
    }
    Err(BootError::UnknownFormat)
}

/// One past the last address that the kernel needs: a bzImage decompresses itself to a place of its
/// own choice, which its header names (boot.rst, `pref_address` and `init_size`).
fn kernel_end(kernel: &KernelLoaderResult) -> u64 {
    let unpacked =
        kernel.setup_header.map_or(0, |h| h.pref_address.saturating_add(h.init_size.into()));
    kernel.kernel_end.max(unpacked)
}

/// Puts the initrd as high below the hole as it goes: a kernel that decompresses itself upwards
/// does not reach it there.
fn load_initrd(ram: &GuestRam, initrd: &[u8], kernel_end: u64) -> Result<Initrd, BootError> {
    if initrd.is_empty() {
        return Ok(Initrd::default());
    }
    let low_end = ram.layout().low_end();
    let size = initrd.len() as u64;
    let address = low_end
        .checked_sub(size)
        .map(|address| address & !0xfff)
        .filter(|address| *address >= kernel_end.max(HIGH_RAM_START))
        .ok_or(BootError::DoesNotFit { what: "an initrd", size, low_mib: low_end >> 20 })?;
    ram.write(address, initrd)?;
    Ok(Initrd { address, size })
}

fn load_command_line(ram: &GuestRam, command_line: &str) -> Result<(), BootError> {
    if command_line.len() > MAX_COMMAND_LINE {
        return Err(BootError::CommandLineTooLong(command_line.len()));
    }
    if command_line.contains('\0') {
        return Err(BootError::CommandLineZero);
    }
    // The terminating zero is there: the RAM is fresh.
    ram.write(COMMAND_LINE_ADDRESS, command_line.as_bytes())?;
    Ok(())
}

/// What an entry of a memory map says of its range; the values of E820 and of PVH alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MemoryKind {
    Ram = 1,
    Reserved = 2,
    Acpi = 3,
}

/// The memory map that the guest is told. That the ECAM is in it is for kernels that read the map before they
/// can read the DSDT, which reserves it too, and do not believe the MCFG otherwise.
fn memory_map(layout: MemoryLayout) -> Vec<(u64, u64, MemoryKind)> {
    let mut map = vec![
        (0, LOW_RAM_END, MemoryKind::Ram),
        (GENERATION_PAGE, PAGE_SIZE, MemoryKind::Reserved),
        (ACPI_START, ACPI_END - ACPI_START, MemoryKind::Acpi),
        (reset_vector::PAGE, PAGE_SIZE, MemoryKind::Reserved),
        (HIGH_RAM_START, layout.low_end() - HIGH_RAM_START, MemoryKind::Ram),
        (ECAM_START, ECAM_BYTES, MemoryKind::Reserved),
    ];
    map.extend(layout.regions().skip(1).map(|r| (r.start, r.size, MemoryKind::Ram)));
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ram() -> GuestRam {
        GuestRam::new(MemoryLayout::new(64 << 20, 32 << 20).unwrap()).unwrap()
    }

    fn load_into(ram: &GuestRam, source: &BootSource<'_>) -> Result<EntryPoint, BootError> {
        load(ram, 1, source)
    }

    #[test]
    fn the_oracle_is_a_pvh_guest() {
        let source = BootSource { kernel: firmware::ORACLE, initrd: None, command_line: "a=b" };
        let ram = ram();
        assert!(matches!(load_into(&ram, &source), Ok(EntryPoint::Pvh { .. })));
    }

    #[test]
    fn every_guest_finds_a_reset_where_a_pc_has_its_firmware() {
        let source = BootSource { kernel: firmware::ORACLE, initrd: None, command_line: "" };
        let ram = ram();
        load_into(&ram, &source).unwrap();
        let page = dwcp::page::PageRun::new(dwcp::page::Gfn(0xff), 1).unwrap();
        let mut bytes = [0; 4096];
        ram.read_run(page, &mut bytes).unwrap();
        // Interrupts off, 0xfe to port 0x64, and halted for ever should that return.
        let code = [0xfa, 0xb0, 0xfe, 0xe6, 0x64, 0xf4, 0xeb, 0xfd];
        assert_eq!(bytes[0xff0..0xff8], code);
    }

    #[test]
    fn files_that_are_no_kernel_are_refused_by_name() {
        for kernel in [&b""[..], b"hello, world\n", &[0; 0x300]] {
            let source = BootSource { kernel, initrd: None, command_line: "" };
            let refused = load_into(&ram(), &source);
            assert!(matches!(refused, Err(BootError::UnknownFormat)), "{refused:?}");
        }
    }

    #[test]
    fn a_kernel_cut_anywhere_is_refused_and_never_panics() {
        let ram = ram();
        for length in (0..firmware::ORACLE.len()).step_by(97) {
            let kernel = &firmware::ORACLE[..length];
            let source = BootSource { kernel, initrd: None, command_line: "" };
            // What is cut off behind the last segment (section headers) is not needed.
            if let Ok(entry) = load_into(&ram, &source) {
                assert!(elf::check(kernel, ram.layout()).is_ok(), "{length}: {entry:?}");
            }
        }
    }

    #[test]
    fn an_initrd_that_would_overwrite_the_kernel_is_refused() {
        let initrd = vec![1; 32 << 20];
        let source =
            BootSource { kernel: firmware::ORACLE, initrd: Some(&initrd), command_line: "" };
        assert!(matches!(load_into(&ram(), &source), Err(BootError::DoesNotFit { .. })));
    }

    #[test]
    fn an_initrd_does_not_fit_over_memory_that_the_kernel_wants_zeroed() {
        let kernel = elf::tests::elf(1 << 20, 0, 31 << 20);
        let source = BootSource { kernel: &kernel, initrd: Some(&[1]), command_line: "" };
        let refused = load_into(&ram(), &source);
        assert!(matches!(refused, Err(BootError::DoesNotFit { .. })), "{refused:?}");
    }

    #[test]
    fn a_kernel_that_starts_outside_of_itself_is_refused() {
        let mut kernel = elf::tests::elf(1 << 20, 4096, 4096);
        for (entry, is_fine) in [
            (0, false),
            ((1_u64 << 20) - 1, false),
            (1 << 20, true),
            ((1 << 20) + 4095, true),
            ((1 << 20) + 4096, false),
            (u64::MAX, false),
        ] {
            kernel[24..32].copy_from_slice(&entry.to_le_bytes());
            let source = BootSource { kernel: &kernel, initrd: None, command_line: "" };
            match load_into(&ram(), &source) {
                Ok(_) => assert!(is_fine, "{entry:#x}"),
                Err(BootError::EntryOutside { .. }) => assert!(!is_fine, "{entry:#x}"),
                Err(other) => panic!("{entry:#x}: {other}"),
            }
        }
    }

    #[test]
    fn command_lines_that_linux_would_cut_are_refused() {
        let long = "x".repeat(MAX_COMMAND_LINE + 1);
        for command_line in [long.as_str(), "a\0b"] {
            let source = BootSource { kernel: firmware::ORACLE, initrd: None, command_line };
            assert!(load_into(&ram(), &source).is_err());
        }
    }

    #[test]
    fn the_memory_map_covers_all_ram_once() {
        for (size, hole) in [(64_u64 << 20, 32_u64 << 20), (16 << 20, 32 << 20)] {
            let layout = MemoryLayout::new(size, hole).unwrap();
            let map = memory_map(layout);
            for pair in map.windows(2) {
                assert!(pair[0].0 + pair[0].1 <= pair[1].0, "{map:x?}");
            }
            let told: u64 = map.iter().map(|entry| entry.1).sum();
            // All but what lies where a PC has its video memory and option ROMs; the ECAM is no RAM.
            assert_eq!(told - ECAM_BYTES, size - (GENERATION_PAGE - LOW_RAM_END));
            // Pages which no guest takes for its own, and of them the generation id's for it alone.
            let is_reserved = |entry: &&(u64, u64, MemoryKind)| entry.2 == MemoryKind::Reserved;
            let reserved: Vec<_> =
                map.iter().filter(is_reserved).map(|entry| (entry.0, entry.1)).collect();
            let ecam = (ECAM_START, ECAM_BYTES);
            assert_eq!(reserved, [(GENERATION_PAGE, 4096), (reset_vector::PAGE, 4096), ecam]);
        }
    }
}
