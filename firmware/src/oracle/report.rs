//! The lines on the serial port: the guest formats them, the host parses them.
//!
//! ```text
//! oracle: hello version=1
//! oracle: ready version=1 cpus=2 pages=130000 static=125904 working=4096
//! oracle: rounds=12 writes=49152 checked=61440 rate=250000 gap_us=31 errors=0
//! oracle: error kind=stale vcpu=1 address=0x100200000 offset=16 expected=12 found=11 found_address=0x100200000 found_vcpu=1
//! oracle: verdict ok pages=130000 rounds=12 writes=49152 checked=191440 errors=0 tsc_backwards=0 max_gap_us=812
//! oracle: refused reason=unknown-option word=colour=red
//! oracle: panic vector=14 rip=0x200100 error=0x2 address=0x7000000000 vcpu=1
//! oracle: panic at=firmware/guest/boot.rs:40 vcpu=0
//! ```
//! A line that is not one of these did not come from the oracle, or was damaged on its way.

use core::fmt;

use super::page::{Defect, Kind, Stamp};

/// Version of the command line, the page format and these lines together.
pub const VERSION: u32 = 1;

/// One line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report<'a> {
    /// The first line, before anything else is done.
    Hello {
        /// Always [`VERSION`] of who printed it.
        version: u32,
    },
    /// Memory is filled, the rounds begin.
    Ready(Ready),
    /// How far the guest has come.
    Rounds(Rounds),
    /// A page that does not hold what it must.
    Error(WrongPage),
    /// All pages were checked while nothing was written.
    Verdict(Verdict),
    /// The guest cannot do what it was asked to, and resets.
    Refused {
        /// Why, in one word.
        reason: &'a str,
        /// The word of the command line, or the value, that it is about.
        word: &'a str,
    },
    /// A processor exception: a defect of the guest, or of what runs it. The guest resets.
    Exception(Exception),
    /// A failed assertion in the guest, which resets.
    Panic {
        /// File and line.
        at: Location<'a>,
        /// vCPU.
        cpu: u32,
    },
}

/// See [`Report::Ready`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ready {
    /// Always [`VERSION`] of who printed it.
    pub version: u32,
    /// vCPUs at work.
    pub cpus: u32,
    /// Pages the guest owns.
    pub pages: u64,
    /// Pages stamped once.
    pub fixed: u64,
    /// Pages that are written again and again.
    pub working: u64,
}

/// See [`Report::Rounds`]. Sums are over all vCPUs and since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rounds {
    /// Rounds that every vCPU has completed.
    pub rounds: u64,
    /// Pages written.
    pub writes: u64,
    /// Pages checked.
    pub checked: u64,
    /// Pages written a second since the last report.
    pub rate: u64,
    /// Longest time between two looks at the clock on any vCPU since the last report, microseconds.
    pub gap_us: u64,
    /// Wrong pages found.
    pub errors: u64,
}

/// See [`Report::Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WrongPage {
    /// In which way it is wrong.
    pub kind: Kind,
    /// vCPU that owns the page.
    pub cpu: u32,
    /// Physical address of the page.
    pub address: u64,
    /// First byte of the page that is wrong.
    pub offset: u16,
    /// Sequence number that it must hold.
    pub expected: u64,
    /// Sequence number that it holds; 0 when its header is not one, like the next two.
    pub found: u64,
    /// Address in its header.
    pub found_address: u64,
    /// vCPU in its header.
    pub found_cpu: u16,
}

impl WrongPage {
    /// A defect as it is reported.
    #[must_use]
    pub fn new(expected: &Stamp, defect: &Defect) -> Self {
        Self {
            kind: defect.kind,
            cpu: expected.writer.into(),
            address: expected.address,
            offset: defect.offset,
            expected: expected.sequence,
            found: defect.found.map_or(0, |stamp| stamp.sequence),
            found_address: defect.found.map_or(0, |stamp| stamp.address),
            found_cpu: defect.found.map_or(0, |stamp| stamp.writer),
        }
    }
}

/// See [`Report::Verdict`]. Sums are over all vCPUs and since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// No wrong page was found, now or before: `errors` is 0.
    pub ok: bool,
    /// Pages that this sweep checked.
    pub pages: u64,
    /// Rounds that every vCPU has completed.
    pub rounds: u64,
    /// Pages written.
    pub writes: u64,
    /// Pages checked, this sweep included.
    pub checked: u64,
    /// Wrong pages found.
    pub errors: u64,
    /// How often the TSC of a vCPU was lower than at the reading before.
    pub tsc_backwards: u64,
    /// Longest time between two looks at the clock on any vCPU, microseconds.
    pub max_gap_us: u64,
}

/// See [`Report::Exception`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exception {
    /// Vector, 0 to 31.
    pub vector: u64,
    /// Where.
    pub rip: u64,
    /// Error code, 0 where there is none.
    pub error: u64,
    /// CR2: the address of a page fault.
    pub address: u64,
    /// vCPU.
    pub cpu: u32,
}

/// A place in the guest's source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location<'a> {
    /// Path in the project.
    pub file: &'a str,
    /// Line, from 1.
    pub line: u32,
}

const KINDS: [(Kind, &str); 7] = [
    (Kind::Zeroed, "zeroed"),
    (Kind::Swapped, "swapped"),
    (Kind::Stale, "stale"),
    (Kind::Future, "future"),
    (Kind::Foreign, "foreign"),
    (Kind::Torn, "torn"),
    (Kind::Touched, "touched"),
];

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = KINDS.iter().find(|(kind, _)| kind == self).map_or("unknown", |(_, name)| name);
        f.write_str(name)
    }
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("oracle: ")?;
        match self {
            Self::Hello { version } => write!(f, "hello version={version}"),
            Self::Ready(Ready { version, cpus, pages, fixed, working }) => write!(
                f,
                "ready version={version} cpus={cpus} pages={pages} static={fixed} working={working}"
            ),
            Self::Rounds(Rounds { rounds, writes, checked, rate, gap_us, errors }) => {
                write!(f, "rounds={rounds} writes={writes} checked={checked} ")?;
                write!(f, "rate={rate} gap_us={gap_us} errors={errors}")
            }
            Self::Error(page) => page.fmt(f),
            Self::Verdict(verdict) => verdict.fmt(f),
            Self::Refused { reason, word } => write!(f, "refused reason={reason} word={word}"),
            Self::Exception(Exception { vector, rip, error, address, cpu }) => {
                write!(f, "panic vector={vector} rip={rip:#x} error={error:#x} ")?;
                write!(f, "address={address:#x} vcpu={cpu}")
            }
            Self::Panic { at, cpu } => write!(f, "panic at={}:{} vcpu={cpu}", at.file, at.line),
        }
    }
}

impl WrongPage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, cpu, address, offset, expected, found, found_address, found_cpu } = self;
        write!(f, "error kind={kind} vcpu={cpu} address={address:#x} offset={offset} ")?;
        write!(f, "expected={expected} found={found} ")?;
        write!(f, "found_address={found_address:#x} found_vcpu={found_cpu}")
    }
}

impl Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ok, pages, rounds, writes, checked, errors, tsc_backwards, max_gap_us } = self;
        let outcome = if *ok { "ok" } else { "failed" };
        write!(f, "verdict {outcome} pages={pages} rounds={rounds} writes={writes} ")?;
        write!(f, "checked={checked} errors={errors} ")?;
        write!(f, "tsc_backwards={tsc_backwards} max_gap_us={max_gap_us}")
    }
}

/// A line that the oracle does not print.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unreadable;

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a line of the oracle")
    }
}

impl core::error::Error for Unreadable {}

impl<'a> Report<'a> {
    /// Parses one line, with or without its end.
    ///
    /// # Errors
    /// [`Unreadable`]: it is not exactly a line that the oracle prints.
    pub fn parse(line: &'a str) -> Result<Self, Unreadable> {
        let line = line.strip_suffix('\n').unwrap_or(line);
        let line = line.strip_suffix('\r').unwrap_or(line);
        let mut words = Words(line.split(' '));
        let report = words.report()?;
        if words.0.next().is_none() { Ok(report) } else { Err(Unreadable) }
    }
}

/// What is left of a line.
struct Words<'a>(core::str::Split<'a, char>);

impl<'a> Words<'a> {
    fn report(&mut self) -> Result<Report<'a>, Unreadable> {
        if self.word()? != "oracle:" {
            return Err(Unreadable);
        }
        Ok(match self.word()? {
            "hello" => Report::Hello { version: self.small("version=")? },
            "ready" => Report::Ready(Ready {
                version: self.small("version=")?,
                cpus: self.small("cpus=")?,
                pages: self.number("pages=")?,
                fixed: self.number("static=")?,
                working: self.number("working=")?,
            }),
            "error" => Report::Error(self.wrong_page()?),
            "verdict" => Report::Verdict(self.verdict()?),
            "refused" => {
                Report::Refused { reason: self.text("reason=")?, word: self.text("word=")? }
            }
            "panic" => self.panic()?,
            word => Report::Rounds(Rounds {
                rounds: decimal(word.strip_prefix("rounds=").ok_or(Unreadable)?)?,
                writes: self.number("writes=")?,
                checked: self.number("checked=")?,
                rate: self.number("rate=")?,
                gap_us: self.number("gap_us=")?,
                errors: self.number("errors=")?,
            }),
        })
    }

    fn wrong_page(&mut self) -> Result<WrongPage, Unreadable> {
        let name = self.text("kind=")?;
        let (kind, _) = KINDS.iter().find(|(_, known)| *known == name).ok_or(Unreadable)?;
        Ok(WrongPage {
            kind: *kind,
            cpu: self.small("vcpu=")?,
            address: self.hexadecimal("address=")?,
            offset: self.small("offset=")?,
            expected: self.number("expected=")?,
            found: self.number("found=")?,
            found_address: self.hexadecimal("found_address=")?,
            found_cpu: self.small("found_vcpu=")?,
        })
    }

    fn verdict(&mut self) -> Result<Verdict, Unreadable> {
        let ok = match self.word()? {
            "ok" => true,
            "failed" => false,
            _ => return Err(Unreadable),
        };
        Ok(Verdict {
            ok,
            pages: self.number("pages=")?,
            rounds: self.number("rounds=")?,
            writes: self.number("writes=")?,
            checked: self.number("checked=")?,
            errors: self.number("errors=")?,
            tsc_backwards: self.number("tsc_backwards=")?,
            max_gap_us: self.number("max_gap_us=")?,
        })
    }

    fn panic(&mut self) -> Result<Report<'a>, Unreadable> {
        let word = self.word()?;
        if let Some(vector) = word.strip_prefix("vector=") {
            return Ok(Report::Exception(Exception {
                vector: decimal(vector)?,
                rip: self.hexadecimal("rip=")?,
                error: self.hexadecimal("error=")?,
                address: self.hexadecimal("address=")?,
                cpu: self.small("vcpu=")?,
            }));
        }
        let at = word.strip_prefix("at=").ok_or(Unreadable)?;
        let (file, line) = at.rsplit_once(':').ok_or(Unreadable)?;
        let at = Location { file, line: narrow(decimal(line)?)? };
        Ok(Report::Panic { at, cpu: self.small("vcpu=")? })
    }

    fn word(&mut self) -> Result<&'a str, Unreadable> {
        self.0.next().ok_or(Unreadable)
    }

    fn text(&mut self, key: &str) -> Result<&'a str, Unreadable> {
        self.word()?.strip_prefix(key).ok_or(Unreadable)
    }

    fn number(&mut self, key: &str) -> Result<u64, Unreadable> {
        decimal(self.text(key)?)
    }

    fn small<T: TryFrom<u64>>(&mut self, key: &str) -> Result<T, Unreadable> {
        narrow(self.number(key)?)
    }

    fn hexadecimal(&mut self, key: &str) -> Result<u64, Unreadable> {
        let digits = self.text(key)?.strip_prefix("0x").ok_or(Unreadable)?;
        unsigned(digits, 16)
    }
}

fn narrow<T: TryFrom<u64>>(number: u64) -> Result<T, Unreadable> {
    T::try_from(number).map_err(|_| Unreadable)
}

fn decimal(digits: &str) -> Result<u64, Unreadable> {
    unsigned(digits, 10)
}

/// Digits only: `from_str_radix` alone would take a sign.
fn unsigned(digits: &str, radix: u32) -> Result<u64, Unreadable> {
    if digits.starts_with('+') {
        return Err(Unreadable);
    }
    u64::from_str_radix(digits, radix).map_err(|_| Unreadable)
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;
