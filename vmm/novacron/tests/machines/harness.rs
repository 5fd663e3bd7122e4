//! A machine with the oracle guest in it, as the tests see it.

use std::io::{BufRead, BufReader, Seek, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use firmware::oracle::report::{Report, Rounds, Verdict, WrongPage};
use machine::{
    CpuCount, CpuModel, DirtyLogKind, Executable, Form, HandOverReport, Home, Host, Images, Limits,
    MachineConfig, MemoryLayout, RestoreOptions, SuperviseError, Supervised,
};

pub(crate) const MIB: u64 = 1 << 20;
/// Small guests have two slots, too.
pub(crate) const HOLE_START: u64 = 256 * MIB;
/// Far more than any step takes on a loaded host.
const PATIENCE: Duration = Duration::from_secs(120);

/// The executable under test, with faults asked for in its environment, and a folder for its files.
pub(crate) struct Faulty {
    faults: String,
    folder: PathBuf,
    dirty_log: DirtyLogKind,
}

impl Faulty {
    pub(crate) fn new(faults: impl Into<String>) -> Self {
        Self {
            faults: faults.into(),
            folder: std::env::temp_dir(),
            dirty_log: DirtyLogKind::Bitmap,
        }
    }

    /// With a folder that nobody else writes to.
    pub(crate) fn with_folder(faults: &str, folder: &Path) -> Self {
        Self { folder: folder.to_owned(), ..Self::new(faults) }
    }

    /// Without faults, and with such a folder.
    pub(crate) fn sound_in(folder: &Path) -> Self {
        Self::with_folder("", folder)
    }

    /// The same with another dirty log.
    pub(crate) fn logging(self, dirty_log: DirtyLogKind) -> Self {
        Self { dirty_log, ..self }
    }

    /// Runs `with` on the executable.
    pub(crate) fn with<T>(&self, with: impl FnOnce(Executable<'_>) -> T) -> T {
        let folder = self.folder.to_string_lossy();
        let environment = [("NOVACRON_FAULT", self.faults.as_str()), ("TMPDIR", &folder)];
        let path = Path::new(env!("CARGO_BIN_EXE_novacron"));
        with(Executable { path, environment: &environment, dirty_log: self.dirty_log, nice: 0 })
    }
}

/// Whether this host can run machines; says so, in the form that the runner counts, if not.
pub(crate) fn has_kvm(test: &str) -> bool {
    match Host::open() {
        Ok(_) => true,
        Err(error) => {
            eprintln!("SKIPPED {test}: {error}");
            false
        }
    }
}

static TESTS: RwLock<()> = RwLock::new(());

/// Held by a test that other tests may run beside.
pub(crate) fn shared() -> RwLockReadGuard<'static, ()> {
    // A test that failed says nothing about the others.
    TESTS.read().unwrap_or_else(PoisonError::into_inner)
}

/// Held by a test that must run alone.
pub(crate) fn alone() -> RwLockWriteGuard<'static, ()> {
    TESTS.write().unwrap_or_else(PoisonError::into_inner)
}

/// Whether the long run was asked for.
pub(crate) fn is_long_run(test: &str) -> bool {
    let asked = std::env::var_os("NOVACRON_LONG").is_some();
    if !asked {
        eprintln!("SKIPPED {test}: long run");
    }
    asked
}

/// What the oracle is to do.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) cpus: u32,
    pub(crate) cpu: CpuModel,
    pub(crate) memory: u64,
    pub(crate) words: &'static str,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            cpus: 2,
            cpu: CpuModel::Host,
            memory: 320 * MIB,
            words: "pattern=random rate=5000 working_set=16M",
        }
    }
}

impl Shape {
    /// What a machine of this shape is made of, and boots.
    fn parts(self, folder: &Path) -> (MachineConfig, Images) {
        let config = MachineConfig {
            cpus: CpuCount::try_from(self.cpus).unwrap(),
            cpu: self.cpu,
            memory: MemoryLayout::new(self.memory, HOLE_START).unwrap(),
        };
        let mut kernel = tempfile::tempfile_in(folder).unwrap();
        kernel.write_all(firmware::ORACLE).unwrap();
        kernel.rewind().unwrap();
        let command_line =
            format!("cpus={} tsc_khz={{tsc_khz}} report=50 {}", self.cpus, self.words);
        (config, Images { kernel, initrd: None, command_line })
    }
}

/// A line that the oracle wrote.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Said {
    Ready,
    Rounds(Rounds),
    Wrong(WrongPage),
    Verdict(Verdict),
}

/// A machine that runs the oracle.
pub(crate) struct Oracle {
    pub(crate) machine: Supervised,
    _shared: Option<RwLockReadGuard<'static, ()>>,
    said: Receiver<Said>,
    console: UnixStream,
}

impl Oracle {
    /// Boots, and waits until the guest has filled its memory.
    pub(crate) fn boot(shape: Shape, faults: &Faulty) -> Self {
        let shared = shared();
        Self { _shared: Some(shared), ..Self::boot_alone(shape, faults) }
    }

    /// The same for a test that has said that it runs alone.
    pub(crate) fn boot_alone(shape: Shape, faults: &Faulty) -> Self {
        let mut oracle = Self::start(shape, faults);
        oracle.wait(|said| matches!(said, Said::Ready).then_some(()));
        oracle
    }

    fn start(shape: Shape, faults: &Faulty) -> Self {
        Self::try_start(shape, faults).unwrap()
    }

    /// Boots, and says why not.
    pub(crate) fn try_boot(shape: Shape, faults: &Faulty) -> Result<Self, SuperviseError> {
        let shared = shared();
        Ok(Self { _shared: Some(shared), ..Self::try_start(shape, faults)? })
    }

    fn try_start(shape: Shape, faults: &Faulty) -> Result<Self, SuperviseError> {
        let (config, images) = shape.parts(&faults.folder);
        let booted =
            faults.with(|executable| Supervised::boot(executable, &faults.folder, config, &images));
        let (machine, console) = booted?;
        Ok(Self::around(machine, console))
    }

    /// Boots a machine that outlives this process, and waits until the guest has filled its memory.
    pub(crate) fn boot_at(home: &Home, shape: Shape, faults: &Faulty) -> Self {
        let mut oracle = Self::try_boot_at(home, shape, faults).unwrap();
        oracle.wait(|said| matches!(said, Said::Ready).then_some(()));
        oracle
    }

    /// The same, if it can be started.
    pub(crate) fn try_boot_at(
        home: &Home,
        shape: Shape,
        faults: &Faulty,
    ) -> Result<Self, SuperviseError> {
        let (config, images) = shape.parts(&faults.folder);
        let shared = shared();
        let booted = faults.with(|executable| home.boot(executable, config, &images));
        let (machine, console) = booted?;
        Ok(Self { _shared: Some(shared), ..Self::around(machine, console) })
    }

    /// A machine that runs already.
    pub(crate) fn around(machine: Supervised, console: UnixStream) -> Self {
        let said = listen(BufReader::new(console.try_clone().unwrap()));
        Self { machine, _shared: None, said, console }
    }

    /// The machine of a snapshot.
    pub(crate) fn restore(
        path: &Path,
        options: RestoreOptions<'_>,
        faults: &Faulty,
    ) -> Result<Self, SuperviseError> {
        let shared = shared();
        let restored = faults
            .with(|executable| Supervised::restore(executable, &faults.folder, path, options));
        let (machine, console, _) = restored?;
        Ok(Self { _shared: Some(shared), ..Self::in_a_line(machine, console) })
    }

    /// A machine that goes on in the middle of a line.
    pub(crate) fn in_a_line(machine: Supervised, console: UnixStream) -> Self {
        let mut lines = BufReader::new(console.try_clone().unwrap());
        lines.read_line(&mut String::new()).unwrap();
        Self { machine, _shared: None, said: listen(lines), console }
    }

    /// Waits for something that `pick` takes.
    pub(crate) fn wait<T>(&mut self, pick: impl Fn(Said) -> Option<T>) -> T {
        let end = Instant::now() + PATIENCE;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let said = self.said.recv_timeout(left).expect("the oracle says something");
            if let Some(picked) = pick(said) {
                return picked;
            }
        }
    }

    /// Waits for more rounds to be made.
    pub(crate) fn wait_for_rounds(&mut self, more: u64) {
        let rounds = |said| match said {
            Said::Rounds(rounds) => Some(rounds.writes),
            _ => None,
        };
        let start = self.wait(rounds);
        self.wait(|said| rounds(said).filter(|now| *now > start + more));
    }

    pub(crate) fn hand_over(&mut self, form: Form) -> Result<HandOverReport, SuperviseError> {
        self.hand_over_with(form, &Faulty::new("reference"))
    }

    pub(crate) fn hand_over_with(
        &mut self,
        form: Form,
        successor: &Faulty,
    ) -> Result<HandOverReport, SuperviseError> {
        let limits = Limits { pages_at_pause: 1024, ..Limits::default() };
        successor.with(|executable| self.machine.hand_over(executable, form, limits))
    }

    /// What the oracle finds when it looks at every page.
    pub(crate) fn verdict(&mut self) -> Verdict {
        self.console.write_all(b"v").unwrap();
        self.wait(|said| match said {
            Said::Verdict(verdict) => Some(verdict),
            _ => None,
        })
    }

    /// Asserts that the oracle has found nothing, and ends the machine.
    pub(crate) fn end_well(mut self) {
        let verdict = self.verdict();
        assert!(verdict.ok && verdict.errors == 0, "{verdict:?}");
        assert_eq!(verdict.tsc_backwards, 0, "{verdict:?}");
        self.machine.stop().unwrap();
    }
}

fn listen(mut console: BufReader<UnixStream>) -> Receiver<Said> {
    let (send, said) = channel();
    std::thread::spawn(move || {
        loop {
            let mut line = String::new();
            // A machine that is stopped may stop within a line.
            match console.read_line(&mut line) {
                Ok(1..) if line.ends_with('\n') => {}
                _ => return,
            }
            let said = match Report::parse(line.trim_end()) {
                Ok(Report::Ready(_)) => Said::Ready,
                Ok(Report::Rounds(rounds)) => Said::Rounds(rounds),
                Ok(Report::Error(wrong)) => Said::Wrong(wrong),
                Ok(Report::Verdict(verdict)) => Said::Verdict(verdict),
                Ok(Report::Hello { .. }) => continue,
                // A console line that is none of these is damage on its way, or the guest's end.
                other => panic!("{line:?}: {other:?}"),
            };
            if send.send(said).is_err() {
                return;
            }
        }
    });
    said
}
