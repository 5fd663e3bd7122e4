//! Hierarchical Delta Encoding: how the pages of a batch become the payload of a `Pages` frame, and
//! pages again. See `SPEC.md`, "Pages".
//!
//! Each page travels by the cheapest [`Tier`] that fits: as nothing if it is zero; as the name of
//! content that the destination has; as its difference from what the destination holds; compressed;
//! or as it is. Which tiers may be used, and how hard zstd tries, is the [`LadderStep`] of the batch.
//!
//! The payload's [`Head`] names the pages and their send numbers, and can be read without decoding.
//! What the two sides know of each other comes in through two traits: [`Offer`] is what the source
//! believes that the destination holds, [`Held`] is what it does hold. When the belief was wrong,
//! [`DecodeError::wanted`] names what is to be sent in full.
//!
//! An [`Encoder`] or [`Decoder`] belongs to one worker; which thread that is, is the caller's affair.
//!
//! ```
//! use dwcp::digest::DigestKey;
//! use dwcp::hde::{Batch, Decoder, Encoder, Ladder, Sending, Tier};
//! use dwcp::ledger::SendNumber;
//! use dwcp::page::{Gfn, PAGE_BYTES, PageRun};
//!
//! let key = DigestKey::new([7; 32]);
//! let batch = Batch::new(SendNumber(41), vec![PageRun::new(Gfn(16), 2)?])?;
//! let mut content = vec![0; batch.bytes()];
//! content[PAGE_BYTES..].fill(5);
//!
//! let settled_below = SendNumber(1);
//! let sending = Sending { key: &key, batch: &batch, content: &content, settled_below };
//! let (mut encoder, mut payload) = (Encoder::new(), Vec::new());
//! let encoded = encoder.encode(&sending, &Ladder::step(2), &(), &mut payload);
//! assert_eq!(encoded.tiers.of(Tier::Zero).pages, 1);
//!
//! let mut decoder = Decoder::new();
//! let decoded = decoder.decode(&key, &payload, &())?;
//! assert_eq!(decoded.content, content);
//! assert_eq!(decoded.head.batch().numbers(), batch.numbers());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod batch;
mod decoder;
mod encoder;
mod error;
mod head;
mod known;
mod ladder;
mod probe;
mod shadow;
mod tier;
pub(crate) mod varint;

pub use batch::{BATCH_PAGES_MAX, Batch, BatchError};
pub use decoder::{Decoded, Decoder};
pub use encoder::{Encoded, Encoder, Sending, payload_bound};
pub use error::DecodeError;
pub use head::Head;
pub use known::{Base, ContentDigest, ContentKey, Held, Offer};
pub use ladder::{Ladder, LadderStep};
pub use shadow::Shadow;
pub use tier::{Tally, Tier, TierCounts, Tiers};

#[cfg(test)]
mod tests;
