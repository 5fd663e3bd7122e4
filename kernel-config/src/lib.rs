//! The kernels of our hosts and of the tests' guests, from Debian's source and our fragments.
//!
//! ```text
//! Kernel: base.config and host.config,                  Debian's linux-source package
//!         guest.config, test.config                                │
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
mod kernels;
mod key;
mod options;
mod recipe;
mod source;
mod symbols;

pub use fragment::{Fragment, FragmentError, Setting, Value};
pub use kernels::{Kernel, OptionsError};
pub use key::{KernelFiles, Key};
pub use options::{Conflict, Deviation, Options};
pub use recipe::{BuildError, Recipe, make_all};
pub use source::{Source, SourceError};

/// The kind under which finished kernels are kept.
pub const KERNELS: &str = "kernel";
