//! The file of a segment, as its one writer has it.

use std::fs::File;
use std::io::{self, Write};

/// Open for appending.
#[derive(Debug)]
pub(super) struct SegmentFile {
    file: File,
    /// A disk that is full after so many bytes more.
    #[cfg(test)]
    pub(super) room: Option<usize>,
    /// A disk that does not write what it was given.
    #[cfg(test)]
    pub(super) is_deaf: bool,
    /// A disk that makes no file shorter.
    #[cfg(test)]
    pub(super) is_stuck: bool,
}

impl SegmentFile {
    pub(super) fn new(file: File) -> Self {
        Self {
            file,
            #[cfg(test)]
            room: None,
            #[cfg(test)]
            is_deaf: false,
            #[cfg(test)]
            is_stuck: false,
        }
    }

    /// Appends bytes. After an error any part of them may be in the file.
    pub(super) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        #[cfg(test)]
        if let Some(room) = self.room.as_mut() {
            let fits = bytes.len().min(*room);
            *room -= fits;
            self.file.write_all(&bytes[..fits])?;
            if fits < bytes.len() {
                return Err(rustix::io::Errno::NOSPC.into());
            }
        } else {
            self.file.write_all(bytes)?;
        }
        #[cfg(not(test))]
        self.file.write_all(bytes)?;
        Ok(())
    }

    /// Returns when what was appended is on storage. After an error nobody knows what is: the kernel does not try again.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        #[cfg(test)]
        if self.is_deaf {
            return Err(rustix::io::Errno::IO.into());
        }
        self.file.sync_data()
    }

    /// Cuts off what lies beyond a length, and returns when that is on storage.
    pub(super) fn cut(&mut self, length: u64) -> io::Result<()> {
        #[cfg(test)]
        if self.is_stuck {
            return Err(rustix::io::Errno::IO.into());
        }
        self.file.set_len(length)?;
        self.file.sync_data()
    }
}
