//! PCI Express: configuration space, the ports that lead into it, and the functions in it. So far the
//! host bridge alone.

use std::sync::atomic::{AtomicU32, Ordering};

use serde::{Deserialize, Serialize};

/// Bytes of a function's configuration space (PCI Express Base 5.0, 7.2.2).
const CONFIG_BYTES: u64 = 4096;

/// The header of the host bridge, 00:00.0 (PCI Local Bus 3.0, 6.1): a class and an id, no BAR, no
/// interrupt, no capability.
///
/// The id is the one that Red Hat has set aside for a generic PCI Express host bridge without any
/// register of its own, which this is: whatever a guest knows of it holds. Another maker's id would
/// claim that maker's registers, and a vendor id of our own there is none. Host bridges need no
/// subsystem id (6.2.4).
const HOST_BRIDGE: [u8; 16] = [
    0x36, 0x1b, // vendor: Red Hat
    0x08, 0x00, // device: PCI Express host bridge
    0x00, 0x00, // command: nothing to be enabled
    0x00, 0x00, // status
    0x00, // revision
    0x00, 0x00, 0x06, // class: bridge, host
    0x00, 0x00, // cache line, latency timer
    0x00, // header of type 0, one function
    0x00, // no self-test
];

/// What an offset into the ECAM names (PCI Express Base 5.0, table 7-1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Register {
    bus: u64,
    /// Device and function.
    function: u64,
    offset: u64,
}

impl Register {
    fn at(offset: u64) -> Self {
        Self { bus: offset >> 20, function: (offset >> 12) & 0xff, offset: offset % CONFIG_BYTES }
    }
}

/// Reads configuration space; the access begins at `offset` in the ECAM. Returns whether a function
/// answers: not if there is none, nor to an access that leaves it.
#[must_use]
pub(super) fn read(offset: u64, data: &mut [u8]) -> bool {
    let register = Register::at(offset);
    if !is_host_bridge(register, data.len()) {
        return false;
    }
    for (byte, at) in data.iter_mut().zip(register.offset..) {
        let at = usize::try_from(at).expect("within 4 KiB");
        *byte = HOST_BRIDGE.get(at).copied().unwrap_or(0);
    }
    true
}

/// The same for a write, of which the host bridge keeps nothing.
#[must_use]
pub(super) fn write(offset: u64, data: &[u8]) -> bool {
    is_host_bridge(Register::at(offset), data.len())
}

fn is_host_bridge(register: Register, length: usize) -> bool {
    let stays_inside = register.offset + length as u64 <= CONFIG_BYTES;
    register.bus == 0 && register.function == 0 && stays_inside
}

/// The bit of the address that makes the data ports lead to configuration space.
const ENABLE: u32 = 1 << 31;
/// Bits that the specification reserves. Some AMD chipsets extend the register number by them: there is no
/// function here that would answer, the ECAM is for that.
const ADDRESS_RESERVED: u32 = 0x7f00_0000;
/// The address names registers of four bytes; the data port chooses among them.
const REGISTER_LOW_BITS: u32 = 0b11;

/// The saved form.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PciStateV1 {
    address: u32,
}

/// The address of configuration mechanism 1: older kernels, 6.1 among them, find PCI by it before they can
/// read in the DSDT that the ECAM is what the MCFG says.
///
/// An atomic is enough: a guest that lets two vCPUs use the ports at once is told nonsense on any machine.
#[derive(Debug, Default)]
pub(crate) struct ConfigAddress(AtomicU32);

impl ConfigAddress {
    /// A read of the address port, all four bytes.
    pub(super) fn get(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    /// A write to the address port, all four bytes. What the guest wrote it reads back: that is how it
    /// finds the mechanism.
    pub(super) fn set(&self, address: u32) {
        self.0.store(address, Ordering::Relaxed);
    }

    /// What an access to the data ports reaches, as an offset into the ECAM: nothing while the address is
    /// not enabled, nor where the access leaves the ports.
    pub(super) fn offset(&self, data_port: u16, length: usize) -> Option<u64> {
        let address = self.get();
        let is_valid = address & (ENABLE | ADDRESS_RESERVED) == ENABLE;
        if !is_valid || usize::from(data_port) + length > 4 {
            return None;
        }
        let [register, function, bus, _] = (address & !REGISTER_LOW_BITS).to_le_bytes();
        let function = (u64::from(bus) << 20) | (u64::from(function) << 12);
        Some(function | u64::from(register) | u64::from(data_port))
    }

    pub(crate) fn save(&self) -> PciStateV1 {
        PciStateV1 { address: self.get() }
    }

    /// Replaces the address. Every value is one that a guest can write.
    pub(crate) fn restore(&self, state: &PciStateV1) {
        self.set(state.address);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_names_a_register_of_a_function_and_the_port_a_byte_in_it() {
        let address = ConfigAddress::default();
        assert_eq!(address.offset(0, 4), None, "nothing is enabled at first");
        address.set(0x8012_3456);
        assert_eq!(address.get(), 0x8012_3456);
        // Bus 0x12, device and function 0x34, register 0x54 and on.
        assert_eq!(address.offset(0, 4), Some(0x0123_4054));
        assert_eq!(address.offset(3, 1), Some(0x0123_4057));
        assert_eq!(address.offset(2, 2), Some(0x0123_4056));
        for (port, length) in [(0, 5), (1, 4), (3, 2), (4, 1)] {
            assert_eq!(address.offset(port, length), None, "{length} bytes at {port}");
        }
        for unusable in [0x0012_3456, 0x8112_3456, 0xff12_3456, 0] {
            address.set(unusable);
            assert_eq!(address.offset(0, 4), None, "{unusable:#x}");
        }
    }

    fn dword(offset: u64) -> Option<u32> {
        let mut data = [0xaa; 4];
        read(offset, &mut data).then_some(u32::from_le_bytes(data))
    }

    #[test]
    fn the_host_bridge_is_function_0_of_device_0_and_nothing_else_is_there() {
        assert_eq!(dword(0), Some(0x0008_1b36));
        assert_eq!(dword(8), Some(0x0600_0000));
        // The rest of its space is there, and empty: a BAR that is sized, extended capabilities.
        for offset in [0x04, 0x0c, 0x10, 0x24, 0x2c, 0x34, 0x3c, 0x100, 0xffc] {
            assert_eq!(dword(offset), Some(0), "{offset:#x}");
        }
        for (bus, device, function) in [(0, 0, 1), (0, 1, 0), (0, 31, 7), (1, 0, 0), (15, 31, 7)] {
            assert_eq!(dword((bus << 20) | (device << 15) | (function << 12)), None);
        }
    }

    #[test]
    fn what_is_written_to_the_host_bridge_is_not_kept() {
        for offset in [0, 4, 0x10, 0x3c, 0xffc] {
            let before = dword(offset);
            assert!(write(offset, &[0xff; 4]));
            assert_eq!(dword(offset), before);
        }
        assert!(!write(1 << 12, &[0xff; 4]));
    }

    #[test]
    fn an_access_that_leaves_a_function_reaches_none() {
        let mut data = [0; 8];
        assert!(read(0xff8, &mut data));
        assert!(!read(0xff9, &mut data));
        assert!(!write(0xffd, &[0; 4]));
    }
}
