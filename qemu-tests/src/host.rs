//! A host in a machine: our kernel, test-init, and a list of commands that test-init runs.

use std::fmt;
use std::io;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::{Duration, Instant};

use thiserror::Error;

use crate::accelerator::Accelerator;
use crate::artifacts::{ArtifactError, host_kernel};
use crate::case::Case;
use crate::channel::ChannelError;
use crate::disk::Disk;
use crate::firmware::Firmware;
use crate::initramfs::Initramfs;
use crate::machine::{MachineError, MachineSpec, QemuMachine, WireEnd};
use crate::orders::Orders;
use crate::script::{ORDERS_PORT, REPORT_PORT, SCRIPT, Script};

/// How many lines of each log a failure shows.
const LINES_SHOWN: usize = 25;

/// The first words of a host's report.
const REACHED: &str = "host: init reached ";
/// How long a host may take to its init, on a machine however busy; half of its time, if that is less. It takes 2 s,
/// and less than 10 s from firmware.
const INIT_LIMIT: Duration = Duration::from_secs(30);
/// How often a host that does not come so far is started.
const STARTS: u32 = 3;

/// The contents of a host, before it is booted.
#[derive(Clone, Debug)]
pub struct HostImage {
    initramfs: Initramfs,
    script: Script,
    ports: Vec<String>,
    memory_mib: u32,
    cpus: u32,
    accelerator: Accelerator,
    lacks: Vec<String>,
    /// Of its kernel, each with a space before it.
    parameters: String,
    disks: Vec<Disk>,
    firmware: Option<Firmware>,
    wire: Option<WireEnd>,
    time_limit: Duration,
}

/// A host that runs its script.
#[derive(Debug)]
pub struct RunningHost {
    pub(crate) machine: QemuMachine,
    pub(crate) orders: Orders,
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// With this exit code.
    Exit(i32),
    /// By this signal.
    Signal(i32),
}

/// What one command of the script did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandRun {
    /// Its arguments, joined by spaces.
    pub command: String,
    /// Every line that it and its children printed on either stream.
    pub output: Vec<String>,
    /// How it ended.
    pub ending: Ending,
}

/// What a host did from its start to its power-off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostReport {
    /// What test-init said about the machine at its start.
    pub reached: String,
    /// One entry a command, in the script's order.
    pub runs: Vec<CommandRun>,
}

/// A host did not run its script to the end.
#[derive(Debug, Error)]
pub enum HostError {
    /// A file of the image cannot be read.
    #[error("cannot make the host's initramfs")]
    Image(#[source] io::Error),
    /// There is no kernel.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// The machine failed; the end of each log says more than the error.
    #[error("{error}\n{excerpt}")]
    Machine {
        /// What failed.
        error: MachineError,
        /// The last lines of report and console; empty before they exist.
        excerpt: String,
    },
    /// An order was not carried out.
    #[error("{problem}\n{excerpt}")]
    Order {
        /// What went wrong.
        problem: String,
        /// The last lines of report and console.
        excerpt: String,
    },
    /// The report breaks off, or is not one.
    #[error("the host's report is not whole: {problem}\n{excerpt}")]
    Report {
        /// What is missing.
        problem: String,
        /// The last lines of report and console.
        excerpt: String,
    },
}

impl HostImage {
    /// A host whose init is the static executable at `test_init`; 2 CPUs, 768 MiB, 60 s.
    ///
    /// # Errors
    /// The executable cannot be read.
    pub fn new(test_init: &Path) -> Result<Self, HostError> {
        let mut initramfs = Initramfs::new();
        initramfs.add_program("/init", test_init).map_err(HostError::Image)?;
        Ok(Self {
            initramfs,
            script: Script::default(),
            ports: vec![REPORT_PORT.to_owned()],
            memory_mib: 768,
            cpus: 2,
            accelerator: Accelerator::asked_for(),
            lacks: Vec::new(),
            parameters: String::new(),
            disks: Vec::new(),
            firmware: None,
            wire: None,
            time_limit: Duration::from_secs(60),
        })
    }

    /// Puts the static executable at `source` into the host as `path`.
    ///
    /// # Errors
    /// The file cannot be read, or is no executable.
    pub fn program(mut self, path: &str, source: &Path) -> Result<Self, HostError> {
        self.initramfs.add_program(path, source).map_err(HostError::Image)?;
        Ok(self)
    }

    /// Puts the file at `source`, readable for everybody, into the host as `path`.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn file(mut self, path: &str, source: &Path) -> Result<Self, HostError> {
        self.initramfs.add_file(path, 0o444, source).map_err(HostError::Image)?;
        Ok(self)
    }

    /// Puts `content` into the host as a file that everybody may read.
    ///
    /// # Errors
    /// The content is too long.
    pub fn content(mut self, path: &str, content: &[u8]) -> Result<Self, HostError> {
        self.initramfs.add(path, 0o444, content).map_err(HostError::Image)?;
        Ok(self)
    }

    /// Appends a command to the script: a list of arguments, the program's path first.
    #[must_use]
    pub fn run(mut self, command: &[impl AsRef<str>]) -> Self {
        let arguments = command.iter().map(|argument| argument.as_ref().to_owned());
        self.script.commands.push(arguments.collect());
        self
    }

    /// Adds a virtio-serial port for the script's commands.
    #[must_use]
    pub fn port(mut self, name: &str) -> Self {
        self.ports.push(name.to_owned());
        self
    }

    /// Lets the host's processors take turns, if they are emulated: see [`Accelerator`] for when that
    /// is right.
    #[must_use]
    pub fn in_turns(mut self) -> Self {
        self.accelerator = self.accelerator.in_turns();
        self
    }

    /// Gives the host so many processors.
    #[must_use]
    pub fn cpus(mut self, cpus: u32) -> Self {
        self.cpus = cpus;
        self
    }

    /// Takes features from the host's processors, by QEMU's names for them.
    #[must_use]
    pub fn lacks(mut self, features: &[&str]) -> Self {
        self.lacks.extend(features.iter().map(|feature| (*feature).to_owned()));
        self
    }

    /// Gives the host so much memory: what lies in its initramfs is in it, unpacked, and what its guests use.
    #[must_use]
    pub fn memory_mib(mut self, memory_mib: u32) -> Self {
        self.memory_mib = memory_mib;
        self
    }

    /// Adds a word to the command line of the host's kernel.
    #[must_use]
    pub fn parameter(mut self, word: &str) -> Self {
        self.parameters.push(' ');
        self.parameters.push_str(word);
        self
    }

    /// How long the host may live.
    #[must_use]
    pub fn time_limit(mut self, limit: Duration) -> Self {
        self.time_limit = limit;
        self
    }

    /// Puts a disk into the host.
    #[must_use]
    pub fn disk(mut self, disk: &Disk) -> Self {
        self.disks.push(disk.clone());
        self
    }

    /// Starts the host's kernel by UEFI firmware.
    #[must_use]
    pub fn firmware(mut self, firmware: &Firmware) -> Self {
        self.firmware = Some(firmware.clone());
        self
    }

    /// Gives the host a network card on a wire, with this address.
    pub(crate) fn wire(mut self, end: WireEnd, address: Ipv4Addr) -> Self {
        self.wire = Some(end);
        self.script.address = Some(address);
        self
    }

    /// Starts the host, and returns once its init runs; or when it has ended, or is not so far in time, which is for
    /// whoever waits for more to find out. An emulated one is started again before that: see [`Accelerator`] for why.
    ///
    /// # Errors
    /// There is no kernel, or QEMU does not start.
    pub fn boot(self, case: &Case) -> Result<RunningHost, HostError> {
        self.boot_with_logs(&case.logs)
    }

    /// The same, with its logs in a folder of their own.
    pub(crate) fn boot_with_logs(mut self, logs: &Path) -> Result<RunningHost, HostError> {
        let script = self.script.to_bytes().map_err(HostError::Image)?;
        self.initramfs.add(SCRIPT, 0o444, &script).map_err(HostError::Image)?;
        let spec = MachineSpec {
            kernel: host_kernel()?.bzimage,
            initramfs: self.initramfs.finish().map_err(HostError::Image)?,
            // A panic resets at once, which ends the machine and the test's wait with it.
            cmdline: format!("console=ttyS0 panic=-1{}", self.parameters),
            cpus: self.cpus,
            memory_mib: self.memory_mib,
            accelerator: self.accelerator,
            lacks: self.lacks,
            ports: self.ports,
            disks: self.disks,
            firmware: self.firmware,
            wire: self.wire,
            time_limit: self.time_limit,
            logs: logs.to_owned(),
        };
        let limit = INIT_LIMIT.min(self.time_limit / 2);
        let mut nth = 1;
        loop {
            let machine = QemuMachine::start(&spec)
                .map_err(|error| HostError::Machine { error, excerpt: String::new() })?;
            let mut host = RunningHost { machine, orders: Orders::default() };
            let reached = host.report().map(|port| port.wait_for(REACHED, Instant::now() + limit));
            let is_late = matches!(reached, Some(Err(ChannelError::TimedOut { .. })));
            if !is_late || spec.accelerator == Accelerator::Kvm || nth == STARTS {
                return Ok(host);
            }
            eprintln!("start {nth}: no init within {limit:?}; once more\n{}", host.excerpt());
            nth += 1;
        }
    }
}

impl RunningHost {
    /// The machine, for its ports and console.
    pub fn machine(&mut self) -> &mut QemuMachine {
        &mut self.machine
    }

    /// Waits until the host has run its script and switched itself off. How the commands ended is
    /// for the test to judge: a command that fails is not an error here.
    ///
    /// # Errors
    /// The host did not get there in time, or its kernel panicked.
    pub fn finish(mut self) -> Result<HostReport, HostError> {
        if let Err(error) = self.machine.wait() {
            return Err(HostError::Machine { error, excerpt: self.excerpt() });
        }
        let deadline = self.machine.deadline();
        let lines = match self.report().map(|port| port.wait_for_end(deadline)) {
            Some(Ok(lines)) => lines,
            Some(Err(error)) => {
                return Err(HostError::Machine { error: error.into(), excerpt: self.excerpt() });
            }
            None => Vec::new(),
        };
        HostReport::parse(&lines)
            .map_err(|problem| HostError::Report { problem, excerpt: self.excerpt() })
    }

    /// Passes every line that the script's first command prints to `line`, as it comes, and returns
    /// its exit code; 255 if a signal ended it.
    ///
    /// # Errors
    /// The host did not get there in time, or its kernel panicked.
    pub fn follow(&mut self, mut line: impl FnMut(&str)) -> Result<u8, HostError> {
        let deadline = self.machine.deadline();
        loop {
            let next = match self.report() {
                Some(report) => report.wait_for("", deadline),
                None => return Ok(255),
            };
            let next = match next {
                Ok(next) => next,
                Err(error) => {
                    return Err(HostError::Machine {
                        error: error.into(),
                        excerpt: self.excerpt(),
                    });
                }
            };
            if let Some(ending) = next.strip_prefix("host: exit ") {
                let code = ending.split(' ').next().and_then(|code| code.parse().ok());
                return Ok(code.unwrap_or(255));
            }
            if next.starts_with("host: signal ") {
                return Ok(255);
            }
            if !next.starts_with("host: ") {
                line(&next);
            }
        }
    }

    fn report(&mut self) -> Option<&mut crate::channel::Channel> {
        self.machine.port(REPORT_PORT)
    }

    /// The end of each of its logs.
    pub(crate) fn excerpt(&mut self) -> String {
        let report = self.report().map(|port| port.lines()).unwrap_or_default();
        let answers = self.machine.port(ORDERS_PORT).map(|port| port.lines()).unwrap_or_default();
        let console = self.machine.console().lines();
        let mut text = String::new();
        for (title, lines) in [("report", report), ("answers", answers), ("console", console)] {
            if lines.is_empty() && title == "answers" {
                continue;
            }
            text.push_str(&format!("--- the last lines of its {title}:\n"));
            text.push_str(&lines[lines.len().saturating_sub(LINES_SHOWN)..].join("\n"));
            text.push('\n');
        }
        text
    }
}

impl HostReport {
    /// Reads a report. Its lines, between which the commands' own output stands:
    ///
    /// ```text
    /// host: init reached kernel=… cpus=… memory_kib=…
    /// host: run <command>
    /// host: exit <code> <command>      or      host: signal <number> <command>
    /// host: end
    /// ```
    fn parse(lines: &[String]) -> Result<Self, String> {
        let mut lines = lines.iter();
        let reached = lines
            .next()
            .filter(|line| line.starts_with(REACHED))
            .ok_or("it does not begin with init")?
            .clone();
        let mut runs = Vec::new();
        loop {
            let line = lines.next().ok_or("it breaks off between two commands")?;
            if line == "host: end" {
                return Ok(Self { reached, runs });
            }
            let command = line
                .strip_prefix("host: run ")
                .ok_or_else(|| format!("`{line}` stands between two commands"))?
                .to_owned();
            let mut output = Vec::new();
            let ending = loop {
                let line = lines.next().ok_or_else(|| format!("`{command}` did not end"))?;
                match ending(line, &command) {
                    Some(ending) => break ending,
                    None => output.push(line.clone()),
                }
            };
            runs.push(CommandRun { command, output, ending });
        }
    }
}

/// The ending that `line` states for `command`. A command that prints such a line about itself
/// fools only its own test.
fn ending(line: &str, command: &str) -> Option<Ending> {
    let words = line.strip_prefix("host: ")?.strip_suffix(command)?.strip_suffix(' ')?;
    let (kind, number) = words.split_once(' ')?;
    let number = number.parse().ok()?;
    match kind {
        "exit" => Some(Ending::Exit(number)),
        "signal" => Some(Ending::Signal(number)),
        _ => None,
    }
}

impl fmt::Display for CommandRun {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(formatter, "{} ended with {:?} after it printed:", self.command, self.ending)?;
        self.output.iter().try_for_each(|line| writeln!(formatter, "  {line}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<HostReport, String> {
        HostReport::parse(&text.lines().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn a_report_gives_each_command_its_output_and_its_ending() {
        let report = parse(
            "host: init reached kernel=6\n\
             host: run /bin/a b\nguest: hello\nhost: exit 3 something else\nhost: exit 0 /bin/a b\n\
             host: run /bin/c\nhost: signal 9 /bin/c\n\
             host: end\n",
        )
        .unwrap();
        let expected = [
            CommandRun {
                command: "/bin/a b".into(),
                output: vec!["guest: hello".into(), "host: exit 3 something else".into()],
                ending: Ending::Exit(0),
            },
            CommandRun { command: "/bin/c".into(), output: vec![], ending: Ending::Signal(9) },
        ];
        assert_eq!(report.runs, expected);
        assert_eq!(report.reached, "host: init reached kernel=6");
    }

    #[test]
    fn a_report_that_breaks_off_is_an_error_wherever_it_does() {
        let whole = "host: init reached x\nhost: run /a\nout\nhost: exit 0 /a\nhost: end\n";
        assert!(parse(whole).is_ok());
        let ends = whole.match_indices('\n').map(|(end, _)| end);
        for end in ends.take(4).chain([0]) {
            assert!(parse(&whole[..end]).is_err(), "{:?} was accepted", &whole[..end]);
        }
    }
}
