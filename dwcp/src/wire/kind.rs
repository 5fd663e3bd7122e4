//! [`Kind`]: what a frame is, and what that allows.

use std::ops::RangeInclusive;

use super::limits::{
    ANNOUNCE_MAX, CONTROL_MAX, KEPT_MAX, NUMBERS_MAX, PAGES_MAX, STATE_HEAD, STATE_MAX,
    WELCOME_HEAD,
};

/// What a frame is. The numbers are fixed; one that is not here is an error, never skipped: a peer
/// of the same version has no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// The first frame that a source sends on a stream: it joins the session.
    Hello = 1,
    /// The destination's first frame on a control stream: what it holds already.
    Welcome = 2,
    /// Encoded page runs with their send numbers and arrival check.
    Pages = 3,
    /// Send numbers whose pages are written and checked.
    Acknowledge = 4,
    /// Send numbers whose pages are wanted in full, since what they build on is not there.
    Want = 5,
    /// A part of the machine's state, or of a difference to it.
    State = 6,
    /// Ranges of memory that are not zero, for the destination to populate.
    Announce = 7,
    /// The permit frame: the last of a switch.
    Permit = 8,
    /// The source asks what became of the session.
    Ask = 9,
    /// The destination answers.
    Answer = 10,
    /// Limits that are changed under way.
    Limits = 11,
    /// The attempt is given up.
    Abort = 12,
    /// Nothing: the stream is measured, and kept alive.
    Ping = 13,
    /// The source asks what the destination has kept of the machine.
    Recall = 14,
    /// A part of the manifest of that.
    Kept = 15,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 15] = [
        Self::Hello,
        Self::Welcome,
        Self::Pages,
        Self::Acknowledge,
        Self::Want,
        Self::State,
        Self::Announce,
        Self::Permit,
        Self::Ask,
        Self::Answer,
        Self::Limits,
        Self::Abort,
        Self::Ping,
        Self::Recall,
        Self::Kept,
    ];

    /// The kind of this number, if there is one.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == number)
    }

    /// How many bytes of payload a frame of this kind may have.
    #[must_use]
    pub fn payload_bytes(self) -> RangeInclusive<u32> {
        match self {
            Self::Hello => 8..=8,
            Self::Welcome => WELCOME_HEAD..=CONTROL_MAX,
            Self::Pages => 1..=PAGES_MAX,
            Self::Acknowledge | Self::Want => 16..=NUMBERS_MAX,
            Self::State => STATE_HEAD + 1..=STATE_MAX,
            Self::Announce => 16..=ANNOUNCE_MAX,
            Self::Permit => 72..=72,
            Self::Ask => 1..=1,
            Self::Answer => 1..=CONTROL_MAX,
            Self::Limits => 16..=16,
            Self::Abort => 0..=CONTROL_MAX,
            Self::Ping => 9..=9,
            Self::Recall => 8..=8,
            Self::Kept => 1..=KEPT_MAX,
        }
    }

    /// Whether it belongs on a control stream only. What decides the session has one order, and
    /// nothing of it can overtake or be overtaken.
    #[must_use]
    pub fn is_control_only(self) -> bool {
        !matches!(self, Self::Hello | Self::Pages)
    }
}
