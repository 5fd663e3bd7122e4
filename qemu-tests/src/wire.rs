//! Two hosts, and the wire that joins them.
//!
//! ```text
//!  east 192.0.2.1                                             west 192.0.2.2
//!   eth0 ─ netem: delay, loss, rate ─► QEMU ═ a pair of ═ QEMU ◄─ netem ─ eth0
//!                                           datagram sockets
//! ```
//!
//! What a wire does to packets, each host's kernel does to those that leave it. The wire itself is a pair of sockets
//! that only the two QEMU processes have: no name, no port, nothing that anybody else could reach.

use std::io;
use std::net::{Ipv4Addr, Shutdown};
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use crate::case::Case;
use crate::host::{HostError, HostImage, HostReport, RunningHost};
use crate::link::Link;
use crate::machine::WireEnd;
use crate::script::{OBEY, ORDERS_PORT};

/// What the hosts are called.
pub const NAMES: [&str; 2] = ["east", "west"];
/// Where they are: a network that is kept for examples (RFC 5737).
pub const ADDRESSES: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2)];

/// Two hosts that obey, joined by a wire.
#[derive(Debug)]
pub struct WiredHosts {
    hosts: [RunningHost; 2],
    is_alive: [bool; 2],
    wire: Wire,
}

/// Both ends of the wire. They stay open here: a host that loses its power falls silent, as on a cable, instead of hanging up.
#[derive(Debug)]
struct Wire {
    ends: [Arc<UnixDatagram>; 2],
    sinks: Vec<JoinHandle<()>>,
}

impl Wire {
    /// Takes what comes to an end whose host has no power: on a cable that is lost, too. If nobody took it, the other host's
    /// card would stand, and its QEMU would do nothing but look whether it can send again.
    fn lose(&mut self, end: usize) {
        let end = Arc::clone(&self.ends[end]);
        // QEMU, which had the same socket, has made it one on which nobody waits.
        let _ = end.set_nonblocking(false);
        self.sinks.push(thread::spawn(move || {
            let mut frame = [0; 1 << 16];
            // Nothing comes once it is shut down.
            while end.recv(&mut frame).is_ok_and(|bytes| bytes > 0) {}
        }));
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        for end in &self.ends {
            // Shut down is all that it can be.
            let _ = end.shutdown(Shutdown::Both);
        }
        for sink in self.sinks.drain(..) {
            let _ = sink.join();
        }
    }
}

impl WiredHosts {
    /// Starts two hosts of these images, with their logs in folders of their names. Before they obey, they run what
    /// their images' scripts have.
    ///
    /// # Errors
    /// There is no kernel, or a QEMU does not start.
    pub fn boot(case: &Case, images: [HostImage; 2]) -> Result<Self, HostError> {
        let (east, west) = wire().map_err(HostError::Image)?;
        let wire = [&east, &west].map(|end| Arc::clone(&end.socket));
        let [east_image, west_image] = images;
        let boot = |image: HostImage, end: WireEnd, host: usize| {
            let image = image.wire(end, ADDRESSES[host]).port(ORDERS_PORT).run(&OBEY);
            image.boot_with_logs(&case.logs.join(NAMES[host]))
        };
        let hosts = [boot(east_image, east, 0)?, boot(west_image, west, 1)?];
        let wire = Wire { ends: wire, sinks: Vec::new() };
        Ok(Self { hosts, is_alive: [true; 2], wire })
    }

    /// One of the two.
    pub fn host(&mut self, host: usize) -> &mut RunningHost {
        &mut self.hosts[host]
    }

    /// Makes the wire so, in both directions, while it is in use.
    ///
    /// # Errors
    /// A host cannot, or is gone.
    pub fn shape(&mut self, link: Link) -> Result<(), HostError> {
        let alive = self.hosts.iter_mut().zip(self.is_alive).filter(|(_, is_alive)| *is_alive);
        alive.map(|(host, _)| host).try_for_each(|host| host.shape(link))
    }

    /// Takes a host's power away, with all that runs on it.
    pub fn kill(&mut self, host: usize) {
        self.hosts[host].machine().kill();
        if std::mem::take(&mut self.is_alive[host]) {
            self.wire.lose(host);
        }
    }

    /// Switches off the hosts that are alive, and says what their scripts did.
    ///
    /// # Errors
    /// One did not get there in time, or its kernel panicked.
    pub fn finish(self) -> Result<Vec<HostReport>, HostError> {
        let alive = self.hosts.into_iter().zip(self.is_alive).filter(|(_, is_alive)| *is_alive);
        let finish = |mut host: RunningHost| {
            host.end_orders()?;
            host.finish()
        };
        alive.map(|(host, _)| finish(host)).collect()
    }
}

/// Both ends of a wire.
fn wire() -> io::Result<(WireEnd, WireEnd)> {
    let (east, west) = UnixDatagram::pair()?;
    // 0x02: an address that its owner, and no maker of cards, has given.
    let end = |socket, number| WireEnd { socket: Arc::new(socket), mac: [2, 0, 0, 0, 0, number] };
    Ok((end(east, 1), end(west, 2)))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_is_sent_to_a_host_without_power_is_lost_and_holds_up_nobody() {
        let (east, west) = wire().unwrap();
        let mut wire = Wire { ends: [east, west].map(|end| end.socket), sinks: Vec::new() };
        let east = Arc::clone(&wire.ends[0]);
        east.set_write_timeout(Some(Duration::from_secs(10))).unwrap();
        // As QEMU leaves it.
        wire.ends[1].set_nonblocking(true).unwrap();
        wire.lose(1);
        for _ in 0..10_000 {
            assert_eq!(east.send(&[7; 1500]).unwrap(), 1500);
        }
        drop(wire);
        // Nobody takes it any more.
        assert!(east.send(&[7; 1500]).is_err());
    }
}
