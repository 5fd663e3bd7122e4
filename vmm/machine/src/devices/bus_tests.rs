//! The bus, with the devices of a VM that has no vCPU.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::devices::{Console, Event, IrqLine};
use crate::kvm::Host;

/// A bus; or nothing where there is no KVM, which counts as skipped.
fn bus(test: &str) -> Option<Bus> {
    let host = Host::of_test(test)?;
    let vm = Arc::new(host.create_vm().unwrap());
    vm.create_irq_chip().unwrap();
    let serial = SerialPort::new(Arc::clone(&vm), Console::new().unwrap()).unwrap();
    let events = Events::new(IrqLine::new(vm, crate::devices::ports::EVENTS_GSI));
    Some(Bus::new(serial, events))
}

fn port(bus: &Bus, port: u16) -> u8 {
    let mut data = [0x55];
    bus.read_port(port, &mut data);
    data[0]
}

#[test]
fn what_nobody_claims_reads_as_ones_and_swallows_writes() {
    let Some(bus) = bus("what_nobody_claims_reads_as_ones_and_swallows_writes") else { return };
    // Among them bytes of PCI's address, which is whole or nothing, its data ports while it leads
    // nowhere, and the index of the clock, which cannot be read.
    for at in [0x20, CMOS_INDEX, 0x72, 0x80, 0xcf8, 0xcfa, 0xcfb, 0xcfc, 0xcff, 0xd00]
        .into_iter()
        .chain([COM1 - 1, COM1 + 8, 0x5ff, 0x603, 0xffff])
    {
        assert_eq!(bus.write_port(at, &[0, 0xfe]), None, "{at:#x}");
        assert_eq!(port(&bus, at), 0xff, "{at:#x}");
    }
    let outside = [0, ECAM_START - 1, ECAM_START + ECAM_BYTES, ECAM_START - 4, u64::MAX];
    // Inside, but with no function behind it; and one that reaches over the end.
    let inside = [ECAM_START + 0x1000, ECAM_START + (1 << 20), ECAM_START + ECAM_BYTES - 4];
    for at in outside.into_iter().chain(inside).chain([ECAM_START + ECAM_BYTES - 1]) {
        bus.write_memory(at, &[0; 4]);
        let mut data = [0x55; 4];
        bus.read_memory(at, &mut data);
        assert_eq!(data, [0xff; 4], "{at:#x}");
    }
}

#[test]
fn the_host_bridge_is_where_the_ecam_begins() {
    let Some(bus) = bus("the_host_bridge_is_where_the_ecam_begins") else { return };
    for (at, expected) in [(0, &[0x36, 0x1b, 0x08, 0x00][..]), (2, &[0x08, 0]), (0xb, &[6])] {
        let mut data = vec![0x55; expected.len()];
        bus.read_memory(ECAM_START + at, &mut data);
        assert_eq!(data, expected, "{at:#x}");
    }
}

fn dword(bus: &Bus, port: u16) -> u32 {
    let mut data = [0x55; 4];
    bus.read_port(port, &mut data);
    u32::from_le_bytes(data)
}

#[test]
fn the_ports_of_pci_lead_to_what_the_ecam_leads_to() {
    let Some(bus) = bus("the_ports_of_pci_lead_to_what_the_ecam_leads_to") else { return };
    assert_eq!(dword(&bus, PCI_DATA), u32::MAX, "no register is addressed");
    for (address, expected) in [
        (0x8000_0000, 0x0008_1b36),
        (0x8000_0008, 0x0600_0000),
        (0x8000_0100, u32::MAX),
        (0x8001_0000, u32::MAX),
        (0x8010_0000, u32::MAX),
        (0x80ff_ff00, u32::MAX),
        (0x0000_0000, u32::MAX),
    ] {
        bus.write_port(PCI_ADDRESS, &u32::to_le_bytes(address));
        assert_eq!(dword(&bus, PCI_ADDRESS), address);
        assert_eq!(dword(&bus, PCI_DATA), expected, "{address:#x}");
    }
    // The class, as a guest reads it that looks for a host bridge.
    bus.write_port(PCI_ADDRESS, &0x8000_0008_u32.to_le_bytes());
    let mut class = [0x55; 2];
    bus.read_port(PCI_DATA + 2, &mut class);
    assert_eq!(class, [0x00, 0x06]);
    // A write goes there, and nothing comes of it.
    assert_eq!(bus.write_port(PCI_DATA, &[0xff; 4]), None);
    assert_eq!(dword(&bus, PCI_DATA), 0x0600_0000);
    // Parts of the address are other registers, or none.
    for (port, bytes) in [(PCI_ADDRESS, &[1][..]), (PCI_ADDRESS, &[1; 2]), (PCI_ADDRESS + 3, &[1])]
    {
        assert_eq!(bus.write_port(port, bytes), None);
        assert_eq!(dword(&bus, PCI_ADDRESS), 0x8000_0008);
    }
}

#[test]
fn the_clock_is_the_hosts() {
    let Some(bus) = bus("the_clock_is_the_hosts") else { return };
    bus.write_port(CMOS_INDEX, &[0x0b]);
    // Binary, 24 hours.
    bus.write_port(CMOS_DATA, &[0x06]);
    let second_of_day = || {
        let [hour, minute, second] = [4, 2, 0].map(|index| {
            bus.write_port(CMOS_INDEX, &[index]);
            i128::from(port(&bus, CMOS_DATA))
        });
        hour * 3600 + minute * 60 + second
    };
    let host = i128::from(realtime_ns()) / 1_000_000_000 % 86_400;
    let shown = second_of_day();
    assert!((shown - host).rem_euclid(86_400) <= 1, "{shown} s, the host's day has {host} s");
}

#[test]
fn an_event_is_taken_once() {
    let Some(bus) = bus("an_event_is_taken_once") else { return };
    assert_eq!(port(&bus, EVENTS), 0);
    bus.events().raise(Event::PowerButton).unwrap();
    bus.events().raise(Event::PowerButton).unwrap();
    assert_eq!(port(&bus, EVENTS), 1);
    assert_eq!(port(&bus, EVENTS), 0);
    bus.events().raise(Event::NewGeneration).unwrap();
    bus.events().raise(Event::PowerButton).unwrap();
    // A write takes nothing.
    bus.write_port(EVENTS, &[0xff]);
    assert_eq!(port(&bus, EVENTS), 3);
}

#[test]
fn a_guest_ends_by_a_reset_or_by_its_power_off_and_by_nothing_near_them() {
    let name = "a_guest_ends_by_a_reset_or_by_its_power_off_and_by_nothing_near_them";
    let Some(bus) = bus(name) else { return };
    let power_off = (S5_SLEEP_TYPE << 2) | SLEEP_ENABLE;
    for (at, byte, expected) in [
        (I8042_COMMAND, 0xfe, Some(BusRequest::Reset)),
        (I8042_COMMAND, 0xff, None),
        (I8042_DATA, 0xfe, None),
        // Linux announces a cold reset before it does it (reboot.c, `BOOT_CF9_FORCE`).
        (RESET_CONTROL, 0x02, None),
        (RESET_CONTROL, 0x0e, Some(BusRequest::Reset)),
        (RESET_CONTROL, 0x06, Some(BusRequest::Reset)),
        (RESET_CONTROL + 1, 0x0e, None),
        (ACPI_SLEEP_CONTROL, power_off, Some(BusRequest::PowerOff)),
        (ACPI_SLEEP_CONTROL, power_off & !SLEEP_ENABLE, None),
        (ACPI_SLEEP_CONTROL, (4 << 2) | SLEEP_ENABLE, None),
        (ACPI_SLEEP_STATUS, power_off, None),
    ] {
        assert_eq!(bus.write_port(at, &[byte]), expected, "{byte:#x} to {at:#x}");
    }
}

/// One access by a guest.
#[derive(Clone, Debug)]
struct Access {
    is_memory: bool,
    address: u64,
    length: usize,
    written: Option<u8>,
}

fn access() -> impl Strategy<Value = Access> {
    let near =
        |start: u64, range: u64| (start.saturating_sub(8)..start.saturating_add(range)).boxed();
    let address = prop_oneof![
        any::<u64>(),
        near(0x60, 0x20),
        near(COM1.into(), 16),
        near(0x600, 16),
        near(PCI_ADDRESS.into(), 16),
        near(ECAM_START, 0x2000),
        near(ECAM_START + ECAM_BYTES, 16),
        near(u64::MAX, 16),
    ];
    (any::<bool>(), address, 1..=8_usize, any::<Option<u8>>()).prop_map(
        |(is_memory, address, length, written)| Access { is_memory, address, length, written },
    )
}

#[test]
fn no_sequence_of_accesses_breaks_anything() {
    let Some(bus) = bus("no_sequence_of_accesses_breaks_anything") else { return };
    proptest!(|(accesses in prop::collection::vec(access(), 1..200))| {
        for Access { is_memory, address, length, written } in accesses {
            let at = u16::try_from(address & 0xffff).unwrap();
            let mut data = vec![written.unwrap_or(0x55); length];
            match (is_memory, written) {
                (true, Some(_)) => bus.write_memory(address, &data),
                (true, None) => bus.read_memory(address, &mut data),
                (false, Some(_)) => drop(bus.write_port(at, &data)),
                (false, None) => bus.read_port(at, &mut data),
            }
        }
    });
}
