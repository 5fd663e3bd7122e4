//! A QEMU process as a value: started with its streams connected, ended when dropped.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Signal, getpid, getppid, set_parent_process_death_signal};
use tempfile::TempDir;
use thiserror::Error;

use crate::accelerator::Accelerator;
use crate::channel::{Channel, ChannelError};
use crate::disk::Disk;
use crate::firmware::Firmware;

/// The program, found through PATH.
pub(crate) const QEMU: &str = "qemu-system-x86_64";

/// QEMU connects its streams before it runs the first instruction; on a busy machine that takes a
/// second.
const CONNECT_LIMIT: Duration = Duration::from_secs(20);

/// The name of the console's channel and log.
const CONSOLE: &str = "console";

/// A machine to start.
#[derive(Clone, Debug)]
pub struct MachineSpec {
    /// bzImage, or an ELF kernel with a PVH note.
    pub kernel: PathBuf,
    /// The archive itself, not a path.
    pub initramfs: Vec<u8>,
    /// The kernel's command line; its console is `ttyS0`.
    pub cmdline: String,
    /// Virtual processors.
    pub cpus: u32,
    /// In MiB.
    pub memory_mib: u32,
    /// Who executes the instructions.
    pub accelerator: Accelerator,
    /// What its processors lack of what they usually have, by QEMU's names.
    pub lacks: Vec<String>,
    /// Names of virtio-serial ports, each a [`Channel`] here and a `/dev/vport…` inside.
    pub ports: Vec<String>,
    /// Its disks: `/dev/vda`, and so on.
    pub disks: Vec<Disk>,
    /// UEFI firmware, which then starts the kernel; else QEMU's BIOS does.
    pub firmware: Option<Firmware>,
    /// Its end of a wire, if it has a network card.
    pub wire: Option<WireEnd>,
    /// How long the machine may live in all. Every wait ends then, and with it the machine.
    pub time_limit: Duration,
    /// The folder for its logs; what lies there from earlier runs is removed.
    pub logs: PathBuf,
}

/// One end of a wire: QEMU sends each frame as a datagram, and the other end's QEMU receives it.
#[derive(Clone, Debug)]
pub struct WireEnd {
    /// Connected with the other end's.
    pub socket: Arc<UnixDatagram>,
    /// The card's hardware address.
    pub mac: [u8; 6],
}

/// A running QEMU.
///
/// Dropped, it is killed. The kernel kills QEMU too when the *thread* that started it ends
/// (`PR_SET_PDEATHSIG`), so a machine belongs to the thread of its test.
#[derive(Debug)]
pub struct QemuMachine {
    child: Child,
    console: Channel,
    ports: Vec<(String, Channel)>,
    deadline: Instant,
    /// Initramfs and sockets; removed after the process, as fields drop in order.
    _files: TempDir,
}

/// A machine did not start or did not end as it should.
#[derive(Debug, Error)]
pub enum MachineError {
    /// A file or stream of the harness failed.
    #[error("cannot {0}")]
    Harness(&'static str, #[source] io::Error),
    /// QEMU ended before it had connected its streams.
    #[error("QEMU ended with {status} at its start:\n{words}")]
    Refused {
        /// How it ended.
        status: ExitStatus,
        /// What it said.
        words: String,
    },
    /// QEMU runs and does not connect its streams.
    #[error("QEMU did not connect its streams within {CONNECT_LIMIT:?}")]
    NotConnected,
    /// The machine did not switch itself off in time.
    #[error("the machine was still running after its time limit")]
    StillRunning,
    /// QEMU failed.
    #[error("QEMU ended with {0}")]
    Failed(ExitStatus),
    /// A wait on a channel failed.
    #[error(transparent)]
    Channel(#[from] ChannelError),
}

impl QemuMachine {
    /// Starts a machine and connects its console and ports: no byte that it prints is lost.
    ///
    /// # Errors
    /// The logs cannot be written, or QEMU does not start.
    pub fn start(spec: &MachineSpec) -> Result<Self, MachineError> {
        let deadline = Instant::now() + spec.time_limit;
        make_log_folder(&spec.logs).map_err(harness("create the log folder"))?;
        let files = tempfile::tempdir().map_err(harness("create a folder for sockets"))?;
        let initramfs = files.path().join("initramfs");
        fs::write(&initramfs, &spec.initramfs).map_err(harness("write the initramfs"))?;

        // We listen and QEMU connects: the other way round the machine's first words are lost.
        let names = [CONSOLE].into_iter().chain(spec.ports.iter().map(String::as_str));
        let listeners = names
            .map(|name| UnixListener::bind(socket(files.path(), name)))
            .collect::<io::Result<Vec<_>>>()
            .map_err(harness("listen for QEMU"))?;

        let arguments = arguments(spec, &initramfs, files.path());
        let mut child = spawn(&arguments, spec)?;
        let streams = accept_all(&listeners, &mut child, &spec.logs);
        let streams = streams.inspect_err(|_| end(&mut child))?;

        let mut channels = Vec::new();
        for (name, stream) in
            [CONSOLE].into_iter().chain(spec.ports.iter().map(String::as_str)).zip(streams)
        {
            let channel = File::create(spec.logs.join(format!("{name}.log")))
                .and_then(|log| Channel::new(name, stream, log))
                .inspect_err(|_| end(&mut child))
                .map_err(harness("record a channel"))?;
            channels.push((name.to_owned(), channel));
        }
        let (_, console) = channels.remove(0);
        Ok(Self { child, console, ports: channels, deadline, _files: files })
    }

    /// QEMU's process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// When the machine's time is up.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Brings the end of the machine's time forward to `limit` from now.
    pub fn end_within(&mut self, limit: Duration) {
        self.deadline = self.deadline.min(Instant::now() + limit);
    }

    /// The serial console.
    pub fn console(&mut self) -> &mut Channel {
        &mut self.console
    }

    /// The port of this name, if the machine was started with it.
    pub fn port(&mut self, name: &str) -> Option<&mut Channel> {
        self.ports.iter_mut().find(|(port, _)| port == name).map(|(_, channel)| channel)
    }

    /// Takes its power away: QEMU is killed.
    pub fn kill(&mut self) {
        end(&mut self.child);
    }

    /// Waits until the machine has switched itself off or reset itself.
    ///
    /// # Errors
    /// It is still running at its time limit, or QEMU failed.
    pub fn wait(&mut self) -> Result<(), MachineError> {
        loop {
            let status = self.child.try_wait().map_err(harness("wait for QEMU"))?;
            match status {
                Some(status) if status.success() => return Ok(()),
                Some(status) => return Err(MachineError::Failed(status)),
                None if Instant::now() >= self.deadline => return Err(MachineError::StillRunning),
                // A process has no end to wait for with a limit, but that of its streams.
                None => thread::sleep(Duration::from_millis(10)),
            }
        }
    }
}

impl Drop for QemuMachine {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

/// QEMU's arguments: exactly the devices that are named here, no network but a wire, no screen. A machine that
/// resets ends, as one that switches itself off does.
fn arguments(spec: &MachineSpec, initramfs: &Path, sockets: &Path) -> Vec<OsString> {
    let disks = spec.disks.iter().enumerate().flat_map(|(number, disk)| disk.arguments(number));
    let mut arguments: Vec<OsString> =
        ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-M", "q35"]
            .into_iter()
            .map(Into::into)
            .chain(spec.accelerator.arguments(&spec.lacks).map(Into::into))
            .chain(spec.firmware.iter().flat_map(Firmware::arguments).map(Into::into))
            .chain(disks.map(Into::into))
            .collect();
    let mut add = |name: &str, value: OsString| arguments.extend([name.into(), value]);
    add("-smp", spec.cpus.to_string().into());
    add("-m", format!("{}M", spec.memory_mib).into());
    add("-kernel", spec.kernel.clone().into());
    add("-initrd", initramfs.into());
    add("-append", spec.cmdline.clone().into());
    add("-chardev", chardev("console", &socket(sockets, CONSOLE)));
    add("-device", "isa-serial,chardev=console".into());
    add("-device", "virtio-serial-pci".into());
    for (index, name) in spec.ports.iter().enumerate() {
        add("-chardev", chardev(&format!("port{index}"), &socket(sockets, name)));
        add("-device", format!("virtserialport,chardev=port{index},name={name}").into());
    }
    if let Some(WireEnd { socket, mac }) = &spec.wire {
        let [a, b, c, d, e, f] = mac;
        let mac = format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}");
        let socket = socket.as_raw_fd();
        add("-netdev", format!("dgram,id=wire,local.type=fd,local.str={socket}").into());
        // No program on the card: it would look for a kernel there. And without `csum` the guest's TCP cuts its
        // segments itself: what netem loses or holds back is a packet, and not 64 KiB at once.
        let card = format!("virtio-net-pci,netdev=wire,mac={mac},romfile=,csum=off");
        add("-device", card.into());
    }
    arguments
}

fn socket(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.socket"))
}

fn chardev(id: &str, socket: &Path) -> OsString {
    let mut text = OsString::from(format!("socket,id={id},path="));
    // A comma in a value is written twice.
    text.push(socket.to_string_lossy().replace(',', ",,"));
    text
}

fn make_log_folder(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => fs::create_dir_all(folder),
    }
}

fn spawn(arguments: &[OsString], spec: &MachineSpec) -> Result<Child, MachineError> {
    let logs = &spec.logs;
    let words = File::create(logs.join("qemu.log")).map_err(harness("create qemu.log"))?;
    fs::write(logs.join("command"), format!("{QEMU} {arguments:?}\n"))
        .map_err(harness("write the command down"))?;
    let errors = words.try_clone().map_err(harness("share qemu.log"))?;
    let mut command = Command::new(QEMU);
    command.args(arguments).stdin(Stdio::null()).stdout(words).stderr(errors);
    prepare(&mut command, spec.wire.as_ref().map(|wire| Arc::clone(&wire.socket)));
    command.spawn().map_err(harness("start QEMU"))
}

/// The kernel kills the process when this thread ends: `Drop` does not run in a test process that
/// is killed. And the process keeps its end of a wire, which no other one inherits.
#[allow(unsafe_code, reason = "Command::pre_exec is the only way to act between fork and exec")]
fn prepare(command: &mut Command, wire: Option<Arc<UnixDatagram>>) {
    let parent = getpid();
    let hook = move || {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        if let Some(wire) = &wire {
            fcntl_setfd(wire, FdFlags::empty())?;
        }
        // Had the parent died before the first call, no signal would ever come.
        if getppid() == Some(parent) { Ok(()) } else { Err(io::Error::other("parent is gone")) }
    };
    // SAFETY: `pre_exec` demands a hook that only does what is sound in a child forked from a
    // process with several threads, which is async-signal-safe work. The hook makes three system
    // calls, prctl(2), fcntl(2) and getppid(2), and allocates only when it fails, where the child is about to
    // end: glibc's fork leaves its allocator usable in the child.
    unsafe {
        command.pre_exec(hook);
    }
}

/// One stream a listener, in the listeners' order.
fn accept_all(
    listeners: &[UnixListener],
    child: &mut Child,
    logs: &Path,
) -> Result<Vec<UnixStream>, MachineError> {
    let limit = Instant::now() + CONNECT_LIMIT;
    let mut streams = Vec::new();
    for listener in listeners {
        listener.set_nonblocking(true).map_err(harness("listen without blocking"))?;
        let stream = loop {
            match listener.accept() {
                Ok((stream, _)) => break stream,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(MachineError::Harness("accept QEMU", error)),
            }
            if let Some(status) = child.try_wait().map_err(harness("wait for QEMU"))? {
                let words = fs::read_to_string(logs.join("qemu.log")).unwrap_or_default();
                return Err(MachineError::Refused { status, words });
            }
            if Instant::now() >= limit {
                return Err(MachineError::NotConnected);
            }
            thread::sleep(Duration::from_millis(5));
        };
        stream.set_nonblocking(false).map_err(harness("read with blocking"))?;
        streams.push(stream);
    }
    Ok(streams)
}

/// Kills and reaps; neither fails on a process that is ours and not reaped yet, and a process that
/// ended by itself is reaped here too.
fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

fn harness(doing: &'static str) -> impl FnOnce(io::Error) -> MachineError {
    move |error| MachineError::Harness(doing, error)
}
