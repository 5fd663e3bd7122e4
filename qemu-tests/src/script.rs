//! What the harness tells test-init, and where: the only things both sides must agree on.

use std::io;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::link::Link;

/// The script's place in the initramfs. Its presence is what makes test-init a host's init.
pub const SCRIPT: &str = "/script.json";

/// The port on which a host's test-init reports, named as virtio ports are: by owner, reversed.
pub const REPORT_PORT: &str = "org.novacron.report";

/// The port on which a test gives orders to a host that obeys: an [`Order`] a line there, an [`Answer`] a line back.
pub const ORDERS_PORT: &str = "org.novacron.orders";

/// The command of a script that obeys until it is told to end.
pub const OBEY: [&str; 2] = ["/init", "obey"];

/// Whose variables a test's host sets in its firmware.
pub const VENDOR: &str = "6e6f7661-6372-6f6e-7465-737476617273";

/// The commands that a host runs, one after the other.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Script {
    /// Its address on the wire, if it has one.
    pub address: Option<Ipv4Addr>,
    /// Each as the list of its arguments, the program's path first: there is no shell in a host,
    /// so nothing is ever quoted.
    pub commands: Vec<Vec<String>>,
}

/// What a test wants of a host while it runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// Run a command beside all others.
    Start {
        /// Its arguments, the program's path first.
        command: Vec<String>,
    },
    /// Make this end of the wire so.
    Shape(Link),
    /// Say what the wall clock shows.
    Clock,
    /// Set the wall clock forward by so many nanoseconds, or back.
    StepClock(i64),
    /// Obey no longer.
    End,
}

/// What a host says of an order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// A line that a command has printed on either stream.
    Line(String),
    /// A command has ended, with an exit code or by a signal.
    Ended(Result<i32, i32>),
    /// The wall clock, in nanoseconds since 1970.
    Clock(i64),
    /// It is done.
    Done,
    /// It was not possible, and why.
    Failed(String),
}

/// An order or an answer, and the number that the two have in common.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Numbered<T> {
    /// Of the order.
    pub number: u64,
    /// What is said.
    pub what: T,
}

impl Script {
    /// The script as the file's bytes.
    ///
    /// # Errors
    /// None that the type allows; serialisers return one.
    pub fn to_bytes(&self) -> io::Result<Vec<u8>> {
        Ok(serde_json::to_vec(self)?)
    }

    /// Reads the file's bytes back.
    ///
    /// # Errors
    /// The bytes are not a script.
    pub fn from_bytes(bytes: &[u8]) -> io::Result<Self> {
        Ok(serde_json::from_slice(bytes)?)
    }
}

impl<T: Serialize + for<'a> Deserialize<'a>> Numbered<T> {
    /// As a line with its end: JSON has none inside.
    ///
    /// # Errors
    /// None that the type allows; serialisers return one.
    pub fn to_line(&self) -> io::Result<Vec<u8>> {
        let mut line = serde_json::to_vec(self)?;
        line.push(b'\n');
        Ok(line)
    }

    /// Reads a line back.
    ///
    /// # Errors
    /// The line is none of these.
    pub fn from_line(line: &str) -> io::Result<Self> {
        Ok(serde_json::from_str(line)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_a_command_prints_is_one_line_between_host_and_test() {
        let answer = Numbered { number: 7, what: Answer::Line("a\nb \u{1b}[2J \"\\".to_owned()) };
        let line = answer.to_line().unwrap();
        assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
        assert_eq!(Numbered::from_line(std::str::from_utf8(&line).unwrap()).unwrap(), answer);
    }
}
