//! What the fuzz targets of `control` share.
//!
//! | target | bytes from | what it tries |
//! |---|---|---|
//! | `configuration` | a file that an admin wrote | reading it, and writing what is in effect |
//! | `audit-log` | a folder that somebody may have changed | verifying the log, its hashes made right |
//!
//! Each target checks more than that nothing panics; its head says what. `README.md` tells where the
//! seeds of the corpora come from.

use std::path::PathBuf;

/// The committed inputs of a target.
#[must_use]
pub fn corpus(target: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "corpus", target].iter().collect()
}
