//! What a host thinks of its own TSC, and what becomes of its guests.

use std::fs;
use std::time::Duration;

use qemu_tests::Case;

use crate::linux_guest::{Guest, host_of_guests};
use crate::support::{case, host, run_guests};

/// Seconds after which a host has measured its TSC again, with some to spare.
const MEASURED_AGAIN: &str = "5";

/// Linux corrects the rate that it measured when it booted by up to a percent, seconds later. KVM gives guests the old
/// rate by default, and cannot where it is more than 250 ppm off: see `use_tsc_khz_of_host` in `vmm/machine`.
#[test]
fn a_guest_keeps_its_timers_where_its_host_has_corrected_its_tsc_rate() {
    let name = "a_guest_keeps_its_timers_where_its_host_has_corrected_its_tsc_rate";
    let Some(case) = case(name) else { return };
    let measured_khz = tsc_khz(&case);
    let early = format!("tsc_early_khz={}", measured_khz - measured_khz / 200);
    let guest = Guest::default();
    let report = run_guests(&case, || {
        host_of_guests()
            .parameter(&early)
            .run(&["/init", "sleep", MEASURED_AGAIN])
            .run(&guest.command())
            .time_limit(Duration::from_secs(60))
    });
    guest.check(&report.runs[1]);
    let console = console(&case);
    let has = |words: &str| console.lines().any(|line| line.contains(words));
    assert!(has("tsc: Refined TSC"), "the host has not measured its TSC again:\n{console}");
    // A guest that boots hardly sleeps, and may get by with timers that are late. But KVM complains.
    assert!(!has("user requested TSC rate"), "a vCPU has no rate:\n{console}");
}

/// The rate that a host finds by itself, when it measures for the second time.
pub(crate) fn tsc_khz(case: &Case) -> i64 {
    host().run(&["/init", "sleep", MEASURED_AGAIN]).boot(case).unwrap().finish().unwrap();
    let console = console(case);
    let rate = console.lines().find_map(|line| {
        let (_, rest) = line.split_once("tsc: Refined TSC clocksource calibration: ")?;
        rest.split_once(" MHz")?.0.replace('.', "").parse().ok()
    });
    rate.unwrap_or_else(|| panic!("the host does not say the rate of its TSC:\n{console}"))
}

fn console(case: &Case) -> String {
    fs::read_to_string(case.logs.join("console.log")).unwrap()
}
