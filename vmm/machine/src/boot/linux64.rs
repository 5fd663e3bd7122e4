//! Linux's 64-bit boot protocol, for kernels without a PVH entry
//! (Documentation/arch/x86/boot.rst, zero-page.rst).

use linux_loader::configurator::{BootConfigurator, BootParams, linux::LinuxBootConfigurator};
use linux_loader::loader::KernelLoaderResult;
use linux_loader::loader::bootparam::{boot_e820_entry, boot_params};
use vm_memory::GuestAddress;

use super::{BootError, COMMAND_LINE_ADDRESS, Initrd, memory_map};
use crate::memory::{GuestRam, RamError};
use crate::vcpu::EntryPoint;

const GDT_ADDRESS: u64 = 0x500;
const BOOT_PARAMS_ADDRESS: u64 = 0x7000;
const PAGE_TABLE_ADDRESS: u64 = 0x9000;
/// Grows down into what the page tables leave free.
const STACK_ADDRESS: u64 = 0x8ff0;

const PRESENT_WRITABLE: u64 = 0b11;
const LARGE_PAGE: u64 = 1 << 7;

/// The entry of the 64-bit protocol lies this far into a bzImage's protected-mode code.
const BZIMAGE_64_BIT_ENTRY: u64 = 0x200;

/// boot.rst, `loadflags`: stay quiet is bit 5, a heap is bit 7; `type_of_loader` 0xff is "undefined".
const UNDEFINED_LOADER: u8 = 0xff;

pub(super) fn prepare(
    ram: &GuestRam,
    kernel: &KernelLoaderResult,
    initrd: Initrd,
    rsdp: u64,
    command_line_bytes: usize,
) -> Result<EntryPoint, BootError> {
    write_tables(ram)?;
    let entry = match kernel.setup_header {
        Some(_) => kernel.kernel_load.0 + BZIMAGE_64_BIT_ENTRY,
        None => kernel.kernel_load.0,
    };
    let mut zero_page = boot_params::default();
    if let Some(header) = kernel.setup_header {
        zero_page.hdr = header;
    }
    zero_page.hdr.type_of_loader = UNDEFINED_LOADER;
    zero_page.hdr.boot_flag = 0xaa55;
    zero_page.hdr.header = u32::from_le_bytes(*b"HdrS");
    zero_page.hdr.cmd_line_ptr = low32(COMMAND_LINE_ADDRESS);
    zero_page.hdr.cmdline_size = low32(command_line_bytes as u64);
    zero_page.hdr.ramdisk_image = low32(initrd.address);
    zero_page.hdr.ramdisk_size = low32(initrd.size);
    zero_page.acpi_rsdp_addr = rsdp;
    let map = memory_map(ram.layout());
    for (slot, (addr, size, kind)) in zero_page.e820_table.iter_mut().zip(&map) {
        *slot = boot_e820_entry { addr: *addr, size: *size, r#type: *kind as u32 };
    }
    zero_page.e820_entries = u8::try_from(map.len()).expect("a handful of entries");
    let params = BootParams::new(&zero_page, GuestAddress(BOOT_PARAMS_ADDRESS));
    LinuxBootConfigurator::write_bootparams(&params, ram.mapping())
        .map_err(|_| RamError::OutOfRange { address: BOOT_PARAMS_ADDRESS, length: 4096 })?;
    Ok(EntryPoint::Linux64 {
        entry,
        boot_params: BOOT_PARAMS_ADDRESS,
        page_table: PAGE_TABLE_ADDRESS,
        gdt: GDT_ADDRESS,
        stack: STACK_ADDRESS,
    })
}

/// GiB that are mapped: everything below 4 GiB, where the protocol's pointers end.
const MAPPED_GIB: u64 = 4;

/// An identity map of the first 4 GiB in 2 MiB pages, and the descriptors that boot.rst names:
/// `__BOOT_CS` 0x10 and `__BOOT_DS` 0x18, flat.
fn write_tables(ram: &GuestRam) -> Result<(), RamError> {
    let (pml4, pdpt, pd) =
        (PAGE_TABLE_ADDRESS, PAGE_TABLE_ADDRESS + 0x1000, PAGE_TABLE_ADDRESS + 0x2000);
    ram.write(pml4, &(pdpt | PRESENT_WRITABLE).to_le_bytes())?;
    for gib in 0..MAPPED_GIB {
        let entry = (pd + gib * 0x1000) | PRESENT_WRITABLE;
        ram.write(pdpt + gib * 8, &entry.to_le_bytes())?;
    }
    for index in 0..512 * MAPPED_GIB {
        let entry = (index << 21) | LARGE_PAGE | PRESENT_WRITABLE;
        ram.write(pd + index * 8, &entry.to_le_bytes())?;
    }
    let descriptors: [u64; 4] = [0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff];
    for (descriptor, address) in descriptors.into_iter().zip((GDT_ADDRESS..).step_by(8)) {
        ram.write(address, &descriptor.to_le_bytes())?;
    }
    Ok(())
}

/// Everything the protocol points to lies below the hole, and so below 4 GiB.
fn low32(value: u64) -> u32 {
    u32::try_from(value).expect("below 4 GiB")
}
