//! What init asks of the kernel's network: interfaces that are up, addresses, and netem (rtnetlink(7)).

use std::fs;
use std::io;
use std::net::Ipv4Addr;

use qemu_tests::Link;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, recv, send, socket};

/// The first interface of every network namespace.
const LOOPBACK: u32 = 1;
/// A host's end of the wire is its only network card.
const WIRE: &str = "eth0";
/// Both ends of a wire are in one network of 256 addresses.
const PREFIX: u8 = 24;
/// Packets that a wire holds: more than a round trip of any test takes at the rate of an emulated host.
const PACKETS: u32 = 10_000;

/// Two daemons on this host speak to each other by 127.0.0.1, which is there once its interface is up.
pub(crate) fn loopback_up() -> io::Result<()> {
    up(LOOPBACK).map_err(|error| io::Error::other(format!("the loopback interface: {error}")))
}

/// Gives this host's end of the wire its address.
pub(crate) fn wire_up(address: Ipv4Addr) -> io::Result<()> {
    let wire = wire()?;
    // `struct ifaddrmsg`: family, length of the prefix, flags, scope, index.
    let mut request = Request::new(20, CREATE | REPLACE);
    request.bytes([INET, PREFIX, 0, 0]);
    request.numbers([wire]);
    for attribute in [IFA_ADDRESS, IFA_LOCAL] {
        request.attribute(attribute, &address.octets());
    }
    request.send().map_err(|error| io::Error::other(format!("the address {address}: {error}")))?;
    up(wire).map_err(|error| io::Error::other(format!("the wire's interface: {error}")))
}

/// Makes this end of the wire so: what leaves through it is late, is lost, waits for its turn.
pub(crate) fn shape(link: Link) -> io::Result<()> {
    let delay_ns = i64::try_from(link.round_trip.as_nanos() / 2).map_err(io::Error::other)?;
    // `struct tcmsg`: family, two gaps; index, handle, parent, and a word for the kernel's answers.
    let mut request = Request::new(36, CREATE | REPLACE);
    request.bytes([0; 4]);
    request.numbers([wire()?, HANDLE, ROOT, 0]);
    request.attribute(TCA_KIND, b"netem\0");
    let at = request.begin(TCA_OPTIONS);
    // `struct tc_netem_qopt`: delay in ticks, packets, loss, gap, duplicates, jitter in ticks.
    request.numbers([0, PACKETS, lost(link.lost_of_1000), 0, 0, 0]);
    request.attribute(TCA_NETEM_LATENCY64, &delay_ns.to_ne_bytes());
    // `struct tc_netem_rate`: bytes a second, 0 if as many as can; overheads and cells. Without it, the old one stays.
    let rate = [link.rate.unwrap_or(0), 0, 0, 0].map(u32::to_ne_bytes).concat();
    request.attribute(TCA_NETEM_RATE, &rate);
    request.end(at);
    request.send().map_err(|error| io::Error::other(format!("netem: {error}")))
}

/// The kernel's number for a share of all packets: 0 is none, and the largest is all.
fn lost(of_1000: u32) -> u32 {
    let share = u64::from(of_1000) * u64::from(u32::MAX) / 1000;
    u32::try_from(share).unwrap_or(u32::MAX)
}

fn wire() -> io::Result<u32> {
    let index = fs::read_to_string(format!("/sys/class/net/{WIRE}/ifindex"))
        .map_err(|error| io::Error::other(format!("there is no {WIRE}: {error}")))?;
    index.trim_end().parse().map_err(io::Error::other)
}

fn up(interface: u32) -> io::Result<()> {
    const UP: u32 = 1;
    // `struct ifinfomsg`: family and kind, which may be left open; index, flags, and which of them change.
    let mut request = Request::new(16, 0);
    request.bytes([0; 4]);
    request.numbers([interface, UP, UP]);
    request.send()
}

// linux/netlink.h
const REQUEST_AND_ACKNOWLEDGE: u16 = 1 | 4;
const REPLACE: u16 = 0x100;
const CREATE: u16 = 0x400;
// linux/socket.h, linux/if_addr.h
const INET: u8 = 2;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
// linux/rtnetlink.h, linux/pkt_sched.h
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_NETEM_RATE: u16 = 6;
const TCA_NETEM_LATENCY64: u16 = 10;
/// Where everything that an interface sends goes through.
const ROOT: u32 = u32::MAX;
/// 1:0. The same each time, so that the kernel changes what is there and loses nothing of what waits in it.
const HANDLE: u32 = 1 << 16;

/// Bytes of a message's header, and where the length stands in it.
const HEADER: usize = 16;
/// Everything in a message begins on a multiple of it.
const ALIGNMENT: usize = 4;

/// A message to the kernel.
struct Request(Vec<u8>);

impl Request {
    fn new(kind: u16, flags: u16) -> Self {
        // Length, kind, flags, number, sender.
        let mut message = vec![0; HEADER];
        message[4..6].copy_from_slice(&kind.to_ne_bytes());
        message[6..8].copy_from_slice(&(flags | REQUEST_AND_ACKNOWLEDGE).to_ne_bytes());
        Self(message)
    }

    fn bytes<const N: usize>(&mut self, bytes: [u8; N]) {
        self.0.extend(bytes);
    }

    fn numbers<const N: usize>(&mut self, numbers: [u32; N]) {
        self.0.extend(numbers.iter().flat_map(|number| number.to_ne_bytes()));
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        let at = self.begin(kind);
        self.0.extend(value);
        self.end(at);
    }

    /// Begins an attribute, and returns where it is: what follows is inside of it, until its end.
    fn begin(&mut self, kind: u16) -> usize {
        let at = self.0.len();
        self.0.extend([0; 2]);
        self.0.extend(kind.to_ne_bytes());
        at
    }

    fn end(&mut self, at: usize) {
        // What comes from a host's script and a test is short.
        let length = u16::try_from(self.0.len() - at).unwrap_or(u16::MAX);
        self.0[at..at + 2].copy_from_slice(&length.to_ne_bytes());
        self.0.resize(self.0.len().next_multiple_of(ALIGNMENT), 0);
    }

    fn message(mut self) -> Vec<u8> {
        let length = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        self.0
    }

    /// Sends it, and waits for the kernel's word.
    fn send(self) -> io::Result<()> {
        let netlink = socket(AddressFamily::NETLINK, SocketType::RAW, None)?;
        send(&netlink, &self.message(), SendFlags::empty())?;
        // A header, and an error as the kernel has them, below 0, or 0; after it, the request.
        let mut answer = [0; 1024];
        let (length, _) = recv(&netlink, &mut answer[..], RecvFlags::empty())?;
        let error =
            answer[..length].get(HEADER..HEADER + 4).and_then(|error| error.try_into().ok());
        match error.map(i32::from_ne_bytes) {
            Some(0) => Ok(()),
            Some(error) => Err(io::Error::from_raw_os_error(-error)),
            None => Err(io::Error::other("the kernel's answer is too short")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_packets_is_the_kernels_number_for_it() {
        assert_eq!(
            [0, 1, 500, 1000, 2000].map(lost),
            [0, 4_294_967, u32::MAX / 2, u32::MAX, u32::MAX]
        );
    }

    #[test]
    fn attributes_have_their_own_lengths_and_begin_on_multiples_of_four() {
        let mut request = Request::new(36, CREATE);
        request.attribute(TCA_KIND, b"abc\0e");
        let at = request.begin(TCA_OPTIONS);
        request.numbers([7]);
        request.attribute(TCA_NETEM_RATE, &[1]);
        request.end(at);
        let expected = [
            &[44, 0, 0, 0, 36, 0, 5, 4, 0, 0, 0, 0, 0, 0, 0, 0][..],
            &[9, 0, 1, 0, b'a', b'b', b'c', 0, b'e', 0, 0, 0],
            &[16, 0, 2, 0, 7, 0, 0, 0],
            &[5, 0, 6, 0, 1, 0, 0, 0],
        ];
        assert_eq!(request.message(), expected.concat());
    }
}
