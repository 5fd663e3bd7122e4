//! The kernel of our hosts and of the tests' guests, from Debian's source and our fragments.
//!
//! ```text
//! base.config host.config guest.config test.config      Debian's linux-source package
//!        └── Fragment::parse ── Options::merge ──┐                 │ Source::find
//!                                                ▼                 ▼
//!                    Recipe: unpack, tinyconfig, append, olddefconfig, CHECK, make, strip
//!                                                │
//!                    Cache: <root>/kernel/<version>-<key>/{bzImage, vmlinux, System.map, config}
//! ```
//!
//! CHECK is the point of the package: an option that the kernel's own configuration dropped, kept
//! against our wish or never knew ends the build with its name.
//!
//! What it never does: it reads nothing from a network, writes nothing outside the cache, builds
//! nothing as a module, and lets no setting in that has no reason beside it.

mod fragment;
mod key;
mod options;
mod recipe;
mod source;
mod symbols;

pub use fragment::{Fragment, FragmentError, Setting, Value};
pub use key::{KernelFiles, Key};
pub use options::{Conflict, Deviation, Options};
pub use recipe::{BuildError, Recipe};
pub use source::{Source, SourceError};

/// The kind under which finished kernels are kept.
pub const KERNELS: &str = "kernel";

/// The fragments in this folder, as (name, text), in the order in which they are read.
///
/// One kernel serves as host and as guest: building one for each would double the longest step of
/// a fresh check, and what a guest adds to a host is a handful of drivers.
pub const FRAGMENTS: [(&str, &str); 4] = [
    ("base.config", include_str!("../base.config")),
    ("host.config", include_str!("../host.config")),
    ("guest.config", include_str!("../guest.config")),
    ("test.config", include_str!("../test.config")),
];
