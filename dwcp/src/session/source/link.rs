//! [`Link`]: the source's connection, and when to make the next one. See `SPEC.md`, 8.1 and 8.3.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::time::Duration;

use crate::acp::SessionId;
use crate::session::outgoing::Outgoing;
use crate::session::timers::{DEAD_AFTER, PING_AFTER, RETRY_FIRST, RETRY_MOST};
use crate::wire::{Expected, Message, StreamId};

/// The source's connection. The source makes all of them, and numbers them from 1.
#[derive(Debug)]
pub(super) struct Link {
    session: SessionId,
    /// The number of the last connection that was made; 0 before the first.
    number: u16,
    /// The place of the next data stream. A connection that was not made leaves its number to the next one, but not its
    /// streams' places: what becomes of those may still be told.
    next_place: u16,
    state: State,
    /// Failures since the destination was last heard.
    failures: u32,
    /// Since when the destination has not been heard on any connection.
    pub(super) down_since: Option<Duration>,
}

#[derive(Debug)]
enum State {
    Down {
        retry_at: Duration,
    },
    /// The control stream is being connected. So are data streams, where they need not wait for a `Welcome`: over a long way
    /// that would cost them as long again.
    Dialing(Connection),
    Up(Connection),
}

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) number: u16,
    pub(super) control: Outgoing,
    pub(super) incoming: Expected,
    /// The destination has said what it holds.
    pub(super) is_welcomed: bool,
    heard_at: Duration,
    pub(super) spoke_at: Duration,
    /// Data streams by their place; `None` while they are being connected.
    pub(super) data: BTreeMap<u16, Option<Outgoing>>,
    /// Data streams that ended before the control stream was there. They are replaced when it is: a host that refuses them and
    /// lets that one wait is not asked again and again.
    failed: usize,
}

impl Connection {
    /// Whether pages may be sent. Before the first `Welcome` there is nothing that it could change,
    /// and a round trip is saved.
    pub(super) fn carries_pages(&self) -> bool {
        self.is_welcomed || self.number == 1
    }

    pub(super) fn outgoing(&mut self, stream: StreamId) -> Option<&mut Outgoing> {
        if stream.connection != self.number {
            return None;
        }
        if stream.is_control() {
            return Some(&mut self.control);
        }
        self.data.get_mut(&stream.place)?.as_mut()
    }

    /// How many streams take pages, if so many data streams are wanted.
    pub(super) fn streams(&self, data_streams: usize) -> NonZeroU64 {
        let open = self.data.values().take(data_streams).flatten().count();
        NonZeroU64::MIN.saturating_add(open as u64)
    }

    /// Nothing is on its way into the stream's socket.
    pub(super) fn is_quiet(&self, stream: StreamId) -> bool {
        if stream.is_control() {
            return !self.control.is_busy();
        }
        self.data.get(&stream.place).and_then(Option::as_ref).is_some_and(Outgoing::is_idle)
    }

    /// Nothing is on its way into any socket but the control stream's.
    pub(super) fn data_is_idle(&self) -> bool {
        self.data.values().flatten().all(Outgoing::is_idle)
    }
}

impl Link {
    pub(super) fn new(session: SessionId, now: Duration) -> Self {
        let state = State::Down { retry_at: now };
        Self { session, number: 0, next_place: 1, state, failures: 0, down_since: Some(now) }
    }

    /// Whether a data stream is beyond the number that is wanted: those that were opened first stay.
    pub(super) fn is_surplus(&self, stream: StreamId, data_streams: usize) -> bool {
        let places = self.connection().into_iter().flat_map(|connection| connection.data.keys());
        places.skip(data_streams).any(|place| !stream.is_control() && *place == stream.place)
    }

    /// How many connections were made.
    pub(super) fn connections(&self) -> u16 {
        self.number
    }

    pub(super) fn connection(&self) -> Option<&Connection> {
        if let State::Up(connection) = &self.state { Some(connection) } else { None }
    }

    pub(super) fn connection_mut(&mut self) -> Option<&mut Connection> {
        if let State::Up(connection) = &mut self.state { Some(connection) } else { None }
    }

    pub(super) fn outgoing(&mut self, stream: StreamId) -> Option<&mut Outgoing> {
        self.connection_mut()?.outgoing(stream)
    }

    pub(super) fn push(&mut self, message: Message<'static>) {
        if let Some(connection) = self.connection_mut() {
            connection.control.push(message);
        }
    }

    /// The same for what may be left out if too much waits already.
    pub(super) fn reply(&mut self, message: Message<'static>) {
        if let Some(connection) = self.connection_mut() {
            connection.control.reply(message);
        }
    }

    /// Whether any stream may be open, or is being connected beside a control stream.
    pub(super) fn has_streams(&self) -> bool {
        match &self.state {
            State::Down { .. } => false,
            State::Dialing(connection) => !connection.data.is_empty(),
            State::Up(_) => true,
        }
    }

    /// The next stream to connect: a control stream when it is time for one, or a data stream while
    /// there are fewer than `data_streams`.
    pub(super) fn poll_connect(&mut self, now: Duration, data_streams: usize) -> Option<StreamId> {
        match &mut self.state {
            State::Down { retry_at } if now >= *retry_at => {
                // After 65,535 connections the session stays without one.
                let stream = StreamId::control(self.number.checked_add(1)?);
                self.state = State::Dialing(Connection {
                    number: stream.connection,
                    control: Outgoing::new(self.session, stream),
                    incoming: Expected::first(self.session, stream),
                    is_welcomed: false,
                    heard_at: now,
                    spoke_at: now,
                    data: BTreeMap::new(),
                    failed: 0,
                });
                Some(stream)
            }
            State::Dialing(connection) | State::Up(connection)
                if connection.carries_pages()
                    && connection.data.len() + connection.failed < data_streams =>
            {
                let place = self.next_place;
                self.next_place = place.checked_add(1)?;
                connection.data.insert(place, None);
                Some(StreamId { connection: connection.number, place })
            }
            _ => None,
        }
    }

    /// A stream is open. Returns where its first frame goes, if that is news: the `Hello`, which leaves as soon as the connection
    /// is up.
    pub(super) fn connected(&mut self, now: Duration, stream: StreamId) -> Option<&mut Outgoing> {
        if stream.is_control() {
            return self.control_connected(now, stream);
        }
        let (State::Dialing(connection) | State::Up(connection)) = &mut self.state else {
            return None;
        };
        let is_this = stream.connection == connection.number;
        let place = connection.data.get_mut(&stream.place).filter(|_| is_this)?;
        match place {
            Some(_) => None,
            None => Some(place.insert(Outgoing::new(self.session, stream))),
        }
    }

    fn control_connected(&mut self, now: Duration, stream: StreamId) -> Option<&mut Outgoing> {
        let down = State::Down { retry_at: now };
        match std::mem::replace(&mut self.state, down) {
            State::Dialing(connection) if connection.number == stream.connection => {
                self.number = connection.number;
                let (heard_at, spoke_at, failed) = (now, now, 0);
                self.state = State::Up(Connection { heard_at, spoke_at, failed, ..connection });
                self.connection_mut().map(|connection| &mut connection.control)
            }
            other => {
                self.state = other;
                None
            }
        }
    }

    /// A data stream is gone. Returns whether it was one of this connection.
    pub(super) fn data_closed(&mut self, stream: StreamId) -> bool {
        let (State::Dialing(connection) | State::Up(connection)) = &mut self.state else {
            return false;
        };
        let is_this = stream.connection == connection.number;
        let was_there = is_this && connection.data.remove(&stream.place).is_some();
        if was_there && connection.number != self.number {
            connection.failed += 1;
        }
        was_there
    }

    /// The control stream is gone, or could not be connected. Returns whether it was this one.
    pub(super) fn control_closed(&mut self, now: Duration, stream: StreamId) -> bool {
        let (State::Dialing(connection) | State::Up(connection)) = &self.state else {
            return false;
        };
        let is_this = stream.connection == connection.number;
        if is_this {
            if self.number == connection.number {
                self.next_place = 1;
            }
            let pause = RETRY_FIRST.saturating_mul(1 << self.failures.min(10)).min(RETRY_MOST);
            self.failures += 1;
            self.state = State::Down { retry_at: now + pause };
            self.down_since.get_or_insert(now);
        }
        is_this
    }

    pub(super) fn heard(&mut self, now: Duration) {
        if let Some(connection) = self.connection_mut() {
            connection.heard_at = now;
        }
    }

    pub(super) fn welcomed(&mut self) {
        (self.failures, self.down_since) = (0, None);
        if let Some(connection) = self.connection_mut() {
            connection.is_welcomed = true;
        }
    }

    /// Whether the connection has been silent for so long that it counts as dead.
    pub(super) fn is_dead(&self, now: Duration) -> bool {
        self.connection().is_some_and(|connection| now >= connection.heard_at + DEAD_AFTER)
    }

    /// Lets the destination hear from us, if it has not for a while.
    pub(super) fn ping(&mut self, now: Duration) {
        let Some(connection) = self.connection_mut() else { return };
        if now >= connection.spoke_at + PING_AFTER && connection.control.is_idle() {
            let token = u64::try_from(now.as_micros()).unwrap_or(u64::MAX);
            connection.control.push(Message::Ping { is_echo: false, token });
        }
    }

    /// When one of the link's own timers runs out.
    pub(super) fn timeout(&self) -> Option<Duration> {
        match &self.state {
            State::Down { retry_at } => self.number.checked_add(1).map(|_| *retry_at),
            State::Dialing(_) => None,
            State::Up(connection) => {
                let ping_at = connection.spoke_at + PING_AFTER;
                let dead_at = connection.heard_at + DEAD_AFTER;
                // A ping that waits for the socket needs no timer.
                Some(if connection.control.is_idle() { ping_at.min(dead_at) } else { dead_at })
            }
        }
    }
}
