//! What init asks of the kernel: mounts, facts about the machine, and its end.

use std::fs;
use std::io;

use rustix::mount::{MountFlags, mount};
use rustix::system::{RebootCommand, reboot, sysinfo, uname};

/// Mounts what the kernel offers at its usual places, and memory for what is written.
pub(crate) fn mount_all() -> io::Result<()> {
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
    for (target, kind, flags) in [
        ("/proc", "proc", flags),
        ("/sys", "sysfs", flags),
        ("/dev", "devtmpfs", MountFlags::NOSUID),
        ("/run", "tmpfs", flags),
        ("/tmp", "tmpfs", MountFlags::NOSUID),
    ] {
        fs::create_dir_all(target)?;
        mount(kind, target, kind, flags, None)
            .map_err(|error| io::Error::other(format!("mount {target}: {error}")))?;
    }
    Ok(())
}

/// `kernel=<release> cpus=<online> memory_kib=<usable by the kernel>`.
pub(crate) fn facts() -> String {
    let system = uname();
    let release = system.release().to_string_lossy().into_owned();
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = sysinfo();
    let kib = u128::from(memory.totalram) * u128::from(memory.mem_unit) / 1024;
    format!("kernel={release} cpus={cpus} memory_kib={kib}")
}

/// Ends the machine; returns only when the kernel refuses.
pub(crate) fn end(command: RebootCommand) -> io::Error {
    rustix::fs::sync();
    match reboot(command) {
        Ok(()) => io::Error::other("the machine goes on after its end"),
        Err(error) => error.into(),
    }
}
