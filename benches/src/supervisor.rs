//! One machine and its processes, in smaller steps than `machine::Supervised` takes: a measurement
//! needs the moment of the spawn, the first byte before the first report, and the successor's process
//! id while the hand-over goes on.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Instant;

use dwcp::acp::{Nonce, VmId};
use machine::{
    BootOrder, Channel, CpuCount, CpuModel, DirtyLogKind, Form, HandOverOrder, HandOverReport,
    Limits, MachineConfig, MachineProcess, MemoryLayout, Order, PermitFile, ReceiveOrder, Report,
};

use crate::executable::Executable;
use crate::stop::Stop;

/// Words before the error of a machine process that died or hangs.
const LOST: &str = "a machine process";

/// What a guest of a measurement is made of.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// vCPUs, 1 to 64.
    pub cpus: u32,
    /// Bytes of memory.
    pub memory: u64,
    /// Where the hole below 4 GiB starts: memory beyond it lies in a second slot.
    pub hole_start: u64,
}

impl Shape {
    fn config(self) -> Result<MachineConfig, Stop> {
        let cpus = CpuCount::try_from(self.cpus).map_err(Stop::failed("vCPUs"))?;
        let memory =
            MemoryLayout::new(self.memory, self.hole_start).map_err(Stop::failed("memory"))?;
        Ok(MachineConfig { cpus, cpu: CpuModel::Host, memory })
    }
}

/// Starts machine processes of one executable, their permit records in one directory.
#[derive(Clone, Debug)]
pub struct Supervisor {
    executable: PathBuf,
    record_directory: PathBuf,
    dirty_log: DirtyLogKind,
}

/// A machine that has been ordered to boot. Nothing has been waited for.
#[derive(Debug)]
pub struct Launched {
    /// The machine.
    pub machine: Machine,
    /// This end of the guest's console.
    pub console: UnixStream,
    /// Just before its process was spawned.
    pub spawned: Instant,
}

/// One machine, and the process that runs it now.
#[derive(Debug)]
pub struct Machine {
    process: MachineProcess,
    supervisor: Supervisor,
}

impl Supervisor {
    /// A supervisor that runs `executable`.
    #[must_use]
    pub fn new(executable: &Executable, record_directory: &Path) -> Self {
        Self {
            executable: executable.path().to_owned(),
            record_directory: record_directory.to_owned(),
            dirty_log: DirtyLogKind::default(),
        }
    }

    /// The same, with machines that have another dirty log.
    #[must_use]
    pub fn with_dirty_log(self, dirty_log: DirtyLogKind) -> Self {
        Self { dirty_log, ..self }
    }

    /// Starts a process that waits for its orders.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(&self) -> Result<MachineProcess, Stop> {
        let executable = machine::Executable {
            path: &self.executable,
            environment: &[],
            dirty_log: self.dirty_log,
            nice: 0,
        };
        MachineProcess::start(executable).map_err(Stop::failed("cannot start a machine process"))
    }

    /// Starts a process and orders it to boot the oracle guest with these options.
    ///
    /// # Errors
    /// When the process cannot be started.
    pub fn launch(&self, shape: Shape, options: &str) -> Result<Launched, Stop> {
        let config = shape.config()?;
        let (vm, runner) = (random()?, random()?);
        let (Some(vm_id), Some(nonce)) = (VmId::new(vm), Nonce::new(runner)) else {
            return Err(Stop::Failed("the random source gives zeros only".into()));
        };
        let held = PermitFile::create_nameless(&self.record_directory, vm_id, nonce)
            .map_err(Stop::failed("the permit record"))?;
        let (console, theirs) = UnixStream::pair().map_err(Stop::failed("the console"))?;
        let kernel = oracle_file().map_err(Stop::failed("a file for the oracle guest"))?;
        let order = Order::Boot(BootOrder {
            config,
            command_line: format!("cpus={} tsc_khz={{tsc_khz}} {options}", shape.cpus),
            has_initrd: false,
            vm,
            runner,
            digest_key: random()?,
            dirty_log: self.dirty_log,
        });
        let spawned = Instant::now();
        let process = self.start()?;
        process.order(&order, &[&held, &theirs, &kernel]).map_err(Stop::failed(LOST))?;
        // Dropping `held` leaves the life lock to the machine process alone.
        Ok(Launched { machine: Machine { process, supervisor: self.clone() }, console, spawned })
    }

    /// Boots the oracle guest.
    ///
    /// # Errors
    /// When it does not start.
    pub fn boot(&self, shape: Shape, options: &str) -> Result<(Machine, UnixStream), Stop> {
        let launched = self.launch(shape, options)?;
        launched.machine.wait_until_running()?;
        Ok((launched.machine, launched.console))
    }
}

impl Machine {
    /// Waits for the report that the guest runs.
    ///
    /// # Errors
    /// When it does not.
    pub fn wait_until_running(&self) -> Result<(), Stop> {
        expect_running(&self.process)
    }

    /// The id of the process that runs the guest.
    #[must_use]
    pub fn process_id(&self) -> u32 {
        self.process.id()
    }

    /// Hands the running guest to a new process.
    ///
    /// # Errors
    /// When the guest does not run there.
    pub fn hand_over(&mut self, form: Form) -> Result<HandOverReport, Stop> {
        let successor = self.supervisor.start()?;
        self.hand_over_to(successor, form)
    }

    /// Hands the running guest to a process that waits for its orders.
    ///
    /// # Errors
    /// When the guest does not run there.
    pub fn hand_over_to(
        &mut self,
        successor: MachineProcess,
        form: Form,
    ) -> Result<HandOverReport, Stop> {
        let (ours, theirs) =
            Channel::pair().map_err(Stop::failed("a socket between the processes"))?;
        let (nonce, dirty_log) = (random()?, self.supervisor.dirty_log);
        let receive = Order::Receive(ReceiveOrder { successor: nonce, dirty_log });
        successor.order(&receive, &[&theirs]).map_err(Stop::failed(LOST))?;
        drop(theirs);
        let limits = Limits::default();
        let order = Order::HandOver(HandOverOrder { form, session: random()?, limits });
        self.process.order(&order, &[&ours]).map_err(Stop::failed(LOST))?;
        drop(ours);
        match self.process.report().map_err(Stop::failed(LOST))? {
            Report::HandedOver(report) => {
                expect_running(&successor)?;
                self.process = successor;
                Ok(report)
            }
            other => Err(Stop::Failed(format!("the hand-over failed: {other:?}"))),
        }
    }

    /// Ends the guest and its process.
    ///
    /// # Errors
    /// When the process does not answer.
    pub fn stop(self) -> Result<(), Stop> {
        self.process.order(&Order::Stop, &[]).map_err(Stop::failed(LOST))?;
        match self.process.report().map_err(Stop::failed(LOST))? {
            Report::Exited { .. } => Ok(()),
            other => Err(Stop::Failed(format!("a guest that was stopped reported {other:?}"))),
        }
    }
}

/// Waits until a process answers an order that only a running guest could carry out: all that lies
/// behind the answer is the process's own start.
///
/// # Errors
/// When it does not answer.
pub fn wait_until_it_answers(process: &MachineProcess) -> Result<(), Stop> {
    process.order(&Order::Pause, &[]).map_err(Stop::failed(LOST))?;
    match process.report().map_err(Stop::failed(LOST))? {
        Report::Declined { .. } => Ok(()),
        other => Err(Stop::Failed(format!("a process without a guest reported {other:?}"))),
    }
}

fn expect_running(process: &MachineProcess) -> Result<(), Stop> {
    match process.report().map_err(Stop::failed(LOST))? {
        Report::Running => Ok(()),
        other => Err(Stop::Failed(format!("the guest does not run: {other:?}"))),
    }
}

/// The oracle's image as a file, to be passed to a process.
///
/// # Errors
/// When there is no descriptor, or no memory, left.
pub fn oracle_file() -> io::Result<File> {
    let mut file = File::from(rustix::fs::memfd_create("oracle", rustix::fs::MemfdFlags::CLOEXEC)?);
    file.write_all(firmware::ORACLE)?;
    file.rewind()?;
    Ok(file)
}

fn random<const N: usize>() -> Result<[u8; N], Stop> {
    let mut bytes = [0; N];
    // Up to 256 bytes come whole, once the pool is ready.
    let flags = rustix::rand::GetRandomFlags::empty();
    match rustix::rand::getrandom(&mut bytes[..], flags) {
        Ok(filled) if filled == N => Ok(bytes),
        Ok(filled) => Err(Stop::Failed(format!("only {filled} of {N} random bytes"))),
        Err(error) => Err(Stop::Failed(format!("no random bytes: {error}"))),
    }
}
