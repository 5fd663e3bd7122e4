//! No call is allowed without need: each row of the jail's tables is taken away in turn, and something must die of it.

use std::error::Error;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use machine::{
    AllowedCall, CpuCount, CpuModel, Dial, DirtyLogKind, Form, Home, Images, Limits, MachineConfig,
    MemoryLayout, MoveImages, MoveLimits, RestoreOptions, RingEntries, SnapshotOptions, Supervised,
    Visit, allowed_calls,
};
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

use crate::errors::{file, tiny_guest};
use crate::harness::{Faulty, MIB, alone, has_kvm, is_long_run};
use crate::migrate::visits;

/// Far more than any step takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// The folder with snapshots of a sound machine.
const SOUND: &str = "sound";

/// Whether all was done.
type Outcome = Result<(), Box<dyn Error>>;

/// Something that machine processes do, with faults in all of them.
struct Scenario {
    name: &'static str,
    faults: &'static str,
    play: fn(&Stage<'_>) -> Outcome,
}

/// In this order: what is quick and needs most stands first.
const SCENARIOS: [Scenario; 18] = [
    Scenario { name: "a life", faults: "", play: live },
    Scenario { name: "hand-overs", faults: "", play: hand_over },
    Scenario { name: "snapshots", faults: "", play: save },
    Scenario { name: "a restore", faults: "", play: |stage| restore(stage, false) },
    Scenario { name: "a lazy restore", faults: "", play: |stage| restore(stage, true) },
    Scenario { name: "full rings", faults: "", play: fill_rings },
    Scenario { name: "a move", faults: "", play: |stage| migrate(stage, DirtyLogKind::Bitmap) },
    Scenario {
        name: "a move with rings",
        faults: "",
        play: |stage| migrate(stage, DirtyLogKind::Ring(RingEntries::LEAST)),
    },
    Scenario { name: "a move of a guest that is slowed down", faults: "", play: slow_down },
    Scenario { name: "a guest that KVM gives up", faults: "", play: give_up },
    Scenario { name: "a guest that lets its devices interrupt", faults: "", play: interrupt },
    Scenario { name: "a panic of the loop", faults: "panic:device-loop", play: live },
    Scenario { name: "a panic of a vCPU", faults: "panic:vcpu", play: live },
    Scenario { name: "a panic of a job", faults: "panic:job", play: save },
    Scenario {
        name: "a panic of a mover",
        faults: "panic:mover",
        play: |stage| migrate(stage, DirtyLogKind::Bitmap),
    },
    Scenario {
        name: "a panic of a stream",
        faults: "panic:stream",
        play: |stage| migrate(stage, DirtyLogKind::Bitmap),
    },
    Scenario { name: "a panic of a throttle", faults: "panic:throttle", play: slow_down },
    Scenario {
        name: "a panic of a loader",
        faults: "panic:loader",
        play: |stage| restore(stage, true),
    },
];

/// Where a scenario is played.
struct Stage<'a> {
    /// For all processes.
    faults: String,
    folder: &'a Path,
}

/// A machine, and its console.
struct Guest {
    machine: Supervised,
    console: BufReader<UnixStream>,
}

impl Stage<'_> {
    fn executable(&self) -> Faulty {
        Faulty::with_folder(&self.faults, self.folder)
    }

    fn boot(
        &self,
        kernel: File,
        command_line: &str,
        log: DirtyLogKind,
    ) -> Result<Guest, Box<dyn Error>> {
        let config = MachineConfig {
            cpus: CpuCount::try_from(2_u32).unwrap(),
            cpu: CpuModel::Host,
            memory: MemoryLayout::new(24 * MIB, 16 * MIB).unwrap(),
        };
        let images = Images { kernel, initrd: None, command_line: command_line.to_owned() };
        let executable = self.executable().logging(log);
        let booted = executable.with(|it| Supervised::boot(it, self.folder, config, &images));
        let (machine, console) = booted?;
        Ok(Guest::new(machine, console))
    }

    fn oracle(&self, options: &str, log: DirtyLogKind) -> Result<Guest, Box<dyn Error>> {
        let kernel = file(firmware::ORACLE).reopen().unwrap();
        let command_line = format!("cpus=2 tsc_khz={{tsc_khz}} report=20 {options}");
        self.boot(kernel, &command_line, log)
    }
}

impl Guest {
    fn new(machine: Supervised, console: UnixStream) -> Self {
        console.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { machine, console: BufReader::new(console) }
    }

    /// Reads lines until one begins so; or until there is no process to write one.
    fn hear(&mut self, beginning: &str) {
        let mut line = String::new();
        while !line.contains(beginning) {
            line.clear();
            if self.console.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
        }
    }

    /// Stops it, and looks at how its process ends when nobody kills it.
    fn stop(self) -> Outcome {
        self.machine.process().ender()?.stop();
        self.ends()
    }

    fn ends(mut self) -> Outcome {
        self.console.read_to_end(&mut Vec::new())?;
        let process = Pid::from_raw(self.machine.process().id().cast_signed()).unwrap();
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        let status = waitid(WaitId::Pid(process), options)?.unwrap();
        match status.terminating_signal() {
            Some(libc::SIGSYS) => Err("SIGSYS at the end".into()),
            _ => Ok(()),
        }
    }
}

/// Boot, input, output, power button, pause, end.
fn live(stage: &Stage<'_>) -> Outcome {
    let mut guest = stage.oracle("working_set=1M rate=2000", DirtyLogKind::Bitmap)?;
    guest.hear("rounds");
    // Of a process that has died, the next order tells.
    let _ = guest.console.get_mut().write_all(b"v");
    guest.hear("verdict");
    guest.machine.press_power_button()?;
    guest.machine.pause()?;
    guest.machine.resume()?;
    guest.hear("rounds");
    guest.stop()
}

/// In both forms, with faults at both ends.
fn hand_over(stage: &Stage<'_>) -> Outcome {
    let mut guest = stage.oracle("working_set=1M rate=2000", DirtyLogKind::Bitmap)?;
    guest.hear("rounds");
    for form in [Form::Copying, Form::Shared] {
        let executable = stage.executable();
        executable.with(|it| guest.machine.hand_over(it, form, Limits::default()))?;
        guest.hear("rounds");
    }
    guest.stop()
}

/// One of a running machine, and one of a paused machine that builds on it.
fn save(stage: &Stage<'_>) -> Outcome {
    let mut guest =
        stage.oracle("pattern=random working_set=1M rate=2000", DirtyLogKind::Bitmap)?;
    guest.hear("rounds");
    let [one, two] = ["one", "two"].map(|name| stage.folder.join(name));
    [&one, &two].map(std::fs::remove_file).into_iter().for_each(drop);
    guest.machine.snapshot(&one, SnapshotOptions::default())?;
    guest.machine.pause()?;
    let onto = SnapshotOptions { parent: Some(&one), ..SnapshotOptions::default() };
    guest.machine.snapshot(&two, onto)?;
    guest.stop()
}

/// From the files that a sound machine left.
fn restore(stage: &Stage<'_>, is_lazy: bool) -> Outcome {
    let path = stage.folder.join(SOUND).join("two");
    let options = RestoreOptions { is_lazy, ..RestoreOptions::default() };
    let restored =
        stage.executable().with(|it| Supervised::restore(it, stage.folder, &path, options));
    let (machine, console, _) = restored?;
    let mut guest = Guest::new(machine, console);
    guest.hear("rounds");
    // A job waits until memory is whole.
    let executable = stage.executable();
    let moved = executable.with(|it| guest.machine.hand_over(it, Form::Shared, Limits::default()));
    moved?;
    guest.hear("rounds");
    guest.stop()
}

/// Rings that vCPUs must empty themselves, and one that is harvested.
fn fill_rings(stage: &Stage<'_>) -> Outcome {
    let log = DirtyLogKind::Ring(RingEntries::LEAST);
    let mut guest = stage.oracle("working_set=12M", log)?;
    guest.hear("rounds");
    let executable = stage.executable().logging(log);
    let limits = Limits { pages_at_pause: u64::MAX, ..Limits::default() };
    executable.with(|it| guest.machine.hand_over(it, Form::Copying, limits))?;
    guest.hear("rounds");
    guest.stop()
}

/// To another host.
fn migrate(stage: &Stage<'_>, log: DirtyLogKind) -> Outcome {
    move_away(stage, "working_set=1M rate=2000", log, MoveLimits::default())
}

/// A guest that writes too fast, and is not waited for.
fn slow_down(stage: &Stage<'_>) -> Outcome {
    let limits = MoveLimits {
        max_downtime: Duration::from_millis(30),
        throttle: 50,
        stop_after_rounds: Some(10),
        ..MoveLimits::default()
    };
    move_away(stage, "working_set=12M", DirtyLogKind::Bitmap, limits)
}

/// To another host, whose first connection breaks at once.
fn move_away(stage: &Stage<'_>, words: &str, log: DirtyLogKind, limits: MoveLimits) -> Outcome {
    let mut guest = stage.oracle(words, log)?;
    guest.hear("rounds");
    let folder = tempfile::tempdir_in(stage.folder)?;
    let home = Home::new([7; 16], folder.path(), folder.path()).unwrap();
    // A process whose peer has died waits for it.
    let patience = Duration::from_secs(2);
    let limits = MoveLimits { patience, ..limits };
    let [ours, theirs] = visits(1).map(|visit| Visit { patience, ..visit });
    let description = guest.machine.describe()?;
    let (prepared, console) =
        stage.executable().logging(log).with(|it| home.prepare(it, description, theirs, None))?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let (at, first) = (listener.local_addr()?, AtomicBool::new(true));
    let dial = |_: Dial| {
        let socket = TcpStream::connect(at)?;
        prepared.door().bring_in(&listener.accept()?.0).map_err(std::io::Error::other)?;
        if first.swap(false, Ordering::Relaxed) {
            socket.shutdown(Shutdown::Both)?;
        }
        Ok(socket)
    };
    let (source, death) = (guest.machine.process().ender()?, prepared.process().ender()?);
    let moved = std::thread::scope(|scope| {
        let (done, is_done) = std::sync::mpsc::channel::<()>();
        // In doubt a source waits for ever; nobody here answers for a destination that has died.
        scope.spawn(move || {
            if is_done
                .recv_timeout(Duration::from_secs(15))
                .is_err_and(|e| e == RecvTimeoutError::Timeout)
            {
                source.kill();
                death.kill();
            }
        });
        let moved =
            guest.machine.migrate(&ours, "there", limits, MoveImages::default(), &dial, None);
        drop(done);
        moved
    });
    let arrived = prepared.wait(None);
    let source = guest.machine.into_process().bury();
    let killed_there = arrived.as_ref().err().map(ToString::to_string).unwrap_or_default();
    if killed_there.contains("SIGSYS")
        || source.is_some_and(|end| end.to_string().contains("SIGSYS"))
    {
        return Err("SIGSYS".into());
    }
    moved?;
    let mut guest = Guest::new(arrived?.0, console);
    guest.hear("rounds");
    guest.stop()
}

/// An instruction that no KVM emulates.
fn give_up(stage: &Stage<'_>) -> Outcome {
    let kernel = file(&tiny_guest(&[0xdb, 0x2d, 0, 0, 0, 0xd0])).reopen().unwrap();
    stage.boot(kernel, "", DirtyLogKind::Bitmap)?.ends()
}

/// A serial port that interrupts when it can take a byte; then a reset.
fn interrupt(stage: &Stage<'_>) -> Outcome {
    const CODE: [u8; 13] = [
        0x66, 0xba, 0xf9, 0x03, // mov dx, 0x3f9: interrupt enable
        0xb0, 0x02, // mov al, 2: transmitter empty
        0xee, // out dx, al
        0xb0, 0xfe, // mov al, 0xfe
        0xe6, 0x64, // out 0x64, al: reset
        0xf4, 0xf4, // hlt
    ];
    let kernel = file(&tiny_guest(&CODE)).reopen().unwrap();
    stage.boot(kernel, "", DirtyLogKind::Bitmap)?.ends()
}

/// The first scenario that dies of a forbidden call.
fn dies_in(faults: &str, folder: &Path) -> Option<&'static str> {
    let is_red = |scenario: &&Scenario| {
        let faults = format!("{faults},{}", scenario.faults);
        let outcome = (scenario.play)(&Stage { faults, folder });
        outcome.is_err_and(|why| why.to_string().contains("SIGSYS"))
    };
    SCENARIOS.iter().find(is_red).map(|scenario| scenario.name)
}

#[test]
fn long_no_call_is_allowed_without_need() {
    let name = "long_no_call_is_allowed_without_need";
    if !is_long_run(name) || !has_kvm(name) {
        return;
    }
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let sound = folder.join(SOUND);
    std::fs::create_dir(&sound).unwrap();
    save(&Stage { faults: String::new(), folder: &sound }).unwrap();
    for scenario in SCENARIOS.iter().filter(|scenario| scenario.faults.is_empty()) {
        let outcome = (scenario.play)(&Stage { faults: String::new(), folder });
        assert!(outcome.is_ok(), "{} with all calls allowed: {outcome:?}", scenario.name);
    }
    // A kind of thread's rows alone, for whoever changes them: `NOVACRON_ROWS_OF=stream`.
    let only = std::env::var("NOVACRON_ROWS_OF").ok();
    let mut needless = Vec::new();
    let mut seen = Vec::<AllowedCall>::new();
    for allowed in allowed_calls() {
        // A call of the loop that its threads make, too, stands there twice.
        if seen.contains(&allowed) || only.as_ref().is_some_and(|only| only != allowed.thread) {
            continue;
        }
        seen.push(allowed);
        let AllowedCall { thread, call, unproven } = allowed;
        match unproven {
            Some(why) => eprintln!("{thread} {call}: not proven: {why}"),
            None => match dies_in(&format!("forbid:{thread}:{call}"), folder) {
                Some(scenario) => eprintln!("{thread} {call}: needed by {scenario}"),
                None => needless.push(format!("{thread} {call}")),
            },
        }
    }
    assert!(needless.is_empty(), "nothing dies without {needless:#?}");
}
