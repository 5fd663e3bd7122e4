//! What the fuzz targets of `dwcp` share.
//!
//! | target | bytes from | what it tries |
//! |---|---|---|
//! | `greeting` | anybody | reading whom a connection is for |
//! | `frame-headers` | a peer | reading the heads of frames |
//! | `frame-payloads` | a peer | reading the payload of any kind but `Pages` |
//! | `page-batch` | a peer | decoding the payload of `Pages` |
//! | `destination` | a peer, in any order, with what the caller does between | the destination's state machine |
//! | `source` | the same | the source's state machine |
//!
//! Each target checks more than that nothing panics; its head says what.

use std::convert::Infallible;
use std::path::PathBuf;

use dwcp::acp::SessionId;
use dwcp::digest::DigestKey;
use dwcp::page::{Gfn, PAGE_BYTES, Page, PageRun};
use dwcp::session::{Agreement, GuestPages};
use dwcp::wire::{Header, HeaderBytes, Kind, StreamId};

/// Frames of the guest: 0 to 15, and 32 to 47.
pub const FRAMES: u64 = 48;

/// The committed inputs of a target.
#[must_use]
pub fn corpus(target: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "corpus", target].iter().collect()
}

/// What both sides agreed on.
///
/// # Panics
/// Never: its values are constants that can exist.
#[must_use]
pub fn agreement() -> Agreement {
    let run = |first| PageRun::new(Gfn(first), 16).expect("a small run");
    Agreement {
        session: SessionId::new([1; 16]).expect("not zeros"),
        key: DigestKey::new([3; 32]),
        memory: vec![run(0), run(32)],
    }
}

/// The guest's memory.
#[derive(Clone, PartialEq, Eq)]
pub struct Memory(Vec<Page>);

impl Memory {
    /// Memory of zeros.
    ///
    /// # Panics
    /// Never: the guest is small.
    #[must_use]
    pub fn new() -> Self {
        Self(vec![[0; PAGE_BYTES]; usize::try_from(FRAMES).expect("a small guest")])
    }

    /// A page.
    ///
    /// # Panics
    /// When the guest does not have it.
    #[must_use]
    pub fn page(&self, gfn: Gfn) -> &Page {
        &self.0[usize::try_from(gfn.0).expect("a frame of the guest")]
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

impl GuestPages for Memory {
    type Error = Infallible;

    fn write(&mut self, run: PageRun, content: &[u8]) -> Result<(), Infallible> {
        let is_guest = |gfn: Gfn| matches!(gfn.0, 0..16 | 32..48);
        for (gfn, page) in run.frames().zip(content.as_chunks().0) {
            assert!(is_guest(gfn), "{gfn} is not the guest's");
            self.0[usize::try_from(gfn.0).expect("a frame of the guest")] = *page;
        }
        Ok(())
    }
}

/// The bytes of an input, taken one after the other. What is not there is 0.
pub struct Script<'a>(&'a [u8]);

impl<'a> Script<'a> {
    /// A script from its beginning.
    #[must_use]
    pub fn new(input: &'a [u8]) -> Self {
        Self(input)
    }

    /// Whether nothing is left.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.0.is_empty()
    }

    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        let Some((byte, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *byte
    }

    /// A payload: its length in two bytes, then itself.
    pub fn payload(&mut self) -> &'a [u8] {
        let length = usize::from(u16::from_le_bytes([self.byte(), self.byte()]));
        let (payload, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        payload
    }
}

/// The header of a frame, if there can be one.
#[must_use]
pub fn header(kind: u8, stream: StreamId, sequence: u64, payload: &[u8]) -> Option<HeaderBytes> {
    let session = agreement().session;
    let length = u32::try_from(payload.len()).ok()?;
    let header = Header::new(Kind::from_number(kind)?, length, session, stream, sequence).ok()?;
    Some(header.to_bytes())
}
