//! What every step of a run is given, and what it gives back.

use std::cell::RefCell;
use std::path::PathBuf;

use crate::libtest::Binary;
use crate::tree::Tree;

/// A run of the checks.
#[derive(Debug)]
pub(crate) struct Context<'a> {
    /// The tree that is checked.
    pub(crate) tree: &'a Tree,
    /// What is kept between runs.
    pub(crate) cache: PathBuf,
    /// Whether this is the long run.
    pub(crate) long: bool,
    /// Why this run did work that the next one on this machine need not do.
    pub(crate) fresh: RefCell<Vec<String>>,
}

impl Context<'_> {
    /// Notes that something had to be made that is kept.
    pub(crate) fn made(&self, what: impl Into<String>) {
        self.fresh.borrow_mut().push(what.into());
    }
}

/// What a green step has to tell.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// A few words beside its name.
    pub(crate) detail: String,
    /// The test binaries that it ran.
    pub(crate) binaries: Vec<Binary>,
    /// What else it left out, and why.
    pub(crate) skipped: Vec<Skip>,
}

impl Outcome {
    /// An outcome with nothing but a few words.
    pub(crate) fn detail(words: impl Into<String>) -> Self {
        Self { detail: words.into(), ..Self::default() }
    }
}

/// Something that was not run.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Skip {
    /// What.
    pub(crate) name: String,
    /// Why.
    pub(crate) reason: String,
}
