//! Where a record is kept: two slots behind a lock.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::slot::{SLOT_BYTES, Slot, SlotFault};
use super::{Record, VmId};

/// Two slots of 4096 bytes that processes of one host share.
///
/// An implementation over a file takes an exclusive lock in [`RecordStorage::lock`], so that
/// everything from the read to the write is one step for everybody else. It is not the lock that a
/// machine's processes hold for their lives ([`super::Actor::Keeper`]): a running machine and its
/// successor both live while one of them writes.
pub trait RecordStorage {
    /// What can fail.
    type Error: std::error::Error + 'static;
    /// The slots, for as long as the lock is held.
    type Locked<'a>: LockedSlots<Error = Self::Error>
    where
        Self: 'a;

    /// Waits for the lock, and takes it until the value is dropped.
    ///
    /// # Errors
    /// When the lock cannot be had. Nothing was read or written.
    fn lock(&mut self) -> Result<Self::Locked<'_>, Self::Error>;
}

/// The two slots, while nobody else can read or write them.
pub trait LockedSlots {
    /// What can fail.
    type Error;

    /// Reads both slots. A slot that was never written is all zeros.
    ///
    /// # Errors
    /// When they cannot be read.
    fn read(&mut self, slots: &mut [Slot; 2]) -> Result<(), Self::Error>;

    /// Writes one slot, 0 or 1, and returns when the bytes would survive a loss of power.
    ///
    /// # Errors
    /// When that is not certain. The slot may hold the old bytes, the new ones, or some of each.
    fn write(&mut self, slot: usize, bytes: &Slot) -> Result<(), Self::Error>;
}

/// What is in the slot beside the one that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OtherSlot {
    /// The record before this one, as it should be.
    Previous,
    /// A record from further back: a write that was reported as durable was not.
    Stale {
        /// Its sequence number.
        sequence: u64,
    },
    /// No record: nothing was written there yet, or a write did not finish, or the slot is damaged.
    Nothing(SlotFault),
}

/// What the two slots say together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// The newest whole record.
    pub record: Record,
    /// The other slot, for the log.
    pub other: OtherSlot,
}

/// The two slots do not say what the permit is. Nobody may run the machine on their account; a
/// person can remove the record and state who may ([`super::Event::Resolve`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// Something was written, and no whole record is left
    #[error("no slot of the permit record is whole; the first: {first}; the second: {second}")]
    NothingWhole {
        /// Why the first slot cannot be used.
        first: SlotFault,
        /// Why the second cannot.
        second: SlotFault,
    },
    /// A slot is whole and cannot be understood: it may hold the newer truth
    #[error("slot {slot} of the permit record may be the newer one, but {fault}")]
    NotUnderstood {
        /// The slot, 0 or 1.
        slot: usize,
        /// Why it is not understood.
        fault: SlotFault,
    },
    /// A slot holds a record that belongs elsewhere
    #[error(
        "slot {slot} holds the permit record {sequence} of machine {vm}, which belongs elsewhere"
    )]
    Misplaced {
        /// The slot, 0 or 1.
        slot: usize,
        /// The sequence number found; record n belongs into slot n mod 2.
        sequence: u64,
        /// The machine found.
        vm: VmId,
    },
}

/// The slot that the record of this sequence number belongs into.
pub(super) fn slot_of(sequence: u64) -> usize {
    usize::from(sequence % 2 == 1)
}

/// The newest whole record of the two slots; `None` if neither was ever written.
pub(super) fn load(slots: &[Slot; 2], vm: VmId) -> Result<Option<Loaded>, LoadError> {
    let [first, second] = [decode(slots, 0, vm)?, decode(slots, 1, vm)?];
    let (record, other) = match (first, second) {
        (Err(SlotFault::Empty), Err(SlotFault::Empty)) => return Ok(None),
        (Err(first), Err(second)) => return Err(LoadError::NothingWhole { first, second }),
        (Ok(record), Err(fault)) | (Err(fault), Ok(record)) => (record, OtherSlot::Nothing(fault)),
        (Ok(one), Ok(two)) => {
            let (old, new) = if one.sequence < two.sequence { (one, two) } else { (two, one) };
            let other = match new.sequence - old.sequence {
                1 => OtherSlot::Previous,
                _ => OtherSlot::Stale { sequence: old.sequence },
            };
            (new, other)
        }
    };
    Ok(Some(Loaded { record, other }))
}

/// The record of one slot. Faults that may be passed over come back inside.
fn decode(
    slots: &[Slot; 2],
    slot: usize,
    vm: VmId,
) -> Result<Result<Record, SlotFault>, LoadError> {
    match Record::decode(&slots[slot]) {
        Ok(record) if record.vm != vm || slot_of(record.sequence) != slot => {
            Err(LoadError::Misplaced { slot, sequence: record.sequence, vm: record.vm })
        }
        Err(fault) if !fault.holds_nothing() => Err(LoadError::NotUnderstood { slot, fault }),
        record => Ok(record),
    }
}

/// Slots in memory that fail on purpose, for tests of this and other crates. Clones share them, as
/// processes share a file.
#[derive(Clone, Debug, Default)]
pub struct MemoryStorage(Arc<Mutex<Memory>>);

#[derive(Clone)]
struct Memory {
    slots: [Slot; 2],
    tear_after: Option<usize>,
    writes: u64,
}

impl Default for Memory {
    fn default() -> Self {
        Self { slots: [[0; SLOT_BYTES]; 2], tear_after: None, writes: 0 }
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Memory({} writes)", self.writes)
    }
}

/// An injected failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the write was torn after {0} bytes, as the test asked for")]
pub struct TornWrite(pub usize);

impl MemoryStorage {
    /// Two slots that were never written.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets the next write store only its first `bytes` bytes, then fail. With [`SLOT_BYTES`] all is
    /// stored and the failure is a false alarm; with 0 nothing is.
    pub fn tear_next_write(&self, bytes: usize) {
        self.memory().tear_after = Some(bytes.min(SLOT_BYTES));
    }

    /// Takes back a failure that has not happened yet.
    pub fn heal(&self) {
        self.memory().tear_after = None;
    }

    /// The bytes of both slots.
    #[must_use]
    pub fn slots(&self) -> [Slot; 2] {
        self.memory().slots
    }

    /// Puts bytes into both slots, as rot, a backup or a foreign program would.
    pub fn set_slots(&self, slots: [Slot; 2]) {
        self.memory().slots = slots;
    }

    /// How many writes there were, torn ones included.
    #[must_use]
    pub fn writes(&self) -> u64 {
        self.memory().writes
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        // A test that panicked while it held the lock has failed; the slots are plain bytes.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RecordStorage for MemoryStorage {
    type Error = TornWrite;
    type Locked<'a> = LockedMemory<'a>;

    fn lock(&mut self) -> Result<Self::Locked<'_>, TornWrite> {
        Ok(LockedMemory(self.memory()))
    }
}

/// The slots of a [`MemoryStorage`], locked.
#[derive(Debug)]
pub struct LockedMemory<'a>(MutexGuard<'a, Memory>);

impl LockedSlots for LockedMemory<'_> {
    type Error = TornWrite;

    fn read(&mut self, slots: &mut [Slot; 2]) -> Result<(), TornWrite> {
        *slots = self.0.slots;
        Ok(())
    }

    fn write(&mut self, slot: usize, bytes: &Slot) -> Result<(), TornWrite> {
        self.0.writes += 1;
        let torn = self.0.tear_after.take();
        let stored = torn.unwrap_or(SLOT_BYTES);
        self.0.slots[slot][..stored].copy_from_slice(&bytes[..stored]);
        torn.map_or(Ok(()), |bytes| Err(TornWrite(bytes)))
    }
}
