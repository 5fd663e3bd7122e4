//! Two network namespaces and the link between them.

use std::fs::{self, File};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::stop::Stop;
use clap::ValueEnum;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde::Serialize;

use crate::relay::{Line, Relay};

/// Who moves to whom.
pub const HOSTS: [&str; 2] = ["east", "west"];
/// The place of who moves.
pub const SOURCE: usize = 0;
/// The place of whom it moves to.
pub const DESTINATION: usize = 1;

const NAMESPACES: [&str; 2] = ["novacron-migrate-east", "novacron-migrate-west"];
/// Where `ip netns` keeps them.
const FOLDER: &str = "/run/netns";
/// The interface in each.
const DEVICE: &str = "wire0";
const ADDRESSES: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 78, 0, 1), Ipv4Addr::new(10, 78, 0, 2)];

const GIGABIT: u64 = 1_000_000_000;
/// What tbf lets through at once: more than the longest packet before segmentation.
const BURST: &str = "128kb";
/// Longest queue of a shaped pair.
const QUEUE: &str = "20ms";
const WAN: Line = Line {
    bits_per_second: GIGABIT,
    delay: Duration::from_millis(40),
    // As much as the line itself holds in a round trip.
    queue_bytes: 10_000_000,
    loss_per_million: 0,
};

/// The links over which a guest moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A veth pair as it is
    Unshaped,
    /// The same, 1 Gbit/s each way
    Gigabit,
    /// The same, 100 Mbit/s each way
    Hundred,
    /// A relay between two TUN devices: 1 Gbit/s each way, 80 ms there and back
    Wan,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Unshaped, Self::Gigabit, Self::Hundred, Self::Wan];

    /// As it is asked for.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unshaped => "unshaped",
            Self::Gigabit => "gigabit",
            Self::Hundred => "hundred",
            Self::Wan => "wan",
        }
    }

    /// What it is made of.
    pub fn description(self) -> &'static str {
        match self {
            Self::Unshaped => "a veth pair as it is",
            Self::Gigabit => "a veth pair, tbf of 1 Gbit/s on both ends",
            Self::Hundred => "a veth pair, tbf of 100 Mbit/s on both ends",
            Self::Wan => {
                "a relay of packets in this process, 1 Gbit/s, 40 ms and a queue of 10 MB each way"
            }
        }
    }

    /// What it carries, in bits a second, if that is bounded.
    pub fn rate(self) -> Option<u64> {
        match self {
            Self::Unshaped => None,
            Self::Gigabit => Some(GIGABIT),
            Self::Hundred => Some(GIGABIT / 10),
            Self::Wan => Some(WAN.bits_per_second),
        }
    }
}

/// Both namespaces; gone with the value.
pub struct Network {
    relay: Option<Relay>,
}

impl Network {
    /// Makes both, with a link of this kind.
    ///
    /// # Errors
    /// When the user may not, or the kernel cannot.
    pub fn make(kind: Kind) -> Result<Self, Stop> {
        match kind {
            Kind::Wan => Self::of(kind.rate(), Some(WAN)),
            _ => Self::of(kind.rate(), None),
        }
    }

    /// The same with a line of which whoever asks decides, and which can be changed.
    ///
    /// # Errors
    /// When the user may not, or the kernel cannot.
    pub fn with_line(line: Line) -> Result<Self, Stop> {
        let network = Self::of(None, Some(line))?;
        // A packet that is lost is one on the wire, and not many that the kernel has put into one.
        for namespace in NAMESPACES {
            ip(&["-n", namespace, "link", "set", DEVICE, "gso_max_segs", "1"])?;
        }
        Ok(network)
    }

    /// From now on the line is like this.
    pub fn set_line(&self, line: Line) {
        if let Some(relay) = &self.relay {
            relay.set_line(line);
        }
    }

    fn of(rate: Option<u64>, line: Option<Line>) -> Result<Self, Stop> {
        for namespace in NAMESPACES {
            ip(&["netns", "add", namespace])?;
        }
        // From here on, dropping it removes what there is.
        let mut network = Self { relay: None };
        match line {
            Some(line) => network.relay = Some(Relay::start(line, DEVICE)?),
            None => veth()?,
        }
        for (namespace, address) in NAMESPACES.iter().zip(ADDRESSES) {
            let address = format!("{address}/30");
            // Nobody speaks IPv6 here, and its greetings would be counted.
            ip(&["-n", namespace, "link", "set", DEVICE, "addrgenmode", "none"])?;
            ip(&["-n", namespace, "link", "set", DEVICE, "txqueuelen", "10000"])?;
            ip(&["-n", namespace, "addr", "add", &address, "dev", DEVICE])?;
            ip(&["-n", namespace, "link", "set", DEVICE, "up"])?;
            ip(&["-n", namespace, "link", "set", "lo", "up"])?;
            if let (Some(rate), None) = (rate, &network.relay) {
                let rate = format!("{rate}bit");
                let place = ["-n", namespace, "qdisc", "add", "dev", DEVICE, "root"];
                let shape = ["tbf", "rate", &rate, "burst", BURST, "latency", QUEUE];
                run("tc", &[&place[..], &shape[..]].concat())?;
            }
        }
        Ok(network)
    }

    /// The address of a host in its namespace.
    pub fn address(host: usize) -> Ipv4Addr {
        ADDRESSES[host]
    }

    /// Bytes that both interfaces have sent.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn sent() -> Result<u64, Stop> {
        let one = |host| {
            let table = io::read_to_string(Self::counters(host)?);
            let table = table.map_err(Stop::failed("/proc/net/dev"))?;
            Self::sent_in(&table)
                .ok_or_else(|| Stop::Failed(format!("no counters of {DEVICE}: {table}")))
        };
        Ok(one(SOURCE)? + one(DESTINATION)?)
    }

    /// The counters of a host's interfaces, which can be read again and again, wherever the reader is.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn counters(host: usize) -> Result<File, Stop> {
        let opened = inside(host, || File::open("/proc/thread-self/net/dev"))?;
        opened.map_err(Stop::failed("/proc/net/dev"))
    }

    /// Bytes that the interface has sent, by such counters.
    pub fn sent_in(table: &str) -> Option<u64> {
        sent_by(table, DEVICE)
    }

    /// Lets both kernels forget what they know of the line from earlier connections.
    ///
    /// # Errors
    /// When they do not.
    pub fn forget() -> Result<(), Stop> {
        NAMESPACES.iter().try_for_each(|namespace| ip(&["-n", namespace, "tcp_metrics", "flush"]))
    }

    /// Packets that found a queue of the relay full.
    pub fn dropped(&self) -> Option<u64> {
        self.relay.as_ref().map(Relay::dropped)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.relay = None;
        let _ = remove();
    }
}

/// Does something in a host's namespace, on a thread of its own: what is started there, stays there.
///
/// # Errors
/// When there is no such namespace.
pub fn inside<T: Send>(host: usize, act: impl FnOnce() -> T + Send) -> Result<T, Stop> {
    let path = format!("{FOLDER}/{}", NAMESPACES[host]);
    let namespace = File::open(&path).map_err(Stop::failed(&path))?;
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            let network = Some(LinkNameSpaceType::Network);
            move_into_link_name_space(namespace.as_fd(), network).map(|()| act())
        });
        match thread.join() {
            Ok(done) => done.map_err(Stop::failed(&path)),
            Err(_) => Err(Stop::Failed("a thread in a namespace panicked".into())),
        }
    })
}

/// Removes the namespaces, with all that is in them.
///
/// # Errors
/// When they are there, and stay.
pub fn remove() -> Result<(), Stop> {
    for namespace in NAMESPACES {
        if fs::exists(format!("{FOLDER}/{namespace}")).unwrap_or(true) {
            ip(&["netns", "delete", namespace])?;
        }
    }
    Ok(())
}

fn veth() -> Result<(), Stop> {
    let near = ["link", "add", DEVICE, "netns", NAMESPACES[0]];
    let far = ["type", "veth", "peer", "name", DEVICE, "netns", NAMESPACES[1]];
    ip(&[&near[..], &far[..]].concat())
}

fn ip(arguments: &[&str]) -> Result<(), Stop> {
    run("ip", arguments)
}

fn run(program: &str, arguments: &[&str]) -> Result<(), Stop> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let output = output
        .map_err(|error| Stop::Skipped(format!("{program}: {error}; Debian's iproute2 has it")))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Stop::Failed(format!("{program} {}: {}", arguments.join(" "), said.trim())))
}

/// proc_pid_net(5): behind the name eight numbers of what came, and then what went, in bytes first.
fn sent_by(table: &str, device: &str) -> Option<u64> {
    let line = table.lines().find_map(|line| line.trim_start().strip_prefix(device));
    line?.strip_prefix(':')?.split_whitespace().nth(8)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_interface_sent_is_its_ninth_number() {
        let table = "Inter-|   Receive\n face |bytes\n    lo:  1 2 3 4 5 6 7 8 9\n\
                     wire0: 10 2 0 0 0 0 0 0 99 3 0 0 0 0 0 0\n";
        assert_eq!(sent_by(table, DEVICE), Some(99));
        assert_eq!(sent_by(table, "wire"), None);
    }
}
