//! Frames: what DWCP puts on a stream. So far their header; payloads follow with the code that needs
//! them. See `SPEC.md`, "Frames".
//!
//! What arrives is an allegation. [`Expected::check`] is the one step from 40 bytes to a [`Header`],
//! and a `Header` cannot hold a kind that does not exist, a length above its kind's limit, or a kind
//! on a stream where it does not belong. Nothing is allocated before that.

mod header;
mod kind;
pub mod limits;

pub use header::{Expected, HEADER_BYTES, Header, HeaderBytes, HeaderError, StreamId, VERSION};
pub use kind::Kind;
