//! The PVH boot protocol: `hvm_start_info` and what it points to
//! (xen: xen/include/public/arch-x86/hvm/start_info.h).

use linux_loader::configurator::{BootConfigurator, BootParams, pvh::PvhBootConfigurator};
use linux_loader::loader::elf::start_info::{
    hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info,
};
use vm_memory::GuestAddress;

use super::{COMMAND_LINE_ADDRESS, Initrd, memory_map};
use crate::memory::{GuestRam, MemoryLayout, RamError};

const START_INFO_ADDRESS: u64 = 0x6000;
const MODULE_LIST_ADDRESS: u64 = 0x6040;
const MEMORY_MAP_ADDRESS: u64 = 0x7000;
const START_INFO_MAGIC: u32 = 0x336e_c578;

/// Writes the start info and returns its address.
pub(super) fn write_start_info(
    ram: &GuestRam,
    layout: MemoryLayout,
    initrd: Initrd,
    rsdp: u64,
) -> Result<u64, RamError> {
    let memory_map: Vec<_> = memory_map(layout)
        .into_iter()
        .map(|(addr, size, kind)| hvm_memmap_table_entry {
            addr,
            size,
            type_: kind as u32,
            reserved: 0,
        })
        .collect();
    let modules =
        [hvm_modlist_entry { paddr: initrd.address, size: initrd.size, ..Default::default() }];
    let has_initrd = initrd.size > 0;
    let start_info = hvm_start_info {
        magic: START_INFO_MAGIC,
        version: 1,
        nr_modules: u32::from(has_initrd),
        modlist_paddr: if has_initrd { MODULE_LIST_ADDRESS } else { 0 },
        cmdline_paddr: COMMAND_LINE_ADDRESS,
        rsdp_paddr: rsdp,
        memmap_paddr: MEMORY_MAP_ADDRESS,
        memmap_entries: u32::try_from(memory_map.len()).expect("a handful of entries"),
        ..Default::default()
    };
    let mut params = BootParams::new(&start_info, GuestAddress(START_INFO_ADDRESS));
    params.set_sections(&memory_map, GuestAddress(MEMORY_MAP_ADDRESS));
    if has_initrd {
        params.set_modules(&modules, GuestAddress(MODULE_LIST_ADDRESS));
    }
    PvhBootConfigurator::write_bootparams(&params, ram.mapping())
        .map_err(|_| RamError::OutOfRange { address: START_INFO_ADDRESS, length: 4096 })?;
    Ok(START_INFO_ADDRESS)
}
