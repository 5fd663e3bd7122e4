//! The DSDT: the devices that no bus can enumerate, how the guest hears of events, and the sleep type
//! that switches the machine off (ACPI 6.5, chapters 5, 6, 9 and 19).

use acpi_tables::aml::{self, AddressSpace, AddressSpaceCacheable, EISAName, Name, Path};
use acpi_tables::sdt::Sdt;
use acpi_tables::{Aml, AmlSink};

use super::{OEM_ID, OEM_REVISION, OEM_TABLE_ID};
use crate::devices::mmio::{ECAM_BYTES, ECAM_START, PCI_BUSES, high_window, low_window};
use crate::devices::ports::{
    ACPI_SLEEP_CONTROL, CMOS_INDEX, COM1, COM1_GSI, EVENTS, EVENTS_GSI, PCI_ADDRESS, PCI_PORTS,
    S5_SLEEP_TYPE,
};
use crate::devices::{Event, GENERATION_ID_ADDRESS};
use crate::memory::MemoryLayout;

const SDT_HEADER_BYTES: u32 = 36;
const POWER_BUTTON: &str = "\\_SB_.PWRB";
const GENERATION: &str = "\\_SB_.VGEN";
/// "The button was pressed" (5.6.6), and "the id has changed" (Microsoft's paper on it).
const NOTIFICATION: u8 = 0x80;
/// PCI host bridge features (PCI Firmware 3.3, 4.5.1).
const OSC_UUID: &str = "33DB4D5B-1FF7-401C-9657-7441C03DD766";
/// What `_OSC` answers in its first word: not known by this id, or not in this revision.
const OSC_UNKNOWN_UUID: u8 = 1 << 2;
const OSC_UNKNOWN_REVISION: u8 = 1 << 3;

/// The table, for a machine of this layout.
pub(super) fn encoded(layout: MemoryLayout) -> Vec<u8> {
    let mut devices = Vec::new();
    com1(&mut devices);
    clock(&mut devices);
    power_button(&mut devices);
    generation(&mut devices);
    events(&mut devices);
    reservations(&mut devices);
    pci(layout, &mut devices);
    let mut body = aml::Scope::raw(Path::new("\\_SB_"), devices);
    let sleep_type = aml::Package::new(vec![&S5_SLEEP_TYPE]);
    Name::new("\\_S5_".into(), &sleep_type).to_aml_bytes(&mut body);
    let mut dsdt = Sdt::new(*b"DSDT", SDT_HEADER_BYTES, 2, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    dsdt.append_slice(&body);
    dsdt.as_slice().to_vec()
}

/// A device that its id and its resources describe in full.
fn device(name: &str, id: &str, resources: Vec<&dyn Aml>, sink: &mut dyn AmlSink) {
    let hid = Name::new("_HID".into(), &EISAName::new(id));
    let uid = Name::new("_UID".into(), &aml::ZERO);
    let crs = Name::new("_CRS".into(), &aml::ResourceTemplate::new(resources));
    aml::Device::new(name.into(), vec![&hid, &uid, &crs]).to_aml_bytes(sink);
}

fn com1(sink: &mut dyn AmlSink) {
    let interrupt = aml::Interrupt::new(true, true, false, false, COM1_GSI);
    device("COM1", "PNP0501", vec![&interrupt, &aml::IO::new(COM1, COM1, 1, 8)], sink);
}

/// Without an interrupt: a guest sees by that that there is no alarm.
fn clock(sink: &mut dyn AmlSink) {
    device("RTC_", "PNP0B00", vec![&aml::IO::new(CMOS_INDEX, CMOS_INDEX, 1, 2)], sink);
}

/// A control-method power button (4.8.2.2.1.2).
fn power_button(sink: &mut dyn AmlSink) {
    let hid = Name::new("_HID".into(), &EISAName::new("PNP0C0C"));
    aml::Device::new(POWER_BUTTON.into(), vec![&hid]).to_aml_bytes(sink);
}

/// Guests know it by its compatible id. `ADDR` is the low and the high half of its address.
fn generation(sink: &mut dyn AmlSink) {
    let address = [GENERATION_ID_ADDRESS & 0xffff_ffff, GENERATION_ID_ADDRESS >> 32];
    let hid = Name::new("_HID".into(), &"NOVA0001");
    let cid = Name::new("_CID".into(), &"VM_Gen_Counter");
    let ddn = Name::new("_DDN".into(), &"VM_Gen_Counter");
    let halves = aml::Package::new(vec![&address[0], &address[1]]);
    let addr = Name::new("ADDR".into(), &halves);
    aml::Device::new(GENERATION.into(), vec![&hid, &cid, &ddn, &addr]).to_aml_bytes(sink);
}

/// The generic event device (5.6.9): its interrupt's method takes the pending events from their
/// port, which lowers the line, and notifies the device that each concerns.
fn events(sink: &mut dyn AmlSink) {
    let hid = Name::new("_HID".into(), &"ACPI0013");
    let uid = Name::new("_UID".into(), &aml::ZERO);
    let interrupt = aml::Interrupt::new(true, false, false, false, EVENTS_GSI);
    let crs = Name::new("_CRS".into(), &aml::ResourceTemplate::new(vec![&interrupt]));
    let region =
        aml::OpRegion::new("EVTR".into(), aml::OpRegionSpace::SystemIO, &EVENTS, &aml::ONE);
    let register = aml::Field::new(
        "EVTR".into(),
        aml::FieldAccessType::Byte,
        aml::FieldLockRule::NoLock,
        aml::FieldUpdateRule::WriteAsZeroes,
        vec![aml::FieldEntry::Named(*b"EVTS", 8)],
    );
    let register_path = Path::new("EVTS");
    let taken = aml::Local(0);
    let take = aml::Store::new(&taken, &register_path);
    let [button, generation] = [POWER_BUTTON, GENERATION].map(Path::new);
    let [button_bit, generation_bit] = [Event::PowerButton, Event::NewGeneration].map(Event::bit);
    let button_pending = aml::And::new(&aml::ZERO, &taken, &button_bit);
    let generation_pending = aml::And::new(&aml::ZERO, &taken, &generation_bit);
    let notify_button = aml::Notify::new(&button, &NOTIFICATION);
    let notify_generation = aml::Notify::new(&generation, &NOTIFICATION);
    let if_button = aml::If::new(&button_pending, vec![&notify_button]);
    let if_generation = aml::If::new(&generation_pending, vec![&notify_generation]);
    // Serialized: two at once would share nothing but the port, and have nothing to share it for.
    let method = aml::Method::new("_EVT".into(), 1, true, vec![&take, &if_button, &if_generation]);
    aml::Device::new("EVNT".into(), vec![&hid, &uid, &crs, &region, &register, &method])
        .to_aml_bytes(sink);
}

/// What no other device claims: the ECAM, which must be reserved so (PCI Firmware 3.3, 4.1.2), and
/// the ports of sleep and events.
fn reservations(sink: &mut dyn AmlSink) {
    let [start, bytes] =
        [ECAM_START, ECAM_BYTES].map(|value| u32::try_from(value).expect("below 4 GiB"));
    let ecam = aml::Memory32Fixed::new(true, start, bytes);
    let ports = u8::try_from(EVENTS + 1 - ACPI_SLEEP_CONTROL).expect("a handful of ports");
    let ports = aml::IO::new(ACPI_SLEEP_CONTROL, ACPI_SLEEP_CONTROL, 1, ports);
    device("MBRD", "PNP0C02", vec![&ecam, &ports], sink);
}

/// The PCI Express host bridge: its buses, the ports that it answers itself, and where BARs may lie. No ports for
/// functions, and no `_PRT`: they have memory and messages.
fn pci(layout: MemoryLayout, sink: &mut dyn AmlSink) {
    let hid = Name::new("_HID".into(), &EISAName::new("PNP0A08"));
    let cid = Name::new("_CID".into(), &EISAName::new("PNP0A03"));
    let uid = Name::new("_UID".into(), &aml::ZERO);
    let segment = Name::new("_SEG".into(), &aml::ZERO);
    let first_bus = Name::new("_BBN".into(), &aml::ZERO);
    let buses = AddressSpace::new_bus_number(0_u16, u16::from(PCI_BUSES) - 1);
    let (low, high) = (low_window(layout), high_window(layout));
    let uncached = AddressSpaceCacheable::NotCacheable;
    let low = AddressSpace::new_memory(uncached, true, *low.start(), *low.end(), None);
    let high = AddressSpace::new_memory(uncached, true, *high.start(), *high.end(), None);
    let ports = aml::IO::new(PCI_ADDRESS, PCI_ADDRESS, 1, PCI_PORTS);
    let resources = aml::ResourceTemplate::new(vec![&buses, &ports, &low, &high]);
    let crs = Name::new("_CRS".into(), &resources);
    let mut children: Vec<&dyn Aml> = vec![&hid, &cid, &uid, &segment, &first_bus, &crs];
    let osc = Osc;
    children.push(&osc);
    aml::Device::new("PCI0".into(), children).to_aml_bytes(sink);
}

/// `_OSC` (6.2.11): there is no firmware that would keep a feature of PCI Express to itself, so
/// the guest gets every one that it asks for: the capabilities come back as they came.
struct Osc;

impl Aml for Osc {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let (uuid, revision, capabilities) = (aml::Arg(0), aml::Arg(1), aml::Arg(3));
        let status_path = Path::new("STS_");
        let status = aml::CreateDWordField::new(&status_path, &capabilities, &aml::ZERO);
        let known_uuid = aml::Uuid::new(OSC_UUID);
        let is_unknown = aml::NotEqual::new(&uuid, &known_uuid);
        let say_unknown = aml::Or::new(&status_path, &status_path, &OSC_UNKNOWN_UUID);
        let if_unknown = aml::If::new(&is_unknown, vec![&say_unknown]);
        let is_other = aml::NotEqual::new(&revision, &aml::ONE);
        let say_other = aml::Or::new(&status_path, &status_path, &OSC_UNKNOWN_REVISION);
        let if_other = aml::If::new(&is_other, vec![&say_other]);
        let answer = aml::Return::new(&capabilities);
        // Serialized, since it creates a name.
        aml::Method::new("_OSC".into(), 4, true, vec![&status, &if_unknown, &if_other, &answer])
            .to_aml_bytes(sink);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_windows_are_those_of_the_layout() {
        for (size, hole) in
            [(16_u64 << 20, 32_u64 << 20), (512 << 20, 256 << 20), (8 << 30, 3 << 30)]
        {
            let layout = MemoryLayout::new(size, hole).unwrap();
            let table = encoded(layout);
            let has = |bytes: &[u8]| table.windows(bytes.len()).any(|window| window == bytes);
            let (low, high) = (low_window(layout), high_window(layout));
            // The resource's minimum and maximum stand side by side (6.4.3.5).
            assert!(has(&[low.start().to_le_bytes(), low.end().to_le_bytes()].concat()));
            assert!(has(&[high.start().to_le_bytes(), high.end().to_le_bytes()].concat()));
        }
    }
}
