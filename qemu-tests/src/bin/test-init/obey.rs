//! A host that does what its test tells it, while the test watches.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use qemu_tests::script::{Answer, Numbered, ORDERS_PORT, Order};
use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};

use crate::host::port;
use crate::netlink;

const NS_A_SECOND: i64 = 1_000_000_000;

/// Where answers go, also those of commands that run beside each other.
#[derive(Clone)]
struct Answers(Arc<Mutex<File>>);

/// Obeys until it is told to end. What runs then, runs on.
pub(crate) fn obey() -> io::Result<()> {
    let port = port(ORDERS_PORT)?;
    let answers = Answers(Arc::new(Mutex::new(port.try_clone()?)));
    for line in BufReader::new(port).lines() {
        let Numbered { number, what: order } = Numbered::from_line(&line?)?;
        let done = match order {
            Order::Start { command } => match start(&command) {
                Ok(program) => {
                    let answers = answers.clone();
                    thread::spawn(move || program.follow(number, &answers));
                    continue;
                }
                Err(error) => Err(io::Error::other(format!("{}: {error}", command.join(" ")))),
            },
            Order::Shape(link) => netlink::shape(link).map(|()| Answer::Done),
            Order::Clock => Ok(Answer::Clock(real_ns())),
            Order::StepClock(by_ns) => set_clock(real_ns() + by_ns).map(|()| Answer::Done),
            Order::End => return answers.say(number, Answer::Done),
        };
        answers.say(number, done.unwrap_or_else(|error| Answer::Failed(error.to_string())))?;
    }
    Err(io::Error::other("nobody gives orders any more"))
}

/// A command, and both its streams as one.
struct Program {
    child: Child,
    output: BufReader<io::PipeReader>,
}

fn start(command: &[String]) -> io::Result<Program> {
    let (program, arguments) =
        command.split_first().ok_or_else(|| io::Error::other("the command is empty"))?;
    let (output, stream) = io::pipe()?;
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(stream.try_clone()?).stderr(stream);
    // The command has our ends of the pipe, and would keep it from ending.
    let child = command.spawn()?;
    drop(command);
    Ok(Program { child, output: BufReader::new(output) })
}

impl Program {
    /// Passes on what it prints, until it and whoever has its streams have ended.
    fn follow(mut self, number: u64, answers: &Answers) {
        let mut line = Vec::new();
        while let Ok(1..) = self.output.read_until(b'\n', &mut line) {
            let text = String::from_utf8_lossy(&line);
            let text = text.trim_end_matches(['\r', '\n']).to_owned();
            // Where nobody listens any more, the machine is about to end.
            let _ = answers.say(number, Answer::Line(text));
            line.clear();
        }
        let _ = answers.say(number, ending(&mut self.child));
    }
}

fn ending(child: &mut Child) -> Answer {
    match child.wait() {
        Ok(status) => Answer::Ended(status.code().ok_or(status.signal().unwrap_or(0))),
        Err(error) => Answer::Failed(error.to_string()),
    }
}

impl Answers {
    fn say(&self, number: u64, what: Answer) -> io::Result<()> {
        let line = Numbered { number, what }.to_line()?;
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write_all(&line)
    }
}

fn real_ns() -> i64 {
    let now = clock_gettime(ClockId::Realtime);
    now.tv_sec * NS_A_SECOND + now.tv_nsec
}

fn set_clock(real_ns: i64) -> io::Result<()> {
    let (tv_sec, tv_nsec) = (real_ns.div_euclid(NS_A_SECOND), real_ns.rem_euclid(NS_A_SECOND));
    Ok(clock_settime(ClockId::Realtime, Timespec { tv_sec, tv_nsec })?)
}
