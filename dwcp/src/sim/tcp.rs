//! [`Tcp`]: streams over smoltcp's TCP, over a link that loses, reorders, duplicates, damages and
//! truncates packets, in virtual time. Congestion control and retransmission are real.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{CongestionControl, Socket, SocketBuffer, State};
use smoltcp::time::Instant;
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr, Ipv4Packet, TcpPacket};

use super::network::{NetEvent, Network, Side};
use super::rng::Rng;
use super::scenario::Scenario;
use crate::wire::{HEADER_BYTES, Header, StreamId};

const MTU: usize = 1500;
const ADDRESSES: [IpAddress; 2] = [IpAddress::v4(10, 0, 0, 1), IpAddress::v4(10, 0, 0, 2)];

/// TCP gives a connection up that hears nothing for this long: what `TCP_USER_TIMEOUT` sets.
const USER_TIMEOUT: smoltcp::time::Duration = smoltcp::time::Duration::from_secs(10);
const KEEP_ALIVE: smoltcp::time::Duration = smoltcp::time::Duration::from_secs(3);

/// A frame counts as written when no more than this of its stream waits in the socket without being on
/// its way: what `TCP_NOTSENT_LOWAT` is for. What waits there is blackout.
const NOT_SENT: u32 = 16 << 10;

/// The first of the ports, of which each stream has one of its own.
const FIRST_PORT: u16 = 10_000;

/// The packets of a host that wait for it, and those that it has sent.
struct Card {
    received: VecDeque<Vec<u8>>,
    sent: Vec<Vec<u8>>,
}

struct Incoming(Vec<u8>);

struct Outgoing<'a>(&'a mut Vec<Vec<u8>>);

impl RxToken for Incoming {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Outgoing<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, f: F) -> R {
        let mut packet = vec![0; length];
        let result = f(&mut packet);
        self.0.push(packet);
        result
    }
}

impl Device for Card {
    type RxToken<'a> = Incoming;
    type TxToken<'a> = Outgoing<'a>;

    fn receive(&mut self, _now: Instant) -> Option<(Incoming, Outgoing<'_>)> {
        let packet = self.received.pop_front()?;
        Some((Incoming(packet), Outgoing(&mut self.sent)))
    }

    fn transmit(&mut self, _now: Instant) -> Option<Outgoing<'_>> {
        Some(Outgoing(&mut self.sent))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = MTU;
        capabilities
    }
}

struct Host {
    card: Card,
    interface: Interface,
    sockets: SocketSet<'static>,
}

impl Host {
    fn new(side: Side, seed: u64) -> Self {
        let mut card = Card { received: VecDeque::new(), sent: Vec::new() };
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut interface = Interface::new(config, &mut card, Instant::ZERO);
        interface.update_ip_addrs(|addresses| {
            let address = IpCidr::new(ADDRESSES[side.index()], 24);
            addresses.push(address).expect("room for one address");
        });
        Self { card, interface, sockets: SocketSet::new(Vec::new()) }
    }
}

/// One end of a stream.
struct End {
    socket: SocketHandle,
    /// The rest of a frame that is not in the socket yet.
    unsent: VecDeque<u8>,
    is_writing: bool,
    /// Bytes that were put into the socket, and of those, bytes that were on their way at least once.
    pushed: u32,
    on_the_way: u32,
    /// Bytes that arrived, up to a whole frame.
    arrived: Vec<u8>,
    is_closing: bool,
}

struct Stream {
    ends: [Option<End>; 2],
    is_connected: bool,
}

pub(super) struct Tcp {
    link: Link,
    hosts: [Host; 2],
    streams: BTreeMap<StreamId, Stream>,
    events: VecDeque<NetEvent>,
    /// The stream of each port, and the sequence number of the first byte that each side sends on it.
    ports: BTreeMap<u16, (StreamId, [u32; 2])>,
    next_port: u16,
    buffer_bytes: usize,
    delivered: u64,
}

impl Tcp {
    pub(super) fn new(scenario: &Scenario, seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let bandwidth_delay = scenario.bytes_per_second * 2 * millis(scenario.delay) / 1000;
        // Twice what is on its way, so that a lost packet does not stop the others.
        let buffer_bytes = (2 * bandwidth_delay).clamp(128 << 10, 16 << 20);
        Self {
            hosts: Side::BOTH.map(|side| Host::new(side, rng.next())),
            link: Link::new(scenario, rng.next()),
            streams: BTreeMap::new(),
            events: VecDeque::new(),
            ports: BTreeMap::new(),
            next_port: FIRST_PORT,
            buffer_bytes: usize::try_from(buffer_bytes).expect("a bounded buffer"),
            delivered: 0,
        }
    }

    fn socket(&self) -> Socket<'static> {
        let buffer = || SocketBuffer::new(vec![0; self.buffer_bytes]);
        let mut socket = Socket::new(buffer(), buffer());
        socket.set_congestion_control(CongestionControl::Cubic);
        socket.set_timeout(Some(USER_TIMEOUT));
        socket.set_keep_alive(Some(KEEP_ALIVE));
        socket.set_nagle_enabled(false);
        socket.set_ack_delay(None);
        socket
    }

    /// Lets both hosts and the link do what they can now.
    fn turn(&mut self, now: Duration) {
        loop {
            self.fill();
            let mut is_busy = false;
            for side in Side::BOTH {
                let host = &mut self.hosts[side.index()];
                while let Some(packet) = self.link.arrival(now, side) {
                    host.card.received.push_back(packet);
                    is_busy = true;
                }
                host.interface.poll(instant(now), &mut host.card, &mut host.sockets);
                for packet in std::mem::take(&mut host.card.sent) {
                    note(&mut self.ports, &mut self.streams, side, &packet);
                    self.link.send(now, side, packet);
                    is_busy = true;
                }
            }
            is_busy |= self.drain();
            if !is_busy {
                return;
            }
        }
    }

    /// Puts frames into the sockets.
    fn fill(&mut self) {
        for (stream, state) in &mut self.streams {
            for side in Side::BOTH {
                let Some(end) = &mut state.ends[side.index()] else { continue };
                let socket = self.hosts[side.index()].sockets.get_mut::<Socket<'_>>(end.socket);
                while !end.unsent.is_empty() && socket.can_send() {
                    let (front, _) = end.unsent.as_slices();
                    let sent = socket.send_slice(front).expect("a socket that can send");
                    end.unsent.drain(..sent);
                    end.pushed += u32::try_from(sent).expect("a part of a frame");
                }
                let waiting = end.pushed.saturating_sub(end.on_the_way);
                if end.unsent.is_empty() && waiting <= NOT_SENT && end.is_writing {
                    end.is_writing = false;
                    self.events.push_back(NetEvent::Written(side, *stream));
                }
                if end.is_closing && end.unsent.is_empty() {
                    socket.close();
                }
            }
        }
    }

    /// Takes frames out of the sockets, and finds streams that have opened or closed.
    fn drain(&mut self) -> bool {
        let mut is_busy = false;
        let mut gone = Vec::new();
        for (stream, state) in &mut self.streams {
            for side in Side::BOTH {
                let Some(end) = &mut state.ends[side.index()] else { continue };
                let socket = self.hosts[side.index()].sockets.get_mut::<Socket<'_>>(end.socket);
                if side == Side::Source
                    && !state.is_connected
                    && socket.state() == State::Established
                {
                    state.is_connected = true;
                    self.events.push_back(NetEvent::Connected(*stream));
                }
                while socket.can_recv() {
                    let taken = socket.recv(|bytes| {
                        end.arrived.extend(&*bytes);
                        (bytes.len(), bytes.len())
                    });
                    is_busy |= taken.expect("a socket that can receive") > 0;
                }
                while let Some(frame) = take_frame(&mut end.arrived) {
                    self.delivered += 1;
                    self.events.push_back(NetEvent::Frame(side, *stream, frame));
                }
                // Established first, then no more to come: the other side has closed, or died.
                let is_over = !socket.may_recv()
                    && !matches!(
                        socket.state(),
                        State::Listen | State::SynSent | State::SynReceived
                    );
                if is_over {
                    gone.push((side, *stream));
                }
            }
        }
        for (side, stream) in gone {
            is_busy = true;
            self.remove(side, stream);
            self.events.push_back(NetEvent::Closed(side, stream));
        }
        is_busy
    }

    fn remove(&mut self, side: Side, stream: StreamId) {
        let Some(state) = self.streams.get_mut(&stream) else { return };
        if let Some(end) = state.ends[side.index()].take() {
            let sockets = &mut self.hosts[side.index()].sockets;
            let socket = sockets.get_mut::<Socket<'_>>(end.socket);
            // What is still to be sent, is; what is still to come, nobody wants.
            if socket.is_open() && socket.send_queue() == 0 {
                socket.abort();
            } else {
                socket.close();
            }
        }
        if state.ends.iter().all(Option::is_none) {
            self.streams.remove(&stream);
        }
    }
}

impl Network for Tcp {
    fn is_up(&self) -> bool {
        self.link.is_up
    }

    fn next_time(&mut self) -> Option<Duration> {
        if !self.events.is_empty() {
            return Some(Duration::ZERO);
        }
        let mut next = self.link.next_time();
        for host in &mut self.hosts {
            let at = host.interface.poll_at(instant(self.link.now), &host.sockets);
            let at = at.map(|at| Duration::from_micros(at.total_micros().max(0).cast_unsigned()));
            next = [next, at].into_iter().flatten().min();
        }
        // What is due is done in `turn`; that a timer is due again at once is no reason to stand still.
        next.map(|at| at.max(self.link.now + Duration::from_micros(1)))
    }

    fn poll(&mut self, now: Duration) -> Option<NetEvent> {
        if self.events.is_empty() {
            self.link.now = now;
            self.turn(now);
        }
        self.events.pop_front()
    }

    fn delivered(&self) -> u64 {
        self.delivered
    }

    fn connect(&mut self, now: Duration, stream: StreamId) {
        let port = self.next_port;
        self.next_port += 1;
        self.ports.insert(port, (stream, [0; 2]));
        let (mut listener, mut caller) = (self.socket(), self.socket());
        listener.listen(port).expect("a port of its own");
        let [source, destination] = &mut self.hosts;
        source.interface.context();
        let remote = (ADDRESSES[1], port);
        caller.connect(source.interface.context(), remote, port).expect("a fresh socket");
        let end = |socket| End {
            socket,
            unsent: VecDeque::new(),
            is_writing: false,
            pushed: 0,
            on_the_way: 0,
            arrived: Vec::new(),
            is_closing: false,
        };
        let ends = [source.sockets.add(caller), destination.sockets.add(listener)];
        let ends = ends.map(|socket| Some(end(socket)));
        self.streams.insert(stream, Stream { ends, is_connected: false });
        self.link.now = now;
    }

    fn write(&mut self, _now: Duration, side: Side, stream: StreamId, frame: Vec<u8>) {
        let end = self.streams.get_mut(&stream).and_then(|state| state.ends[side.index()].as_mut());
        match end {
            Some(end) => {
                end.unsent.extend(frame);
                end.is_writing = true;
            }
            None => self.events.push_back(NetEvent::Written(side, stream)),
        }
    }

    fn close(&mut self, _now: Duration, side: Side, stream: StreamId) {
        let end = self.streams.get_mut(&stream).and_then(|state| state.ends[side.index()].as_mut());
        if let Some(end) = end {
            end.is_closing = true;
        }
    }

    fn streams(&self) -> Vec<StreamId> {
        self.streams.keys().copied().collect()
    }

    fn kill_stream(&mut self, _now: Duration, stream: StreamId) {
        // Something on the way resets one side; the other hears of it, or waits.
        let side = Side::BOTH[self.link.rng.below(0..2) as usize];
        self.remove(side, stream);
        self.events.push_back(NetEvent::Closed(side, stream));
    }

    fn clog(&mut self, now: Duration, _stream: StreamId, pause: Duration) {
        self.link.clogged_until = now + pause;
    }

    fn forget_all(&mut self) {
        for stream in self.streams() {
            for side in Side::BOTH {
                self.remove(side, stream);
            }
        }
        self.events.clear();
    }

    fn cut(&mut self, _now: Duration) {
        self.link.is_up = false;
    }

    fn heal(&mut self) {
        self.link.is_up = true;
    }
}

/// Notes how far a side's bytes have come, as its packets say.
fn note(
    ports: &mut BTreeMap<u16, (StreamId, [u32; 2])>,
    streams: &mut BTreeMap<StreamId, Stream>,
    side: Side,
    packet: &[u8],
) {
    let packet = Ipv4Packet::new_checked(packet).expect("a packet of smoltcp's");
    let segment = TcpPacket::new_checked(packet.payload()).expect("a segment of smoltcp's");
    // Both ends of a stream have the same port.
    let Some((stream, first)) = ports.get_mut(&segment.src_port()) else { return };
    let first = &mut first[side.index()];
    let sequence = segment.seq_number().0.cast_unsigned();
    if segment.syn() {
        *first = sequence.wrapping_add(1);
        return;
    }
    let end = streams.get_mut(stream).and_then(|stream| stream.ends[side.index()].as_mut());
    let length = u32::try_from(segment.payload().len()).expect("a small packet");
    if let Some(end) = end.filter(|_| length > 0) {
        end.on_the_way = end.on_the_way.max(sequence.wrapping_sub(*first).wrapping_add(length));
    }
}

/// The first whole frame of what has arrived.
fn take_frame(arrived: &mut Vec<u8>) -> Option<Vec<u8>> {
    let header = Header::parse(arrived.first_chunk::<HEADER_BYTES>()?).expect("a frame of ours");
    let length = HEADER_BYTES + usize::try_from(header.length()).expect("a checked length");
    if arrived.len() < length {
        return None;
    }
    let rest = arrived.split_off(length);
    Some(std::mem::replace(arrived, rest))
}

/// The link, packet by packet.
struct Link {
    bytes_per_second: u64,
    delay: Duration,
    jitter: Duration,
    /// Of a million packets.
    loss: u64,
    /// Thousandths of packets that are doubled, damaged, or cut short.
    damage: u64,
    /// Bytes that may wait in front of the link, by sending side; more are dropped.
    queue_bytes: u64,
    free_at: [Duration; 2],
    on_their_way: BTreeMap<(Duration, u64), (Side, Vec<u8>)>,
    sent: u64,
    is_up: bool,
    clogged_until: Duration,
    now: Duration,
    rng: Rng,
}

impl Link {
    fn new(scenario: &Scenario, seed: u64) -> Self {
        let bandwidth_delay = scenario.bytes_per_second * 2 * millis(scenario.delay) / 1000;
        Self {
            bytes_per_second: scenario.bytes_per_second,
            delay: scenario.delay,
            jitter: scenario.jitter,
            loss: scenario.loss_per_million,
            damage: scenario.damage_per_thousand,
            queue_bytes: bandwidth_delay.max(256 << 10),
            free_at: [Duration::ZERO; 2],
            on_their_way: BTreeMap::new(),
            sent: 0,
            is_up: true,
            clogged_until: Duration::ZERO,
            now: Duration::ZERO,
            rng: Rng::new(seed),
        }
    }

    fn next_time(&self) -> Option<Duration> {
        self.on_their_way.first_key_value().map(|((at, _), _)| *at)
    }

    /// The next packet that has arrived at a side by now.
    fn arrival(&mut self, now: Duration, side: Side) -> Option<Vec<u8>> {
        let due = self.on_their_way.range(..=(now, u64::MAX));
        let key = due.filter(|(_, (to, _))| *to == side).map(|(key, _)| *key).next()?;
        self.on_their_way.remove(&key).map(|(_, packet)| packet)
    }

    fn send(&mut self, now: Duration, from: Side, mut packet: Vec<u8>) {
        let free_at = &mut self.free_at[from.index()];
        let waiting = free_at.saturating_sub(now).as_nanos() * u128::from(self.bytes_per_second);
        let is_full = waiting / 1_000_000_000 > u128::from(self.queue_bytes);
        if !self.is_up || is_full || self.rng.below(0..1_000_000) < self.loss {
            return;
        }
        let nanos = packet.len() as u64 * 1_000_000_000 / self.bytes_per_second;
        *free_at = now.max(*free_at) + Duration::from_nanos(nanos);
        let departs = *free_at;
        if self.rng.chance(self.damage) {
            match self.rng.below(0..3) {
                0 => self.arrive(departs, from, packet.clone()),
                1 => packet.truncate(self.rng.below(1..packet.len() as u64) as usize),
                _ => {
                    let at = self.rng.below(0..packet.len() as u64) as usize;
                    packet[at] ^= 1 << self.rng.below(0..8);
                }
            }
        }
        self.arrive(departs, from, packet);
    }

    fn arrive(&mut self, departs: Duration, from: Side, packet: Vec<u8>) {
        let jitter = self.rng.below(0..self.jitter.as_nanos().max(1) as u64);
        let arrives = (departs + self.delay + Duration::from_nanos(jitter)).max(self.clogged_until);
        self.sent += 1;
        self.on_their_way.insert((arrives, self.sent), (from.other(), packet));
    }
}

fn instant(now: Duration) -> Instant {
    Instant::from_micros(i64::try_from(now.as_micros()).expect("a simulation of less than an age"))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).expect("a short delay")
}
