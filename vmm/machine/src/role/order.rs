//! What a machine process is told, and what it reports.

use serde::{Deserialize, Serialize};

use crate::dirty::DirtyLogKind;
use crate::handover::{Form, HandOverReport, Limits};
use crate::meter::{Progress, Word};
use crate::migrate::{
    ArrivalReport, Description, KeepOrder, KeptReport, MigrateOrder, MoveReport, PrepareOrder,
    SurveyOrder, SurveyReport,
};
use crate::snapshot::{RestoreReport, SnapshotReport};
use crate::vcpu::GuestEnd;
use crate::vm::MachineConfig;

/// Boot a guest. Descriptors: record, console, kernel, and the initrd if there is one.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BootOrder {
    /// What the machine is made of.
    pub config: MachineConfig,
    /// The guest's command line. `{tsc_khz}` in it is replaced by the guest's TSC rate.
    pub command_line: String,
    /// Whether a fourth descriptor holds an initrd.
    pub has_initrd: bool,
    /// The VM's id.
    pub vm: [u8; 16],
    /// The nonce under which the record names this process as the one that runs the VM.
    pub runner: [u8; 16],
    /// The VM's secret for page digests.
    pub digest_key: [u8; 32],
    /// The dirty log that KVM is to keep in this process.
    pub dirty_log: DirtyLogKind,
}

/// Become the machine of a snapshot. Descriptors: record, console, then the snapshot's files, the oldest first.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RestoreOrder {
    /// The new VM's id.
    pub vm: [u8; 16],
    /// The nonce under which the record names this process as the one that runs the VM.
    pub runner: [u8; 16],
    /// The names of the files, for messages.
    pub names: Vec<String>,
    /// The key of the files, if they are encrypted.
    pub key: Option<[u8; 32]>,
    /// Whether pages are fetched as they are touched.
    pub is_lazy: bool,
    /// How written pages are logged here.
    pub dirty_log: DirtyLogKind,
}

/// Take a snapshot. Descriptors: the file to write, empty; then those of the snapshot on which it builds, the oldest
/// first.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SnapshotOrder {
    /// The snapshot's id, drawn for this file.
    pub id: [u8; 16],
    /// The key under which it is encrypted, and those on which it builds are.
    pub key: Option<[u8; 32]>,
    /// The names of the files on which it builds, for messages; none if it builds on nothing.
    pub parent_names: Vec<String>,
    /// The name by which the last of them is found in the folder of the new one.
    pub parent_name: Option<String>,
}

/// Become the successor in a hand-over. Descriptor: the socket to the predecessor.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReceiveOrder {
    /// The nonce under which the record shall name this process.
    pub successor: [u8; 16],
    /// The dirty log that KVM is to keep in this process, whatever it was in the predecessor.
    pub dirty_log: DirtyLogKind,
}

/// Hand the guest over. Descriptor: the socket to the successor.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HandOverOrder {
    /// How memory travels.
    pub form: Form,
    /// This attempt's id.
    pub session: [u8; 16],
    /// When to pause, when to give up.
    pub limits: Limits,
}

/// What a process says to a keeper that has connected. Descriptor: a pidfd of the process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Greeting {
    /// The version of its executable.
    pub version: String,
    /// The nonce under which the permit record knows it.
    pub runner: [u8; 16],
    /// What its guest is doing.
    pub guest: GuestStatus,
    /// What the guest's machine is made of, if the guest is here.
    pub config: Option<MachineConfig>,
    /// The attempt, if it is leaving or arriving.
    pub session: Option<[u8; 16]>,
}

/// What the guest of a machine process is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum GuestStatus {
    /// It is not here, or not yet.
    Absent,
    /// It runs.
    Running,
    /// Its vCPUs stand still.
    Paused,
    /// It is being handed over, saved, or looked at.
    Busy,
    /// It is moving to another host.
    Leaving,
    /// It is to come from another host.
    Arriving,
    /// It has gone elsewhere, or may have: what is left never runs here again.
    Departed,
}

/// From whoever started the process, or keeps it now.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Order {
    /// Boot a guest, and run it.
    Boot(BootOrder),
    /// Become the successor in a hand-over.
    Receive(ReceiveOrder),
    /// Stop the guest's vCPUs.
    Pause,
    /// Let them run again.
    Resume,
    /// Hand the guest over.
    HandOver(HandOverOrder),
    /// End the guest and the process.
    Stop,
    /// Ask the guest to switch itself off. Paused, it is asked as soon as it runs again.
    PressPowerButton,
    /// Become the machine of a snapshot, and run it.
    Restore(RestoreOrder),
    /// Take a snapshot, whether the guest runs or is paused.
    Snapshot(SnapshotOrder),
    /// From now on, once there is a guest, outlive this connection: whoever connects next gives the orders. Descriptors:
    /// a listening socket, and the file to which the guest's end is written.
    Keep {
        /// The nonce under which the permit record knows this process, or will.
        runner: [u8; 16],
    },
    /// Use another console, and show it what the guest printed so far. Descriptor: the console.
    Console,
    /// Give up the job that is under way (snapshot, hand-over, move or survey), as long as the guest stays as it is. Its
    /// report says how it went.
    Cancel,
    /// Say how far the snapshot, hand-over or move is.
    Progress,
    /// Say what another host must know of the machine.
    Describe,
    /// Become the destination of a move. Descriptors: record, console, the socket on which streams come, and the image that
    /// was kept of the machine, if there is one.
    Prepare(Box<PrepareOrder>),
    /// Move the guest to another host. Descriptor: the socket on which streams are asked for.
    Migrate(Box<MigrateOrder>),
    /// Write the memory of the guest that has left into a file, then end. Descriptor: the file, empty.
    KeepImage(KeepOrder),
    /// Use another socket for the streams of the move that is under way: the keeper has changed. Descriptor: that.
    Sockets,
    /// Something that concerns the move that is under way. Its report says what came of it.
    Tell(Word),
    /// Look at the running guest, and say how a move would go.
    Survey(Box<SurveyOrder>),
    /// Damage guest memory, so that a test sees the oracle find it.
    #[cfg(feature = "fault-injection")]
    Plant(crate::fault::Plant),
}

impl Order {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Boot(_) => "boot",
            Self::Receive(_) => "receive",
            Self::Restore(_) => "restore",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::HandOver(_) => "hand-over",
            Self::Snapshot(_) => "snapshot",
            Self::Stop => "stop",
            Self::PressPowerButton => "power button",
            Self::Keep { .. } => "keep",
            Self::Console => "console",
            Self::Cancel => "cancel",
            Self::Progress => "progress",
            Self::Describe => "describe",
            Self::Prepare(_) => "prepare",
            Self::Migrate(_) => "migrate",
            Self::KeepImage(_) => "keep image",
            Self::Sockets => "sockets",
            Self::Tell(_) => "tell",
            Self::Survey(_) => "survey",
            #[cfg(feature = "fault-injection")]
            Self::Plant(_) => "plant",
        }
    }
}

/// From a machine process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Report {
    /// The guest runs here.
    Running,
    /// The guest is paused.
    Paused,
    /// The guest runs in its new process; this one ends.
    HandedOver(HandOverReport),
    /// The hand-over failed; the guest runs on here.
    HandOverFailed {
        /// Why.
        why: String,
    },
    /// The successor took the permit, and was not heard of again. The guest ran there, or may have;
    /// it never runs here again.
    Departed {
        /// What happened.
        why: String,
    },
    /// The guest ended.
    Exited {
        /// In words.
        how: String,
        /// Which of the ways it was.
        end: GuestEnd,
    },
    /// The order could not be carried out; the process ends.
    Failed {
        /// Why.
        why: String,
    },
    /// The order makes no sense now; nothing has changed.
    Declined {
        /// Why.
        why: String,
    },
    /// The guest's power button was pressed.
    PowerButtonPressed,
    /// The guest runs here, restored from a snapshot.
    Restored(RestoreReport),
    /// The snapshot is in its file, and that on storage; the guest is as it was.
    Snapshotted(SnapshotReport),
    /// The snapshot failed; the guest is as it was.
    SnapshotFailed {
        /// Why.
        why: String,
    },
    /// The first report on a connection to a kept process.
    Greeting(Greeting),
    /// The process outlives its connection from now on.
    Kept,
    /// The guest has another console.
    ConsoleReplaced,
    /// How far a snapshot, hand-over or move is.
    Progress(Progress),
    /// What another host must know of the machine.
    Description(Box<Description>),
    /// The machine is built, and waits for its guest.
    Prepared,
    /// The guest runs at the destination; this process ends, or waits for the order to keep its memory.
    Migrated(Box<MoveReport>),
    /// The memory of the guest that has left is in its file, and that on storage; this process ends.
    ImageKept(KeptReport),
    /// It is not; this process ends.
    ImageNotKept {
        /// Why.
        why: String,
    },
    /// It did not move; the guest runs on here.
    MigrationFailed {
        /// Why.
        why: String,
    },
    /// The guest runs here, come from another host.
    Arrived(Box<ArrivalReport>),
    /// How a move would go; the guest runs on.
    Surveyed(Box<SurveyReport>),
    /// That is not known; the guest runs on.
    SurveyFailed {
        /// Why.
        why: String,
    },
}
