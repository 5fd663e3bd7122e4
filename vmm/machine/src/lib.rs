//! One virtual machine: KVM, memory, dirty tracking, vCPUs, devices, boot, saved state, hand-over.
//!
//! This crate never speaks HTTP, never runs an async runtime and never parses a command line. Its
//! machine process starts no guest that the permit record does not give it. Its device loop is rust-vmm's event-manager, its
//! vCPUs are threads. Nothing in it holds a slice or a pointer into guest memory: reads copy out,
//! writes go through one door that marks the page.
//!
//! ```text
//! role ─► {handover, migrate, snapshot} ─► vm ─► {vcpu, devices, boot} ─► {dirty, memory, cpu} ─► kvm
//! ```

mod boot;
mod clock;
mod cpu;
mod devices;
mod dirty;
mod fault;
mod handover;
mod ipc;
mod jail;
mod kvm;
mod memory;
mod meter;
mod migrate;
mod permit;
mod random;
mod role;
mod snapshot;
mod state;
mod supervise;
mod vcpu;
mod vm;

pub use boot::{BootError, BootSource, ElfError, load_guest};
pub use cpu::{
    CommonCpu, CpuDifference, CpuError, CpuModel, CpuProfile, CpuidLeaf, Feature, FeatureError,
    Features, HostCpu, Register, UnknownModel, XsaveArea,
};
pub use devices::{CONSOLE_HISTORY_BYTES, Console};
pub use dirty::{DirtyLog, DirtyLogError, DirtyLogKind, KvmBitmapLog, KvmRingLog, UnknownDirtyLog};
#[cfg(feature = "fault-injection")]
pub use fault::Plant;
pub use fault::Step;
#[doc(hidden)]
pub use fault::reached;
#[doc(hidden)]
pub use handover::fuzz;
pub use handover::{Blackout, Cause, Form, HandOverError, HandOverReport, Limits};
pub use ipc::{Channel, ChannelError};
pub use jail::JailError;
#[cfg(feature = "fault-injection")]
pub use jail::{AllowedCall, allowed_calls};
pub use kvm::{Host, HostError, RingEntries, RingEntriesError};
pub use memory::{
    DEFAULT_HOLE_START, GuestRam, HOLE_END, LayoutError, MemoryLayout, RamError, Region,
};
pub use meter::{LimitChange, LiveLimits, MovePhase, MoveProgress, PeerWord, Progress, Word};
pub use migrate::{
    Accepted, ArrivalReport, Audit, AuditReport, Description, Dial, Dialled, KeepOrder, KeptReport,
    MigrateError, MigrateOrder, MoveLimits, MoveReport, PlanEntry, PrepareOrder, SessionKeys,
    Shortfall, SurveyOrder, SurveyReport, ThrottleReport,
};
pub use permit::{PermitFile, PermitFileError, PermitKeeper, PermitWatch};
pub use role::{
    BootOrder, Greeting, GuestStatus, HandOverOrder, Order, ReceiveOrder, Report, RestoreOrder,
    RoleError, SnapshotOrder, run as run_role,
};
#[doc(hidden)]
pub use snapshot::fuzz as fuzz_snapshot;
pub use snapshot::{
    RestoreReport, SnapshotError, SnapshotFile, SnapshotPath, SnapshotReport, describe_snapshot,
    find_chain,
};
pub use state::{MAX_STATE_BYTES, MachineState, StateError};
pub use supervise::{
    Adopted, AdoptedMachine, ArrivalDoor, Death, Ender, Executable, Home, Images, MachineProcess,
    MoveImages, Prepared, RestoreOptions, SnapshotOptions, SuperviseError, Supervised, Usage,
    Visit, Watch, Woken,
};
pub use vcpu::{GuestEnd, GuestExit, VcpuError, VcpuStateError};
pub use vm::{ConfigError, CpuCount, MachineConfig, Paused, Running, VmError};
