//! [`PermitKeeper`]: a record in the hands of one who has proven that no process of the machine lives.

use std::fs::File;
use std::path::Path;

use dwcp::acp::{
    Actor, Answer, Event, Generation, PermitRecord, PermitState, Record, SessionId, VmId,
};

use super::{FileStorage, PermitFileError, ensure, lock_life, open};

/// The record of a machine none of whose processes is alive: for as long as this is there, none can be.
#[derive(Debug)]
pub struct PermitKeeper {
    _life: File,
    record: PermitRecord<FileStorage>,
}

impl PermitKeeper {
    /// Takes the life lock of the record at `path`.
    ///
    /// # Errors
    /// `Alive` when a process of the machine lives; when there is no such file, or it cannot be read.
    pub fn open(path: &Path, vm: VmId) -> Result<Self, PermitFileError> {
        let life = open(path)?;
        lock_life(&life)?;
        let record = PermitRecord::open(FileStorage { file: life.try_clone()? }, vm)?;
        Ok(Self { _life: life, record })
    }

    /// What the record says.
    ///
    /// # Errors
    /// When there is none, or it cannot be read.
    pub fn record(&mut self) -> Result<Record, PermitFileError> {
        Ok(self.record.load()?.ok_or(PermitFileError::Missing)?.record)
    }

    /// What is answered about an attempt of which this host was the destination. Where it could still have come to run
    /// here, `Refused` is written first (P15, P17).
    ///
    /// # Errors
    /// When the record cannot be read or written: then nothing may be answered.
    pub fn answer(&mut self, session: SessionId) -> Result<Answer, PermitFileError> {
        let answer = self.record()?.answer(session, false);
        if answer != Answer::RefuseFirst {
            return Ok(answer);
        }
        self.refuse(session)?;
        Ok(Answer::NeverRan)
    }

    /// `Prepared` → `Refused`.
    ///
    /// # Errors
    /// When the record says otherwise, or cannot be written.
    pub fn refuse(&mut self, session: SessionId) -> Result<(), PermitFileError> {
        self.ensure(&Event::Refuse { session }, |state| {
            matches!(state, PermitState::Refused { .. })
        })
    }

    /// `Offered` to a host → `Gone`: it has the permit.
    ///
    /// # Errors
    /// When the record says otherwise, or cannot be written.
    pub fn peer_took(&mut self, session: SessionId) -> Result<(), PermitFileError> {
        self.ensure(&Event::PeerTook { session }, |state| matches!(state, PermitState::Gone { .. }))
    }

    /// `Offered` to a host → `Held`: it never ran there, and never will.
    ///
    /// # Errors
    /// When the record says otherwise, or cannot be written.
    pub fn peer_refused(&mut self, session: SessionId) -> Result<(), PermitFileError> {
        self.ensure(&Event::PeerRefused { session }, |state| {
            matches!(state, PermitState::Held { .. })
        })
    }

    /// → `Held`, with a generation after a resolution: a person says that no other copy is alive.
    ///
    /// # Errors
    /// When the record says otherwise, or cannot be written.
    pub fn resolve(&mut self, above: Generation) -> Result<(), PermitFileError> {
        let event = Event::Resolve { runner: None, above };
        self.ensure(&event, |state| matches!(state, PermitState::Held { .. }))
    }

    fn ensure(
        &mut self,
        event: &Event,
        is_made: impl Fn(&PermitState) -> bool,
    ) -> Result<(), PermitFileError> {
        ensure(&mut self.record, Actor::Keeper, event, is_made)
    }
}
