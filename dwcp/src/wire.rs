//! Frames: what DWCP puts on a stream. See `SPEC.md`, "Frames".
//!
//! What arrives is an allegation. [`Expected::check`] is the one step from 40 bytes to a [`Header`],
//! and a `Header` cannot hold a kind that does not exist, a length above its kind's limit, or a kind
//! on a stream where it does not belong. [`Message::parse`] is the one step from a payload to what it
//! says. Nothing is allocated on the word of a length that was not checked.

mod header;
mod kind;
pub mod limits;
mod message;
mod text;

pub use header::{Expected, HEADER_BYTES, Header, HeaderBytes, HeaderError, StreamId, VERSION};
pub use kind::Kind;
pub use message::{
    ANNOUNCED_RUNS_MAX, Ask, KeptPart, KeptRun, Limits, Message, PayloadError, PeerAnswer, Permit,
    RANGES_MAX, STATE_PART_MAX, StatePart, WELCOME_RANGES_MAX, kept_room,
};
pub use text::{TEXT_MAX, Text};
