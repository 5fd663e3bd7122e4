//! [`StatesOut`]: the machine's state on its way to the destination. See `SPEC.md`, 10.3.

use crate::ass;
use crate::wire::{Message, STATE_PART_MAX, StatePart};

/// States that were sent, and the one that is being sent. A state goes out as the difference to the
/// newest one that the destination holds.
#[derive(Debug, Default)]
pub(super) struct StatesOut {
    /// The number of the last state; a number is used once.
    last_number: u64,
    /// What the destination holds, once it has read what was sent on this connection.
    held: Option<Numbered>,
    sending: Option<Sending>,
}

#[derive(Debug)]
struct Numbered {
    number: u64,
    state: Vec<u8>,
}

#[derive(Debug)]
struct Sending {
    state: Numbered,
    base: u64,
    encoded: Vec<u8>,
    offset: usize,
}

impl StatesOut {
    /// Sends a state, in place of one that is not out yet.
    pub(super) fn send(&mut self, state: Vec<u8>) {
        self.last_number += 1;
        let (base, base_state) =
            self.held.as_ref().map_or((0, &[][..]), |held| (held.number, &held.state));
        let encoded = ass::encode(base_state, &state);
        let state = Numbered { number: self.last_number, state };
        self.sending = Some(Sending { state, base, encoded, offset: 0 });
    }

    /// Whether no part waits to be sent.
    pub(super) fn is_sent(&self) -> bool {
        self.sending.is_none()
    }

    /// The newest state that is wholly out: its number and itself.
    pub(super) fn newest(&self) -> Option<(u64, &[u8])> {
        self.held.as_ref().map(|held| (held.number, &held.state[..]))
    }

    /// Calls `emit` with the next part, if there is one; also returns how many bytes of the state that is.
    pub(super) fn next_part<T>(
        &mut self,
        emit: impl FnOnce(&Message<'_>) -> T,
    ) -> Option<(T, u64)> {
        let sending = self.sending.as_mut()?;
        let rest = &sending.encoded[sending.offset..];
        let bytes = &rest[..rest.len().min(STATE_PART_MAX)];
        let length = |length: usize| u32::try_from(length).expect("a state within its limit");
        let emitted = emit(&Message::State(StatePart {
            number: sending.state.number,
            base: sending.base,
            total: length(sending.encoded.len()),
            offset: length(sending.offset),
            bytes,
        }));
        let sent = bytes.len();
        sending.offset += sent;
        if sending.offset == sending.encoded.len() {
            self.held = self.sending.take().map(|sending| sending.state);
        }
        Some((emitted, sent as u64))
    }

    /// A new connection, over which the destination has said which state it holds. What was only on
    /// its way is lost with the old one. `is_final`: what was sent last must arrive all the same.
    pub(super) fn welcomed(&mut self, holds: u64, is_final: bool) {
        let interrupted = self.sending.take().map(|sending| sending.state);
        let newest = interrupted.or_else(|| {
            let held = self.held.as_ref()?;
            (held.number != holds).then(|| self.held.take()).flatten()
        });
        self.held = self.held.take().filter(|held| held.number == holds);
        if let Some(newest) = newest.filter(|_| is_final) {
            self.send(newest.state);
        }
    }

    /// The switch was cancelled: what was final is just another state that was sent ahead.
    pub(super) fn cancel(&mut self) {
        self.sending = None;
    }
}
