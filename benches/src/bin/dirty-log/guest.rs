//! A machine of this process, with the oracle guest in it, that runs when it is its turn.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use benches::{Stop, tsc_khz};
use firmware::oracle::report::Report;
use machine::{
    BootSource, CpuCount, CpuModel, DirtyLogKind, Host, MachineConfig, MemoryLayout, Paused,
    Running,
};

/// Longest that the guest may be silent: it stamps its memory before it says anything.
const PATIENCE: Duration = Duration::from_secs(120);
/// Small guests have two slots, as large ones.
const HOLE_START: u64 = 128 << 20;

/// A guest that stands still, its memory stamped.
pub(crate) fn stamped(
    host: &Host,
    kind: DirtyLogKind,
    memory: u64,
    words: &str,
) -> Result<Paused, Stop> {
    let layout = MemoryLayout::new(memory, HOLE_START).map_err(Stop::failed("the layout"))?;
    let cpus = CpuCount::try_from(1_u32).map_err(Stop::failed("the vCPUs"))?;
    let config = MachineConfig { cpus, cpu: CpuModel::Host, memory: layout };
    let mut machine =
        Paused::with_dirty_log(host, config, kind).map_err(Stop::failed("the machine"))?;
    let command_line = format!("report=20 tsc_khz={} {words}", tsc_khz()?);
    let source = BootSource { kernel: firmware::ORACLE, initrd: None, command_line: &command_line };
    machine.boot(&source).map_err(Stop::failed("the guest"))?;
    let running = machine.resume();
    hear(&running, |report| matches!(report, Report::Ready(_)).then_some(()))?;
    Ok(running.pause())
}

/// How far a guest has come, and what that took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Progress {
    /// Pages written.
    pub(crate) writes: u64,
    /// Processor time of its vCPU's thread, KVM's part included.
    pub(crate) vcpu_ns: u64,
}

/// The next report of a guest that runs.
pub(crate) fn progress(running: &Running) -> Result<Progress, Stop> {
    let writes = hear(running, |report| match report {
        Report::Rounds(rounds) => Some(rounds.writes),
        _ => None,
    })?;
    Ok(Progress { writes, vcpu_ns: vcpu_ns()? })
}

/// Waits until the guest says something that `pick` takes. What it had said before is not heard.
fn hear<T>(running: &Running, pick: impl Fn(Report<'_>) -> Option<T>) -> Result<T, Stop> {
    let end = Instant::now() + PATIENCE;
    let mut said = Vec::new();
    let forget = |bytes: &[u8]| Ok(bytes.len());
    running.console().send_on(forget).map_err(Stop::failed("the console"))?;
    while Instant::now() < end {
        let hear = |bytes: &[u8]| {
            said.extend_from_slice(bytes);
            Ok(bytes.len())
        };
        running.console().send_on(hear).map_err(Stop::failed("the console"))?;
        let whole = said.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let lines: Vec<u8> = said.drain(..whole).collect();
        for line in String::from_utf8_lossy(&lines).lines() {
            match Report::parse(line) {
                Ok(Report::Error(_)) => return Err(Stop::Failed(format!("the guest says {line}"))),
                Ok(report) => {
                    if let Some(picked) = pick(report) {
                        return Ok(picked);
                    }
                }
                // The first line may have begun before.
                Err(_) => {}
            }
        }
        thread::sleep(Duration::from_micros(500));
    }
    Err(Stop::Failed("the guest is silent".into()))
}

/// Processor time of all threads of vCPUs in this process: only one guest runs at a time.
pub(crate) fn vcpu_ns() -> Result<u64, Stop> {
    let mut sum = 0;
    for task in fs::read_dir("/proc/self/task").map_err(Stop::failed("/proc/self/task"))? {
        let path = task.map_err(Stop::failed("/proc/self/task"))?.path();
        let name = fs::read_to_string(path.join("comm")).unwrap_or_default();
        if name.starts_with("vcpu") {
            let times =
                fs::read_to_string(path.join("schedstat")).map_err(Stop::failed("schedstat"))?;
            let ran = times.split(' ').next().and_then(|ran| ran.parse::<u64>().ok());
            sum += ran.ok_or_else(|| Stop::Failed(format!("schedstat holds {times:?}")))?;
        }
    }
    Ok(sum)
}
