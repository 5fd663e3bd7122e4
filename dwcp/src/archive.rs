//! A machine at rest: the pages of a move, in a file. See `ARCHIVE.md`.
//!
//! [`ArchiveWriter`] turns pages, state and description into the bytes of a file, in the order in which they are to be
//! written; [`Archive`] reads them back through a trait, in any order. Neither opens a file.
//!
//! An archive may hold only what differs from its parent. [`Image`] is the memory of a machine, laid over each other from
//! all archives of such a chain: it knows for each page which block has it, and its digest.
//!
//! ```
//! use dwcp::archive::{Archive, ArchiveHeader, ArchiveId, ArchiveWriter, Image};
//! use dwcp::digest::{DigestKey, Root};
//! use dwcp::hde::{Batch, Ladder};
//! use dwcp::ledger::SendNumber;
//! use dwcp::page::{Gfn, PAGE_BYTES, PageRun};
//!
//! let (key, limit) = (DigestKey::new([7; 32]), Gfn(512));
//! let id = ArchiveId::new([1; 16]).ok_or("an id of zeros")?;
//! let mut file = Vec::new();
//! let header = ArchiveHeader { id, parent: None };
//! let mut writer = ArchiveWriter::new(header, None, limit, b"a machine", &mut file)?;
//! let batch = Batch::new(SendNumber(1), vec![PageRun::new(Gfn(16), 1)?])?;
//! writer.put_pages(&key, &batch, &[5; PAGE_BYTES], &Ladder::step(2), &mut file)?;
//! let root = Root::new(&key, writer.sum(), b"registers");
//! writer.finish(b"registers", root, &mut file)?;
//!
//! let archive = Archive::open(&file[..], None)?;
//! assert_eq!(archive.description()?, b"a machine");
//! let mut image = Image::new(limit);
//! image.lay_over(&archive)?;
//! image.check(&key, &archive)?;
//! assert_eq!(image.blocks().len(), 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod block;
mod error;
mod header;
mod image;
mod index;
mod reader;
mod seal;
mod writer;

pub use error::ArchiveError;
pub use header::{ArchiveHeader, ArchiveId, ArchiveKey};
pub use image::{Image, ImageBlock, ImageReader};
pub use reader::{Archive, ArchiveBytes};
pub use writer::ArchiveWriter;

#[cfg(test)]
mod tests;
