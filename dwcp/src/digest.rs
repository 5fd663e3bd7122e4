//! One digest a page, computed once a side and used four times. See `SPEC.md`, 5.
//!
//! `D(page)` is keyed BLAKE3 over the page's content at its guest-physical address; the key is a
//! secret of the virtual machine. An all-zero page counts as 0 and is not hashed. The source computes
//! it over the copy that it sends, the destination over what it has decoded:
//!
//! 1. the sum over a run is the run's arrival check ([`DigestKey::digest_run`]);
//! 2. the sum over all pages, kept by subtracting the old digest and adding the new one, is half of
//!    the [`Root`] that both sides must agree on before the guest runs at the destination;
//! 3. the kept digests are the [`Manifest`] that a later return starts from;
//! 4. with its send number, a digest vouches for the base of a delta.
//!
//! What it proves is that the destination holds what the source last read. That no write after that
//! read was missed, it does not prove.
//!
//! ```
//! use dwcp::digest::{DigestKey, Manifest, PageDigest};
//! use dwcp::page::{Gfn, PAGE_SIZE, PageRun};
//!
//! let key = DigestKey::new([7; 32]);
//! let run = PageRun::new(Gfn(16), 2)?;
//! let mut content = vec![0; 2 * PAGE_SIZE as usize];
//! content[0] = 1;
//!
//! let mut digests = Vec::new(); // kept by the caller from run to run
//! let sum = key.digest_run(run, &content, &mut digests);
//! assert_eq!(digests[1], PageDigest::ZERO);
//!
//! let mut source = Manifest::new(Gfn(512));
//! source.replace_run(run, &digests)?;
//! assert_eq!(source.sum(), sum);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod key;
mod manifest;
mod root;
mod sum;
mod zero;

pub use key::{DigestKey, PageDigest, ShortDigest};
pub use manifest::{Manifest, ManifestError};
pub use root::Root;
pub use sum::DigestSum;
pub use zero::is_zero;
