//! The platform as a guest's kernel presents it.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::Path;

const PCI: &str = "/sys/bus/pci/devices";
const VMGENID: &str = "/sys/bus/platform/drivers/vmgenid";
const CLOCK: &str = "/sys/class/rtc/rtc0/since_epoch";

/// A line for each PCI function and each generation id that has its driver, and the CMOS clock's time:
/// `pci <address> <vendor>:<device> <class>`, `vmgenid <device>`, `clock <seconds since 1970>`.
///
/// The clock comes last: whoever hears it compares it with a clock of his own.
pub(crate) fn lines() -> io::Result<Vec<String>> {
    let mut lines = Vec::new();
    for function in entries(PCI)? {
        let fact = |name: &str| {
            let text = fs::read_to_string(Path::new(PCI).join(&function).join(name));
            text.map(|text| text.trim_end().trim_start_matches("0x").to_owned())
        };
        let [vendor, device, class] = ["vendor", "device", "class"].map(fact);
        lines.push(format!("pci {function} {}:{} {}", vendor?, device?, class?));
    }
    // Beside the links to devices are the driver's own files, whose names have no instance number.
    let devices = entries(VMGENID)?.into_iter().filter(|name| name.contains(':'));
    lines.extend(devices.map(|device| format!("vmgenid {device}")));
    // Another VMM's machine may have no clock.
    if let Ok(seconds) = fs::read_to_string(CLOCK) {
        lines.push(format!("clock {}", seconds.trim_end()));
    }
    Ok(lines)
}

/// The names in a folder, sorted; none if there is no such folder.
fn entries(folder: &str) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let name = |entry: io::Result<fs::DirEntry>| {
        entry.map(|entry| entry.file_name().to_string_lossy().into_owned())
    };
    let mut names: Vec<String> = entries.map(name).collect::<Result<_, _>>()?;
    names.sort();
    Ok(names)
}

/// The input device that is the power button: a machine of ours has no other.
pub(crate) struct PowerButton(File);

impl PowerButton {
    /// From here on no press is missed.
    pub(crate) fn open() -> io::Result<Self> {
        File::open("/dev/input/event0").map(Self)
    }

    /// Waits until it is pressed.
    pub(crate) fn wait(&mut self) -> io::Result<()> {
        // `struct input_event` (linux/input.h): a time of 16 bytes, type, code, value.
        let mut event = [0; 24];
        loop {
            self.0.read_exact(&mut event)?;
            if is_press(&event) {
                return Ok(());
            }
        }
    }
}

fn is_press(event: &[u8; 24]) -> bool {
    /// `EV_KEY`, `KEY_POWER` (linux/input-event-codes.h), and 1 for "down".
    const DOWN: [u8; 8] = [1, 0, 116, 0, 1, 0, 0, 0];
    event[16..] == DOWN
}

#[cfg(test)]
mod tests {
    use super::is_press;

    #[test]
    fn a_press_is_the_power_key_going_down() {
        let press = |kind: u8, code: u8, value: u8| {
            let mut event = [7; 24];
            event[16..].copy_from_slice(&[kind, 0, code, 0, value, 0, 0, 0]);
            is_press(&event)
        };
        assert!(press(1, 116, 1));
        // Its release, another key, and the event that ends a report.
        assert!(!press(1, 116, 0) && !press(1, 142, 1) && !press(0, 0, 0));
    }
}
