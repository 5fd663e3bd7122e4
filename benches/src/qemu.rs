//! The peer: QEMU's microvm with the same guest.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use crate::guest::read_hello;
use crate::stop::Stop;

const PROGRAM: &str = "qemu-system-x86_64";
/// A microvm without what this guest does not need; its memory is a memory file, with which it starts
/// fastest of all that was tried.
const MACHINE: &str = "microvm,accel=kvm,acpi=off,pcie=off,usb=off,ioapic2=off,pic=off,pit=off,\
                       rtc=off,auto-kernel-cmdline=off,x-option-roms=off,memory-backend=ram";

/// QEMU, and the guest's image as a file that it can read.
#[derive(Debug)]
pub struct Qemu {
    version: String,
    image: PathBuf,
}

impl Qemu {
    /// Finds QEMU, and writes `kernel` to a file that is removed with this value.
    ///
    /// # Errors
    /// Skips where there is no QEMU.
    pub fn find(kernel: &[u8]) -> Result<Self, Stop> {
        let output = Command::new(PROGRAM).arg("--version").output().map_err(|error| {
            Stop::Skipped(format!("{PROGRAM}: {error}; Debian's qemu-system-x86 has it"))
        })?;
        let text = String::from_utf8_lossy(&output.stdout);
        let version = text.lines().next().unwrap_or("QEMU of an unknown version").to_owned();
        let image = std::env::temp_dir().join(format!("oracle-{}.elf", std::process::id()));
        let write = || File::create_new(&image)?.write_all(kernel);
        write().map_err(Stop::failed("a file for the oracle guest"))?;
        Ok(Self { version, image })
    }

    /// Its own words.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Starts a microvm of one vCPU and so many MiB; returns the nanoseconds from just before its
    /// process was spawned to the guest's first byte, and ends it.
    ///
    /// # Errors
    /// When it does not come.
    pub fn start_ns(&self, memory_mib: u64) -> Result<u64, Stop> {
        let (console, theirs) = UnixStream::pair().map_err(Stop::failed("the console"))?;
        let theirs = OwnedFd::from(theirs);
        let input = theirs.try_clone().map_err(Stop::failed("the console"))?;
        let spawned = Instant::now();
        let child = Command::new(PROGRAM)
            .args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"])
            .args(["-M", MACHINE, "-cpu", "host,-arch-capabilities", "-m", &memory_mib.to_string()])
            // The same kind of memory as a machine process has.
            .args(["-object", &format!("memory-backend-memfd,id=ram,size={memory_mib}M")])
            .args(["-append", "cpus=1", "-serial", "stdio", "-kernel"])
            .arg(&self.image)
            .stdin(Stdio::from(input))
            .stdout(Stdio::from(theirs))
            .spawn()
            .map_err(Stop::failed(PROGRAM))?;
        let _ended_at_return = Process(child);
        let (first_byte, ()) = read_hello(&console, || ())?;
        let took = first_byte - spawned;
        Ok(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX))
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.image);
    }
}

/// Killed when it is dropped.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
