//! The two ends of a move between hosts, seen from those who keep the machine there.

use std::fs::File;
use std::io;
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dwcp::acp::{Generation, HostName, Nonce, SessionId};

use super::home::Home;
use super::process::MachineProcess;
use super::{Executable, SuperviseError, Supervised, Watch, home, unexpected};
use crate::dirty::DirtyLogKind;
use crate::ipc::Channel;
use crate::meter::Word;
use crate::migrate::{
    Accepted, ArrivalReport, Description, Dial, Dialled, KeepOrder, KeptReport, MigrateOrder,
    MoveLimits, MoveReport, PrepareOrder, SessionKeys, SurveyOrder, SurveyReport,
};
use crate::permit::{PermitFile, PermitWatch};
use crate::random::random;
use crate::role::{Order, Report};

/// Sockets of a move that are connected at a time: over a long way each takes as long as all of them.
const DIALLERS: usize = 8;
/// How long it may take to give a process a socket.
const BRINGING: Duration = Duration::from_secs(1);

/// An attempt, as a destination is told of it.
#[derive(Clone, Debug)]
pub struct Visit {
    /// Its session.
    pub session: [u8; 16],
    /// The name of the source's host.
    pub from: String,
    /// By which the streams' ends know each other.
    pub keys: SessionKeys,
    /// How long the source may be silent.
    pub patience: Duration,
}

/// What a source's keeper knows, and wants, of images that hosts keep of a machine's memory.
#[derive(Clone, Copy, Debug, Default)]
pub struct MoveImages {
    /// The destination has one.
    pub recalls: bool,
    /// One is to be made here, once the guest runs there: see [`MachineProcess::keep_image`].
    pub stays: bool,
}

/// A machine that is built, and waits for its guest from another host. Dropped, it goes on waiting, as every kept process
/// goes on.
#[derive(Debug)]
pub struct Prepared {
    process: MachineProcess,
    watch: PermitWatch,
    home: Home,
    door: ArrivalDoor,
}

/// Where the sockets of a session are brought in, by whichever thread has one.
#[derive(Clone, Debug)]
pub struct ArrivalDoor(Arc<Mutex<Channel>>);

impl ArrivalDoor {
    fn new(sockets: Channel) -> Self {
        // A process that stands still must not hold up whoever has a socket for it.
        let _ = sockets.set_time_limit(Some(BRINGING));
        Self(Arc::new(Mutex::new(sockets)))
    }

    /// Brings in a socket on which the session was asked for.
    ///
    /// # Errors
    /// When the process has gone.
    pub fn bring_in(&self, socket: &TcpStream) -> Result<(), SuperviseError> {
        let channel = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let sent = channel.send(&Accepted, &[socket.as_fd()]);
        sent.map_err(|source| SuperviseError::Silent { source })
    }
}

impl Home {
    /// Prepares for a machine that is about to come here: its record, its process, the whole machine. Returns it, and this
    /// end of its console.
    ///
    /// # Errors
    /// When a process of the machine lives here, its record does not allow it, or this host cannot run it.
    pub fn prepare(
        &self,
        executable: Executable<'_>,
        description: Description,
        visit: Visit,
        kept: Option<&File>,
    ) -> Result<(Prepared, UnixStream), SuperviseError> {
        let Visit { session, from, keys, patience } = visit;
        let mut process = MachineProcess::start(executable)?;
        let runner = random()?;
        let (resolutions, moves) = description.generation;
        let held = PermitFile::prepare(
            &self.permit(),
            self.vm(),
            named(SessionId::new(session), "session")?,
            named(Nonce::new(runner), "nonce")?,
            named(HostName::new(&from), "name of a host")?,
            Generation { resolutions, moves },
        )?;
        self.sweep_sockets()?;
        let watch = held.watch()?;
        let built = self.build(
            &mut process,
            &held,
            description,
            runner,
            session,
            keys,
            patience,
            executable.dirty_log,
            kept,
        );
        // From here on the machine process alone holds the life lock.
        drop(held);
        match built {
            Ok((door, console)) => {
                Ok((Prepared { process, watch, home: self.clone(), door }, console))
            }
            Err(error) => {
                // A kept process would go on without anybody.
                process.bury();
                Err(error)
            }
        }
    }

    /// Has a process build the machine.
    #[allow(clippy::too_many_arguments, reason = "the fields of one order")]
    fn build(
        &self,
        process: &mut MachineProcess,
        held: &PermitFile,
        description: Description,
        runner: [u8; 16],
        session: [u8; 16],
        keys: SessionKeys,
        patience: Duration,
        dirty_log: DirtyLogKind,
        kept: Option<&File>,
    ) -> Result<(ArrivalDoor, UnixStream), SuperviseError> {
        home::keep(process, Some(self), runner)?;
        let (console, theirs) = UnixStream::pair()?;
        let (sockets, their_sockets) = Channel::pair()?;
        let order = Order::Prepare(Box::new(PrepareOrder {
            description,
            vm: self.vm().bytes(),
            runner,
            session,
            keys,
            patience,
            has_kept: kept.is_some(),
            dirty_log,
        }));
        let mut descriptors: Vec<&dyn AsFd> = vec![held, &theirs, &their_sockets];
        descriptors.extend(kept.map(|kept| kept as &dyn AsFd));
        process.order(&order, &descriptors)?;
        match process.report()? {
            Report::Prepared => Ok((ArrivalDoor::new(sockets), console)),
            Report::Failed { why } => Err(SuperviseError::Refused(why)),
            other => Err(unexpected(&other)),
        }
    }
}

impl Prepared {
    /// The process that waits for the guest.
    #[must_use]
    pub fn process(&self) -> &MachineProcess {
        &self.process
    }

    /// One that was found waiting: it is given another socket on which streams come.
    pub(super) fn found(
        process: MachineProcess,
        watch: PermitWatch,
        home: Home,
    ) -> Result<Self, SuperviseError> {
        let (sockets, theirs) = Channel::pair()?;
        process.order(&Order::Sockets, &[&theirs])?;
        Ok(Self { process, watch, home, door: ArrivalDoor::new(sockets) })
    }

    /// Where the session's sockets are brought in.
    #[must_use]
    pub fn door(&self) -> ArrivalDoor {
        self.door.clone()
    }

    /// Does not want the guest any more; the machine, if it was too late for that.
    ///
    /// # Errors
    /// When the process is lost.
    pub fn refuse(self) -> Result<Option<Supervised>, SuperviseError> {
        self.process.order(&Order::Cancel, &[])?;
        match self.wait(None) {
            Ok((machine, _)) => Ok(Some(machine)),
            Err(SuperviseError::Migration(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Waits until the guest runs here, or never will; `watch` is told how far it is.
    ///
    /// # Errors
    /// When it never will.
    pub fn wait(
        self,
        watch: Option<Watch<'_>>,
    ) -> Result<(Supervised, ArrivalReport), SuperviseError> {
        let Self { process, watch: permit, home, door } = self;
        let machine = Supervised { process, watch: permit, home: Some(home) };
        let report = loop {
            match machine.job_report(watch) {
                // Of the keeper before this one, who did not hear it any more.
                Ok(Report::Prepared) => {}
                report => break report,
            }
        };
        drop(door);
        let error = match report {
            Ok(Report::Arrived(report)) => return Ok((machine, *report)),
            Ok(Report::Failed { why }) => SuperviseError::Migration(why),
            Ok(other) => unexpected(&other),
            Err(error) => error,
        };
        machine.process.bury();
        Err(error)
    }
}

impl Supervised {
    /// What another host must know of the machine before it can prepare for it.
    ///
    /// # Errors
    /// When the guest has ended meanwhile, or the process is lost.
    pub fn describe(&self) -> Result<Description, SuperviseError> {
        self.process.order(&Order::Describe, &[])?;
        match self.process.report()? {
            Report::Description(description) => Ok(*description),
            Report::Exited { how, end } => Err(SuperviseError::GuestEnded { how, end }),
            Report::Declined { why } => Err(SuperviseError::Refused(why)),
            other => Err(unexpected(&other)),
        }
    }

    /// Looks at the running guest for a second, and says how a move would go.
    ///
    /// # Errors
    /// When the guest has ended meanwhile, or the process is lost.
    pub fn survey(&self, order: &SurveyOrder) -> Result<SurveyReport, SuperviseError> {
        self.process.order(&Order::Survey(Box::new(*order)), &[])?;
        match self.job_report(None)? {
            Report::Surveyed(report) => Ok(*report),
            Report::Exited { how, end } => Err(SuperviseError::GuestEnded { how, end }),
            Report::SurveyFailed { why } | Report::Declined { why } => {
                Err(SuperviseError::Refused(why))
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Moves the running guest to a host that has prepared for it. `dial` connects the streams' sockets. Once it has
    /// moved, its process here ends.
    ///
    /// # Errors
    /// `Migration` when the guest runs on here; `Departed` when it never runs here again; `Lost` when the process has
    /// died, and only the record and the destination can tell.
    pub fn migrate(
        &self,
        visit: &Visit,
        to: &str,
        limits: MoveLimits,
        images: MoveImages,
        dial: &(dyn Fn(Dial) -> io::Result<TcpStream> + Sync),
        watch: Option<Watch<'_>>,
    ) -> Result<MoveReport, SuperviseError> {
        let (sockets, theirs) = Channel::pair()?;
        let order = Order::Migrate(Box::new(MigrateOrder {
            session: visit.session,
            to: to.to_owned(),
            keys: visit.keys.clone(),
            limits,
            recalls: images.recalls,
            stays: images.stays,
        }));
        self.process.order(&order, &[&theirs])?;
        drop(theirs);
        self.until_moved(&sockets, dial, watch)
    }

    /// Goes on with a move that another keeper has begun.
    ///
    /// # Errors
    /// Those of [`Self::migrate`].
    pub fn go_on_migrating(
        &self,
        dial: &(dyn Fn(Dial) -> io::Result<TcpStream> + Sync),
        watch: Option<Watch<'_>>,
    ) -> Result<MoveReport, SuperviseError> {
        let (sockets, theirs) = Channel::pair()?;
        self.process.order(&Order::Sockets, &[&theirs])?;
        drop(theirs);
        self.until_moved(&sockets, dial, watch)
    }

    /// Tells the process what concerns the move that is under way. What comes of it, the move's outcome shows.
    pub fn tell(&self, word: Word) {
        // A process that has gone needs no word.
        let _ = self.process.control.send(&Order::Tell(word), &[]);
    }

    fn until_moved(
        &self,
        sockets: &Channel,
        dial: &(dyn Fn(Dial) -> io::Result<TcpStream> + Sync),
        watch: Option<Watch<'_>>,
    ) -> Result<MoveReport, SuperviseError> {
        let turns = &Turns::default();
        let report = std::thread::scope(|scope| {
            for _ in 0..DIALLERS {
                // It ends when the process closes its end.
                let serving = std::thread::Builder::new()
                    .name("dialler".into())
                    .spawn_scoped(scope, move || serve(sockets, turns, dial));
                // Without any no stream can be made, and the move ends by its own limits.
                if let Err(error) = &serving {
                    tracing::error!(%error, "a thread is missing that connects streams of a move");
                }
            }
            let report = self.job_report(watch);
            sockets.end();
            report
        });
        match report? {
            Report::Migrated(report) => Ok(*report),
            Report::MigrationFailed { why } | Report::Declined { why } => {
                Err(SuperviseError::Migration(why))
            }
            Report::Departed { why } => Err(SuperviseError::Departed(why)),
            Report::Exited { how, end } => Err(SuperviseError::GuestEnded { how, end }),
            other => Err(unexpected(&other)),
        }
    }
}

impl MachineProcess {
    /// Has the process of a machine that has moved, and stays, write the memory that is left into a file, which is empty;
    /// then it ends, and if it takes longer than `limit`, it is ended. When this returns, all of it is on storage.
    ///
    /// # Errors
    /// When it is not: the file is of no use.
    pub fn keep_image(
        self,
        file: &dyn AsFd,
        vm: [u8; 16],
        most: u64,
        limit: Duration,
    ) -> Result<KeptReport, SuperviseError> {
        let ordered = random().map_err(SuperviseError::from).and_then(|id| {
            self.control.set_time_limit(Some(limit))?;
            self.order(&Order::KeepImage(KeepOrder { vm, id, most }), &[file])?;
            self.report()
        });
        self.bury();
        match ordered? {
            Report::ImageKept(report) => Ok(report),
            Report::ImageNotKept { why } | Report::Declined { why } => {
                Err(SuperviseError::Refused(why))
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Ends the process of a machine that has moved.
    pub fn dismiss(self) {
        // One that has gone needs no word.
        let _ = self.control.send(&Order::Stop, &[]);
        self.bury();
    }
}

/// Whose turn it is to hear the process, and to answer it.
#[derive(Default)]
struct Turns {
    hearing: Mutex<()>,
    answering: Mutex<()>,
}

/// Connects sockets for a machine process, until it wants no more.
fn serve(sockets: &Channel, turns: &Turns, dial: &(dyn Fn(Dial) -> io::Result<TcpStream> + Sync)) {
    let hear = || {
        let _turn = turns.hearing.lock().unwrap_or_else(PoisonError::into_inner);
        sockets.receive::<Dial>()
    };
    while let Ok((wanted, _)) = hear() {
        let number = wanted.number;
        let dialled = dial(wanted);
        let _turn = turns.answering.lock().unwrap_or_else(PoisonError::into_inner);
        let sent = match dialled {
            Ok(socket) => sockets.send(&Dialled { number, failed: None }, &[socket.as_fd()]),
            Err(error) => sockets.send(&Dialled { number, failed: Some(error.to_string()) }, &[]),
        };
        if sent.is_err() {
            return;
        }
    }
}

fn named<T>(value: Option<T>, what: &str) -> Result<T, SuperviseError> {
    value.ok_or_else(|| SuperviseError::Refused(format!("the visit has no usable {what}")))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::net::TcpListener;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread::{scope, sleep};
    use std::time::Instant;

    use super::*;
    use crate::dirty::DirtyLogKind;

    #[test]
    fn sockets_are_connected_side_by_side() {
        let (ours, theirs) = Channel::pair().unwrap();
        let limit = Duration::from_secs(5);
        theirs.set_time_limit(Some(limit)).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (turns, under_way) = (Turns::default(), AtomicUsize::new(0));
        let dial = |_| {
            under_way.fetch_add(1, Ordering::Relaxed);
            let begun = Instant::now();
            // Each is as slow as the last of them.
            while under_way.load(Ordering::Relaxed) < DIALLERS {
                if begun.elapsed() > limit {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                sleep(Duration::from_millis(1));
            }
            TcpStream::connect(listener.local_addr().unwrap())
        };
        let numbers = 1..=u32::try_from(DIALLERS).unwrap();
        let answered: Vec<_> = scope(|scope| {
            for _ in 0..DIALLERS {
                scope.spawn(|| serve(&ours, &turns, &dial));
            }
            for number in numbers.clone() {
                theirs.send(&Dial { number, connection: 1, place: 0 }, &[]).unwrap();
            }
            // Whatever they are: until this ends, nobody comes back.
            let answered = numbers.clone().map(|_| theirs.receive::<Dialled>()).collect();
            theirs.end();
            answered
        });
        let number = |answer: Result<(Dialled, Vec<_>), _>| {
            let (dialled, sockets) = answer.unwrap();
            assert_eq!((dialled.failed, sockets.len()), (None, 1));
            dialled.number
        };
        let answered: BTreeSet<_> = answered.into_iter().map(number).collect();
        assert!(answered.iter().copied().eq(numbers), "{answered:?}");
    }

    #[test]
    fn a_process_that_does_not_get_on_with_an_image_is_ended() {
        // Never reads an order, and never ends.
        let path = std::path::Path::new("yes");
        let dirty_log = DirtyLogKind::Bitmap;
        let executable = Executable { path, environment: &[], dirty_log, nice: 0 };
        let process = MachineProcess::start(executable).unwrap();
        let id = process.id();
        let (file, begun) = (tempfile::tempfile().unwrap(), Instant::now());
        let error = process.keep_image(&file, [6; 16], 1 << 20, Duration::from_millis(10));
        assert!(matches!(error, Err(SuperviseError::Lost { .. })), "{error:?}");
        assert!(begun.elapsed() < Duration::from_secs(60));
        assert!(!std::path::Path::new(&format!("/proc/{id}")).exists(), "nothing holds its memory");
    }
}
