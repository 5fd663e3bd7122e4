//! What is counted and measured, for Prometheus.
//!
//! Names and labels are stable; units are base units (seconds, bytes), as <https://prometheus.io/docs/practices/naming/>
//! has them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use machine::Usage;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, LabelValueEncoder};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Bounds of an API call's time in seconds: from a lookup to a long poll.
const CALL_SECONDS: [f64; 12] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0];
/// Bounds of a blackout in seconds: from a shared hand-over to what a guest's clients notice.
const BLACKOUT_SECONDS: [f64; 12] =
    [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0];

/// The labels of a call.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct CallLabels {
    /// The method's name, such as `machines.list`; `unknown` for a path that there is not.
    pub(crate) method: &'static str,
    /// The status of the answer.
    pub(crate) status: u16,
}

/// The label of a call's time.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct MethodLabel {
    pub(crate) method: &'static str,
}

/// The label of a count of machines.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct StateLabel {
    pub(crate) state: &'static str,
}

/// The label of what is counted by machine.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MachineLabel {
    machine: String,
}

/// What is counted by machine, at the moment at which somebody looks.
#[derive(Clone, Debug)]
pub(crate) struct MachineFigures {
    pub(crate) machine: String,
    pub(crate) usage: Option<Usage>,
    pub(crate) console_output: u64,
}

/// How a guest ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct EndLabel {
    pub(crate) end: End,
}

/// The value of that label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum End {
    Orderly,
    Failed,
}

impl prometheus_client::encoding::EncodeLabelValue for End {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        let word = match self {
            Self::Orderly => "orderly",
            Self::Failed => "failed",
        };
        prometheus_client::encoding::EncodeLabelValue::encode(&word, encoder)
    }
}

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

/// All of them.
#[derive(Debug)]
pub(crate) struct Metrics {
    pub(crate) calls: Family<CallLabels, Counter>,
    pub(crate) call_seconds: Histograms<MethodLabel>,
    pub(crate) connections: Gauge,
    pub(crate) connections_refused: Counter,
    pub(crate) machines: Family<StateLabel, Gauge>,
    pub(crate) guest_ends: Family<EndLabel, Counter>,
    pub(crate) restarts: Counter,
    pub(crate) operations_running: Gauge,
    pub(crate) blackout_seconds: Histogram,
    pub(crate) snapshot_bytes: Counter,
    pub(crate) console_output: Counter,
    pub(crate) readers_cut_off: Counter,
    pub(crate) audit_records: Counter,
    /// Counted by whoever writes the log.
    pub(crate) log_lines_lost: Arc<AtomicU64>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            calls: Family::default(),
            call_seconds: Family::new_with_constructor(|| Histogram::new(CALL_SECONDS)),
            connections: Gauge::default(),
            connections_refused: Counter::default(),
            machines: Family::default(),
            guest_ends: Family::default(),
            restarts: Counter::default(),
            operations_running: Gauge::default(),
            blackout_seconds: Histogram::new(BLACKOUT_SECONDS),
            snapshot_bytes: Counter::default(),
            console_output: Counter::default(),
            readers_cut_off: Counter::default(),
            audit_records: Counter::default(),
            log_lines_lost: Arc::default(),
        }
    }
}

impl Metrics {
    /// All of them as Prometheus reads them, with those of machines.
    ///
    /// # Errors
    /// When the text cannot be made.
    pub(crate) fn text(&self, machines: &[MachineFigures]) -> Result<String, std::fmt::Error> {
        let mut registry = Registry::with_prefix("novacron");
        // Each is a handle to the same counter: registering it is cheap, and the one list of names is here.
        let all = &mut registry;
        all.register("api_calls", "Calls of the API", self.calls.clone());
        all.register(
            "api_call_duration_seconds",
            "From a call's last byte to its answer's first",
            self.call_seconds.clone(),
        );
        all.register(
            "api_connections",
            "Connections to the control socket",
            self.connections.clone(),
        );
        all.register(
            "api_connections_refused",
            "Connections beyond the limit, or of callers without a role",
            self.connections_refused.clone(),
        );
        all.register("machines", "Machines by state", self.machines.clone());
        all.register("guest_ends", "Guests that have ended", self.guest_ends.clone());
        all.register(
            "machine_restarts",
            "Machines started again by their restart policy",
            self.restarts.clone(),
        );
        all.register("operations_running", "Operations under way", self.operations_running.clone());
        all.register(
            "blackout_seconds",
            "How long guests stood still in hand-overs and for snapshots",
            self.blackout_seconds.clone(),
        );
        all.register("snapshot_bytes", "Bytes of snapshots written", self.snapshot_bytes.clone());
        all.register(
            "console_output_bytes",
            "Bytes that guests have printed",
            self.console_output.clone(),
        );
        all.register(
            "event_readers_cut_off",
            "Readers of events that were too slow",
            self.readers_cut_off.clone(),
        );
        all.register("audit_records", "Records of the audit log", self.audit_records.clone());
        register_machines(all, machines);
        all.register(
            "log_lines_lost",
            "Lines of the daemon's log that standard error did not take",
            ConstCounter::new(self.log_lines_lost.load(Relaxed)),
        );
        let mut text = String::new();
        encode(&mut text, &registry)?;
        Ok(text)
    }
}

/// What the machines have used, and printed. Made anew each time: one that was deleted leaves no line behind.
fn register_machines(all: &mut Registry, machines: &[MachineFigures]) {
    let cpu: Family<MachineLabel, Counter<f64, AtomicU64>> = Family::default();
    let resident: Family<MachineLabel, Gauge> = Family::default();
    let output: Family<MachineLabel, Counter> = Family::default();
    for MachineFigures { machine, usage, console_output } in machines {
        let label = MachineLabel { machine: machine.clone() };
        output.get_or_create(&label).inc_by(*console_output);
        if let Some(Usage { cpu_time, resident_bytes }) = usage {
            cpu.get_or_create(&label).inc_by(cpu_time.as_secs_f64());
            let bytes = i64::try_from(*resident_bytes).unwrap_or(i64::MAX);
            resident.get_or_create(&label).set(bytes);
        }
    }
    all.register(
        "machine_cpu_seconds",
        "Processor time of a machine's process and its guest, since that process started",
        cpu,
    );
    all.register(
        "machine_resident_bytes",
        "Memory that is there for a machine's process: what its guest has touched, and its own",
        resident,
    );
    all.register(
        "machine_console_output_bytes",
        "Bytes that the daemon has read from a machine's console, since the daemon started",
        output,
    );
}
