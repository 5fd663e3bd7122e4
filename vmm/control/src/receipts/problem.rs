//! [`ReceiptError`]: what is wrong with a receipt.

use std::fmt;

/// Which of the two hosts of a move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReceiptSide {
    /// The one that the machine left.
    From,
    /// The one that it went to.
    To,
}

impl fmt::Display for ReceiptSide {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::From => "the host that the machine left",
            Self::To => "the host that the machine went to",
        })
    }
}

/// Why a receipt proves nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReceiptError {
    /// A later form
    #[error("it is a receipt of version {0}, this executable knows 1; verify it with a newer one")]
    Version(u32),
    /// A field that no host writes like that
    #[error("its {field} has to be {form}; it was not written by a host like that: {ELSEWHERE}")]
    Field {
        /// Which.
        field: &'static str,
        /// What it has to be.
        form: &'static str,
    },
    /// From a host to itself
    #[error("it has one host, {0}, for both ends of the move; no move is like that: {ELSEWHERE}")]
    OneHost(String),
    /// A signature
    #[error(
        "the signature of {side}, {key}, is none of this statement by that host; the other host's is right, so this \
         signature was altered or never made: {ELSEWHERE}"
    )]
    Signature {
        /// Whose it should be.
        side: ReceiptSide,
        /// That host's key.
        key: String,
    },
    /// Both signatures
    #[error(
        "neither host, {from} nor {to}, has signed this statement; it was altered after they had, or never signed: \
         {ELSEWHERE}"
    )]
    Statement {
        /// The key of the host that the machine left, as the statement has it.
        from: String,
        /// The key of the host that it went to, as the statement has it.
        to: String,
    },
}

/// Both hosts keep every receipt of theirs.
const ELSEWHERE: &str =
    "do not rely on it, and get it again with `novacron receipt show` on either host";
