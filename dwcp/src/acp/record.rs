//! [`PermitRecord`]: the record of one machine on this host, changed by compare-and-swap only. See
//! `SPEC.md`, 6 and 7.1.

use super::slot::{SLOT_BYTES, Slot};
use super::storage::{self, LoadError, Loaded, LockedSlots, RecordStorage};
use super::{Actor, Event, Record, Refusal, VmId};

/// A record was not read, or not changed, or it is not certain whether it was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError<E> {
    /// The event is not allowed. The record is as it was
    #[error("the permit is not changed: {0}")]
    Refused(#[from] Refusal),
    /// The two slots do not say what the permit is
    #[error(transparent)]
    Unreadable(#[from] LoadError),
    /// The storage could not be locked or read. The record is as it was
    #[error("the permit record cannot be read: {0}")]
    Read(E),
    /// A write failed, so that the change may have happened or not. Do neither what it allows nor
    /// what the old state allowed, until a later call has succeeded
    #[error("it is not certain what the permit record says now: {0}")]
    Uncertain(E),
}

/// The permit record of one machine on this host.
///
/// There is no way to write a state: [`PermitRecord::apply`] takes the lock, reads what the record
/// says *now*, asks the table whether the event may follow, and writes. What the caller believed
/// before does not matter, so two processes that race for the permit cannot both win.
///
/// ```
/// use dwcp::acp::{Actor, Event, MemoryStorage, Nonce, PermitRecord, SessionId, Successor, VmId};
///
/// let vm = VmId::new([1; 16]).expect("not zeros");
/// let session = SessionId::new([2; 16]).expect("not zeros");
/// let (a, b) = (Nonce::new([0xa; 16]).unwrap(), Nonce::new([0xb; 16]).unwrap());
///
/// let shared = MemoryStorage::new(); // one file, in a host
/// let mut record_of_a = PermitRecord::open(shared.clone(), vm)?;
/// record_of_a.apply(Actor::Keeper, &Event::Create)?;
/// record_of_a.apply(Actor::Keeper, &Event::Start { runner: a })?;
/// record_of_a.apply(Actor::Process(a), &Event::Offer { session, to: Successor::Process(b) })?;
///
/// let mut record_of_b = PermitRecord::open(shared, vm)?;
/// record_of_b.apply(Actor::Process(b), &Event::Take { session })?;
/// // Whoever comes second is refused, and knows that it must not run.
/// assert!(record_of_a.apply(Actor::Process(a), &Event::Withdraw { session }).is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct PermitRecord<S> {
    storage: S,
    vm: VmId,
    /// Whether what the slots say is known to be durable.
    is_certain: bool,
}

impl<S: RecordStorage> PermitRecord<S> {
    /// Opens the record of a machine, which need not exist yet.
    ///
    /// A record that is there is written again, into the other slot. Whoever wrote it last may have
    /// died or failed in the middle: a page cache can show a state that storage never got. What
    /// `open` leaves behind is durable, and stands in both slots.
    ///
    /// # Errors
    /// When the record cannot be read or written, or does not say what the permit is.
    pub fn open(storage: S, vm: VmId) -> Result<Self, RecordError<S::Error>> {
        let mut record = Self { storage, vm, is_certain: false };
        record.confirm()?;
        Ok(record)
    }

    /// The record, to be looked at by one who may be neither its keeper nor its process: nothing is written. What is read
    /// may not be durable yet; that is the storage's affair.
    pub fn watch(storage: S, vm: VmId) -> Self {
        Self { storage, vm, is_certain: false }
    }

    /// Reads the record as it is now; `None` if there is none.
    ///
    /// # Errors
    /// When it cannot be read, or does not say what the permit is.
    pub fn load(&mut self) -> Result<Option<Loaded>, RecordError<S::Error>> {
        let mut slots = self.storage.lock().map_err(RecordError::Read)?;
        read(&mut slots, self.vm)
    }

    /// Changes the permit, if the record as it is now allows it, and returns the new record once it
    /// is durable. Nothing that the new state allows may be done before.
    ///
    /// # Errors
    /// When the table refuses, or the record cannot be read, or it is not certain that it was
    /// written.
    pub fn apply(&mut self, actor: Actor, event: &Event) -> Result<Record, RecordError<S::Error>> {
        if !self.is_certain {
            self.confirm()?;
        }
        let mut slots = self.storage.lock().map_err(RecordError::Read)?;
        let current = read(&mut slots, self.vm)?.map(|loaded| loaded.record);
        let next = Record::next(current.as_ref(), self.vm, actor, event)?;
        self.is_certain = false;
        write(&mut slots, &next)?;
        self.is_certain = true;
        Ok(next)
    }

    /// Writes the record again, unchanged, into the other slot: after that no damage to a single
    /// slot can bring an older state back. Worth a call after each change of consequence, once the
    /// guest runs again.
    ///
    /// # Errors
    /// When the record cannot be read, or it is not certain that it was written.
    pub fn confirm(&mut self) -> Result<(), RecordError<S::Error>> {
        let mut slots = self.storage.lock().map_err(RecordError::Read)?;
        if let Some(Loaded { mut record, .. }) = read(&mut slots, self.vm)? {
            record.sequence = record.next_sequence()?;
            self.is_certain = false;
            write(&mut slots, &record)?;
        }
        self.is_certain = true;
        Ok(())
    }
}

fn read<L: LockedSlots>(slots: &mut L, vm: VmId) -> Result<Option<Loaded>, RecordError<L::Error>> {
    let mut bytes: [Slot; 2] = [[0; SLOT_BYTES]; 2];
    slots.read(&mut bytes).map_err(RecordError::Read)?;
    Ok(storage::load(&bytes, vm)?)
}

fn write<L: LockedSlots>(slots: &mut L, record: &Record) -> Result<(), RecordError<L::Error>> {
    let slot = storage::slot_of(record.sequence);
    slots.write(slot, &record.encode()).map_err(RecordError::Uncertain)
}

#[cfg(test)]
mod tests;
