//! How long a wire is, and what it loses: datagrams that come back.

use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

/// Where echoes come from.
const PORT: u16 = 7;
/// Bytes of a datagram: with its headers and the frame around them it is 1,000 bytes long.
const SIZE: usize = 1000 - 42;
/// No wire of a test is as long.
const PATIENCE: Duration = Duration::from_secs(2);

/// Sends back whatever comes.
pub(crate) fn echo() -> io::Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT))?;
    println!("echo: listens");
    let mut datagram = [0; SIZE];
    loop {
        let (length, from) = socket.recv_from(&mut datagram)?;
        socket.send_to(&datagram[..length], from)?;
    }
}

/// Sends so many datagrams, one after another, each so long after the one before, and says what came back:
/// `ping: <n> of <n> came back, the fastest after <n> us, all within <n> us`.
pub(crate) fn ping(address: &str, count: &str, every_us: &str) -> io::Result<()> {
    let address: Ipv4Addr = address.parse().map_err(io::Error::other)?;
    let count: u32 = count.parse().map_err(io::Error::other)?;
    let every = Duration::from_micros(every_us.parse().map_err(io::Error::other)?);
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect((address, PORT))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let began = Instant::now();
    let mut came = Came { count: 0, fastest: Duration::MAX, last: Duration::ZERO };
    thread::scope(|scope| {
        let sender = scope.spawn(|| {
            for number in 0..count {
                thread::sleep((every * number).saturating_sub(began.elapsed()));
                let sent_us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
                let mut datagram = [0; SIZE];
                datagram[..8].copy_from_slice(&sent_us.to_ne_bytes());
                // A queue that is full is a loss like any other.
                let _ = socket.send(&datagram);
            }
        });
        let received = came.receive(&socket, count, began);
        let sent = sender.join().map_err(|_| io::Error::other("the sender"));
        received.and(sent)
    })?;
    let Came { count: back, fastest, last } = came;
    let fastest = if back == 0 { 0 } else { fastest.as_micros() };
    println!(
        "ping: {back} of {count} came back, the fastest after {fastest} us, all within {} us",
        last.as_micros()
    );
    Ok(())
}

struct Came {
    count: u32,
    fastest: Duration,
    /// Since the first was sent.
    last: Duration,
}

impl Came {
    /// Until all have come, or nothing comes any more.
    fn receive(&mut self, socket: &UdpSocket, count: u32, began: Instant) -> io::Result<()> {
        let mut datagram = [0; SIZE];
        while self.count < count {
            match socket.recv(&mut datagram) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
            let sent_us = datagram.first_chunk().map_or(0, |bytes| u64::from_ne_bytes(*bytes));
            self.last = began.elapsed();
            self.fastest =
                self.fastest.min(self.last.saturating_sub(Duration::from_micros(sent_us)));
            self.count += 1;
        }
        Ok(())
    }
}
