//! Orders to a host that obeys: commands that run beside each other while a test watches, its clock, its wire.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::host::{CommandRun, Ending, HostError, RunningHost};
use crate::link::Link;
use crate::script::{Answer, Numbered, ORDERS_PORT, Order};

/// How often a host is asked for its time: the quickest answer is the truest.
const CLOCK_QUESTIONS: u32 = 20;
/// A host that was not booted with a wire has no port for orders.
const DOES_NOT_OBEY: &str = "the host does not obey";

/// What was ordered, and the answers that nobody has taken yet, by the orders' numbers.
#[derive(Debug, Default)]
pub(crate) struct Orders {
    given: u64,
    answers: BTreeMap<u64, VecDeque<Answer>>,
}

/// A command that was started on a host.
#[derive(Debug)]
pub struct Program {
    number: u64,
    command: String,
    output: Vec<String>,
    /// Lines of the output that earlier waits have passed.
    passed: usize,
    ending: Option<Ending>,
}

/// How a host's wall clock stands to that of the machine which emulates it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// By how much it is ahead.
    pub ahead_ns: i64,
    /// By how much that may be wrong: half of the time that the answer took.
    pub error_ns: i64,
}

impl Program {
    /// Every line that it has printed, as far as the test has waited.
    #[must_use]
    pub fn output(&self) -> &[String] {
        &self.output
    }

    /// What it did until now, for messages.
    fn run_so_far(&self) -> CommandRun {
        let ending = self.ending.unwrap_or(Ending::Signal(0));
        CommandRun { command: self.command.clone(), output: self.output.clone(), ending }
    }
}

impl RunningHost {
    /// Starts a command beside all others.
    ///
    /// # Errors
    /// The host is gone.
    pub fn start(&mut self, command: &[impl AsRef<str>]) -> Result<Program, HostError> {
        let command: Vec<_> = command.iter().map(|word| word.as_ref().to_owned()).collect();
        let words = command.join(" ");
        let number = self.order(Order::Start { command })?;
        Ok(Program { number, command: words, output: Vec::new(), passed: 0, ending: None })
    }

    /// Waits for the program's next line with this text in it.
    ///
    /// # Errors
    /// The program ends without it, or the host's time is up.
    pub fn wait_for(&mut self, program: &mut Program, text: &str) -> Result<String, HostError> {
        loop {
            let found =
                program.output[program.passed..].iter().position(|line| line.contains(text));
            if let Some(at) = found {
                program.passed += at + 1;
                return Ok(program.output[program.passed - 1].clone());
            }
            program.passed = program.output.len();
            if program.ending.is_some() {
                return Err(self.broken(format!("no `{text}`: {}", program.run_so_far())));
            }
            self.hear(program)?;
        }
    }

    /// Waits for the program's end.
    ///
    /// # Errors
    /// The host's time is up.
    pub fn end_of(&mut self, mut program: Program) -> Result<CommandRun, HostError> {
        while program.ending.is_none() {
            self.hear(&mut program)?;
        }
        Ok(program.run_so_far())
    }

    /// Runs a command to its end.
    ///
    /// # Errors
    /// The host's time is up.
    pub fn run(&mut self, command: &[impl AsRef<str>]) -> Result<CommandRun, HostError> {
        let program = self.start(command)?;
        self.end_of(program)
    }

    /// Waits for the end of a program that has to succeed.
    ///
    /// # Errors
    /// It did not, or the host's time is up.
    pub fn success_of(&mut self, program: Program) -> Result<CommandRun, HostError> {
        let run = self.end_of(program)?;
        if run.ending == Ending::Exit(0) { Ok(run) } else { Err(self.broken(run.to_string())) }
    }

    /// Makes this end of the wire so, while it is in use.
    ///
    /// # Errors
    /// The host cannot, or is gone.
    pub(crate) fn shape(&mut self, link: Link) -> Result<(), HostError> {
        self.ask(Order::Shape(link)).map(drop)
    }

    /// How its wall clock stands to this machine's.
    ///
    /// # Errors
    /// The host is gone.
    pub fn clock(&mut self) -> Result<Clock, HostError> {
        let mut best = Clock { ahead_ns: 0, error_ns: i64::MAX };
        for _ in 0..CLOCK_QUESTIONS {
            let (asked, asked_real) = (Instant::now(), real_ns());
            let Answer::Clock(host_ns) = self.ask(Order::Clock)? else {
                return Err(self.broken("a clock was asked for".to_owned()));
            };
            let error_ns = i64::try_from(asked.elapsed().as_nanos() / 2).unwrap_or(i64::MAX);
            if error_ns < best.error_ns {
                best = Clock { ahead_ns: host_ns - asked_real - error_ns, error_ns };
            }
        }
        Ok(best)
    }

    /// Sets its wall clock to this machine's, as a time server would; returns how it stands then.
    ///
    /// # Errors
    /// The host cannot, or is gone.
    pub fn set_clock(&mut self) -> Result<Clock, HostError> {
        let clock = self.clock()?;
        self.ask(Order::StepClock(-clock.ahead_ns))?;
        self.clock()
    }

    /// Ends the script of a host that obeys; what runs in it ends with the host.
    pub(crate) fn end_orders(&mut self) -> Result<(), HostError> {
        self.ask(Order::End).map(drop)
    }

    /// The answer to an order that has one.
    fn ask(&mut self, order: Order) -> Result<Answer, HostError> {
        let words = format!("{order:?}");
        let number = self.order(order)?;
        match self.answer(number)? {
            Answer::Failed(why) => Err(self.broken(format!("{words}: {why}"))),
            answer => Ok(answer),
        }
    }

    fn order(&mut self, what: Order) -> Result<u64, HostError> {
        self.orders.given += 1;
        let number = self.orders.given;
        let line = Numbered { number, what }.to_line().map_err(HostError::Image)?;
        let sent = match self.machine.port(ORDERS_PORT) {
            Some(port) => port.send(&line).map_err(|error| error.to_string()),
            None => Err(DOES_NOT_OBEY.to_owned()),
        };
        sent.map_err(|problem| self.broken(problem))?;
        Ok(number)
    }

    /// Takes in what the program says next.
    fn hear(&mut self, program: &mut Program) -> Result<(), HostError> {
        match self.answer(program.number)? {
            Answer::Line(line) => program.output.push(line),
            Answer::Ended(Ok(code)) => program.ending = Some(Ending::Exit(code)),
            Answer::Ended(Err(signal)) => program.ending = Some(Ending::Signal(signal)),
            answer => return Err(self.broken(format!("{}: {answer:?}", program.command))),
        }
        Ok(())
    }

    /// The next answer to this order.
    fn answer(&mut self, number: u64) -> Result<Answer, HostError> {
        let deadline = self.machine.deadline();
        loop {
            let answers = self.orders.answers.entry(number).or_default();
            if let Some(answer) = answers.pop_front() {
                return Ok(answer);
            }
            let line = match self.machine.port(ORDERS_PORT) {
                Some(port) => port.wait_for("", deadline),
                None => return Err(self.broken(DOES_NOT_OBEY.to_owned())),
            };
            let line = line.map_err(|error| HostError::Machine {
                error: error.into(),
                excerpt: self.excerpt(),
            })?;
            let answer = Numbered::<Answer>::from_line(&line);
            let Numbered { number, what } =
                answer.map_err(|error| self.broken(format!("`{line}`: {error}")))?;
            self.orders.answers.entry(number).or_default().push_back(what);
        }
    }

    fn broken(&mut self, problem: String) -> HostError {
        HostError::Order { problem, excerpt: self.excerpt() }
    }
}

fn real_ns() -> i64 {
    // A machine whose clock shows a time before 1970 has hosts that are far ahead.
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
