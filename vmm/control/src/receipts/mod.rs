//! Receipts: what both hosts of a move have signed when it had ended. `receipt.md` has their form.

#[cfg(test)]
pub(crate) mod fixture;
mod problem;
mod receipt;
mod shelf;

pub use problem::{ReceiptError, ReceiptSide};
pub(crate) use shelf::ReceiptShelf;
pub use shelf::ReceiptShelfError;
