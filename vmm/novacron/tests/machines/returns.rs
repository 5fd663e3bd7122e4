//! A machine comes back to a host that has kept what it left there.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use control::api::{Info, MachineState, MigrationOutcome, RestartPolicy};

use machine::Step;

use crate::harness::{has_kvm, shared};
use crate::hosts::Hosts;
use crate::moments::{slowly, wait_until_sent};

/// Noise and text of which little is written again.
const QUIET: &str = "fill=16M working_set=1M rate=200 report=500";

/// The images that a host has kept.
fn images(hosts: &Hosts, host: usize) -> Vec<PathBuf> {
    let folder = hosts.daemons[host].state().join("kept");
    let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    // One that is just being named has another name for a moment.
    names.filter(|path| !path.file_name().unwrap().to_string_lossy().starts_with('.')).collect()
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
    // Then it has filled its memory: what it has not used yet is not kept.
    hosts.daemons[0].wait_for_log("web", "ready");
    let first = moves(&hosts, 0);
    assert_eq!((first.pages_kept, first.kept_bytes), (0, 0));
    // There is no need to wait for the image: whoever comes back waits for it.
    let back = moves(&hosts, 1);
    let image = wait_for_image(&hosts, 1);
    assert!(images(&hosts, 0).is_empty(), "what was kept is of no use once the machine is there");

    assert!(back.pages_kept > 4000, "{back:?}");
    assert!(sent(&back) * 4 < sent(&first), "{back:?}\n{first:?}");
    assert!(image.metadata().unwrap().len() > 1 << 20);
    let again = moves(&hosts, 0);
    assert!(sent(&again) * 4 < sent(&first), "{again:?}\n{first:?}");
}

/// The bytes that a move has cost.
fn sent(outcome: &MigrationOutcome) -> u64 {
    outcome.payload_bytes + outcome.kept_bytes
}

#[test]
fn what_is_kept_is_shown_and_can_be_dropped_and_goes_with_the_machine() {
    if !has_kvm("what_is_kept_is_shown_and_can_be_dropped_and_goes_with_the_machine") {
        return;
    }
    let _shared = shared();
    let hosts = Hosts::start();
    hosts.daemons[0].oracle("web", QUIET, RestartPolicy::Never);
    let nothing = hosts.daemons[0].novacron(&["migrate", "forget", "web"]);
    assert!(String::from_utf8_lossy(&nothing.stderr).contains("nothing is kept"), "{nothing:?}");
    let first = moves(&hosts, 0);
    let image = wait_for_image(&hosts, 0);
    let bytes = image.metadata().unwrap().len();
    let info = |hosts: &Hosts| hosts.daemons[0].client().get::<Info>("/v1/info").unwrap();
    let shown = hosts.daemons[0].show("web").kept.expect("it is shown");
    assert_eq!((shown.bytes, info(&hosts).kept_bytes), (bytes, bytes));
    assert!(info(&hosts).kept_bytes_max > bytes);
    assert!(hosts.daemons[0].says(&["show", "web"]).contains("of its memory, since"));
    assert!(hosts.daemons[0].says(&["info"]).contains("of the memory of machines"));

    hosts.daemons[0].says(&["migrate", "forget", "web"]);
    assert!(images(&hosts, 0).is_empty() && hosts.daemons[0].show("web").kept.is_none());
    let whole = moves(&hosts, 1);
    assert_eq!((whole.pages_kept, whole.kept_bytes), (0, 0));
    assert!(sent(&whole) * 2 > sent(&first), "{whole:?}");

    wait_for_image(&hosts, 1);
    hosts.daemons[1].says(&["delete", "web"]);
    assert!(images(&hosts, 1).is_empty(), "nothing stays of a machine that is deleted");
}

#[test]
fn a_machine_that_leaves_while_its_daemon_is_away_leaves_no_process_behind() {
    if !has_kvm("a_machine_that_leaves_while_its_daemon_is_away_leaves_no_process_behind") {
        return;
    }
    let _shared = shared();
    let mut hosts = Hosts::start();
    hosts.daemons[0].oracle("web", QUIET, RestartPolicy::Never);
    hosts.daemons[0].wait_for_log("web", "ready");
    let process = hosts.daemons[0].show("web").process_id.unwrap();
    let operation = hosts.begin_move(0, "web", slowly).unwrap();
    wait_until_sent(&hosts, 0, &operation, 1 << 20);
    hosts.daemons[0].kill();
    hosts.daemons[1].wait_for_state("web", MachineState::Running);
    let end = Instant::now() + Duration::from_secs(30);
    while is_alive(process) {
        assert!(Instant::now() < end, "it waits for nobody\n{}", hosts.logs());
        std::thread::sleep(Duration::from_millis(10));
    }
    hosts.start_again(0);
    assert_eq!(hosts.daemons[0].wait_for_state("web", MachineState::Moved).kept, None);
    hosts.check(1, "web");
}

/// Whether there is such a process that has not ended.
fn is_alive(process: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"));
    status.is_ok_and(|status| !status.contains("State:\tZ"))
}

#[test]
fn an_image_that_is_damaged_or_of_another_machine_costs_time_and_no_more() {
    if !has_kvm("an_image_that_is_damaged_or_of_another_machine_costs_time_and_no_more") {
        return;
    }
    let _shared = shared();
    let hosts = Hosts::start();
    hosts.daemons[0].oracle("web", QUIET, RestartPolicy::Never);
    moves(&hosts, 0);
    let image = wait_for_image(&hosts, 0);
    let whole = std::fs::read(&image).unwrap();

    // Rotten in the middle: it opens, and some of its pages are asked for in full.
    let mut rotten = whole.clone();
    let middle = rotten.len() / 2;
    rotten[middle..middle + 64].fill(0x5a);
    std::fs::write(&image, &rotten).unwrap();
    let back = moves(&hosts, 1);
    assert!(back.pages_again > 0 && back.pages_kept > 0, "{back:?}");

    // Cut off: it does not open.
    moves(&hosts, 0);
    let image = wait_for_image(&hosts, 0);
    let cut = std::fs::read(&image).unwrap();
    std::fs::write(&image, &cut[..cut.len() - 1]).unwrap();
    let back = moves(&hosts, 1);
    assert_eq!((back.pages_kept, back.kept_bytes), (0, 1), "it says that there is nothing");

    // Of another machine.
    moves(&hosts, 0);
    let image = wait_for_image(&hosts, 0);
    hosts.daemons[0].oracle("other", QUIET, RestartPolicy::Never);
    hosts.moves(0, "other").unwrap();
    let end = Instant::now() + Duration::from_secs(60);
    while images(&hosts, 0).len() < 2 {
        assert!(Instant::now() < end, "{}", hosts.logs());
        std::thread::sleep(Duration::from_millis(10));
    }
    let theirs = images(&hosts, 0).into_iter().find(|path| *path != image).unwrap();
    std::fs::copy(theirs, &image).unwrap();
    let back = moves(&hosts, 1);
    assert_eq!((back.pages_kept, back.kept_bytes), (0, 1));
    assert!(hosts.daemons[0].log().contains("what was kept of the machine is of no use"));
}

#[test]
fn a_host_that_keeps_nothing_keeps_nothing() {
    if !has_kvm("a_host_that_keeps_nothing_keeps_nothing") {
        return;
    }
    let _shared = shared();
    let hosts = Hosts::start_set(&["kept.percent=0"]);
    hosts.daemons[0].oracle("web", QUIET, RestartPolicy::Never);
    moves(&hosts, 0);
    let back = moves(&hosts, 1);
    assert_eq!((back.pages_kept, back.kept_bytes), (0, 0));
    assert!(images(&hosts, 0).is_empty() && images(&hosts, 1).is_empty());
    let info = hosts.daemons[0].says(&["info"]);
    let keeps = info.lines().find_map(|line| line.strip_prefix("keeps ")).map(str::trim);
    assert_eq!(keeps, Some("nothing"), "{info}");
}

#[test]
fn killed_while_it_is_kept_an_image_leaves_nothing_and_the_move_is_done() {
    if !has_kvm("killed_while_it_is_kept_an_image_leaves_nothing_and_the_move_is_done") {
        return;
    }
    let _shared = shared();
    for step in Step::OF_KEEPING {
        let fault = format!("kill:{}", step.name());
        let hosts = Hosts::start_with([&[("NOVACRON_FAULT", &fault)], &[]]);
        hosts.daemons[0].oracle("web", QUIET, RestartPolicy::Never);
        moves(&hosts, 0);
        let end = Instant::now() + Duration::from_secs(60);
        while !hosts.daemons[0].log().contains("no image of it is kept") {
            assert!(Instant::now() < end, "{step:?}\n{}", hosts.logs());
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(images(&hosts, 0).is_empty(), "{step:?}");
        let back = moves(&hosts, 1);
        assert_eq!((back.pages_kept, back.kept_bytes), (0, 0), "{step:?}");
    }
}
