//! [`Outgoing`]: one direction of a stream, frame by frame. See `SPEC.md`, 10.

use std::collections::VecDeque;

use crate::acp::SessionId;
use crate::wire::{HEADER_BYTES, Header, HeaderBytes, Kind, Message, StreamId};

/// Replies that may wait. A peer that asks faster than it reads gets no more: it asks again.
const REPLIES_MAX: usize = 16;

/// What a side puts on a stream. One frame at a time is in the hands of the caller, so that
/// everything is decided as late as the socket allows.
#[derive(Debug)]
pub(super) struct Outgoing {
    session: SessionId,
    stream: StreamId,
    sequence: u64,
    /// The caller has a frame that is not wholly in the socket yet.
    is_busy: bool,
    queue: VecDeque<Message<'static>>,
}

impl Outgoing {
    pub(super) fn new(session: SessionId, stream: StreamId) -> Self {
        Self { session, stream, sequence: 0, is_busy: false, queue: VecDeque::new() }
    }

    pub(super) fn is_busy(&self) -> bool {
        self.is_busy
    }

    /// Nothing waits, and nothing is on its way into the socket.
    pub(super) fn is_idle(&self) -> bool {
        !self.is_busy && self.queue.is_empty()
    }

    pub(super) fn push(&mut self, message: Message<'static>) {
        self.queue.push_back(message);
    }

    /// The same for the answer to something that a peer may ask as often as it likes.
    pub(super) fn reply(&mut self, message: Message<'static>) {
        if self.queue.len() < REPLIES_MAX {
            self.push(message);
        }
    }

    /// The next message that waits, as a frame.
    pub(super) fn pop(&mut self) -> Option<Vec<u8>> {
        let message = self.queue.pop_front()?;
        Some(self.frame(&message))
    }

    /// A frame that goes out now.
    pub(super) fn frame(&mut self, message: &Message<'_>) -> Vec<u8> {
        let mut frame = vec![0; HEADER_BYTES];
        message.write_to(&mut frame);
        let length = frame.len() - HEADER_BYTES;
        self.start();
        let header = self.header(message.kind(), length);
        frame[..HEADER_BYTES].copy_from_slice(&header);
        frame
    }

    /// Marks a frame as handed to the caller.
    pub(super) fn start(&mut self) {
        debug_assert!(!self.is_busy, "one frame at a time");
        self.is_busy = true;
    }

    /// The header of the frame that the caller has.
    pub(super) fn header(&mut self, kind: Kind, length: usize) -> HeaderBytes {
        let length = u32::try_from(length).expect("a payload within its limit");
        let header = Header::new(kind, length, self.session, self.stream, self.sequence);
        self.sequence += 1;
        header.expect("a frame of ours").to_bytes()
    }

    /// The caller's frame is wholly in the socket.
    pub(super) fn written(&mut self) {
        self.is_busy = false;
    }
}
