//! The permit record as a file: who may run a machine, on this host.
//!
//! Two locks, which do not see each other:
//! - the **life lock** (`flock`) belongs to an open file description. Whoever starts a machine takes
//!   it and passes the descriptor on; a machine passes it to its successor. It is held as long as any
//!   of them lives, and only as long.
//! - the **step lock** (`fcntl`) belongs to a process, and is held from a read to the write that
//!   follows from it, so that each step is a compare-and-swap between processes that share the
//!   descriptor. It dies with its holder.
//!
//! The file lies on a local file system: over NFS the two kinds of lock are one.

mod keeper;

use std::fs::{File, TryLockError};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use dwcp::acp::{
    Actor, Event, Generation, HostName, LockedSlots, Nonce, PermitRecord, PermitState, Record,
    RecordError, RecordStorage, SLOT_BYTES, SessionId, Slot, Successor, VmId,
};
use rustix::fs::{FlockOperation, Mode, OFlags, fcntl_lock};

pub use keeper::PermitKeeper;

/// A process that is being started, for whatever machine, has the life lock for the moment until it has become another
/// executable, if it was started while this one was.
const LOCK_PATIENCE: Duration = Duration::from_millis(300);

/// A permit record could not be used.
#[derive(Debug, thiserror::Error)]
pub enum PermitFileError {
    /// The file system
    #[error("the permit record: {0}")]
    Io(#[from] io::Error),
    /// The record
    #[error(transparent)]
    Record(#[from] RecordError<io::Error>),
    /// Another process has the life lock
    #[error("the machine is alive in another process")]
    Alive,
    /// The record does not allow this process to run the machine
    #[error("this process may not run the machine: the permit record says {0}")]
    NotHeld(String),
    /// There is no record
    #[error("there is no permit record; nothing says who may run the machine")]
    Missing,
}

/// The record of one machine, in the hands of one of its processes.
#[derive(Debug)]
pub struct PermitFile {
    file: File,
    vm: VmId,
    me: Nonce,
    record: PermitRecord<FileStorage>,
}

impl PermitFile {
    /// A new record without a name, for a machine that lives no longer than the processes that share
    /// its descriptor; `runner` may run it. The life lock is taken.
    ///
    /// `directory` decides which storage the record is written to.
    ///
    /// # Errors
    /// When the file cannot be made or written.
    pub fn create_nameless(
        directory: &Path,
        vm: VmId,
        runner: Nonce,
    ) -> Result<Self, PermitFileError> {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::DSYNC | OFlags::CLOEXEC;
        let file = rustix::fs::open(directory, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|error| describe(&error.into(), directory))?;
        // Allocated once: on file systems that write in place, no full disk stops a later write.
        let flags = rustix::fs::FallocateFlags::empty();
        rustix::fs::fallocate(&file, flags, 0, 2 * SLOT_BYTES as u64)
            .map_err(|error| describe(&error.into(), directory))?;
        let file = File::from(file);
        file.try_lock().map_err(|_| PermitFileError::Alive)?;
        let mut permit = Self::new(file, vm, runner)?;
        permit.record.apply(Actor::Keeper, &Event::Create)?;
        permit.record.apply(Actor::Keeper, &Event::Start { runner })?;
        Ok(permit)
    }

    /// A new record at `path`, for a machine that no other host can know. Nobody may run it yet.
    ///
    /// # Errors
    /// When there is one, or it cannot be written.
    pub fn create(path: &Path, vm: VmId) -> Result<(), PermitFileError> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::DSYNC | OFlags::CLOEXEC;
        let file = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|error| describe(&error.into(), path))?;
        let flags = rustix::fs::FallocateFlags::empty();
        rustix::fs::fallocate(&file, flags, 0, 2 * SLOT_BYTES as u64)
            .map_err(|error| describe(&error.into(), path))?;
        let mut record = PermitRecord::open(FileStorage { file: file.into() }, vm)?;
        record.apply(Actor::Keeper, &Event::Create)?;
        Ok(())
    }

    /// Takes the life lock of the record at `path`, which proves that no process of the machine lives, and gives the
    /// permit to `runner`. What a hand-over between dead processes has left is settled first.
    ///
    /// # Errors
    /// When a process of the machine lives, or the record does not allow that it runs here.
    pub fn start(path: &Path, vm: VmId, runner: Nonce) -> Result<Self, PermitFileError> {
        let file = open(path)?;
        lock_life(&file)?;
        let mut permit = Self::new(file, vm, runner)?;
        let loaded = permit.record.load()?.ok_or(PermitFileError::Missing)?;
        match loaded.record.state() {
            PermitState::Offered { session, to: Successor::Process(_), .. } => {
                permit.record.apply(Actor::Keeper, &Event::Reclaim { session: *session })?;
            }
            PermitState::Taken { session, .. } => {
                permit.record.apply(Actor::Keeper, &Event::Settle { session: *session })?;
            }
            _ => {}
        }
        permit.record.apply(Actor::Keeper, &Event::Start { runner })?;
        Ok(permit)
    }

    /// Makes the record at `path` ready for a machine that comes from another host; `runner` may take the permit. There
    /// may be none, or one of a time when the machine was here. The life lock is taken. An attempt before, whose process
    /// has died without the permit, is refused first: it never runs here.
    ///
    /// # Errors
    /// When a process of the machine lives, the record does not allow it, or it cannot be written.
    pub fn prepare(
        path: &Path,
        vm: VmId,
        session: SessionId,
        runner: Nonce,
        from: HostName,
        offered: Generation,
    ) -> Result<Self, PermitFileError> {
        let flags = OFlags::CREATE | OFlags::RDWR | OFlags::DSYNC | OFlags::CLOEXEC;
        let file = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|error| describe(&error.into(), path))?;
        let flags = rustix::fs::FallocateFlags::empty();
        rustix::fs::fallocate(&file, flags, 0, 2 * SLOT_BYTES as u64)
            .map_err(|error| describe(&error.into(), path))?;
        let file = File::from(file);
        lock_life(&file)?;
        if let Some(folder) = path.parent() {
            // Its name, too, if it is new.
            File::open(folder)?.sync_all()?;
        }
        let mut permit = Self::new(file, vm, runner)?;
        let before = permit.record.load()?.map(|loaded| loaded.record.state().clone());
        if let Some(PermitState::Prepared { session, .. }) = before {
            permit.record.apply(Actor::Keeper, &Event::Refuse { session })?;
        }
        permit.record.apply(Actor::Keeper, &Event::Prepare { session, runner, from, offered })?;
        Ok(permit)
    }

    /// A record whose descriptor, and with it the life lock, was passed to this process.
    ///
    /// # Errors
    /// When the record cannot be read.
    pub fn from_descriptor(
        descriptor: OwnedFd,
        vm: VmId,
        me: Nonce,
    ) -> Result<Self, PermitFileError> {
        Self::new(File::from(descriptor), vm, me)
    }

    fn new(file: File, vm: VmId, me: Nonce) -> Result<Self, PermitFileError> {
        let record = PermitRecord::open(FileStorage { file: file.try_clone()? }, vm)?;
        Ok(Self { file, vm, me, record })
    }

    /// The machine's id.
    #[must_use]
    pub fn vm(&self) -> VmId {
        self.vm
    }

    /// Checks that this process may run the machine.
    ///
    /// # Errors
    /// Says what the record says instead.
    pub fn check_held(&mut self) -> Result<(), PermitFileError> {
        let loaded = self.record.load()?.ok_or(PermitFileError::Missing)?;
        match loaded.record.state() {
            PermitState::Held { runner: Some(runner) } if *runner == self.me => Ok(()),
            other => Err(PermitFileError::NotHeld(other.name().to_owned())),
        }
    }

    /// `Held` → `Offered` to another process of this host.
    ///
    /// # Errors
    /// When the record says otherwise, or cannot be written.
    pub fn offer(&mut self, session: SessionId, to: Nonce) -> Result<(), PermitFileError> {
        self.apply(&Event::Offer { session, to: Successor::Process(to) })
    }

    /// `Held` → `Offered` to another host.
    ///
    /// # Errors
    /// When the record says otherwise, or cannot be written.
    pub fn offer_to_host(
        &mut self,
        session: SessionId,
        to: HostName,
    ) -> Result<(), PermitFileError> {
        self.apply(&Event::Offer { session, to: Successor::Host(to) })
    }

    /// Whether the permit is offered in this attempt.
    ///
    /// # Errors
    /// When the record cannot be read.
    pub fn is_offered(&mut self, session: SessionId) -> Result<bool, PermitFileError> {
        let loaded = self.record.load()?.ok_or(PermitFileError::Missing)?;
        Ok(
            matches!(loaded.record.state(), PermitState::Offered { session: of, .. } if *of == session),
        )
    }

    /// How new this host's knowledge of the permit is.
    ///
    /// # Errors
    /// When the record cannot be read.
    pub fn generation(&mut self) -> Result<Generation, PermitFileError> {
        Ok(self.record.load()?.ok_or(PermitFileError::Missing)?.record.generation())
    }

    /// `Offered` to a host → `Gone`: it has the permit.
    ///
    /// # Errors
    /// When the record says otherwise, or cannot be written.
    pub fn peer_took(&mut self, session: SessionId) -> Result<(), PermitFileError> {
        self.ensure(&Event::PeerTook { session }, |state| matches!(state, PermitState::Gone { .. }))
    }

    /// `Offered` to a host → `Held`: it never ran there, and never will.
    ///
    /// # Errors
    /// When the record says otherwise, or cannot be written: then it must not run here.
    pub fn peer_refused(&mut self, session: SessionId) -> Result<(), PermitFileError> {
        self.ensure(&Event::PeerRefused { session }, |state| {
            matches!(state, PermitState::Held { .. })
        })
    }

    /// `Prepared` → `Refused`.
    ///
    /// # Errors
    /// When the record says otherwise, or cannot be written: then it must not be said.
    pub fn refuse(&mut self, session: SessionId) -> Result<(), PermitFileError> {
        self.ensure(&Event::Refuse { session }, |state| {
            matches!(state, PermitState::Refused { .. })
        })
    }

    /// `Offered` to a host → `Held` by this process, with a generation after a resolution: a person says that no other
    /// copy is alive. `above` is the newest generation that the person knows of: resolutions, moves.
    ///
    /// # Errors
    /// When the record says otherwise, or cannot be written.
    pub fn resolve(&mut self, above: (u32, u32)) -> Result<(), PermitFileError> {
        let above = Generation { resolutions: above.0, moves: above.1 };
        let event = Event::Resolve { runner: Some(self.me), above };
        self.ensure(&event, |state| matches!(state, PermitState::Held { .. }))
    }

    /// `Offered` → `Held`, unless the successor has taken it.
    ///
    /// # Errors
    /// When the successor has, or the record cannot be written: then it must not run here.
    pub fn withdraw(&mut self, session: SessionId) -> Result<(), PermitFileError> {
        self.apply(&Event::Withdraw { session })
    }

    /// `Offered` to this process → `Taken` by it, unless the predecessor has withdrawn.
    ///
    /// # Errors
    /// When it has, or the record cannot be written: then it must not run here.
    pub fn take(&mut self, session: SessionId) -> Result<(), PermitFileError> {
        let me = self.me;
        self.ensure(
            &Event::Take { session },
            |state| matches!(state, PermitState::Taken { runner, .. } if *runner == me),
        )
    }

    /// Applies an event, and makes sure that what it led to is durable.
    fn ensure(
        &mut self,
        event: &Event,
        is_made: impl Fn(&PermitState) -> bool,
    ) -> Result<(), PermitFileError> {
        ensure(&mut self.record, Actor::Process(self.me), event, is_made)
    }

    /// `Taken` → `Held`.
    ///
    /// # Errors
    /// When the record says otherwise, or cannot be written.
    pub fn settle(&mut self, session: SessionId) -> Result<(), PermitFileError> {
        self.apply(&Event::Settle { session })
    }

    fn apply(&mut self, event: &Event) -> Result<(), PermitFileError> {
        self.record.apply(Actor::Process(self.me), event)?;
        Ok(())
    }

    /// A second description of the file: to look at the record, never to hold its life lock.
    ///
    /// # Errors
    /// When it cannot be opened again.
    pub fn watch(&self) -> Result<PermitWatch, PermitFileError> {
        let path = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        let file = File::options().read(true).write(true).open(path)?;
        let record = PermitRecord::watch(FileStorage { file: file.try_clone()? }, self.vm);
        Ok(PermitWatch { file, record })
    }
}

/// Applies an event, and makes sure that what it led to is durable.
fn ensure(
    record: &mut PermitRecord<FileStorage>,
    actor: Actor,
    event: &Event,
    is_made: impl Fn(&PermitState) -> bool,
) -> Result<(), PermitFileError> {
    match record.apply(actor, event) {
        // The write failed, and the bytes may be there all the same. Written once more, they are
        // durable or not: what the record says then, everybody goes by.
        Err(RecordError::Uncertain(error)) => {
            record.confirm()?;
            let loaded = record.load()?;
            if loaded.is_some_and(|loaded| is_made(loaded.record.state())) {
                return Ok(());
            }
            Err(RecordError::Uncertain(error).into())
        }
        outcome => Ok(outcome.map(drop)?),
    }
}

/// Takes the life lock: no process of the machine lives.
fn lock_life(file: &File) -> Result<(), PermitFileError> {
    let end = Instant::now() + LOCK_PATIENCE;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) if Instant::now() < end => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(TryLockError::WouldBlock) => return Err(PermitFileError::Alive),
            Err(TryLockError::Error(error)) => return Err(error.into()),
        }
    }
}

impl AsFd for PermitFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Looks at a record from outside.
#[derive(Debug)]
pub struct PermitWatch {
    file: File,
    record: PermitRecord<FileStorage>,
}

impl PermitWatch {
    /// Looks at the record at `path`.
    ///
    /// # Errors
    /// When it cannot be opened or read.
    pub fn open(path: &Path, vm: VmId) -> Result<Self, PermitFileError> {
        let file = open(path)?;
        let record = PermitRecord::watch(FileStorage { file: file.try_clone()? }, vm);
        Ok(Self { file, record })
    }

    /// What the record says now, and says after a power cut, too. Nothing is written: whoever looks may be one of many
    /// threads, which the step lock, a process's, does not keep apart.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn record(&mut self) -> Result<Record, PermitFileError> {
        let loaded = self.record.load()?.ok_or(PermitFileError::Missing)?;
        self.file.sync_data()?;
        Ok(loaded.record)
    }

    /// Whether any process holds the life lock.
    ///
    /// # Errors
    /// When the file system cannot tell.
    pub fn is_alive(&self) -> Result<bool, PermitFileError> {
        match self.file.try_lock_shared() {
            Ok(()) => {
                self.file.unlock()?;
                Ok(false)
            }
            Err(TryLockError::WouldBlock) => Ok(true),
            Err(TryLockError::Error(error)) => Err(error.into()),
        }
    }
}

fn describe(error: &io::Error, path: &Path) -> PermitFileError {
    let kind = error.kind();
    io::Error::new(kind, format!("{}: {error}", path.display())).into()
}

fn open(path: &Path) -> Result<File, PermitFileError> {
    let flags = OFlags::RDWR | OFlags::DSYNC | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = rustix::fs::open(path, flags, Mode::empty());
    Ok(file.map_err(|error| describe(&error.into(), path))?.into())
}

/// The two slots in a file that is written synchronously.
#[derive(Debug)]
struct FileStorage {
    file: File,
}

impl RecordStorage for FileStorage {
    type Error = io::Error;
    type Locked<'a> = LockedFile<'a>;

    fn lock(&mut self) -> io::Result<LockedFile<'_>> {
        loop {
            match fcntl_lock(&self.file, FlockOperation::LockExclusive) {
                Err(rustix::io::Errno::INTR) => {}
                outcome => break outcome?,
            }
        }
        Ok(LockedFile(&self.file))
    }
}

/// The step lock; released when dropped.
struct LockedFile<'a>(&'a File);

impl LockedSlots for LockedFile<'_> {
    type Error = io::Error;

    fn read(&mut self, slots: &mut [Slot; 2]) -> io::Result<()> {
        for (slot, offset) in slots.iter_mut().zip([0, SLOT_BYTES as u64]) {
            self.0.read_exact_at(slot, offset)?;
        }
        Ok(())
    }

    /// The file was opened with `O_DSYNC`: the write returns when the bytes are on storage.
    fn write(&mut self, slot: usize, bytes: &Slot) -> io::Result<()> {
        self.0.write_all_at(bytes, (slot * SLOT_BYTES) as u64)
    }
}

impl Drop for LockedFile<'_> {
    fn drop(&mut self) {
        // Fails only for a descriptor that is none; the lock would die with the process.
        let _ = fcntl_lock(self.0, FlockOperation::Unlock);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nonce(byte: u8) -> Nonce {
        Nonce::new([byte; 16]).unwrap()
    }

    fn vm() -> VmId {
        VmId::new([1; 16]).unwrap()
    }

    fn session() -> SessionId {
        SessionId::new([2; 16]).unwrap()
    }

    /// A record held by `a`, and the same descriptor in the hands of `b`.
    fn pair() -> (PermitFile, PermitFile) {
        let held = PermitFile::create_nameless(&std::env::temp_dir(), vm(), nonce(0xa)).unwrap();
        let passed = held.as_fd().try_clone_to_owned().unwrap();
        let successor = PermitFile::from_descriptor(passed, vm(), nonce(0xb)).unwrap();
        (held, successor)
    }

    #[test]
    fn either_the_predecessor_withdraws_or_the_successor_takes() {
        for takes_first in [true, false] {
            let (mut held, mut successor) = pair();
            held.offer(session(), nonce(0xb)).unwrap();
            let outcomes = if takes_first {
                [successor.take(session()).is_ok(), held.withdraw(session()).is_ok()]
            } else {
                [held.withdraw(session()).is_ok(), successor.take(session()).is_ok()]
            };
            assert_eq!(outcomes, [true, false]);
            assert_eq!(held.check_held().is_ok(), !takes_first);
        }
    }

    /// The other process of the next test; by itself it does nothing.
    #[test]
    fn the_racing_successor() {
        let Ok(descriptor) = std::env::var("NOVACRON_TEST_RECORD") else { return };
        let path = format!("/proc/{descriptor}");
        let file = File::options().read(true).write(true).open(path).unwrap();
        let mut successor = PermitFile::from_descriptor(file.into(), vm(), nonce(0xb)).unwrap();
        println!("ready");
        let mut line = String::new();
        io::stdin().read_line(&mut line).unwrap();
        println!("{}", if successor.take(session()).is_ok() { "took" } else { "lost" });
    }

    #[test]
    fn two_processes_that_race_for_the_permit_never_both_win() {
        use std::io::{BufRead, Write};
        let mut taken = 0;
        for round in 0..40_u64 {
            let (mut held, _) = pair();
            held.offer(session(), nonce(0xb)).unwrap();
            let descriptor = format!("{}/fd/{}", std::process::id(), held.file.as_raw_fd());
            let mut child = std::process::Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "permit::tests::the_racing_successor", "--nocapture"])
                .env("NOVACRON_TEST_RECORD", descriptor)
                .stdin(std::process::Stdio::piped())
                .stdout(std::process::Stdio::piped())
                .spawn()
                .unwrap();
            let mut said = io::BufReader::new(child.stdout.take().unwrap()).lines();
            let mut hear = |words: &[&str]| {
                said.find_map(|line| {
                    words
                        .iter()
                        .find(|w| line.as_ref().unwrap().ends_with(**w))
                        .map(|w| (*w).to_owned())
                })
            };
            assert_eq!(hear(&["ready"]).as_deref(), Some("ready"));
            child.stdin.take().unwrap().write_all(b"go\n").unwrap();
            // Spread over the time that the other needs to get going.
            std::thread::sleep(Duration::from_micros(round * 10));
            let withdrawn = held.withdraw(session()).is_ok();
            let took = hear(&["took", "lost"]).as_deref() == Some("took");
            child.wait().unwrap();
            assert!(took != withdrawn, "round {round}: took {took}, withdrawn {withdrawn}");
            taken += u32::from(took);
        }
        eprintln!("the successor won {taken} of 40 races");
    }

    #[test]
    fn a_settled_successor_may_hand_over_in_its_turn() {
        let (mut held, mut successor) = pair();
        held.offer(session(), nonce(0xb)).unwrap();
        successor.take(session()).unwrap();
        successor.settle(session()).unwrap();
        successor.check_held().unwrap();
        assert!(held.check_held().is_err());
        successor.offer(SessionId::new([3; 16]).unwrap(), nonce(0xc)).unwrap();
    }

    #[test]
    fn a_machine_is_alive_as_long_as_anyone_holds_its_descriptor() {
        let (held, successor) = pair();
        let watch = held.watch().unwrap();
        assert!(watch.is_alive().unwrap());
        drop(held);
        assert!(watch.is_alive().unwrap());
        drop(successor);
        assert!(!watch.is_alive().unwrap());
    }

    #[test]
    fn a_directory_that_is_not_there_is_named() {
        let refused = PermitFile::create_nameless(Path::new("/nowhere"), vm(), nonce(1));
        assert!(refused.unwrap_err().to_string().contains("/nowhere"));
    }

    /// A record that is prepared for a move from another host, at a path; and its process.
    fn prepared(folder: &Path) -> (std::path::PathBuf, PermitFile) {
        let path = folder.join("permit");
        let from = HostName::new("there").unwrap();
        let offered = Generation::default();
        let held = PermitFile::prepare(&path, vm(), session(), nonce(0xa), from, offered).unwrap();
        (path, held)
    }

    #[test]
    fn who_looks_at_a_record_writes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (path, held) = prepared(folder.path());
        let before = std::fs::read(&path).unwrap();
        for mut watch in [PermitWatch::open(&path, vm()).unwrap(), held.watch().unwrap()] {
            let record = watch.record().unwrap();
            assert!(matches!(record.state(), PermitState::Prepared { .. }));
        }
        assert!(std::fs::read(&path).unwrap() == before);
    }

    #[test]
    fn a_keeper_refuses_before_it_says_never_and_only_when_no_process_lives() {
        use dwcp::acp::Answer;
        let folder = tempfile::tempdir().unwrap();
        let (path, held) = prepared(folder.path());
        let alive = PermitKeeper::open(&path, vm()).unwrap_err();
        assert!(matches!(alive, PermitFileError::Alive), "{alive}");
        drop(held);
        let mut keeper = PermitKeeper::open(&path, vm()).unwrap();
        let other = SessionId::new([9; 16]).unwrap();
        assert_eq!(keeper.answer(other).unwrap(), Answer::Unknown);
        assert!(matches!(keeper.record().unwrap().state(), PermitState::Prepared { .. }));
        assert_eq!(keeper.answer(session()).unwrap(), Answer::NeverRan);
        assert!(matches!(keeper.record().unwrap().state(), PermitState::Refused { .. }));
        // Nobody takes it any more, and nobody else is its keeper meanwhile.
        let second = PermitKeeper::open(&path, vm()).unwrap_err();
        assert!(matches!(second, PermitFileError::Alive), "{second}");
    }
}
