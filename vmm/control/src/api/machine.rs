//! Machines.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{MachineName, Timestamp};

/// What a machine is made of, what it boots, and what becomes of it when its guest ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MachineSpec {
    /// vCPUs, 1 to 64.
    #[serde(default = "one")]
    #[schema(minimum = 1, maximum = 64)]
    pub cpus: u32,
    /// The CPU model: `host`, or `x86-64-v1` to `x86-64-v3`, which are the same on every host.
    #[serde(default = "host")]
    #[schema(pattern = "^(host|x86-64-v[123])$")]
    pub cpu: String,
    /// Bytes of memory, a multiple of 4096.
    #[serde(default = "default_memory")]
    #[schema(minimum = 8388608_u64, maximum = 35184372088832_u64, multiple_of = 4096)]
    pub memory_bytes: u64,
    /// Where the hole below 4 GiB starts: memory beyond it lies above 4 GiB. A multiple of 2 MiB.
    #[serde(default = "default_hole_start")]
    #[schema(minimum = 16777216_u64, maximum = 4185915392_u64, multiple_of = 2097152)]
    pub hole_start_bytes: u64,
    /// How KVM logs written pages: `bitmap`, `ring`, or `ring:N` for rings of N pages.
    #[serde(default = "bitmap")]
    #[schema(pattern = "^(bitmap|ring(:(1024|2048|4096|8192|16384|32768|65536))?)$")]
    pub dirty_log: String,
    /// What it boots.
    #[serde(default)]
    pub boot: Boot,
    /// What is done when its guest ends.
    #[serde(default)]
    pub restart: RestartPolicy,
}

impl Default for MachineSpec {
    fn default() -> Self {
        Self {
            cpus: one(),
            cpu: host(),
            memory_bytes: default_memory(),
            hole_start_bytes: default_hole_start(),
            dirty_log: bitmap(),
            boot: Boot::default(),
            restart: RestartPolicy::default(),
        }
    }
}

fn one() -> u32 {
    1
}

fn host() -> String {
    "host".to_owned()
}

fn bitmap() -> String {
    "bitmap".to_owned()
}

fn default_memory() -> u64 {
    512 << 20
}

fn default_hole_start() -> u64 {
    3 << 30
}

/// What a machine boots. Files are paths inside of the daemon's folders for files. No text has more than 4096 bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Boot {
    /// The built-in guest that checks its own memory.
    Oracle {
        /// Words for it, such as `pattern=random rate=5000`.
        #[serde(default)]
        #[schema(max_length = 4096, pattern = r"^[^\x00]*$")]
        options: String,
    },
    /// A kernel: a vmlinux (ELF) or bzImage.
    Kernel {
        /// The kernel's file.
        #[schema(max_length = 4096, pattern = r"^[^\x00]*$")]
        kernel: String,
        /// The initial RAM disk's file.
        #[schema(max_length = 4096, pattern = r"^[^\x00]*$")]
        #[serde(default, skip_serializing_if = "Option::is_none")]
        initrd: Option<String>,
        /// The kernel's command line.
        #[schema(max_length = 4096, pattern = r"^[^\x00]*$")]
        #[serde(default)]
        command_line: String,
    },
    /// A machine that was saved. Each start is another machine, which begins where that one was saved. What it is
    /// made of is in the file.
    Snapshot {
        /// The file.
        #[schema(max_length = 4096, pattern = r"^[^\x00]*$")]
        file: String,
        /// The file of the 32 bytes under which it is encrypted.
        #[schema(max_length = 4096, pattern = r"^[^\x00]*$")]
        #[serde(default, skip_serializing_if = "Option::is_none")]
        key_file: Option<String>,
        /// Run at once, and fetch memory as it is touched.
        #[serde(default)]
        lazy: bool,
    },
}

impl Default for Boot {
    fn default() -> Self {
        Self::Oracle { options: String::new() }
    }
}

/// What is done when a guest has ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RestartPolicy {
    /// Nothing.
    #[default]
    Never,
    /// It is started again if it failed or reset itself, later each time it does so at once.
    OnFailure,
    /// It is started again, unless somebody has stopped it.
    Always,
}

/// Make a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateMachine {
    /// Its name.
    pub name: MachineName,
    /// What it is made of.
    #[serde(default)]
    pub spec: MachineSpec,
}

/// Stop a machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Stop {
    /// Milliseconds that its guest has to switch itself off after its power button was pressed; then it is ended. The
    /// daemon's `machines.stop_timeout` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}

/// End the daemon.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Shutdown {
    /// Stop every machine first, as `stop` does; else they go on without a daemon.
    #[serde(default)]
    pub stop_machines: bool,
}

/// Hand a machine to a new process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HandOver {
    /// How its memory gets there.
    #[serde(default)]
    pub form: HandOverForm,
}

/// How memory gets to a new process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum HandOverForm {
    /// Both map the same memory file.
    #[default]
    Shared,
    /// Every page is copied, as in a migration.
    Copying,
}

/// What a hand-over did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HandOverOutcome {
    /// Nanoseconds that the guest stood still.
    pub blackout_ns: u64,
    /// The same by cause, in the order in which they came.
    pub causes: Vec<(String, u64)>,
    /// Nanoseconds from the first message to the guest running in its new process.
    pub total_ns: u64,
    /// Rounds while the guest ran.
    pub rounds: u32,
    /// Pages sent, counting each time.
    pub pages_sent: u64,
    /// Of those, while the guest stood still.
    pub pages_sent_paused: u64,
}

/// A machine as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Machine {
    /// Its name.
    pub name: MachineName,
    /// Its id, which no other machine has.
    pub id: String,
    /// What it is doing.
    pub state: MachineState,
    /// What it is made of.
    pub spec: MachineSpec,
    /// When it was made.
    pub created_at: Timestamp,
    /// When its guest was started, if it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// Its process, for people: by the time that one looks, another process may have the number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process_id: Option<u32>,
    /// How its guest ended the last time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Ended>,
    /// How often it was started again by its restart policy, since somebody started it.
    pub restarts: u32,
    /// What is being done with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<String>,
    /// The host that it moved to, comes from, or may have moved to: by its name here, else by its key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// What is kept here of its memory since it has left: if it comes back, only what has changed is sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<KeptImage>,
}

/// An image of the memory of a machine that has left. It is encrypted, and the key is not here: it comes back with the
/// machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KeptImage {
    /// Bytes of its file.
    pub bytes: u64,
    /// When it was made.
    pub made_at: Timestamp,
}

/// What a machine is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum MachineState {
    /// There is no process of it.
    Stopped,
    /// Its process is being made.
    Starting,
    /// It was found alive, and its process has not said yet what it is doing.
    Adopting,
    /// Its guest runs.
    Running,
    /// Its vCPUs stand still.
    Paused,
    /// Its guest was asked to switch itself off.
    Stopping,
    /// It will be started again in a moment.
    Waiting,
    /// Its guest has gone to another process that was not heard of again: it never runs here again.
    Departed,
    /// It comes from another host, where its guest still runs.
    Arriving,
    /// It may run on another host or not, and nobody has answered yet.
    InDoubt,
    /// It runs on another host, or has: what is here is the record of that.
    Moved,
}

impl MachineState {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Stopped,
        Self::Starting,
        Self::Adopting,
        Self::Running,
        Self::Paused,
        Self::Stopping,
        Self::Waiting,
        Self::Departed,
        Self::Arriving,
        Self::InDoubt,
        Self::Moved,
    ];

    /// Its word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Starting => "starting",
            Self::Adopting => "adopting",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopping => "stopping",
            Self::Waiting => "waiting",
            Self::Departed => "departed",
            Self::Arriving => "arriving",
            Self::InDoubt => "in_doubt",
            Self::Moved => "moved",
        }
    }
}

/// How a guest ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Ended {
    /// When that was noted.
    pub at: Timestamp,
    /// In words.
    pub how: String,
    /// Whether it ended otherwise than a guest may, or its process was lost.
    pub failed: bool,
}
