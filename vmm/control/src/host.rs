//! The host on which the daemon runs.

use std::sync::OnceLock;

use machine::{CpuModel, Host, HostCpu};

use crate::access::Role;
use crate::api::{ApiError, Info, no_machines};
use crate::server::State;

/// What is to be known of the daemon and its host.
pub(crate) fn info(state: &State, role: Option<Role>) -> Result<Info, ApiError> {
    let mut machines = no_machines();
    for (state, count) in state.registry().counts() {
        machines.insert(state.name().to_owned(), count);
    }
    let memory = Memory::read()?;
    let shared = state.registry().shared();
    let folders = &state.config().storage.folders;
    Ok(Info {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        process_id: std::process::id(),
        started_at: state.started_at(),
        kernel: read("/proc/sys/kernel/osrelease")?.trim().to_owned(),
        processor: processor()?,
        processors: std::thread::available_parallelism()
            .map_or(0, |n| n.get().try_into().unwrap_or(0)),
        memory_bytes: memory.bytes("MemTotal"),
        memory_available_bytes: memory.bytes("MemAvailable"),
        cpu_models: cpu_models(),
        folders: folders.iter().map(|folder| folder.display().to_string()).collect(),
        host_key: shared.identity.public().to_string(),
        kept_bytes: shared.kept.list().iter().map(|found| found.bytes).sum(),
        kept_bytes_max: shared.kept.quota().map_err(ApiError::internal)?,
        peers_listen: shared.listens.iter().map(ToString::to_string).collect(),
        role: role.map_or("none", Role::name).to_owned(),
        machines,
    })
}

/// Bytes of memory that are free or can be freed.
pub(crate) fn available_memory() -> Result<u64, ApiError> {
    Ok(Memory::read()?.bytes("MemAvailable"))
}

/// The kernel's account of the memory.
struct Memory(String);

impl Memory {
    fn read() -> Result<Self, ApiError> {
        read("/proc/meminfo").map(Self)
    }

    fn bytes(&self, name: &str) -> u64 {
        let line = self.0.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let number = line.and_then(|line| line.trim().strip_suffix(" kB"));
        number.and_then(|number| number.parse::<u64>().ok()).unwrap_or(0) << 10
    }
}

/// Those that guests can have here; none if there is no KVM. Looked at once: a host keeps its processor.
fn cpu_models() -> Vec<String> {
    static MODELS: OnceLock<Vec<String>> = OnceLock::new();
    MODELS.get_or_init(find_cpu_models).clone()
}

fn find_cpu_models() -> Vec<String> {
    let Ok(host) = Host::open().and_then(|host| HostCpu::of(&host)) else { return Vec::new() };
    let offered = CpuModel::ALL.into_iter().filter(|model| model.check(&host.profile).is_ok());
    offered.map(|model| model.name().to_owned()).collect()
}

fn processor() -> Result<String, ApiError> {
    let text = read("/proc/cpuinfo")?;
    let line = text.lines().find(|line| line.starts_with("model name"));
    let name = line.and_then(|line| line.split_once(':')).map(|(_, name)| name.trim().to_owned());
    Ok(name.unwrap_or_default())
}

fn read(path: &str) -> Result<String, ApiError> {
    std::fs::read_to_string(path).map_err(|error| ApiError::internal(format!("{path}: {error}")))
}
