//! The guest's command line: words `key=value`, separated by spaces.
//!
//! The host composes it with [`Options`]'s `Display`, the guest parses it. An unknown word is an
//! error and not ignored: a test with a misspelt option would test something else.

use core::fmt;

use super::page::Write;
use super::walk::Order;
use super::{MAX_CPUS, PAGE_BYTES};

/// What the guest is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// `cpus=`: vCPUs to use, 1 to 64. Their APIC ids are 0 to `cpus - 1`.
    pub cpus: u32,
    /// `pattern=`: order of the writes, and how much each changes.
    pub pattern: Pattern,
    /// `write=`: how much each write changes, where it is not what the pattern implies.
    pub write: Option<Write>,
    /// `rate=`: writes a second on each vCPU; 0 is without limit.
    pub rate: u64,
    /// `working_set=`: bytes that are written again and again, all vCPUs together.
    pub working_set: u64,
    /// `fill=`: bytes that are stamped at the start, the working set among them; the rest stays as
    /// it was found. `None` (`fill=all`) stamps all memory.
    pub fill: Option<u64>,
    /// `untouched=check`: a sweep also checks that what was not stamped is zero.
    pub check_untouched: bool,
    /// `seed=`: of page contents and random orders.
    pub seed: u64,
    /// `tsc_khz=`: frequency of the TSC. Every time in this command line and in reports rests on it.
    pub tsc_khz: u64,
    /// `report=`: milliseconds between two reports.
    pub report_ms: u64,
    /// `rounds=`: end with a verdict and a reset after so many rounds; 0 is never.
    pub rounds: u64,
    /// `error_lines=`: wrong pages that get a line of their own; all are counted.
    pub error_lines: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            cpus: 1,
            pattern: Pattern::Sequential,
            write: None,
            rate: 0,
            working_set: 16 << 20,
            fill: None,
            check_untouched: false,
            seed: 1,
            tsc_khz: 1_000_000,
            report_ms: 200,
            rounds: 0,
            error_lines: 64,
        }
    }
}

/// A named way of writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// By address, one line a page.
    Sequential,
    /// In a new random order each round, one line a page.
    Random,
    /// A sixteenth of the pages eight times as often as the others, one line a page.
    Hotspot,
    /// By address, one byte of the body a page.
    Byte,
    /// By address, whole pages.
    Page,
}

impl Pattern {
    /// All, for who tries them all.
    pub const ALL: [Self; 5] =
        [Self::Sequential, Self::Random, Self::Hotspot, Self::Byte, Self::Page];

    const fn name(self) -> &'static str {
        match self {
            Self::Sequential => "sequential",
            Self::Random => "random",
            Self::Hotspot => "hotspot",
            Self::Byte => "byte",
            Self::Page => "page",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|pattern| pattern.name() == name)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

const WRITES: [(Write, &str); 3] =
    [(Write::Byte, "byte"), (Write::Line, "line"), (Write::Page, "page")];

/// A word of the command line that the guest does not take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused<'a> {
    /// The word.
    pub word: &'a str,
    /// What is wrong with it; one word, for a report line.
    pub reason: &'static str,
}

impl Options {
    /// Parses a command line.
    ///
    /// # Errors
    /// The first word that is unknown, not a value of its option, or out of range.
    pub fn parse(line: &str) -> Result<Options, Refused<'_>> {
        let mut options = Options::default();
        for word in line.split_ascii_whitespace() {
            options.apply(word).map_err(|reason| Refused { word, reason })?;
        }
        if options.working_set < u64::from(options.cpus) * PAGE_BYTES {
            return Err(Refused { word: "working_set", reason: "less-than-a-page-a-vcpu" });
        }
        Ok(options)
    }

    fn apply(&mut self, word: &str) -> Result<(), &'static str> {
        let (key, value) = word.split_once('=').ok_or("no-value")?;
        match key {
            "cpus" => self.cpus = number_in(value, 1, u64::from(MAX_CPUS))?,
            "pattern" => self.pattern = Pattern::from_name(value).ok_or("unknown-pattern")?,
            "write" => {
                let known = WRITES.iter().find(|(_, name)| *name == value);
                self.write = Some(known.ok_or("unknown-write")?.0);
            }
            "rate" => self.rate = number(value)?,
            "working_set" => self.working_set = size(value)?,
            "fill" => self.fill = if value == "all" { None } else { Some(size(value)?) },
            "untouched" => {
                self.check_untouched = match value {
                    "check" => true,
                    "ignore" => false,
                    _ => return Err("neither-check-nor-ignore"),
                }
            }
            "seed" => self.seed = number(value)?,
            // Below 1 MHz a millisecond has no useful number of ticks, above 100 GHz sums overflow.
            "tsc_khz" => self.tsc_khz = number_in(value, 1_000, 100_000_000)?.into(),
            "report" => self.report_ms = number_in(value, 1, 3_600_000)?.into(),
            "rounds" => self.rounds = number(value)?,
            "error_lines" => self.error_lines = number_in(value, 0, u64::from(u32::MAX))?,
            _ => return Err("unknown-option"),
        }
        Ok(())
    }

    /// Order of the writes.
    #[must_use]
    pub const fn order(&self) -> Order {
        match self.pattern {
            Pattern::Sequential | Pattern::Byte | Pattern::Page => Order::Sequential,
            Pattern::Random => Order::Random,
            Pattern::Hotspot => Order::Hotspot,
        }
    }

    /// What one write changes.
    #[must_use]
    pub const fn write(&self) -> Write {
        match (self.write, self.pattern) {
            (Some(write), _) => write,
            (None, Pattern::Byte) => Write::Byte,
            (None, Pattern::Page) => Write::Page,
            (None, Pattern::Sequential | Pattern::Random | Pattern::Hotspot) => Write::Line,
        }
    }
}

impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cpus={} pattern={} rate={}", self.cpus, self.pattern, self.rate)?;
        if let Some((_, name)) = WRITES.iter().find(|(write, _)| Some(*write) == self.write) {
            write!(f, " write={name}")?;
        }
        write!(f, " working_set={}", self.working_set)?;
        if let Some(bytes) = self.fill {
            write!(f, " fill={bytes}")?;
        }
        if self.check_untouched {
            f.write_str(" untouched=check")?;
        }
        write!(f, " seed={} tsc_khz={} report={}", self.seed, self.tsc_khz, self.report_ms)?;
        write!(f, " rounds={} error_lines={}", self.rounds, self.error_lines)
    }
}

fn number(value: &str) -> Result<u64, &'static str> {
    // `from_str` would take a sign, which no option has.
    if !value.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("not-a-number");
    }
    value.parse().map_err(|_| "not-a-number")
}

fn number_in(value: &str, least: u64, most: u64) -> Result<u32, &'static str> {
    let number = number(value)?;
    if number < least || number > most {
        return Err("out-of-range");
    }
    u32::try_from(number).map_err(|_| "out-of-range")
}

/// A number of bytes: digits, and `k`, `M` or `G` for powers of 1024.
fn size(value: &str) -> Result<u64, &'static str> {
    let (digits, unit) = match value.as_bytes().last() {
        Some(b'k') => (&value[..value.len() - 1], 1 << 10),
        Some(b'M') => (&value[..value.len() - 1], 1 << 20),
        Some(b'G') => (&value[..value.len() - 1], 1 << 30),
        _ => (value, 1),
    };
    number(digits)?.checked_mul(unit).ok_or("out-of-range")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_options() -> impl Strategy<Value = Options> {
        let writing = (
            1..=MAX_CPUS,
            prop::sample::select(&Pattern::ALL),
            prop::option::of(prop::sample::select(&[Write::Byte, Write::Line, Write::Page])),
            any::<u64>(),
            (u64::from(MAX_CPUS) * PAGE_BYTES)..=u64::MAX,
            any::<Option<u64>>(),
        );
        let rest = (
            any::<bool>(),
            any::<u64>(),
            1_000..=100_000_000u64,
            1..=3_600_000u64,
            any::<u64>(),
            any::<u32>(),
        );
        (writing, rest).prop_map(|(writing, rest)| {
            let (cpus, pattern, write, rate, working_set, fill) = writing;
            let (check_untouched, seed, tsc_khz, report_ms, rounds, error_lines) = rest;
            Options {
                cpus,
                pattern,
                write,
                rate,
                working_set,
                fill,
                check_untouched,
                seed,
                tsc_khz,
                report_ms,
                rounds,
                error_lines,
            }
        })
    }

    proptest! {
        #[test]
        fn what_the_host_composes_the_guest_parses(options in any_options()) {
            let line = options.to_string();
            prop_assert_eq!(Options::parse(&line), Ok(options));
        }

        #[test]
        fn no_command_line_panics(line: String) {
            let _ = Options::parse(&line);
        }
    }

    #[test]
    fn an_empty_command_line_is_the_default() {
        assert_eq!(Options::parse(" \t "), Ok(Options::default()));
    }

    #[test]
    fn sizes_take_binary_units() {
        let options = Options::parse("working_set=3M fill=2G").unwrap();
        assert_eq!((options.working_set, options.fill), (3 << 20, Some(2 << 30)));
        assert_eq!(Options::parse("working_set=64k").unwrap().working_set, 65_536);
    }

    #[test]
    fn a_pattern_implies_how_much_is_written_unless_told() {
        assert_eq!(Options::parse("pattern=byte").unwrap().write(), Write::Byte);
        assert_eq!(Options::parse("pattern=random").unwrap().write(), Write::Line);
        let told = Options::parse("pattern=random write=page").unwrap();
        assert_eq!((told.order(), told.write()), (Order::Random, Write::Page));
    }

    #[test]
    fn a_wrong_word_is_refused_by_name() {
        for (line, word, reason) in [
            ("cpus", "cpus", "no-value"),
            ("cpus=2 colour=red", "colour=red", "unknown-option"),
            ("cpus=0", "cpus=0", "out-of-range"),
            ("cpus=65", "cpus=65", "out-of-range"),
            ("rate=fast", "rate=fast", "not-a-number"),
            ("rate=+1", "rate=+1", "not-a-number"),
            ("seed=18446744073709551616", "seed=18446744073709551616", "not-a-number"),
            ("pattern=zigzag", "pattern=zigzag", "unknown-pattern"),
            ("write=word", "write=word", "unknown-write"),
            ("untouched=maybe", "untouched=maybe", "neither-check-nor-ignore"),
            ("fill=", "fill=", "not-a-number"),
            ("fill=99999999999G", "fill=99999999999G", "out-of-range"),
            ("tsc_khz=0", "tsc_khz=0", "out-of-range"),
            ("cpus=2 working_set=4096", "working_set", "less-than-a-page-a-vcpu"),
        ] {
            assert_eq!(Options::parse(line), Err(Refused { word, reason }), "{line}");
        }
    }
}
