//! ACPI tables of a hardware-reduced platform (ACPI 6.5, chapters 4 and 5).
//!
//! Hardware-reduced mode switches Linux's legacy PIC and PIT off, so that every device with an
//! interrupt has to stand in the DSDT: the serial port would fall silent after the early console.

mod dsdt;

use acpi_tables::Aml;
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{
    EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic,
};
use acpi_tables::mcfg::MCFG;
use acpi_tables::rsdp::Rsdp;
use acpi_tables::xsdt::XSDT;

use super::{ACPI_END, ACPI_START};
use crate::devices::CENTURY;
use crate::devices::mmio::{ECAM_START, PCI_BUSES};
use crate::devices::ports::{ACPI_SLEEP_CONTROL, ACPI_SLEEP_STATUS, I8042_COMMAND, I8042_RESET};
use crate::memory::{GuestRam, RamError};

const OEM_ID: [u8; 6] = *b"NOVACR";
const OEM_TABLE_ID: [u8; 8] = *b"NOVACRON";
const OEM_REVISION: u32 = 1;

const LOCAL_APIC_ADDRESS: u32 = 0xfee0_0000;
const IO_APIC_ADDRESS: u32 = 0xfec0_0000;
/// `IAPC_BOOT_ARCH` (ACPI 6.5, table 5.10).
const NO_VGA: u16 = 1 << 2;
const RSDP_BYTES: u64 = 36;

/// Writes all tables, and returns the address of the RSDP, which leads to the others.
pub(super) fn write_tables(ram: &GuestRam, cpus: u8) -> Result<u64, RamError> {
    let mut next = (ACPI_START + RSDP_BYTES).next_multiple_of(16);
    let mut place = |table: Vec<u8>| {
        let address = next;
        next = (next + table.len() as u64).next_multiple_of(16);
        assert!(next <= ACPI_END, "the tables of 64 processors fit many times");
        ram.write(address, &table).map(|()| address)
    };
    let dsdt_address = place(dsdt::encoded(ram.layout()))?;
    let fadt_address = place(fadt(dsdt_address))?;
    let madt_address = place(madt(cpus))?;
    let mcfg_address = place(mcfg())?;
    let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    xsdt.add_entry(fadt_address);
    xsdt.add_entry(madt_address);
    xsdt.add_entry(mcfg_address);
    let xsdt_address = place(encode(&xsdt))?;
    ram.write(ACPI_START, &encode(&Rsdp::new(OEM_ID, xsdt_address)))?;
    Ok(ACPI_START)
}

fn encode(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

/// Fixed features: reset through the i8042, sleep through two ports of ours.
fn fadt(dsdt: u64) -> Vec<u8> {
    let port =
        |port: u16| GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, u64::from(port));
    let mut fadt = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION)
        .dsdt_64(dsdt)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ResetRegSup)
        // Not a fixed feature: the power button is a device of the DSDT; a sleep button there is none;
        // and the clock wakes nobody.
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton)
        .flag(Flags::FixRtc);
    // A kernel that believes it looks for none.
    fadt.iapc_boot_arch = NO_VGA.into();
    fadt.century = CENTURY;
    fadt.reset_reg = port(I8042_COMMAND);
    fadt.reset_value = I8042_RESET;
    fadt.sleep_control_reg = port(ACPI_SLEEP_CONTROL);
    fadt.sleep_status_reg = port(ACPI_SLEEP_STATUS);
    encode(&fadt.finalize())
}

/// Every processor, and the one I/O APIC whose inputs are the GSIs.
fn madt(cpus: u8) -> Vec<u8> {
    let local = LocalInterruptController::Address(LOCAL_APIC_ADDRESS);
    let mut madt = MADT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION, local);
    for cpu in 0..cpus {
        madt.add_structure(ProcessorLocalApic::new(cpu, cpu, EnabledStatus::Enabled));
    }
    madt.add_structure(IoApic::new(cpus, IO_APIC_ADDRESS, 0));
    encode(&madt)
}

/// Where PCI's configuration space lies: one segment.
fn mcfg() -> Vec<u8> {
    let mut mcfg = MCFG::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    mcfg.add_ecam(ECAM_START, 0, 0, PCI_BUSES - 1);
    encode(&mcfg)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemoryLayout;

    /// Follows the pointers as a guest does, and returns the tables by signature.
    fn walk(ram: &GuestRam) -> Vec<([u8; 4], Vec<u8>)> {
        let page = |address: u64, length: usize| {
            let run = dwcp::page::PageRun::new(dwcp::page::Gfn(ACPI_START / 4096), 4).unwrap();
            let mut bytes = vec![0; 4 * 4096];
            ram.read_run(run, &mut bytes).unwrap();
            let start = usize::try_from(address - ACPI_START).unwrap();
            bytes[start..start + length].to_vec()
        };
        let table = |address: u64| {
            let length = u32::from_le_bytes(page(address + 4, 4).try_into().unwrap());
            page(address, length as usize)
        };
        let quad = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap());
        let rsdp = page(ACPI_START, 36);
        assert_eq!(&rsdp[..8], b"RSD PTR ");
        let xsdt = table(quad(&rsdp[24..32]));
        let mut tables: Vec<_> = xsdt[36..].chunks(8).map(|entry| table(quad(entry))).collect();
        let dsdt = table(quad(&tables[0][140..148]));
        tables.extend([dsdt, xsdt]);
        tables.into_iter().map(|t| (t[..4].try_into().unwrap(), t)).collect()
    }

    #[test]
    fn every_table_is_reachable_and_sums_to_zero() {
        let ram = GuestRam::new(MemoryLayout::new(16 << 20, 32 << 20).unwrap()).unwrap();
        for cpus in [1, 64] {
            write_tables(&ram, cpus).unwrap();
            let tables = walk(&ram);
            let names: Vec<_> = tables.iter().map(|(name, _)| name).collect();
            assert_eq!(names, [b"FACP", b"APIC", b"MCFG", b"DSDT", b"XSDT"]);
            for (name, table) in &tables {
                let sum = table.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
                assert_eq!(sum, 0, "{}", String::from_utf8_lossy(name));
            }
            // Header 44 bytes, 8 a local APIC, 12 the I/O APIC.
            assert_eq!(tables[1].1.len(), 44 + usize::from(cpus) * 8 + 12);
        }
    }

    #[test]
    fn the_mcfg_names_every_bus_of_the_one_segment() {
        let ram = GuestRam::new(MemoryLayout::new(16 << 20, 32 << 20).unwrap()).unwrap();
        write_tables(&ram, 1).unwrap();
        let (_, mcfg) = &walk(&ram)[2];
        let mut expected = ECAM_START.to_le_bytes().to_vec();
        // Segment, first and last bus, reserved bytes (PCI Firmware 3.3, table 4-3).
        expected.extend([0, 0, 0, PCI_BUSES - 1, 0, 0, 0, 0]);
        assert_eq!(mcfg[44..], expected);
    }

    #[test]
    fn the_clock_is_announced_with_its_century_and_nothing_says_that_there_is_none() {
        let fadt = fadt(0);
        assert_eq!(fadt[108], CENTURY);
        let boot_flags = u16::from_le_bytes([fadt[109], fadt[110]]);
        const CMOS_CLOCK_NOT_PRESENT: u16 = 1 << 5;
        assert_eq!(boot_flags & CMOS_CLOCK_NOT_PRESENT, 0);
    }
}
