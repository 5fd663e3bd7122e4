//! Moving a running guest to another host: two scripts that mirror each other, over `dwcp::transport`.
//!
//! ```text
//!  source (source.rs)                               destination (destination.rs)
//!                                                   build the machine; record Prepared (by the keeper)
//!  dirty log on, everything is owed
//!  rounds: harvest, owe ════ pages ═══════════════► write, check digests
//!  offer: record Held → Offered
//!  look, on a slow link: pause, save, resume ═════► a state that is sent ahead
//!  settle: what is on its way arrives first
//!  pause, drain, save, last harvest
//!  switch ══════════════════ last pages, state ═══► check the root
//!         ══════════════════ permit frame, last ══► restore
//!                                                   take: record Prepared → Taken
//!         ◄═════════════════ ran here ═════════════ resume
//!  record Offered → Gone, end                       settle: record Taken → Held
//! ```
//!
//! Until the permit frame is written, any failure leaves the guest here: it goes on at once. From then on the source is in
//! doubt, its guest frozen, until the destination has said what became of it. What the sessions of both sides decide,
//! and over how many connections, is `dwcp::session`'s affair; here are the machine, its record, and when to stop.

mod audit;
mod brake;
mod destination;
mod kept;
mod limits;
mod pace;
mod plan;
mod shortfall;
mod sockets;
mod source;
mod survey;

pub use audit::{Audit, AuditReport};
pub use brake::ThrottleReport;
pub(crate) use destination::Arrival;
pub(crate) use kept::keep;
pub use kept::{KeepOrder, KeptReport};
pub use limits::MoveLimits;
pub use plan::PlanEntry;
pub use shortfall::Shortfall;
pub(crate) use source::{Emigration, Outcome};
pub(crate) use survey::survey;
pub use survey::{SurveyOrder, SurveyReport};

use std::time::Duration;

use dwcp::transport::KeyError;
use serde::{Deserialize, Serialize};

use crate::cpu::SavedCpuid;
use crate::dirty::{DirtyLogError, DirtyLogKind};
use crate::handover::Blackout;
use crate::ipc::ChannelError;
use crate::kvm::Host;
use crate::permit::PermitFileError;
use crate::snapshot::SnapshotError;
use crate::state::MachineState;
use crate::vm::{MachineConfig, VmError};

pub use sockets::{Accepted, Dial, Dialled};
pub(crate) use sockets::{Dialler, bring_in};

/// What another host must know of a machine before it can prepare for it.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct Description {
    /// What it is made of.
    pub config: MachineConfig,
    /// What its guest has seen since its start.
    pub(crate) cpuid: SavedCpuid,
    /// The sections that its state will have, with their versions.
    pub(crate) sections: Vec<(String, u16)>,
    /// The secret under which its pages are digested.
    pub digest_key: [u8; 32],
    /// How new its host's knowledge of the permit is: resolutions, moves.
    pub generation: (u32, u32),
}

/// Never the secret.
impl std::fmt::Debug for Description {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Description")
            .field("config", &self.config)
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}

impl Description {
    /// The same for a host that is only asked whether it could run the machine.
    #[must_use]
    pub fn without_secret(self) -> Self {
        Self { digest_key: [0; 32], ..self }
    }

    /// Whether this host could run the machine, as far as its processor, its KVM and this executable decide that.
    ///
    /// # Errors
    /// What is missing, by name.
    pub fn check_here(&self) -> Result<(), MigrateError> {
        MachineState::check_sections(&self.sections).map_err(VmError::from)?;
        let host = Host::open().map_err(VmError::from)?;
        let cpus = self.config.cpus.get();
        self.cpuid.clone().accept(&host, self.config.cpu, cpus).map_err(VmError::from)?;
        Ok(())
    }
}

/// The keys of a session: our private one, as PKCS #8, and the peer's public one.
#[derive(Clone, Serialize, Deserialize)]
pub struct SessionKeys {
    /// Ours.
    pub own: Vec<u8>,
    /// The peer's.
    pub peer: [u8; 32],
}

/// Never the private half.
impl std::fmt::Debug for SessionKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SessionKeys").field("peer", &self.peer).finish_non_exhaustive()
    }
}

/// Become the destination of a move. Descriptors: record, console, the socket on which streams come, and what was kept of
/// the machine, if there is something.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PrepareOrder {
    /// The machine.
    pub description: Description,
    /// Its id.
    pub vm: [u8; 16],
    /// The nonce under which the record has this process prepared.
    pub runner: [u8; 16],
    /// The attempt.
    pub session: [u8; 16],
    /// By which the streams' ends know each other.
    pub keys: SessionKeys,
    /// How long the source may be silent.
    pub patience: Duration,
    /// Whether a fourth descriptor is the image that was kept of the machine.
    pub has_kept: bool,
    /// The dirty log that KVM is to keep in this process.
    pub dirty_log: DirtyLogKind,
}

/// Move the guest to another host. Descriptor: the socket on which streams are asked for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MigrateOrder {
    /// The attempt.
    pub session: [u8; 16],
    /// The name of the other host.
    pub to: String,
    /// By which the streams' ends know each other.
    pub keys: SessionKeys,
    /// What the user decides.
    pub limits: MoveLimits,
    /// The other host has kept an image of the machine.
    pub recalls: bool,
    /// Once the guest runs there: its memory stays here until it is kept ([`KeepOrder`]), or its keeper goes.
    pub stays: bool,
}

/// What a move did, as its source saw it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MoveReport {
    /// How long the guest stood still, by cause: until the source heard that it runs, which is later than it did.
    pub blackout: Blackout,
    /// How long it was forecast to stand still, when it was decided to stop it.
    pub forecast: Option<Duration>,
    /// Rounds while the guest ran.
    pub rounds: u32,
    /// Pages sent, counting each time.
    pub pages_sent: u64,
    /// Bytes of payload that carried pages.
    pub payload_bytes: u64,
    /// Of those, bytes while the guest stood still.
    pub payload_bytes_paused: u64,
    /// Bytes of its state, as differences: what was sent ahead, and the last.
    pub state_bytes: u64,
    /// Of those, bytes while the guest stood still.
    pub state_bytes_paused: u64,
    /// For how long it had stood still before, so that its state could be sent ahead.
    pub looked: Duration,
    /// Pages sent again since a stream that carried them had died, or the destination lacked what they built on.
    pub pages_again: u64,
    /// Pages that were not sent, since the destination had kept them.
    pub pages_kept: u64,
    /// Bytes by which the destination told what it had kept.
    pub kept_bytes: u64,
    /// Connections.
    pub connections: u64,
    /// From the order until the source heard that the guest runs.
    pub total: Duration,
    /// The smallest round trip that was seen.
    pub round_trip: Option<Duration>,
    /// What memory and state digest to.
    #[serde(with = "serde_bytes_64")]
    pub root: [u8; 64],
    /// What a look at the frozen memory has found.
    pub audit: AuditReport,
    /// How far the guest was slowed down.
    pub throttle: ThrottleReport,
    /// By what it was carried, from when on.
    pub plan: Vec<PlanEntry>,
}

/// What an arrival did, as its destination saw it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArrivalReport {
    /// What memory and state digest to: the same as at the source.
    #[serde(with = "serde_bytes_64")]
    pub root: [u8; 64],
    /// Pages that were written, counting each time.
    pub pages: u64,
    /// Setting vCPUs and devices.
    pub restore: Duration,
    /// Writing the permit record.
    pub record: Duration,
    /// Until every vCPU had been started.
    pub resume: Duration,
}

/// serde has arrays of up to 32 elements.
mod serde_bytes_64 {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8; 64], to: S) -> Result<S::Ok, S::Error> {
        // As an array: a slice would have its length before it.
        <[[u8; 32]; 2]>::try_from(bytes.as_chunks::<32>().0).expect("64 bytes").serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<[u8; 64], D::Error> {
        let halves = <[[u8; 32]; 2]>::deserialize(from)?;
        let mut bytes = [0; 64];
        bytes.copy_from_slice(halves.as_flattened());
        Ok(bytes)
    }
}

/// Why a machine did not move.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// The machine
    #[error("migration: {0}")]
    Vm(#[from] VmError),
    /// The dirty log
    #[error("migration: {0}")]
    DirtyLog(#[from] DirtyLogError),
    /// The permit record
    #[error("migration: {0}")]
    Permit(#[from] PermitFileError),
    /// A saved state
    #[error("migration: {0}")]
    State(#[from] SnapshotError),
    /// Whoever gives it sockets
    #[error("migration: {0}")]
    Channel(#[from] ChannelError),
    /// Keys
    #[error("migration: a key of the session: {0}")]
    Key(#[from] KeyError),
    /// The system
    #[error("migration: {0}")]
    Io(#[from] std::io::Error),
    /// An id of zeros, a name that is none
    #[error("migration: the order has no usable {0}")]
    Order(&'static str),
    /// The attempt was given up
    #[error("migration: {0}; the guest goes on here")]
    Aborted(String),
    /// The destination said no
    #[error("migration: the destination refused: {0}")]
    Refused(String),
    /// It would stand still for too long, however long it is tried
    #[error("migration: {0}; the guest goes on here")]
    TooFast(Shortfall),
    /// Somebody has cancelled it
    #[error("migration: it was cancelled; the guest goes on here")]
    Cancelled,
    /// A person said that no other copy is alive
    #[error(
        "migration: the doubt was ended by a person, who says that no other copy is alive; the guest goes on here"
    )]
    Resolved,
    /// A test's comparison
    #[error("migration: {0} differs from the source's")]
    Differs(&'static str),
    /// The guest ended meanwhile
    #[error("migration: the guest ended meanwhile")]
    GuestEnded,
}
