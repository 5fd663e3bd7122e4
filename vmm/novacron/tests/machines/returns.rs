//! A machine comes back to a host that has kept what it left there.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use control::api::{MachineState, MigrationOutcome, RestartPolicy};

use crate::harness::{has_kvm, shared};
use crate::hosts::Hosts;

/// Noise and text of which little is written again.
const QUIET: &str = "fill=16M working_set=1M rate=200 report=500";

/// The images that a host has kept.
fn images(hosts: &Hosts, host: usize) -> Vec<PathBuf> {
    let folder = hosts.daemons[host].state().join("kept");
    std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
}

/// Waits until the host has kept an image, and nothing else.
fn wait_for_image(hosts: &Hosts, host: usize) -> PathBuf {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        let found = images(hosts, host);
        if let [image] = &found[..] {
            return image.clone();
        }
        assert!(Instant::now() < end && found.is_empty(), "{found:?}\n{}", hosts.logs());
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn moves(hosts: &Hosts, from: usize) -> MigrationOutcome {
    let outcome = hosts.moves(from, "web").unwrap_or_else(|error| {
        panic!("{error}\n{}", hosts.logs());
    });
    assert!(outcome.audited_pages > 100 && outcome.audited_different == 0, "{outcome:?}");
    hosts.daemons[1 - from].wait_for_state("web", MachineState::Running);
    hosts.check(1 - from, "web");
    outcome
}

#[test]
fn a_machine_that_comes_back_brings_only_what_has_changed() {
    if !has_kvm("a_machine_that_comes_back_brings_only_what_has_changed") {
        return;
    }
    let _shared = shared();
    let hosts = Hosts::start();
    hosts.daemons[0].oracle("web", QUIET, RestartPolicy::Never);
    let first = moves(&hosts, 0);
    assert_eq!((first.pages_kept, first.kept_bytes), (0, 0));
    // There is no need to wait for the image: whoever comes back waits for it.
    let back = moves(&hosts, 1);
    let image = wait_for_image(&hosts, 1);
    assert!(images(&hosts, 0).is_empty(), "what was kept is of no use once the machine is there");
    let sent = |outcome: &MigrationOutcome| outcome.payload_bytes + outcome.kept_bytes;

    assert!(back.pages_kept > 4000, "{back:?}");
    assert!(sent(&back) * 4 < sent(&first), "{back:?}\n{first:?}");
    assert!(image.metadata().unwrap().len() > 1 << 20);
    let again = moves(&hosts, 0);
    assert!(sent(&again) * 4 < sent(&first), "{again:?}\n{first:?}");
}
