//! A machine in the foreground: its console on this terminal, until it ends or is asked to.

use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use control::Size;
use dwcp::archive::ArchiveKey;
use machine::{Ender, GuestEnd, SnapshotFile, SnapshotOptions, Supervised, Woken, find_chain};
use rustix::net::SendFlags;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

use crate::Failure;
use crate::cli::SuspendOptions;
use crate::signals::{Continue, on_request_to_end};

/// Ctrl-], as with telnet and virsh.
const ESCAPE: u8 = 0x1d;

/// Where the machine goes when it is asked to end.
pub(crate) struct Suspend {
    path: PathBuf,
    base: Option<PathBuf>,
    key: Option<ArchiveKey>,
}

impl Suspend {
    /// What the options ask for, checked as far as that goes now: not when the machine is to be saved.
    pub(crate) fn new(
        options: &SuspendOptions,
        key: Option<&Path>,
    ) -> Result<Option<Self>, Failure> {
        let Some(path) = options.suspend_to.clone() else { return Ok(None) };
        let key = key.map(read_key).transpose()?;
        drop(SnapshotFile::create(&path).map_err(machine::SuperviseError::from)?);
        if let Some(base) = &options.base {
            find_chain(base, key.as_ref()).map_err(machine::SuperviseError::from)?;
        }
        Ok(Some(Self { path, base: options.base.clone(), key }))
    }

    /// Saves the machine, which stands still from now on unless that fails.
    fn save(&self, machine: &Supervised) -> Result<(), Failure> {
        let options =
            SnapshotOptions { key: self.key.as_ref(), parent: self.base.as_deref(), watch: None };
        machine.pause()?;
        match machine.snapshot(&self.path, options) {
            Ok(report) => {
                eprintln!(
                    "novacron: saved to {} ({} MiB in {:.2} s); it goes on with `novacron restore {0}`",
                    self.path.display(),
                    Size(report.bytes).0 >> 20,
                    std::time::Duration::from_nanos(report.total_ns).as_secs_f64(),
                );
                Ok(())
            }
            Err(error) => {
                machine.resume()?;
                Err(error.into())
            }
        }
    }
}

/// The key in a file.
pub(crate) fn read_key(path: &Path) -> Result<ArchiveKey, Failure> {
    let bytes = std::fs::read(path);
    let bytes =
        bytes.map_err(|error| Failure::Other(format!("--key {}: {error}", path.display())))?;
    let key = <[u8; 32]>::try_from(bytes.as_slice()).map_err(|_| {
        Failure::Other(format!(
            "--key {0}: it has {1} bytes, and a key has 32; make one with `head -c 32 /dev/urandom > {0}`",
            path.display(),
            bytes.len()
        ))
    })?;
    Ok(ArchiveKey::new(key))
}

/// Shows the console and obeys signals until the guest ends, or is saved.
pub(crate) fn attend(
    machine: Supervised,
    console: UnixStream,
    has_power_button: bool,
    suspend: Option<&Suspend>,
) -> Result<(), Failure> {
    let terminal = RawTerminal::enter();
    let input = console.try_clone().map_err(Failure::other("the console"))?;
    let ender = || machine.process().ender().map_err(Failure::other("the control socket"));
    let (ask, asked) = UnixStream::pair().map_err(Failure::other("a socket"))?;
    let ask = Arc::new(ask);
    let way = |control, is_gentle| match suspend {
        Some(_) => Way::Suspend(Arc::clone(&ask)),
        None if is_gentle => Way::PowerButton(control),
        None => Way::Stop(control),
    };
    obey_signals(way(ender()?, has_power_button))?;
    let at_once = way(ender()?, false);
    std::thread::spawn(move || forward_input(&input, &at_once));
    let output = std::thread::spawn(move || forward_output(console));
    let outcome = wait(machine, suspend, &asked);
    // The machine process has closed its end: what it wrote is read to the last byte.
    let _ = output.join();
    drop(terminal);
    if let Some(end) = outcome? {
        eprintln!("novacron: {end}");
    }
    Ok(())
}

/// How the guest ended; `None` if it was saved.
fn wait(
    machine: Supervised,
    suspend: Option<&Suspend>,
    mut asked: &UnixStream,
) -> Result<Option<GuestEnd>, Failure> {
    loop {
        if let Woken::GuestEnded(end) = machine.wait_or(asked.as_fd(), None)? {
            return Ok(Some(end));
        }
        asked.read_exact(&mut [0]).map_err(Failure::other("a socket"))?;
        match suspend.map(|suspend| suspend.save(&machine)) {
            None | Some(Ok(())) => {
                machine.stop()?;
                return Ok(None);
            }
            // It may have ended; then the next turn says how.
            Some(Err(error)) => eprintln!("novacron: {error}; the guest goes on"),
        }
    }
}

/// What follows when this process is asked to end.
enum Way {
    /// The guest is saved.
    Suspend(Arc<UnixStream>),
    /// The guest is asked to switch itself off.
    PowerButton(Ender),
    /// The guest is ended.
    Stop(Ender),
}

impl Way {
    fn go(&self) {
        match self {
            // The other end lives as long as the machine.
            Self::Suspend(ask) => drop((&**ask).write(&[1])),
            Self::PowerButton(control) => control.press_power_button(),
            Self::Stop(control) => control.stop(),
        }
    }
}

/// Once asked to end, this process goes the gentle way; asked again, it ends the guest.
fn obey_signals(way: Way) -> Result<(), Failure> {
    let act = move |asked| {
        let gentle = match &way {
            Way::Suspend(_) => "the guest is being saved",
            Way::PowerButton(_) => "the guest is asked to switch itself off",
            Way::Stop(_) => "",
        };
        match (asked, &way) {
            (1, Way::Suspend(_) | Way::PowerButton(_)) => {
                eprintln!("novacron: {gentle}; ask again to end it");
                way.go();
                Continue::Yes
            }
            // A machine that is being saved takes no order; it does not outlive this process.
            (_, Way::Suspend(_)) => {
                eprintln!("novacron: the guest was ended, and not saved");
                std::process::exit(1)
            }
            (_, Way::PowerButton(control) | Way::Stop(control)) => {
                control.stop();
                Continue::No
            }
        }
    };
    on_request_to_end(act).map_err(Failure::other("waiting for signals"))
}

fn forward_output(mut console: UnixStream) {
    let mut output = io::stdout().lock();
    let mut bytes = [0; 4096];
    while let Ok(count @ 1..) = Read::read(&mut console, &mut bytes) {
        if output.write_all(&bytes[..count]).and_then(|()| output.flush()).is_err() {
            return;
        }
    }
}

fn forward_input(console: &UnixStream, way: &Way) {
    let mut input = io::stdin().lock();
    let is_terminal = input.is_terminal();
    let mut bytes = [0; 4096];
    while let Ok(count @ 1..) = Read::read(&mut input, &mut bytes) {
        if is_terminal && bytes[..count].contains(&ESCAPE) {
            way.go();
            return;
        }
        // A guest that does not read loses input, and never the way to end it.
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        match rustix::net::send(console, &bytes[..count], flags) {
            Ok(_) | Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            Err(_) => return,
        }
    }
}

/// The terminal without line editing and signals, until the value is dropped.
struct RawTerminal(Option<Termios>);

impl RawTerminal {
    fn enter() -> Self {
        let stdin = io::stdin();
        let Some(cooked) = stdin.is_terminal().then(|| tcgetattr(&stdin).ok()).flatten() else {
            return Self(None);
        };
        let mut raw = cooked.clone();
        raw.make_raw();
        // Output goes on as it was: a bare line feed from the guest starts a new line.
        raw.output_modes = cooked.output_modes;
        let is_raw = tcsetattr(&stdin, OptionalActions::Now, &raw).is_ok();
        Self(is_raw.then_some(cooked))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        if let Some(cooked) = &self.0 {
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, cooked);
        }
    }
}
