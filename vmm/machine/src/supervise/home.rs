//! Where a kept machine is found: by whoever starts it, and by the next one.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use dwcp::acp::{Answer, Generation, Nonce, PermitState, Record, SessionId, VmId};

use super::migrate::Prepared;
use super::process::MachineProcess;
use super::{Executable, Images, PATIENCE, RestoreOptions, SuperviseError, Supervised, unexpected};
use crate::permit::{PermitFile, PermitFileError, PermitKeeper, PermitWatch};
use crate::random::random;
use crate::role::{Greeting, GuestStatus, Order, Report};
use crate::snapshot::RestoreReport;
use crate::vcpu::GuestEnd;
use crate::vm::MachineConfig;

/// A machine to be: its id, its first process's nonce, and the record that names both.
pub(super) struct Birth {
    pub(super) vm: [u8; 16],
    pub(super) runner: [u8; 16],
    pub(super) held: PermitFile,
    pub(super) watch: PermitWatch,
    /// None for a machine that lives no longer than the one who starts it.
    pub(super) home: Option<Home>,
}

impl Birth {
    /// For a machine whose record has no name. `directory` decides which storage it is written to.
    pub(super) fn nameless(directory: &Path) -> Result<Self, SuperviseError> {
        let (vm, runner) = (random()?, random()?);
        let (vm_id, nonce) = (id(VmId::new(vm))?, id(Nonce::new(runner))?);
        let held = PermitFile::create_nameless(directory, vm_id, nonce)?;
        let watch = held.watch()?;
        Ok(Self { vm, runner, held, watch, home: None })
    }

    /// Makes the machine's first process outlive this one, if the machine has a home.
    pub(super) fn keep(&self, process: &mut MachineProcess) -> Result<(), SuperviseError> {
        keep(process, self.home.as_ref(), self.runner)
    }
}

/// Makes a process for a machine outlive this one, if the machine has a home.
pub(super) fn keep(
    process: &mut MachineProcess,
    home: Option<&Home>,
    runner: [u8; 16],
) -> Result<(), SuperviseError> {
    match home {
        Some(home) => process.keep(runner, &home.listen(runner)?, &home.ends()?),
        None => Ok(()),
    }
}

fn id<T>(id: Option<T>) -> io::Result<T> {
    id.ok_or_else(|| io::Error::other("the random source gives zeros"))
}

/// Where a machine that outlives its keeper is found: its permit record and the file of its guest's end in a folder of
/// its own, and the sockets of its processes in one that machines share.
#[derive(Clone, Debug)]
pub struct Home {
    vm: VmId,
    folder: PathBuf,
    sockets: PathBuf,
}

/// A process of a machine that was found alive.
#[derive(Debug)]
pub enum Adopted {
    /// It has the guest, or what is left of it.
    Machine(AdoptedMachine),
    /// Its guest is to come from another host, in this attempt.
    Arriving(Prepared, [u8; 16]),
}

/// A machine that was found alive.
#[derive(Debug)]
pub struct AdoptedMachine {
    /// The machine.
    pub machine: Supervised,
    /// This end of its console, on which comes first what the guest printed so far; none while it is moving.
    pub console: Option<UnixStream>,
    /// What it is made of.
    pub config: Option<MachineConfig>,
    /// What its guest is doing.
    pub guest: GuestStatus,
    /// The version of its process's executable.
    pub version: String,
}

impl Home {
    /// The home of the machine with this id; None for an id of zeros. Nothing is made.
    #[must_use]
    pub fn new(vm: [u8; 16], folder: &Path, sockets: &Path) -> Option<Self> {
        let vm = VmId::new(vm)?;
        Some(Self { vm, folder: folder.to_owned(), sockets: sockets.to_owned() })
    }

    /// Makes the permit record of a new machine, which no other host can know.
    ///
    /// # Errors
    /// When there is one, or it cannot be written.
    pub fn create_permit(&self) -> Result<(), SuperviseError> {
        Ok(PermitFile::create(&self.permit(), self.vm)?)
    }

    /// Whether any process of the machine lives.
    ///
    /// # Errors
    /// When the record cannot be read.
    pub fn is_alive(&self) -> Result<bool, SuperviseError> {
        Ok(PermitWatch::open(&self.permit(), self.vm)?.is_alive()?)
    }

    /// Takes the record, since no process of the machine lives: none can be started until it is dropped.
    ///
    /// # Errors
    /// When one lives, or the record cannot be read.
    pub fn keeper(&self) -> Result<PermitKeeper, SuperviseError> {
        Ok(PermitKeeper::open(&self.permit(), self.vm)?)
    }

    /// What is answered about an attempt of which this host was the destination.
    ///
    /// # Errors
    /// When the record cannot be read, or not be made to say it: then nothing may be answered.
    pub fn answer(&self, session: [u8; 16]) -> Result<Answer, SuperviseError> {
        let Some(session) = SessionId::new(session) else { return Ok(Answer::Unknown) };
        let mut watch = match PermitWatch::open(&self.permit(), self.vm) {
            Ok(watch) => watch,
            Err(PermitFileError::Io(error)) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Answer::Unknown);
            }
            Err(error) => return Err(error.into()),
        };
        let record = match watch.record() {
            Err(PermitFileError::Missing) => return Ok(Answer::Unknown),
            record => record?,
        };
        match record.answer(session, true) {
            Answer::Undecided => match PermitKeeper::open(&self.permit(), self.vm) {
                Ok(mut keeper) => Ok(keeper.answer(session)?),
                Err(PermitFileError::Alive) => Ok(Answer::Undecided),
                Err(error) => Err(error.into()),
            },
            answer => Ok(answer),
        }
    }

    /// Whether the record has been in a move between hosts: then another host may still ask about that.
    #[must_use]
    pub fn has_moved(&self) -> bool {
        self.permit_record().is_ok_and(|record| record.generation() != Generation::default())
    }

    /// What the permit record says.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn permit_state(&self) -> Result<PermitState, SuperviseError> {
        Ok(self.permit_record()?.state().clone())
    }

    /// The whole of it.
    ///
    /// # Errors
    /// When there is none, or it cannot be read.
    pub fn permit_record(&self) -> Result<Record, SuperviseError> {
        Ok(PermitWatch::open(&self.permit(), self.vm)?.record()?)
    }

    /// How the guest ended, if its process has written it since it was started.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn guest_end(&self) -> io::Result<Option<(String, GuestEnd)>> {
        // Far more than an end has in words.
        const MAX_BYTES: u64 = 64 << 10;
        let mut bytes = Vec::new();
        match File::open(self.ends_path()) {
            Ok(file) => file.take(MAX_BYTES).read_to_end(&mut bytes)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        match crate::ipc::decode::<Report>(&bytes) {
            Ok(Report::Exited { how, end }) => Ok(Some((how, end))),
            // Empty, or cut off when the process was killed: it did not say.
            _ => Ok(None),
        }
    }

    /// Boots a guest in a new process, which outlives this one; returns the machine and this end of its console.
    ///
    /// # Errors
    /// When the machine is alive, or may not run here, or its process refuses the guest.
    pub fn boot(
        &self,
        executable: Executable<'_>,
        config: MachineConfig,
        images: &Images,
    ) -> Result<(Supervised, UnixStream), SuperviseError> {
        Supervised::boot_as(executable, || self.begin(), config, images)
    }

    /// Restores a snapshot in a new process, which outlives this one.
    ///
    /// # Errors
    /// When the machine is alive, a file is missing or no snapshot, or the process refuses it.
    pub fn restore(
        &self,
        executable: Executable<'_>,
        path: &Path,
        options: RestoreOptions<'_>,
    ) -> Result<(Supervised, UnixStream, RestoreReport), SuperviseError> {
        Supervised::restore_as(executable, || self.begin(), path, options)
    }

    /// Finds the machine's process, whoever started it, and becomes its keeper. What it is doing for the keeper before,
    /// it finishes or gives up first. None if none of its processes is there any more.
    ///
    /// # Errors
    /// When a process is there, and does not answer as it should.
    pub fn adopt(&self) -> Result<Option<Adopted>, SuperviseError> {
        let mut found = Vec::new();
        for socket in self.find_sockets()? {
            match MachineProcess::connect(&socket)? {
                Some((process, greeting)) => {
                    let (id, guest) = (process.id(), greeting.guest);
                    tracing::debug!(id, ?guest, "a process of the machine is found");
                    found.push((process, greeting));
                }
                None => drop(std::fs::remove_file(socket)),
            }
        }
        let mut settled = Vec::new();
        for (process, greeting) in found {
            settled.extend(settle(process, greeting)?);
        }
        // After a hand-over whose successor was lost and came back, there may be a frozen machine besides.
        settled.sort_by_key(|(_, greeting)| greeting.guest == GuestStatus::Departed);
        let mut settled = settled.into_iter();
        let Some((process, greeting)) = settled.next() else { return Ok(None) };
        for (frozen, _) in settled {
            frozen.order(&Order::Stop, &[])?;
            frozen.bury();
        }
        let watch = PermitWatch::open(&self.permit(), self.vm)?;
        if let (GuestStatus::Arriving, Some(session)) = (greeting.guest, greeting.session) {
            let prepared = Prepared::found(process, watch, self.clone())?;
            return Ok(Some(Adopted::Arriving(prepared, session)));
        }
        let machine = Supervised { process, watch, home: Some(self.clone()) };
        // A move that is under way reports to whoever goes on with it, and to nobody before.
        let is_leaving = greeting.guest == GuestStatus::Leaving;
        let console = if is_leaving { None } else { Some(machine.new_console()?) };
        let Greeting { version, guest, config, .. } = greeting;
        let adopted = AdoptedMachine { machine, console, config, guest, version };
        Ok(Some(Adopted::Machine(adopted)))
    }

    /// Removes the sockets of processes that have gone.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn sweep_sockets(&self) -> io::Result<()> {
        for socket in self.find_sockets()? {
            match UnixStream::connect(&socket) {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    std::fs::remove_file(socket)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Takes the life lock, which proves that no process of the machine lives, and names the one that will.
    fn begin(&self) -> Result<Birth, SuperviseError> {
        let runner = random()?;
        let held = PermitFile::start(&self.permit(), self.vm, id(Nonce::new(runner))?)?;
        self.sweep_sockets()?;
        // What a process before wrote is not this one's end.
        match std::fs::remove_file(self.ends_path()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        let watch = held.watch()?;
        Ok(Birth { vm: self.vm.bytes(), runner, held, watch, home: Some(self.clone()) })
    }

    pub(super) fn vm(&self) -> VmId {
        self.vm
    }

    pub(super) fn permit(&self) -> PathBuf {
        self.folder.join("permit")
    }

    fn ends_path(&self) -> PathBuf {
        self.folder.join("ends")
    }

    fn ends(&self) -> io::Result<File> {
        // Not truncated: while a hand-over is under way, two processes have it.
        let mut options = File::options();
        options.write(true).create(true).truncate(false).mode(0o600).open(self.ends_path())
    }

    fn listen(&self, runner: [u8; 16]) -> io::Result<UnixListener> {
        let name = format!("{}{}.sock", self.socket_prefix(), hex(&runner[..8]));
        UnixListener::bind(self.sockets.join(name))
    }

    /// Half of each id is in the name: a path of a socket has 107 bytes.
    fn socket_prefix(&self) -> String {
        format!("{}-", hex(&self.vm.bytes()[..8]))
    }

    fn find_sockets(&self) -> io::Result<Vec<PathBuf>> {
        let prefix = self.socket_prefix();
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&self.sockets)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(&prefix) {
                found.push(entry.path());
            }
        }
        Ok(found)
    }
}

/// Waits until a process is not busy any more. None if it has ended meanwhile.
fn settle(
    process: MachineProcess,
    mut greeting: Greeting,
) -> Result<Option<(MachineProcess, Greeting)>, SuperviseError> {
    if greeting.guest == GuestStatus::Absent {
        // It ends, since its guest has gone to another process, or never came.
        return Ok(None);
    }
    if greeting.guest != GuestStatus::Busy {
        return Ok(Some((process, greeting)));
    }
    // A snapshot's file is gone with the keeper who opened it. A hand-over is let go on if it is too late to stop it.
    // It may have ended already: what it said before that can still be heard.
    let _ = process.control.send(&Order::Cancel, &[]);
    process.control.set_time_limit(None)?;
    let guest = loop {
        let report = process.report();
        tracing::debug!(id = process.id(), ?report, "a process that was busy");
        match report {
            Ok(
                Report::HandedOver(_)
                | Report::Migrated(_)
                | Report::Exited { .. }
                | Report::Failed { .. },
            )
            | Err(_) => return Ok(None),
            Ok(Report::Departed { .. }) => break GuestStatus::Departed,
            Ok(
                Report::HandOverFailed { .. }
                | Report::MigrationFailed { .. }
                // It came from another host, and it was too late to refuse it.
                | Report::Running
                | Report::Arrived(_)
                | Report::Snapshotted(_)
                | Report::SnapshotFailed { .. }
                | Report::Surveyed(_)
                | Report::SurveyFailed { .. },
            ) => break GuestStatus::Running,
            Ok(_) => {}
        }
    };
    process.control.set_time_limit(Some(PATIENCE))?;
    // A snapshot leaves a paused guest paused; what it does is found out with the next order.
    greeting.guest = guest;
    Ok(Some((process, greeting)))
}

impl Supervised {
    /// Gives the guest a new console; returns this end of it, on which comes first what the guest printed so far. A guest
    /// that is moving has none until that is over.
    ///
    /// # Errors
    /// When the guest has ended meanwhile, or the process is lost.
    pub fn new_console(&self) -> Result<UnixStream, SuperviseError> {
        let (console, theirs) = UnixStream::pair()?;
        self.process.order(&Order::Console, &[&theirs])?;
        loop {
            match self.process.report()? {
                Report::ConsoleReplaced => return Ok(console),
                Report::Exited { how, end } => return Err(SuperviseError::GuestEnded { how, end }),
                // A machine that has departed has no console to be used.
                Report::Declined { .. } => return Ok(console),
                // What nobody had heard, of orders that nobody waits for any more.
                Report::Greeting(_) => return Err(unexpected(&Report::Kept)),
                _ => {}
            }
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    text.extend(digits.filter_map(|digit| char::from_digit(digit.into(), 16)));
    text
}
