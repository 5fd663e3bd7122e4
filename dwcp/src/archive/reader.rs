//! [`Archive`]: the bytes of a file, read in any order.

use super::block::{self, AROUND_BYTES, END_BYTES, HEAD_BYTES, Kind};
use super::header::HEADER_BYTES;
use super::seal::{Seal, TAG_BYTES};
use super::{ArchiveError, ArchiveHeader, ArchiveKey};
use crate::digest::Root;

/// The bytes of a file.
pub trait ArchiveBytes {
    /// What can fail.
    type Error;

    /// How many there are.
    ///
    /// # Errors
    /// When that cannot be told.
    fn length(&self) -> Result<u64, Self::Error>;

    /// Fills `into` with those from `offset` on. They exist, unless the file has become shorter.
    ///
    /// # Errors
    /// When they cannot all be read.
    fn read_exact_at(&self, into: &mut [u8], offset: u64) -> Result<(), Self::Error>;
}

impl ArchiveBytes for &[u8] {
    type Error = std::io::Error;

    fn length(&self) -> Result<u64, Self::Error> {
        Ok(self.len() as u64)
    }

    fn read_exact_at(&self, into: &mut [u8], offset: u64) -> Result<(), Self::Error> {
        let from = usize::try_from(offset).ok().and_then(|offset| self.get(offset..));
        let from = from.and_then(|rest| rest.get(..into.len()));
        into.copy_from_slice(from.ok_or(std::io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// What the last block says.
#[derive(Clone, Copy, Debug)]
pub(super) struct End {
    pub(super) state_at: u64,
    pub(super) index_at: u64,
    /// Pages blocks.
    pub(super) pages: u64,
    /// Index blocks.
    pub(super) count: u64,
    pub(super) root: Root,
}

impl End {
    pub(super) fn to_bytes(self) -> [u8; END_BYTES] {
        let mut bytes = [0; END_BYTES];
        let numbers = [self.state_at, self.index_at, self.pages, self.count];
        for (place, number) in bytes.as_chunks_mut().0.iter_mut().zip(numbers) {
            *place = number.to_le_bytes();
        }
        bytes[32..].copy_from_slice(&self.root.to_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8; END_BYTES]) -> Self {
        let (numbers, root) = bytes.split_at(32);
        let number = |index: usize| u64::from_le_bytes(numbers.as_chunks().0[index]);
        Self {
            state_at: number(0),
            index_at: number(1),
            pages: number(2),
            count: number(3),
            root: Root::from_bytes(root.try_into().expect("64 of 96 bytes")),
        }
    }
}

/// An archive whose header and end have been read: it is whole in its length, and the key is right.
#[derive(Debug)]
pub struct Archive<B> {
    bytes: B,
    header: ArchiveHeader,
    seal: Seal,
    end: End,
    length: u64,
}

impl<B: ArchiveBytes> Archive<B> {
    /// Reads the header and the end.
    ///
    /// # Errors
    /// When it is no archive, cut off, damaged there, or the key is not the one.
    pub fn open(bytes: B, key: Option<&ArchiveKey>) -> Result<Self, ArchiveError<B::Error>> {
        let length = bytes.length().map_err(ArchiveError::Bytes)?;
        let mut header = [0; HEADER_BYTES];
        if length < HEADER_BYTES as u64 {
            return Err(ArchiveError::NotAnArchive);
        }
        bytes.read_exact_at(&mut header, 0).map_err(ArchiveError::Bytes)?;
        let (header, seal) = ArchiveHeader::parse(&header, key)?;
        let mut archive =
            Self { bytes, header, seal, end: End::from_bytes(&[0; END_BYTES]), length };
        archive.end = archive.read_end()?;
        Ok(archive)
    }

    /// The header.
    #[must_use]
    pub fn header(&self) -> ArchiveHeader {
        self.header
    }

    /// Bytes of the file.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The root of memory and state that the writer has computed.
    #[must_use]
    pub fn root(&self) -> Root {
        self.end.root
    }

    /// What the machine is.
    ///
    /// # Errors
    /// When it cannot be read, or is damaged.
    pub fn description(&self) -> Result<Vec<u8>, ArchiveError<B::Error>> {
        self.block(Kind::Description, 0, HEADER_BYTES as u64).map(|(payload, _)| payload)
    }

    /// The machine's state.
    ///
    /// # Errors
    /// When it cannot be read, or is damaged.
    pub fn state(&self) -> Result<Vec<u8>, ArchiveError<B::Error>> {
        self.block(Kind::State, self.end.pages + 1, self.end.state_at).map(|(payload, _)| payload)
    }

    /// The bytes of the index, and how many Pages blocks they are about. Not more is read than the file is long.
    pub(super) fn index(&self) -> Result<(Vec<u8>, u64), ArchiveError<B::Error>> {
        let (mut index, mut at) = (Vec::new(), self.end.index_at);
        for part in 0..self.end.count {
            let (payload, end) = self.block(Kind::Index, self.end.pages + 2 + part, at)?;
            index.extend_from_slice(&payload);
            at = end;
        }
        if at != self.end_at() {
            return Err(ArchiveError::Damaged { what: "index" });
        }
        Ok((index, self.end.pages))
    }

    /// Where each Pages block begins, if these lengths lead from the description to the state.
    pub(super) fn pages_at(&self, lengths: &[u32]) -> Result<Vec<u64>, ArchiveError<B::Error>> {
        let damaged = || ArchiveError::Damaged { what: "index" };
        let (_, mut at) = self.head(Kind::Description, 0, HEADER_BYTES as u64)?;
        let mut offsets = Vec::with_capacity(lengths.len());
        for length in lengths {
            offsets.push(at);
            at = at.checked_add(AROUND_BYTES + u64::from(*length)).ok_or_else(damaged)?;
        }
        if at == self.end.state_at { Ok(offsets) } else { Err(damaged()) }
    }

    /// Reads a Pages block, the first being 0, whose place and length the index gives, into `payload`.
    pub(super) fn pages(
        &self,
        index: u64,
        offset: u64,
        length: u32,
        payload: &mut Vec<u8>,
    ) -> Result<(), ArchiveError<B::Error>> {
        let number = index + 1;
        match self.read_block(Kind::Pages, number, offset, length as usize, payload) {
            Err(ArchiveError::Damaged { .. }) => Err(ArchiveError::Pages { number }),
            outcome => outcome,
        }
    }

    /// A block whose length it says itself, and where the next one begins.
    fn block(
        &self,
        kind: Kind,
        number: u64,
        offset: u64,
    ) -> Result<(Vec<u8>, u64), ArchiveError<B::Error>> {
        let (length, end) = self.head(kind, number, offset)?;
        let mut payload = Vec::new();
        self.read_block(kind, number, offset, length, &mut payload)?;
        Ok((payload, end))
    }

    /// The length of a block's payload, and where the next block begins: in front of the end.
    fn head(
        &self,
        kind: Kind,
        number: u64,
        offset: u64,
    ) -> Result<(usize, u64), ArchiveError<B::Error>> {
        let damaged = ArchiveError::Damaged { what: kind.name() };
        let first = offset.checked_add(AROUND_BYTES).filter(|first| *first <= self.end_at());
        if first.is_none() {
            return Err(damaged);
        }
        let mut head = [0; HEAD_BYTES];
        self.bytes.read_exact_at(&mut head, offset).map_err(ArchiveError::Bytes)?;
        let length = block::length(&head, kind, number);
        let end = length.zip(first).map(|(length, first)| (length, first + length as u64));
        end.filter(|(_, end)| *end <= self.end_at()).ok_or(damaged)
    }

    fn read_block(
        &self,
        kind: Kind,
        number: u64,
        offset: u64,
        length: usize,
        payload: &mut Vec<u8>,
    ) -> Result<(), ArchiveError<B::Error>> {
        let damaged = || ArchiveError::Damaged { what: kind.name() };
        let expected = block::head(kind, length, number).ok_or_else(damaged)?;
        payload.clear();
        payload.resize(HEAD_BYTES + length + TAG_BYTES, 0);
        self.bytes.read_exact_at(payload, offset).map_err(ArchiveError::Bytes)?;
        if payload[..HEAD_BYTES] != expected {
            return Err(damaged());
        }
        let tag = payload.split_off(HEAD_BYTES + length);
        payload.drain(..HEAD_BYTES);
        let tag = tag.try_into().map_err(|_| damaged())?;
        if self.seal.open(number, &expected, payload, tag) { Ok(()) } else { Err(damaged()) }
    }

    /// Where the End block begins.
    fn end_at(&self) -> u64 {
        self.length.saturating_sub(AROUND_BYTES + END_BYTES as u64)
    }

    fn read_end(&self) -> Result<End, ArchiveError<B::Error>> {
        let offset = self.end_at();
        let mut head = [0; HEAD_BYTES];
        if offset < HEADER_BYTES as u64 {
            return Err(ArchiveError::Truncated);
        }
        self.bytes.read_exact_at(&mut head, offset).map_err(ArchiveError::Bytes)?;
        // Its number follows from what it says; until that is known, it is what stands there.
        let [.., a, b, c, d, e, f, g, h] = head;
        let number = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
        if block::length(&head, Kind::End, number) != Some(END_BYTES) {
            return Err(ArchiveError::Truncated);
        }
        let mut payload = Vec::new();
        self.read_block(Kind::End, number, offset, END_BYTES, &mut payload)?;
        let end = End::from_bytes(payload.as_slice().try_into().expect("a payload of this length"));
        let blocks = end.pages.checked_add(end.count).and_then(|blocks| blocks.checked_add(2));
        if blocks == Some(number) { Ok(end) } else { Err(ArchiveError::Damaged { what: "end" }) }
    }
}
