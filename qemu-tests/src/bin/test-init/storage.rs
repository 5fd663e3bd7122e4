//! What outlives a host: its disks, and its firmware's variables.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use qemu_tests::script::VENDOR;
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};

const VARIABLES: &str = "/sys/firmware/efi/efivars";
/// Non-volatile, and there for the firmware and for the system (UEFI 2.10, 8.2.1).
const ATTRIBUTES: u32 = 7;

/// Prints the beginning of a disk as text.
pub(crate) fn read(serial: &str, length: &str) -> io::Result<()> {
    let mut content = vec![0; length.parse().map_err(io::Error::other)?];
    File::open(disk(serial)?)?.read_exact(&mut content)?;
    println!("disk {serial}: {}", String::from_utf8_lossy(&content).escape_default());
    Ok(())
}

/// Writes text to the beginning of a disk, and waits until it is there.
pub(crate) fn write(serial: &str, text: &str) -> io::Result<()> {
    let mut disk = File::options().write(true).open(disk(serial)?)?;
    disk.write_all(text.as_bytes())?;
    disk.sync_all()
}

fn disk(serial: &str) -> io::Result<PathBuf> {
    for entry in fs::read_dir("/sys/block")? {
        let entry = entry?;
        // What is no disk of virtio has no such file.
        let found = fs::read_to_string(entry.path().join("serial")).unwrap_or_default();
        if found.trim_end() == serial {
            return Ok(Path::new("/dev").join(entry.file_name()));
        }
    }
    Err(io::Error::other(format!("no disk has the serial number {serial}")))
}

/// Prints a variable of the firmware as text.
pub(crate) fn variable(name: &str) -> io::Result<()> {
    let content = fs::read(variable_file(name)?)?;
    // Before what it holds stand its attributes.
    let text = String::from_utf8_lossy(content.get(4..).unwrap_or_default());
    println!("variable {name}: {}", text.escape_default());
    Ok(())
}

/// Gives the firmware a variable that it has not had.
pub(crate) fn set_variable(name: &str, text: &str) -> io::Result<()> {
    let content = [&ATTRIBUTES.to_le_bytes(), text.as_bytes()].concat();
    // In a single write: each is a call of the firmware.
    File::create_new(variable_file(name)?)?.write_all(&content)
}

fn variable_file(name: &str) -> io::Result<PathBuf> {
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC | MountFlags::NODEV;
    match mount("efivarfs", VARIABLES, "efivarfs", flags, None) {
        // By the program before this one.
        Ok(()) | Err(Errno::BUSY) => Ok(Path::new(VARIABLES).join(format!("{name}-{VENDOR}"))),
        Err(error) => Err(io::Error::other(format!("mount {VARIABLES}: {error}"))),
    }
}
