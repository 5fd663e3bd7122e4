//! Where the devices answer: the one place that the bus and the ACPI tables take it from.

/// First port of COM1, which has eight.
pub(crate) const COM1: u16 = 0x3f8;
/// COM1's interrupt.
pub(crate) const COM1_GSI: u32 = 4;
/// The i8042's data port.
pub(crate) const I8042_DATA: u16 = 0x60;
/// The i8042's command port.
pub(crate) const I8042_COMMAND: u16 = 0x64;
/// The command that pulses the reset line.
pub(crate) const I8042_RESET: u8 = 0xfe;
/// ACPI's sleep control register of a hardware-reduced platform (ACPI 6.5, 4.8.3.7).
pub(crate) const ACPI_SLEEP_CONTROL: u16 = 0x600;
/// ACPI's sleep status register.
pub(crate) const ACPI_SLEEP_STATUS: u16 = 0x601;
/// The sleep type that means "off": `\_S5` names it, and the guest writes it.
pub(crate) const S5_SLEEP_TYPE: u8 = 5;
/// The CMOS clock's index port: which of its registers the data port is.
pub(crate) const CMOS_INDEX: u16 = 0x70;
/// The CMOS clock's data port.
pub(crate) const CMOS_DATA: u16 = 0x71;
/// The events that the host has raised, one bit each; reading takes them.
pub(crate) const EVENTS: u16 = 0x602;
/// PCI's configuration mechanism 1: the address, in four bytes (PCI Local Bus 3.0, 3.2.2.3.2).
pub(crate) const PCI_ADDRESS: u16 = 0xcf8;
/// The four ports through which the addressed register is read and written.
pub(crate) const PCI_DATA: u16 = 0xcfc;
/// How many ports address and data are together.
pub(crate) const PCI_PORTS: u8 = 8;
/// The reset control register of Intel's chipsets, one byte within the ports of the address (ICH9, 13.7.5).
pub(crate) const RESET_CONTROL: u16 = 0xcf9;
/// The bit of the reset control register that resets the processor.
pub(crate) const RESET_CPU: u8 = 1 << 2;
/// The events' interrupt: an input that the I/O APIC does not share with the old interrupt controllers.
pub(crate) const EVENTS_GSI: u32 = 16;
