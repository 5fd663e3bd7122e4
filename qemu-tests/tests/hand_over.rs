//! Hand-over, moves and snapshots on real kvm_amd, inside an emulated host.

use std::time::Duration;

use qemu_tests::{Ending, novacron};

use crate::support::{case, host};

/// As `novacron demo` is run on it. The working set is what a copying hand-over may leave for the
/// blackout, so that it comes to its end however slowly the emulated host copies.
const DEMO: [&str; 9] = [
    "/bin/novacron",
    "demo",
    "--plain",
    "--times=1",
    "--cpus=2",
    "--memory=18M",
    "--hole-start=16M",
    "--working-set=1M",
    "--rate=200",
];

#[test]
fn the_demonstration_runs_on_kvm_amd() {
    demonstration_runs("the_demonstration_runs_on_kvm_amd", "bitmap");
}

#[test]
fn the_demonstration_runs_on_kvm_amd_with_dirty_rings() {
    demonstration_runs("the_demonstration_runs_on_kvm_amd_with_dirty_rings", "ring:1024");
}

fn demonstration_runs(test: &str, dirty_log: &str) {
    let Some(case) = case(test) else { return };
    let demo = [&DEMO[..], &["--dirty-log", dirty_log]].concat();
    let image = host().in_turns().program("/bin/novacron", &novacron().unwrap()).unwrap();
    let image = image.run(&["/init", "kvm"]).run(&demo).time_limit(Duration::from_secs(180));
    let report = image.boot(&case).unwrap().finish().unwrap();
    let [kvm, demo] = report.runs.as_slice() else { panic!("{} runs", report.runs.len()) };
    assert!(kvm.output.iter().any(|line| line.contains(" kvm_amd ")), "{kvm}");
    assert_eq!(demo.ending, Ending::Exit(0), "{demo}");
    let says = |start: &str| demo.output.iter().any(|line| line.trim_start().starts_with(start));
    // Each form took place, nothing was lost, and the guest's clock never ran backwards.
    let hand_overs = ["shared  1/1 ", "copying 1/1 "];
    let moves = ["there     1/1 ", "back      1/1 "];
    let end = ["restored  1/1 ", "lazily    1/1 ", "verdict   ok: ", "demo: ok"];
    for start in hand_overs.into_iter().chain(moves).chain(end) {
        assert!(says(start), "no `{start}`: {demo}");
    }
    let verified = demo.output.iter().filter(|line| line.contains(" verified: "));
    assert_eq!(verified.count(), 2, "{demo}");
    // The kernel of our hosts has all that the jail of a machine process is made of.
    assert!(!demo.output.iter().any(|line| line.contains("WARN")), "{demo}");
    let verdict = demo.output.iter().find(|line| line.contains("verdict")).unwrap();
    assert!(verdict.ends_with(" 0 wrong pages, clock backwards 0 times"), "{demo}");
}
