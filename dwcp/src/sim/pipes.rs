//! [`Pipes`]: streams between two hosts, frame by frame, over one link in virtual time.
//!
//! It is fast, and every frame and every moment can be hit by a fault. Streams do not wait for each
//! other, so frames of different ones overtake.

use std::collections::BTreeMap;
use std::time::Duration;

use super::network::{NetEvent, Network, Side};
use super::rng::Rng;
use crate::wire::StreamId;

/// What the link is like.
#[derive(Clone, Copy, Debug)]
pub(super) struct LinkShape {
    pub(super) bytes_per_second: u64,
    /// One way.
    pub(super) delay: Duration,
    /// Added to the delay of a frame, at most.
    pub(super) jitter: Duration,
}

#[derive(Debug)]
pub(super) struct Pipes {
    shape: LinkShape,
    rng: Rng,
    is_up: bool,
    /// When the link is free again, by sending side.
    free_at: BTreeMap<Side, Duration>,
    /// Streams that carry, with the time of their last arrival at the destination and at the source.
    streams: BTreeMap<StreamId, [Duration; 2]>,
    /// By time, then by the order in which they were made.
    queue: BTreeMap<(Duration, u64), NetEvent>,
    made: u64,
    delivered: u64,
}

impl Pipes {
    pub(super) fn new(shape: LinkShape, seed: u64) -> Self {
        Self {
            shape,
            rng: Rng::new(seed),
            is_up: true,
            free_at: BTreeMap::new(),
            streams: BTreeMap::new(),
            queue: BTreeMap::new(),
            made: 0,
            delivered: 0,
        }
    }

    fn push(&mut self, at: Duration, event: NetEvent) {
        self.made += 1;
        self.queue.insert((at, self.made), event);
    }
}

impl Network for Pipes {
    fn is_up(&self) -> bool {
        self.is_up
    }

    fn next_time(&mut self) -> Option<Duration> {
        self.queue.first_key_value().map(|((at, _), _)| *at)
    }

    fn poll(&mut self, now: Duration) -> Option<NetEvent> {
        let entry = self.queue.first_entry().filter(|entry| entry.key().0 <= now)?;
        let event = entry.remove();
        if matches!(event, NetEvent::Frame(..)) {
            self.delivered += 1;
        }
        Some(event)
    }

    fn delivered(&self) -> u64 {
        self.delivered
    }

    fn connect(&mut self, now: Duration, stream: StreamId) {
        if self.is_up {
            self.streams.insert(stream, [now; 2]);
            self.push(now + 2 * self.shape.delay, NetEvent::Connected(stream));
        } else {
            self.push(now + Duration::from_secs(1), NetEvent::Closed(Side::Source, stream));
        }
    }

    fn write(&mut self, now: Duration, side: Side, stream: StreamId, frame: Vec<u8>) {
        let nanos = frame.len() as u64 * 1_000_000_000 / self.shape.bytes_per_second;
        let free_at = self.free_at.entry(side).or_default();
        let departs = now.max(*free_at) + Duration::from_nanos(nanos);
        *free_at = departs;
        self.push(departs, NetEvent::Written(side, stream));
        let jitter = self.rng.below(0..self.shape.jitter.as_nanos().max(1) as u64);
        let Some(last) = self.streams.get_mut(&stream) else { return };
        let last = &mut last[usize::from(side == Side::Destination)];
        let arrives = (departs + self.shape.delay + Duration::from_nanos(jitter)).max(*last);
        *last = arrives;
        self.push(arrives, NetEvent::Frame(side.other(), stream, frame));
    }

    /// A side closes a stream: what it has sent arrives, then the other side learns of it.
    fn close(&mut self, now: Duration, side: Side, stream: StreamId) {
        if let Some(last) = self.streams.remove(&stream) {
            let last = last[usize::from(side == Side::Destination)];
            let arrives = last.max(now + self.shape.delay);
            self.push(arrives, NetEvent::Closed(side.other(), stream));
        }
    }

    fn streams(&self) -> Vec<StreamId> {
        self.streams.keys().copied().collect()
    }

    fn kill_stream(&mut self, now: Duration, stream: StreamId) {
        if self.streams.remove(&stream).is_none() {
            return;
        }
        let before = self.queue.len();
        self.queue.retain(|_, event| !matches!(event, NetEvent::Connected(of) if *of == stream));
        if self.queue.len() < before {
            // Whoever connects has a limit of his own.
            return self.push(now + Duration::from_secs(1), NetEvent::Closed(Side::Source, stream));
        }
        self.queue.retain(|_, event| !matches!(event, NetEvent::Frame(_, of, _) if *of == stream));
        for side in [Side::Source, Side::Destination] {
            if self.rng.chance(700) {
                let later = Duration::from_millis(self.rng.below(0..3000));
                self.push(now + later, NetEvent::Closed(side, stream));
            }
        }
    }

    fn clog(&mut self, _now: Duration, stream: StreamId, pause: Duration) {
        let is_of = |event: &NetEvent| matches!(event, NetEvent::Frame(_, of, _) if *of == stream);
        let all = std::mem::take(&mut self.queue);
        for ((at, made), event) in all {
            let at = if is_of(&event) { at + pause } else { at };
            self.queue.insert((at, made), event);
        }
        if let Some(last) = self.streams.get_mut(&stream) {
            last.iter_mut().for_each(|last| *last += pause);
        }
    }

    fn forget_all(&mut self) {
        self.streams.clear();
        self.queue.clear();
    }

    fn cut(&mut self, now: Duration) {
        self.is_up = false;
        for stream in self.streams() {
            self.kill_stream(now, stream);
        }
    }

    fn heal(&mut self) {
        self.is_up = true;
    }
}
