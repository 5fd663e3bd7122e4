//! What init asks of the kernel: mounts, the loopback interface, facts about the machine, and its end.

use std::fs;
use std::io;

use rustix::mount::{MountFlags, mount};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, recv, send, socket};
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

/// Two daemons on this host speak to each other by 127.0.0.1, which is there once its interface is up (rtnetlink(7)).
pub(crate) fn loopback_up() -> io::Result<()> {
    const RTM_NEWLINK: u16 = 16;
    const REQUEST_AND_ACKNOWLEDGE: u16 = 1 | 4;
    /// The first interface of every network namespace.
    const LOOPBACK: u32 = 1;
    const UP: u32 = 1;
    let mut request = Vec::new();
    // A header: length, kind, flags, number, sender.
    request.extend(32_u32.to_ne_bytes());
    request.extend(RTM_NEWLINK.to_ne_bytes());
    request.extend(REQUEST_AND_ACKNOWLEDGE.to_ne_bytes());
    request.extend([0; 8]);
    // The interface: its family and kind, which may be left open; its index, its flags, and which of them change.
    request.extend([0; 4]);
    request.extend([LOOPBACK, UP, UP].map(u32::to_ne_bytes).concat());
    let netlink = socket(AddressFamily::NETLINK, SocketType::RAW, None)?;
    send(&netlink, &request, SendFlags::empty())?;
    // The answer: a header, and an error as the kernel has them, below 0, or 0.
    let mut answer = [0; 64];
    let (length, _) = recv(&netlink, &mut answer[..], RecvFlags::empty())?;
    let error = answer[..length].get(16..20).and_then(|error| error.try_into().ok());
    let error = error.map(i32::from_ne_bytes);
    match error {
        Some(0) => Ok(()),
        Some(error) => {
            let why = io::Error::from_raw_os_error(-error);
            Err(io::Error::other(format!("the loopback interface: {why}")))
        }
        None => Err(io::Error::other("the loopback interface: the kernel's answer is too short")),
    }
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
