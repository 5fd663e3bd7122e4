//! [`DecodeError`]: why a payload is not what it should be, and whose fault that is.

use std::ops::Range;

use super::{BatchError, Tier};
use crate::ledger::SendNumber;
use crate::page::RunError;

/// A payload could not be decoded. Nothing of it may be used, nor acknowledged.
///
/// Unless [`DecodeError::wanted`] says otherwise the peer is at fault, and the stream is closed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// It ends too early
    #[error("the peer's batch ends before it is complete")]
    Truncated,
    /// It goes on behind its end
    #[error("the peer's batch has {0} bytes behind its end")]
    Trailing(usize),
    /// A number that has a shorter form, or none in 64 bits
    #[error("the peer's batch has a number that is not in its one form")]
    Number,
    /// Pages that are no batch
    #[error("the peer's batch: {0}")]
    Batch(#[from] BatchError),
    /// A run that cannot exist
    #[error("the peer's batch: {0}")]
    Run(#[from] RunError),
    /// The head and the runs name different numbers of pages
    #[error("the peer's batch announces {announced} pages and has runs of {found}")]
    Pages {
        /// Pages that the head announces.
        announced: u16,
        /// Pages of all runs.
        found: usize,
    },
    /// It says that its own numbers, or later ones, are settled
    #[error(
        "the peer's batch has the numbers from {first} on, and says that those below {below} are settled"
    )]
    SettledBelow {
        /// The first number of the batch.
        first: SendNumber,
        /// All below are said to be settled or lost.
        below: SendNumber,
    },
    /// A tier that does not exist
    #[error("the peer's batch uses the tier {0}, which does not exist")]
    Tier(u64),
    /// Tiers of more pages than there are, or in a longer form than they have
    #[error("the peer's batch does not give each of its pages one tier")]
    TierRun,
    /// A difference from a page that cannot have been sent before
    #[error("the peer's batch has a delta whose base is not an earlier send")]
    Base,
    /// A frame that is not exactly the content of its pages
    #[error("the peer's batch has a {0:?} frame that does not decompress to its pages")]
    Frame(Tier),
    /// The content is not what was sent
    #[error("the peer's batch does not pass its arrival check")]
    Arrival,
    /// The base of a delta, or known content, is not held: nobody's fault. The pages are wanted in
    /// full
    #[error("{} to {} need content that is not held", numbers.start, numbers.end)]
    Missing {
        /// The numbers of the whole batch.
        numbers: Range<SendNumber>,
    },
    /// The batch relies on content that is held here, and does not pass its arrival check: what is
    /// held may have changed or rotted. The pages are wanted in full
    #[error("{} to {} do not pass the arrival check with the content held", numbers.start, numbers.end)]
    HeldDiffers {
        /// The numbers of the whole batch.
        numbers: Range<SendNumber>,
    },
}

impl DecodeError {
    /// The send numbers whose pages the destination should ask for in full; `None` if the peer is
    /// at fault.
    #[must_use]
    pub fn wanted(&self) -> Option<Range<SendNumber>> {
        match self {
            Self::Missing { numbers } | Self::HeldDiffers { numbers } => Some(numbers.clone()),
            _ => None,
        }
    }
}
