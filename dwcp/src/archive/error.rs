//! [`ArchiveError`]: why a file is no archive, or not this one.

use super::ArchiveId;
use crate::hde::DecodeError;

/// A file could not be read as an archive, or not together with the others. `E` is what reading its bytes can fail with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ArchiveError<E> {
    /// The bytes cannot be read
    #[error("cannot be read: {0}")]
    Bytes(E),
    /// Something else
    #[error("is not a snapshot")]
    NotAnArchive,
    /// Another format
    #[error("is a snapshot of format version {found}, this executable knows {known}")]
    Version {
        /// The version found.
        found: u16,
        /// The version known here.
        known: u16,
    },
    /// No key, and one is needed
    #[error("is encrypted; give its key with --key")]
    KeyNeeded,
    /// A key, and none is needed
    #[error("is not encrypted; leave --key out, if that is what you expect")]
    NotEncrypted,
    /// Another key
    #[error("is encrypted under another key")]
    WrongKey,
    /// It ends too early
    #[error("is cut off, or was never finished: it does not end as a snapshot does")]
    Truncated,
    /// A part of it is not what was written
    #[error("is damaged: its {what} is not what was written")]
    Damaged {
        /// Which part.
        what: &'static str,
    },
    /// A block of pages is not what was written
    #[error("is damaged: block {number} of its pages is not what was written")]
    Pages {
        /// The block's number in the file.
        number: u64,
    },
    /// A block of pages has the right tag, and cannot be decoded: whoever wrote it is at fault
    #[error("has pages that cannot be decoded, in block {number}: {source}")]
    Payload {
        /// The block's number in the file.
        number: u64,
        /// What is wrong with it.
        source: DecodeError,
    },
    /// A part is longer than it may be
    #[error("cannot be written: its {what} has more than {limit} bytes")]
    TooLong {
        /// Which part.
        what: &'static str,
        /// Most bytes that it may have.
        limit: usize,
    },
    /// The index names a page that the machine does not have
    #[error("names pages beyond the end of the machine's memory")]
    BeyondLimit,
    /// It builds on another archive than the one given
    #[error("builds on snapshot {expected}, which is not given; what is given is {found}")]
    Parent {
        /// The one it needs.
        expected: ArchiveId,
        /// The one given.
        found: ArchiveId,
    },
    /// It builds on another archive, and none is given
    #[error("builds on snapshot {0}, which is not given")]
    ParentMissing(ArchiveId),
    /// It builds on nothing, and something is given
    #[error("builds on no other snapshot, and {0} is given")]
    ParentSuperfluous(ArchiveId),
    /// The indexes of a chain do not add up
    #[error("does not fit the snapshots on which it builds: memory differs from what was saved")]
    Sum,
}
