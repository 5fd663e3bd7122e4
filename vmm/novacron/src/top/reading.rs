//! One look at the daemon.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use control::api::{Health, Info, Machine, Operation, OperationState, Timestamp};
use control::{CallError, Client};

/// What the daemon says of itself, of its host and of its machines, all within moments.
#[derive(Clone, Debug)]
pub(super) struct Reading {
    /// When its counters were read, since the first look.
    pub(super) taken: Duration,
    /// The time of day then.
    pub(super) at: Timestamp,
    pub(super) info: Info,
    pub(super) health: Health,
    pub(super) machines: Vec<Machine>,
    /// Those under way.
    pub(super) operations: Vec<Operation>,
    /// By the machine's name.
    pub(super) counters: BTreeMap<String, Counters>,
}

/// What the daemon counts of a machine. A daemon of an earlier version says none of it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Counters {
    /// Of its process, since that started.
    pub(super) cpu_seconds: Option<f64>,
    pub(super) resident_bytes: Option<f64>,
    /// Since the daemon started.
    pub(super) console_bytes: Option<f64>,
}

impl Reading {
    pub(super) fn take(client: &Client, began: Instant) -> Result<Self, CallError> {
        let info = client.get("/v1/info")?;
        let health = client.get("/v1/health")?;
        let mut operations: Vec<Operation> = client.get("/v1/operations")?;
        operations.retain(|operation| operation.state == OperationState::Running);
        let machines = client.get("/v1/machines")?;
        let metrics = client.get_bytes("/v1/metrics")?;
        let (taken, at) = (began.elapsed(), Timestamp::now());
        let counters = counters(&String::from_utf8_lossy(&metrics));
        Ok(Self { taken, at, info, health, machines, operations, counters })
    }
}

/// Those of machines, in the text that Prometheus reads.
pub(super) fn counters(metrics: &str) -> BTreeMap<String, Counters> {
    let mut all: BTreeMap<String, Counters> = BTreeMap::new();
    for line in metrics.lines() {
        let Some((metric, machine, value)) = of_machine(line) else { continue };
        let field: fn(&mut Counters) -> &mut Option<f64> = match metric {
            "novacron_machine_cpu_seconds_total" => |counters| &mut counters.cpu_seconds,
            "novacron_machine_resident_bytes" => |counters| &mut counters.resident_bytes,
            "novacron_machine_console_output_bytes_total" => |counters| &mut counters.console_bytes,
            _ => continue,
        };
        *field(all.entry(machine.to_owned()).or_default()) = Some(value);
    }
    all
}

/// `metric{machine="name"} value`. Nothing in a machine's name is escaped.
fn of_machine(line: &str) -> Option<(&str, &str, f64)> {
    let (metric, rest) = line.split_once("{machine=\"")?;
    let (machine, value) = rest.split_once("\"} ")?;
    let value: f64 = value.trim().parse().ok()?;
    (value.is_finite() && value >= 0.0).then_some((metric, machine, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_of_machines_are_found_among_all_metrics() {
        let text = "# TYPE novacron_machine_cpu_seconds counter\n\
                    novacron_machine_cpu_seconds_total{machine=\"web-1\"} 1.25\n\
                    novacron_machine_cpu_seconds_total{machine=\"db\"} NaN\n\
                    novacron_machine_cpu_seconds_total{machine=\"x\n\
                    novacron_machine_resident_bytes{machine=\"web-1\"} 4096\n\
                    novacron_machine_console_output_bytes_total{machine=\"db\"} 7\n\
                    novacron_machine_restarts_total 3\n\
                    novacron_machines{state=\"running\"} 1\n\
                    novacron_other{machine=\"other\"} 1\n# EOF\n";
        let web = Counters {
            cpu_seconds: Some(1.25),
            resident_bytes: Some(4096.0),
            ..Counters::default()
        };
        let db = Counters { console_bytes: Some(7.0), ..Counters::default() };
        let expected = [("db".to_owned(), db), ("web-1".to_owned(), web)];
        assert_eq!(counters(text), BTreeMap::from(expected));
    }
}
