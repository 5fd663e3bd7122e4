//! One slot: a record as 4096 bytes, little-endian. See `SPEC.md`, "The permit record".

use std::collections::VecDeque;
use std::ops::Range;

use super::ids::HOST_NAME_MAX;
use super::state::OUTCOMES_MAX;
use super::{
    Generation, HostName, Nonce, Outcome, PermitState, Record, SessionId, Successor, VmId,
};

/// Bytes in a slot: what storage writes whole, or tears.
pub const SLOT_BYTES: usize = 4096;

/// The bytes of one slot.
pub type Slot = [u8; SLOT_BYTES];

/// The version of the layout that this code writes, and the only one it reads.
pub const RECORD_VERSION: u16 = 1;

const MAGIC_BYTES: [u8; 8] = *b"NVCPRMIT";

const MAGIC: Range<usize> = 0..8;
const VERSION: Range<usize> = 8..10;
const STATE: usize = 10;
const PEER_LENGTH: usize = 11;
const OUTCOME_COUNT: usize = 12;
const SEQUENCE: Range<usize> = 16..24;
const RESOLUTIONS: Range<usize> = 24..28;
const MOVES: Range<usize> = 28..32;
const VM: Range<usize> = 32..48;
const SESSION: Range<usize> = 48..64;
const RUNNER: Range<usize> = 64..80;
const SUCCESSOR: Range<usize> = 80..96;
const PEER: Range<usize> = 96..96 + HOST_NAME_MAX;
const OUTCOMES: Range<usize> = PEER.end..PEER.end + OUTCOMES_MAX * OUTCOME_BYTES;
const CHECKSUM: Range<usize> = SLOT_BYTES - 32..SLOT_BYTES;

/// A session, then how it ended.
const OUTCOME_BYTES: usize = 17;

const _: () = assert!(OUTCOMES.end <= CHECKSUM.start && OUTCOMES_MAX < 256 && HOST_NAME_MAX < 256);

const HELD: u8 = 1;
const OFFERED: u8 = 2;
const PREPARED: u8 = 3;
const TAKEN: u8 = 4;
const REFUSED: u8 = 5;
const GONE: u8 = 6;

const OUTCOME_TAKEN: u8 = 1;
const OUTCOME_REFUSED: u8 = 2;
const OUTCOME_WITHDRAWN: u8 = 3;
const OUTCOME_OVERRULED: u8 = 4;

/// Why a slot holds no record of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SlotFault {
    /// All zeros: never written
    #[error("it was never written")]
    Empty,
    /// Not the beginning of a record
    #[error("it does not hold a permit record")]
    Garbage,
    /// The checksum does not match: a write that did not finish, or bytes that have changed since
    #[error("its checksum does not match: a write was torn, or the bytes have rotted")]
    Torn,
    /// Whole, and of a version that this code does not know
    #[error("it has version {0}, and this program knows version {RECORD_VERSION} only")]
    UnknownVersion(u16),
    /// Whole, and no record all the same: whoever wrote it has a bug
    #[error("it is whole, but its {0} makes no sense")]
    Senseless(&'static str),
}

impl SlotFault {
    /// Whether the slot can be passed over in favour of the other: it holds nothing that anybody
    /// meant. A whole slot that cannot be understood may hold the newer truth, and is never passed
    /// over.
    pub(super) fn holds_nothing(self) -> bool {
        matches!(self, Self::Empty | Self::Garbage | Self::Torn)
    }
}

impl Record {
    /// The record as a slot's bytes. What a state does not use is zero.
    pub(super) fn encode(&self) -> Box<Slot> {
        let mut slot = Box::new([0; SLOT_BYTES]);
        slot[MAGIC].copy_from_slice(&MAGIC_BYTES);
        slot[VERSION].copy_from_slice(&RECORD_VERSION.to_le_bytes());
        slot[SEQUENCE].copy_from_slice(&self.sequence.to_le_bytes());
        slot[RESOLUTIONS].copy_from_slice(&self.generation.resolutions.to_le_bytes());
        slot[MOVES].copy_from_slice(&self.generation.moves.to_le_bytes());
        slot[VM].copy_from_slice(&self.vm.bytes());
        let fields = Fields::of(&self.state);
        slot[STATE] = fields.state;
        slot[SESSION].copy_from_slice(&fields.session.map_or([0; 16], SessionId::bytes));
        slot[RUNNER].copy_from_slice(&fields.runner.map_or([0; 16], Nonce::bytes));
        slot[SUCCESSOR].copy_from_slice(&fields.successor.map_or([0; 16], Nonce::bytes));
        if let Some(peer) = fields.peer {
            let peer = peer.as_str().as_bytes();
            slot[PEER_LENGTH] = u8::try_from(peer.len()).expect("asserted above");
            slot[PEER][..peer.len()].copy_from_slice(peer);
        }
        slot[OUTCOME_COUNT] = u8::try_from(self.outcomes.len()).expect("asserted above");
        let places = slot[OUTCOMES].as_chunks_mut::<OUTCOME_BYTES>().0;
        for (place, (session, outcome)) in places.iter_mut().zip(&self.outcomes) {
            place[..16].copy_from_slice(&session.bytes());
            place[16] = match outcome {
                Outcome::Taken => OUTCOME_TAKEN,
                Outcome::Refused => OUTCOME_REFUSED,
                Outcome::Withdrawn => OUTCOME_WITHDRAWN,
                Outcome::Overruled => OUTCOME_OVERRULED,
            };
        }
        let checksum = checksum(&slot);
        slot[CHECKSUM].copy_from_slice(&checksum);
        slot
    }

    /// The record in a slot, checked: a value that comes out of here can be encoded to these very
    /// bytes.
    pub(super) fn decode(slot: &Slot) -> Result<Self, SlotFault> {
        if slot.iter().all(|byte| *byte == 0) {
            return Err(SlotFault::Empty);
        }
        if slot[MAGIC] != MAGIC_BYTES {
            return Err(SlotFault::Garbage);
        }
        if slot[CHECKSUM] != checksum(slot) {
            return Err(SlotFault::Torn);
        }
        // Magic, version and checksum stay where they are in every later version.
        let version = u16::from_le_bytes(array(slot, VERSION));
        if version != RECORD_VERSION {
            return Err(SlotFault::UnknownVersion(version));
        }
        let record = Self {
            vm: VmId::new(array(slot, VM)).ok_or(SlotFault::Senseless("machine"))?,
            sequence: u64::from_le_bytes(array(slot, SEQUENCE)),
            generation: Generation {
                resolutions: u32::from_le_bytes(array(slot, RESOLUTIONS)),
                moves: u32::from_le_bytes(array(slot, MOVES)),
            },
            state: Fields::read(slot)?.into_state()?,
            outcomes: read_outcomes(slot)?,
        };
        if *record.encode() != *slot {
            return Err(SlotFault::Senseless("padding"));
        }
        Ok(record)
    }
}

fn checksum(slot: &Slot) -> [u8; 32] {
    *blake3::hash(&slot[..CHECKSUM.start]).as_bytes()
}

fn array<const N: usize>(slot: &Slot, range: Range<usize>) -> [u8; N] {
    slot[range].try_into().expect("a range of the layout")
}

fn read_outcomes(slot: &Slot) -> Result<VecDeque<(SessionId, Outcome)>, SlotFault> {
    let fault = SlotFault::Senseless("list of outcomes");
    let places = slot[OUTCOMES].as_chunks::<OUTCOME_BYTES>().0;
    let places = places.get(..usize::from(slot[OUTCOME_COUNT])).ok_or(fault)?;
    let outcome = |place: &[u8; OUTCOME_BYTES]| {
        let session = place.first_chunk().and_then(|bytes| SessionId::new(*bytes)).ok_or(fault)?;
        let outcome = match place[16] {
            OUTCOME_TAKEN => Outcome::Taken,
            OUTCOME_REFUSED => Outcome::Refused,
            OUTCOME_WITHDRAWN => Outcome::Withdrawn,
            OUTCOME_OVERRULED => Outcome::Overruled,
            _ => return Err(fault),
        };
        Ok((session, outcome))
    };
    places.iter().map(outcome).collect()
}

/// The fields that states share. Which of them a state has, [`PermitState`] says.
struct Fields<P> {
    state: u8,
    session: Option<SessionId>,
    runner: Option<Nonce>,
    successor: Option<Nonce>,
    peer: Option<P>,
}

impl<'a> Fields<&'a HostName> {
    fn of(state: &'a PermitState) -> Self {
        let none = Self { state: 0, session: None, runner: None, successor: None, peer: None };
        match state {
            PermitState::Held { runner } => Self { state: HELD, runner: *runner, ..none },
            PermitState::Offered { session, runner, to } => {
                let (successor, peer) = match to {
                    Successor::Process(nonce) => (Some(*nonce), None),
                    Successor::Host(peer) => (None, Some(peer)),
                };
                let (session, runner) = (Some(*session), Some(*runner));
                Self { state: OFFERED, session, runner, successor, peer }
            }
            PermitState::Prepared { session, runner, from } => {
                let (session, runner, peer) = (Some(*session), Some(*runner), Some(from));
                Self { state: PREPARED, session, runner, peer, ..none }
            }
            PermitState::Taken { session, runner, from } => {
                let (session, runner, peer) = (Some(*session), Some(*runner), from.as_ref());
                Self { state: TAKEN, session, runner, peer, ..none }
            }
            PermitState::Refused { session, from } => {
                Self { state: REFUSED, session: Some(*session), peer: Some(from), ..none }
            }
            PermitState::Gone { session, to } => {
                Self { state: GONE, session: *session, peer: Some(to), ..none }
            }
        }
    }
}

impl Fields<HostName> {
    fn read(slot: &Slot) -> Result<Self, SlotFault> {
        let length = usize::from(slot[PEER_LENGTH]);
        let peer = slot[PEER].get(..length).ok_or(SlotFault::Senseless("length of the peer"))?;
        let peer = match std::str::from_utf8(peer) {
            Ok("") => None,
            Ok(name) => Some(HostName::new(name).ok_or(SlotFault::Senseless("peer"))?),
            Err(_) => return Err(SlotFault::Senseless("peer")),
        };
        Ok(Self {
            state: slot[STATE],
            session: SessionId::new(array(slot, SESSION)),
            runner: Nonce::new(array(slot, RUNNER)),
            successor: Nonce::new(array(slot, SUCCESSOR)),
            peer,
        })
    }

    /// A field that is there without belonging to the state is found by the comparison in
    /// [`Record::decode`].
    fn into_state(self) -> Result<PermitState, SlotFault> {
        let session = self.session.ok_or(SlotFault::Senseless("session"));
        let runner = self.runner.ok_or(SlotFault::Senseless("runner"));
        let host = self.peer.clone().ok_or(SlotFault::Senseless("peer"));
        Ok(match self.state {
            HELD => PermitState::Held { runner: self.runner },
            OFFERED => {
                let to = match self.successor {
                    Some(successor) => Successor::Process(successor),
                    None => Successor::Host(host?),
                };
                PermitState::Offered { session: session?, runner: runner?, to }
            }
            PREPARED => PermitState::Prepared { session: session?, runner: runner?, from: host? },
            TAKEN => PermitState::Taken { session: session?, runner: runner?, from: self.peer },
            REFUSED => PermitState::Refused { session: session?, from: host? },
            GONE => PermitState::Gone { session: self.session, to: host? },
            _ => return Err(SlotFault::Senseless("state")),
        })
    }
}

#[cfg(test)]
mod tests;
